import { Header } from 'tar';
import { expect, it, vi } from 'vitest';
import { openImageFolder } from '../../lib/data/image-folder.js';
import { openTarShards } from '../../lib/data/tar.js';

const count = 130_000; // more than a call takes arguments
const entry = (name: string, isFolder: boolean) => ({
  name,
  isDirectory: () => isFolder,
  isFile: () => !isFolder,
  isFIFO: () => false,
  isCharacterDevice: () => false,
  isBlockDevice: () => false,
  isSymbolicLink: () => false,
});

/** A tar file of images without bytes: only headers are looked at. */
const tarFile = {
  stat: async () => ({ size: 512 * count, isFile: () => true }),
  read: vi.fn(async (into: Buffer, at: number, bytes: number, position: number) => {
    for (let from = 0; from < bytes; from += 512) {
      new Header({
        path: `${(position + from) / 512}.jpg`,
        size: 0,
        type: 'File',
        mode: 0o644,
        mtime: new Date(0),
      }).encode(into, at + from);
    }
    return { bytesRead: bytes };
  }),
  close: async () => undefined,
};

// Folders and a file that nobody has to make and to remove.
vi.mock('node:fs/promises', async (original) => ({
  ...(await original<typeof import('node:fs/promises')>()),
  stat: async (path: string) => entry('', !path.endsWith('.tar')),
  open: async () => tarFile,
  realpath: async (path: string) => path,
  readdir: async (path: string) =>
    path === '/many'
      ? Array.from({ length: count }, (_, i) => entry(String(i).padStart(6, '0'), true))
      : [entry('x.png', false)],
}));

it('a folder may have any number of folders', async () => {
  const { ids, classNames, labels } = await openImageFolder('/many', { labels: 'folders' });
  expect([ids.length, ids[0], ids[count - 1]]).toEqual([count, '000000/x.png', `${count - 1}/x.png`]);
  expect([classNames!.length, labels![count - 1]]).toEqual([count, count - 1]);
});

it('a tar shard may have any number of images', async () => {
  const { ids } = await openTarShards('/many.tar', { labelled: false });
  expect([ids.length, ids[count - 1]]).toEqual([count, `many.tar/${count - 1}.jpg`]);
  expect(tarFile.read.mock.calls.length).toBeLessThan(count / 7); // headers side by side are read together
});

it('a tar shard that the system fails to read is named', async () => {
  tarFile.read.mockRejectedValueOnce(Object.assign(new Error('EIO: i/o error, read'), { code: 'EIO' }));
  await expect(openTarShards('/many.tar', { labelled: false })).rejects.toMatchObject({
    code: 'BAD_DATASET',
    message: expect.stringContaining('cannot read /many.tar: EIO') as string,
  });
});
