// Compares what an augmented view costs in processor time: Pillow and torchvision's MoCo v2 pipeline
// (bench/moco_views.py, where they are installed) against each source that lgdistill reads. node bench/data.mjs FOLDER
// [ROUNDS]: FOLDER holds JPEGs. Needs dist/ and the addon. Each is measured on one core and on all of them, Pillow as
// so many processes at once (as a DataLoader's workers are): two threads of one core slow each other down, and a figure
// for one busy core is no figure for a busy machine.
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { measureData, openImages, packImages, parseConfig } from '../dist/index.js';
import { describeMachine } from './machine.mjs';

const [, , folder, rounds = '5'] = process.argv;
if (folder === undefined) throw new Error('usage: node bench/data.mjs FOLDER [ROUNDS]');
const seconds = 2;
const peer = 'Pillow + torchvision';
const packs = mkdtempSync(join(tmpdir(), 'lgdistill-bench-'));
const config = parseConfig({ data: { resolution: 224 } });

const script = fileURLToPath(new URL('moco_views.py', import.meta.url));

/**
 * Of so many processes at once: their versions, and milliseconds of processor time a view. undefined where they are not
 * installed.
 */
async function pillow(processes) {
  for (const python of ['python3', '/usr/bin/python3']) {
    try {
      const runs = await Promise.all(
        Array.from({ length: processes }, async () =>
          JSON.parse((await promisify(execFile)(python, [script, folder, String(seconds)])).stdout),
        ),
      );
      return { versions: runs[0].versions, views: runs.reduce((sum, run) => sum + run.views, 0) / processes };
    } catch {
      continue;
    }
  }
  return undefined;
}

try {
  const source = await openImages(folder);
  const paths = { 'JPEG files': folder };
  for (const [name, options] of Object.entries({
    'pack of the files': { as: 'original' },
    'pack, JPEG 256 px': { as: 'jpeg', shortSide: 256 },
    'pack, raw 280 px': { as: 'raw', shortSide: 280 },
  })) {
    paths[name] = join(packs, `${options.as}.pack`);
    await packImages(source, { ...options, output: paths[name], maxBrokenShare: 1 });
  }
  // Side by side, in turn; of each the round in which the machine was least busy with other things.
  const best = new Map();
  const note = (name, cores, milliseconds) =>
    best.set(name, { ...best.get(name), [cores]: Math.min(milliseconds, best.get(name)?.[cores] ?? Infinity) });
  const all = availableParallelism();
  let versions;
  for (let round = 0; round < Number(rounds); round++) {
    for (const cores of new Set([1, all])) {
      const reference = await pillow(cores);
      if (reference !== undefined) note(peer, cores, reference.views);
      versions = reference?.versions;
    }
    for (const [name, path] of Object.entries(paths)) {
      for await (const row of measureData([path], config, { seconds }))
        note(name, row.cores, row.decodeMilliseconds + row.augmentMilliseconds);
    }
  }
  const reference = best.get(peer);
  if (reference === undefined) console.log('left out: Pillow and torchvision are not installed');
  console.log(JSON.stringify({ ...describeMachine(), versions, rounds: Number(rounds), images: source.ids.length }));
  for (const [name, row] of best) {
    const cells = [1, all].map(
      (cores) =>
        `${row[cores].toFixed(2).padStart(7)} ms ${(1000 / row[cores]).toFixed(0).padStart(6)} views/s/core${reference === undefined ? '' : ` ${(reference[cores] / row[cores]).toFixed(2).padStart(6)} x`}`,
    );
    console.log(`${name.padEnd(22)} one core ${cells[0]}   all ${all} ${cells[1]}`);
  }
} finally {
  rmSync(packs, { recursive: true });
}
