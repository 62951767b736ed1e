/** An earlier export gives way to the next one. */
import { mkdir, readdir, readFile, rename, utimes, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { expect, test, vi } from 'vitest';
import { placeFolder } from '../../lib/export/folder.js';
import { removeLeft } from '../../lib/files/temporary-name.js';
import { temporaryFolder } from '../fixtures/folder.js';

vi.mock('node:fs/promises', { spy: true });

const folder = temporaryFolder();
const [from, to] = [join(folder, '.export.tmp'), join(folder, 'export')];

async function write(place: string): Promise<void> {
  await mkdir(join(place, 'inner'), { recursive: true });
  await writeFile(join(place, 'inner', 'file'), place);
  await writeFile(join(place, 'config.json'), '{"lgdistill":{}}');
}

test('also where the file system does not rename it', async () => {
  for (const place of [from, to]) await write(place);
  // as overlay mounts, such as a container's root, say of a folder of a layer below
  vi.mocked(rename).mockRejectedValueOnce(Object.assign(new Error('EXDEV: cross-device link'), { code: 'EXDEV' }));
  await placeFolder(from, to);
  expect(await readFile(join(to, 'inner', 'file'), 'utf8')).toBe(from);
  expect(await readdir(folder)).toEqual(['export']);
});

test('and stays whole where a kill kept the next one from its place, until one is there', async () => {
  await write(from);
  const { rename: real } = await vi.importActual<typeof import('node:fs/promises')>('node:fs/promises');
  vi.mocked(rename).mockImplementationOnce(real).mockRejectedValue(new Error('killed')); // nothing more is done
  await expect(placeFolder(from, to)).rejects.toThrow('killed');
  vi.mocked(rename).mockImplementation(real);
  const [left] = (await readdir(folder)).filter((name) => name !== basename(from));
  expect(left).not.toBe(basename(to));
  expect(await readFile(join(folder, left!, 'config.json'), 'utf8')).toContain('lgdistill');
  await utimes(join(folder, left!), 0, 0);
  await placeFolder(from, to);
  await removeLeft(to);
  expect(await readdir(folder)).toEqual(['export']);
});
