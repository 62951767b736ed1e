// How long each kernel of a student's training step, or of a teacher's forward pass, takes by a model of an H100's multiprocessor, and what its warps wait for
// (test/native/emulation/ptx/clock.h). A guide to what holds a kernel up where there is no GPU; docs/engine.md says how near it comes.
//   node scripts/kernels/clock.mjs [student or clip_rn50] [--resolution 224] [--batch 8] [--fusion layers] [--tiles] [--lines <part of a kernel>]
// Half a minute, and two of compiling the first time; needs g++, nvcc and ptxas. Grids are made as in cost.mjs. Kernels over channels alone (the sums of norms, squeeze
// and excitation, folding) do not have fewer blocks with fewer images, so their times come out too long here. LGDISTILL_WGMMA=0|1: products by warps or by warpgroups.
// --tiles: products of different tiles apart. --lines: where in the source warps wait.
import { execFileSync } from 'node:child_process';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { addTo, countLaunches, multiprocessorsFor, withoutTile } from './cost.mjs';
import { makePtx, makeRegisters } from './ptx.mjs';
import { nameKernels } from './report.mjs';

const root = join(dirname(fileURLToPath(import.meta.url)), '../..');
const { positionals: [student = 'mobilenet_v2'], values } = parseArgs({
  allowPositionals: true,
  options: { resolution: { type: 'string', default: '224' }, batch: { type: 'string', default: '8' }, fusion: { type: 'string', default: 'layers' }, tiles: { type: 'boolean' }, lines: { type: 'string' } },
});
execFileSync(process.execPath, [join(root, 'scripts/build.mjs'), '--with', 'emulated'], { stdio: ['ignore', 'ignore', 'inherit'] });
const [batch, resolution] = [Number(values.batch), Number(values.resolution)];
const ptx = await makePtx('90a');
const launches = countLaunches(join(root, 'build-emulated/Release/lgdistill.node'), ptx, { student, resolution, batch, fusion: values.fusion, registers: await makeRegisters(ptx, '90a') });
const names = nameKernels([...new Set(launches.map(({ symbol }) => symbol))]);
const multiprocessors = multiprocessorsFor({ resolution, batch });
const rows = new Map();
for (const { symbol, cycles, resident, threads, waits, waited } of launches) {
  const full = names.get(symbol), name = values.tiles ? full : withoutTile(full);
  const row = rows.get(name) ?? { name, threads, resident: [], microseconds: 0, waits: {}, waited: {} };
  rows.set(name, row);
  row.resident.push(resident);
  row.microseconds += (cycles / 1755) * (multiprocessors / 132) / batch;
  addTo(row.waits, waits);
  addTo(row.waited, waited);
}
const sorted = [...rows.values()].sort((a, b) => b.microseconds - a.microseconds);
const shares = (counts, most) => {
  const all = Object.values(counts).reduce((sum, count) => sum + count, 0);
  return Object.entries(counts).sort(([, a], [, b]) => b - a).slice(0, most).map(([name, count]) => ({ name, share: (100 * count) / all }));
};
console.log(`${student}: ${batch} images of ${resolution} px, bfloat16, fusion ${values.fusion}, one of ${multiprocessors} multiprocessors for them, by a model\nmicroseconds an image, launches, threads a block, blocks at once, what warps wait for in percent, kernel`);
for (const { name, threads, resident, microseconds, waits, waited } of sorted) {
  if (values.lines !== undefined && !name.includes(values.lines)) continue;
  const [least, most] = [Math.min(...resident), Math.max(...resident)];
  console.log(`${microseconds.toFixed(3).padStart(8)}${String(resident.length).padStart(5)}${String(threads).padStart(5)}  ${least === most ? most : `${least}-${most}`}  ${shares(waits, 3).map((one) => `${one.name} ${one.share.toFixed(0)}`).join(', ')}  ${name.slice(0, 150)}`);
  if (values.lines !== undefined) for (const one of shares(waited, 24)) console.log(`${one.share.toFixed(1).padStart(20)} %  ${one.name}`);
}
console.log(`${rows.size === 0 ? 0 : sorted.filter(({ name }) => name !== 'sgd_kernel').reduce((sum, { microseconds }) => sum + microseconds, 0).toFixed(2).padStart(8)}  all but sgd_kernel`);
