import { execFile } from 'node:child_process';
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import sharp from 'sharp';
import { beforeAll, expect, it } from 'vitest';
import { addonPath, loadAddon } from '../../lib/addon/addon.js';
import type { PackKind, PackRecipe } from '../../lib/data/pack/format.js';
import { PackFile } from '../../lib/data/pack/reader.js';
import { PackWriter } from '../../lib/data/pack/writer.js';
import { bundleChild } from '../fixtures/child.js';
import { temporaryFolder } from '../fixtures/folder.js';

const folder = temporaryFolder();
const bundle = await bundleChild('test/integration/pack-large-child.ts');
const count = 100_000;
const side = 40;
let ids: string[];

beforeAll(() => {
  ids = Array.from({ length: count }, (_, i) => `class-${i % 1000}/image-${i}.jpg`);
});

/** Writes a pack of 100,000 synthetic images: noise of a level of their own. */
async function writeLarge(kind: PackKind): Promise<string> {
  const path = join(folder, `${kind}.pack`);
  const recipe: PackRecipe = { kind, shortSide: kind === 'raw' ? side : 0, quality: 0 };
  const writer = await PackWriter.open(path, recipe, {
    task: kind,
    overwrite: false,
    syncSeconds: 60,
    checksum: loadAddon().checksum,
  });
  const noise = (i: number) =>
    Buffer.from(Uint8Array.from({ length: side * side * 3 }, (_, at) => (at * (i + 3) * 2654435761) >>> 26));
  const encoded = await Promise.all(
    Array.from({ length: 50 }, (_, i) =>
      sharp(noise(i), { raw: { width: side, height: side, channels: 3 } })
        .jpeg({ quality: 60 })
        .toBuffer(),
    ),
  );
  const raw = Array.from({ length: 50 }, (_, i) => noise(i));
  for (let i = 0; i < count; i++) {
    const bytes = (kind === 'raw' ? raw : encoded)[i % 50]!;
    await writer.add({ bytes, width: side, height: side }, bytes.byteLength);
  }
  await writer.finish({
    recipe,
    entries: writer.entries,
    ids,
    labels: Int32Array.from(ids, (_, i) => i % 1000),
    classNames: Array.from({ length: 1000 }, (_, i) => `class-${i}`),
    source: 'noise',
    refused: [],
  });
  await writer.close();
  return path;
}

it.each([
  ['raw', 390],
  ['original', 60],
] as const)('a pack of 100,000 images (%s) is read in bounded memory', async (kind, batches) => {
  const path = await writeLarge(kind);
  const pack = await PackFile.open(path);
  expect(pack.length).toBe(count);
  expect(pack.index.ids[99_999]).toBe('class-999/image-99999.jpg');
  const { stdout } = await promisify(execFile)(process.execPath, [bundle, path, String(batches)], {
    env: { ...process.env, LGDISTILL_ADDON: addonPath() },
  });
  const { early, late, images } = JSON.parse(stdout) as { early: number; late: number; images: number };
  expect(images).toBe(256 * batches);
  const megabytes = (await stat(path)).size / 2 ** 20;
  process.stdout.write(
    `pack-large (${kind}): ${images} images of a pack of ${megabytes.toFixed(0)} MiB; own memory ${(early / 1024).toFixed(0)} MiB after a tenth of them, ${(late / 1024).toFixed(0)} MiB at the end\n`,
  );
  expect(late - early).toBeLessThan(64 * 1024);
  expect(late).toBeLessThan(400 * 1024);
});
