// Counts bank conflicts and half-used sectors of a student's training step, place by place, on the emulated GPU (test/native/emulation/requests.h).
//   node scripts/kernels/requests.mjs [student] [--resolution 128] [--batch 16] [--fusion layers] [--precision bfloat16]      a few minutes; needs g++, nm and addr2line
// A wave is what a multiprocessor's shared memory serves in a cycle, or a sector of 32 bytes in global memory. Few of each launch's blocks are
// watched, and weighted by how many there are.
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { fromCommandLine, reportOf, symbolsOf, withoutTile } from './traffic.mjs';
import { nameKernels } from './report.mjs';

/**
 * @param {import('./traffic.mjs').Setting} setting
 * @returns {{ kernel: string, memory: string, does: string, at: number, requests: number, waves: number, least: number }[]} by kernel and place in the addon
 */
export function countRequests(addon, setting) {
  const symbols = symbolsOf(addon);
  const rows = new Map();
  let [symbol, weight] = ['', 1];
  for (const line of reportOf('LGDISTILL_EMULATION_REQUESTS', addon, setting)) {
    const words = line.split(' ');
    if (words[0] === 'kernel') {
      const blocks = Number(words[2]);
      weight = blocks / (Math.floor(Math.log2(blocks)) + 1);
      symbol = symbols.get(parseInt(words[1], 16)) ?? words.slice(3).join(' ');
      continue;
    }
    const [memory, does, at, ...counts] = words;
    const key = `${symbol} ${memory} ${at}`;
    const row = rows.get(key) ?? { symbol, memory, does, at: parseInt(at, 16), requests: 0, waves: 0, least: 0 };
    for (const [i, name] of ['requests', 'waves', 'least'].entries()) row[name] += weight * Number(counts[i]);
    rows.set(key, row);
  }
  const names = nameKernels([...new Set([...rows.values()].map((row) => row.symbol))]);
  return [...rows.values()].map(({ symbol: of, ...row }) => ({ kernel: withoutTile(names.get(of)), ...row }));
}

/** file:line of places in an addon, each with the lines that it was inlined into. */
export function placesOf(addon, offsets) {
  const { stdout } = spawnSync('addr2line', ['-a', '-i', '-s', '-e', addon], { input: offsets.map((at) => `0x${(at - 1).toString(16)}`).join('\n'), encoding: 'utf8', maxBuffer: 1 << 28 });
  const places = new Map();
  for (const part of (stdout ?? '').split(/^0x/mu).slice(1)) {
    const [at, ...lines] = part.trim().split('\n');
    places.set(parseInt(at, 16) + 1, lines.map((line) => line.replace(/ .*/u, '')).join(' < '));
  }
  return places;
}

/** Sums of waves by a key, with what more there is than the least; most of that first. */
function group(rows, keyOf) {
  const groups = new Map();
  for (const row of rows) {
    const key = keyOf(row);
    const sum = groups.get(key) ?? { key, requests: 0, waves: 0, least: 0 };
    groups.set(key, { key, requests: sum.requests + row.requests, waves: sum.waves + row.waves, least: sum.least + row.least });
  }
  return [...groups.values()].sort((a, b) => b.waves - b.least - a.waves + a.least);
}

function main() {
  const { setting, addon } = fromCommandLine();
  const rows = countRequests(addon, setting);
  const places = placesOf(addon, [...new Set(rows.map(({ at }) => at))]);
  for (const memory of ['shared', 'global']) {
    const of = rows.filter((row) => row.memory === memory);
    const print = ({ key, waves, least }) => console.log(`${(waves / 1e3).toFixed(0).padStart(9)}${(waves / Math.max(least, 1)).toFixed(2).padStart(7)} x  ${key.slice(0, 170)}`);
    console.log(`\n${memory} memory of ${setting.student}, ${setting.batch} images of ${setting.resolution} px: thousands of waves, how many times the least, kernel`);
    const kernels = group(of, ({ kernel }) => kernel);
    print(group(of, () => 'all')[0] ?? { key: 'nothing', waves: 0, least: 0 });
    for (const kernel of kernels.slice(0, 25)) {
      print(kernel);
      for (const place of group(of.filter((row) => row.kernel === kernel.key), ({ at, does }) => `${does} ${places.get(at)}`).slice(0, 6)) {
        if (place.waves > 1.2 * place.least && place.waves - place.least > 0.02 * kernel.waves) print({ ...place, key: `    ${place.key}` });
      }
    }
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) main();
