import { open, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it, vi } from 'vitest';
import { packImages } from '../../lib/data/pack/pack.js';
import { imagesFromBuffers } from '../../lib/data/sources.js';
import { LineFile } from '../../lib/files/line-file.js';
import { writeFileAtomically } from '../../lib/files/safetensors.js';
import { syncFolder } from '../../lib/files/sync.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { picture } from '../fixtures/images/draw.js';

const folder = temporaryFolder();

it("needs no file handle that syncs: Yarn's Plug'n'Play has none", async () => {
  const file = await open(folder);
  const handles = Object.getPrototypeOf(file) as Record<'sync' | 'datasync', () => Promise<void>>;
  await file.close();
  for (const method of ['sync', 'datasync'] as const) vi.spyOn(handles, method).mockRejectedValue(new Error('Method not implemented.'));
  await writeFileAtomically(join(folder, 'whole'), 'text');
  expect(await readFile(join(folder, 'whole'), 'utf8')).toBe('text');
  const lines = await LineFile.open(folder, 'lines.txt', 100);
  await lines.append('line');
  await lines.sync();
  await lines.close();
  await syncFolder(folder);
  const image = await picture(40, 40, [0, 0, 0], [255, 255, 255]).png().toBuffer();
  expect(await packImages(imagesFromBuffers([{ id: 'one', bytes: image }]), { output: join(folder, 'one.pack') })).toMatchObject({ images: 1 });
  vi.restoreAllMocks();
});
