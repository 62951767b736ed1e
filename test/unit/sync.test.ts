import { open, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, expect, it, vi } from 'vitest';
import { packImages } from '../../lib/data/pack/pack.js';
import { imagesFromBuffers } from '../../lib/data/sources.js';
import { LineFile } from '../../lib/files/line-file.js';
import { writeFileAtomically } from '../../lib/files/write-file.js';
import { syncFolder } from '../../lib/files/sync.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { picture } from '../fixtures/images/draw.js';

const folder = temporaryFolder();

/** What handles say that are asked to sync. */
async function failing(error: Error): Promise<void> {
  const file = await open(folder);
  const handles = Object.getPrototypeOf(file) as Record<'sync' | 'datasync', () => Promise<void>>;
  await file.close();
  for (const method of ['sync', 'datasync'] as const) vi.spyOn(handles, method).mockRejectedValue(error);
}
afterEach(() => void vi.restoreAllMocks());

it.each([
  ["of Yarn's Plug'n'Play", new Error('Method not implemented.')],
  [
    "under Node's permission model",
    Object.assign(new Error('fsync API is disabled when Permission Model is enabled.'), { code: 'ERR_ACCESS_DENIED' }),
  ],
])('writes with handles that do not sync, %s', async (_, error) => {
  await failing(error);
  await writeFileAtomically(join(folder, 'whole'), 'text');
  expect(await readFile(join(folder, 'whole'), 'utf8')).toBe('text');
  const lines = await LineFile.open(folder, 'lines.txt', 100);
  await lines.append('line');
  await lines.sync();
  await lines.close();
  await syncFolder(folder);
  const image = await picture(40, 40, [0, 0, 0], [255, 255, 255]).png().toBuffer();
  expect(
    await packImages(imagesFromBuffers([{ id: 'one', bytes: image }]), {
      output: join(folder, 'one.pack'),
      overwrite: true,
    }),
  ).toMatchObject({ images: 1 });
});

it.each(['EINVAL', 'ENOSYS', 'ENOTSUP'])('a file system that syncs no folders (%s) is no failure', async (code) => {
  await failing(Object.assign(new Error('invalid argument, fsync'), { code }));
  await syncFolder(folder);
  // files are another matter
  await expect(writeFileAtomically(join(folder, 'lost'), 'text')).rejects.toMatchObject({ code: 'NOT_WRITABLE' });
});

it('a disk that fails to sync is a failure, and is not asked twice: it would forget what it lost', async () => {
  await failing(Object.assign(new Error('i/o error, fsync'), { code: 'EIO' }));
  await expect(writeFileAtomically(join(folder, 'lost'), 'text')).rejects.toMatchObject({
    code: 'NOT_WRITABLE',
    message: expect.stringContaining('the disk fails') as string,
  });
});
