// Compares what an augmented view costs in processor time: Pillow and torchvision's MoCo v2 pipeline (bench/moco_views.py, where they are installed) against each source that
// lgdistill reads. node bench/data.mjs FOLDER [ROUNDS]: FOLDER holds JPEGs. Needs dist/ and the addon.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { measureData, openImages, packImages, parseConfig } from '../dist/index.js';
import { describeMachine } from './machine.mjs';

const [, , folder, rounds = '5'] = process.argv;
if (folder === undefined) throw new Error('usage: node bench/data.mjs FOLDER [ROUNDS]');
const seconds = 2;
const packs = mkdtempSync(join(tmpdir(), 'lgdistill-bench-'));
const config = parseConfig({ data: { resolution: 224 } });

function pillow() {
  for (const python of ['python3', '/usr/bin/python3']) {
    try {
      return JSON.parse(execFileSync(python, [fileURLToPath(new URL('moco_views.py', import.meta.url)), folder, String(seconds)], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }));
    } catch {
      continue;
    }
  }
  return undefined;
}

try {
  const source = await openImages(folder);
  const paths = { 'JPEG files': folder };
  for (const [name, options] of Object.entries({ 'pack of the files': { as: 'original' }, 'pack, JPEG 256 px': { as: 'jpeg', shortSide: 256 }, 'pack, raw 280 px': { as: 'raw', shortSide: 280 } })) {
    paths[name] = join(packs, `${options.as}.pack`);
    await packImages(source, { ...options, output: paths[name], maxBrokenShare: 1 });
  }
  // Side by side, in turn; of each the round in which the machine was least busy with other things.
  const best = new Map();
  const note = (name, milliseconds) => best.set(name, Math.min(milliseconds, best.get(name) ?? Infinity));
  let versions;
  for (let round = 0; round < Number(rounds); round++) {
    const reference = pillow();
    if (reference !== undefined) note('Pillow + torchvision', reference.views);
    versions = reference?.versions;
    for (const [name, path] of Object.entries(paths)) {
      let row;
      for await (row of measureData([path], config, { seconds })); // the last row is of all cores, as training works
      note(name, row.decodeMilliseconds + row.augmentMilliseconds);
    }
  }
  const reference = best.get('Pillow + torchvision');
  if (reference === undefined) console.log('left out: Pillow and torchvision are not installed');
  console.log(JSON.stringify({ ...describeMachine(), versions, rounds: Number(rounds), images: source.ids.length }));
  for (const [name, milliseconds] of best) console.log(`${name.padEnd(22)} ${milliseconds.toFixed(2).padStart(7)} ms ${(1000 / milliseconds).toFixed(0).padStart(6)} views/s/core${reference === undefined ? '' : ` ${(reference / milliseconds).toFixed(2).padStart(7)} x`}`);
} finally {
  rmSync(packs, { recursive: true });
}
