/** An earlier export gives way to the next one. */
import { mkdir, readdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test, vi } from 'vitest';
import { placeFolder } from '../../lib/export/folder.js';
import { temporaryFolder } from '../fixtures/folder.js';

vi.mock('node:fs/promises', { spy: true });

const folder = temporaryFolder();
const [from, to] = [join(folder, '.export.tmp'), join(folder, 'export')];

test('also where the file system does not rename it', async () => {
  for (const place of [from, to]) {
    await mkdir(join(place, 'inner'), { recursive: true });
    await writeFile(join(place, 'inner', 'file'), place);
    await writeFile(join(place, 'config.json'), '{"lgdistill":{}}');
  }
  // as overlay mounts, such as a container's root, say of a folder of a layer below
  vi.mocked(rename).mockRejectedValueOnce(Object.assign(new Error('EXDEV: cross-device link'), { code: 'EXDEV' }));
  await placeFolder(from, to);
  expect(await readFile(join(to, 'inner', 'file'), 'utf8')).toBe(from);
  expect(await readdir(folder)).toEqual(['export']);
});
