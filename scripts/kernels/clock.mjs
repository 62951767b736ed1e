// How long each kernel of a student's training step, of a teacher's forward pass, or of the augmented views, takes by a
// model of an H100's multiprocessor, and what its warps wait for (test/native/emulation/ptx/clock.h). A guide to what
// holds a kernel up where there is no GPU; docs/kernel-costs.md says how near it comes.
//   node scripts/kernels/clock.mjs [student, clip_rn50 or views] [--resolution 224] [--batch 8 | --batch 256 --whole]
//     [--fusion layers] [--clip] [--tiles] [--lines <part of a kernel>] | --calibrate
// Half a minute, and two of compiling the first time; needs g++, nvcc and ptxas. Grids are made as in cost.mjs. Kernels
// over channels alone (the sums of norms, squeeze and excitation, folding) do not have fewer blocks with fewer images,
// so their times come out too long here. --whole: grids for all of a card instead, a minute for 256 images of 64 px.
// LGDISTILL_WGMMA=0|1: products by warps or by warpgroups. --clip: gradients are clipped. --tiles: products of different
// tiles apart. --lines: where in the source warps wait. --calibrate: instead, the model beside times that were measured
// on an H100.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { addTo, countLaunches, multiprocessorsFor, withoutTile } from './cost.mjs';
import { makePtx, makeRegisters, ptxAlone } from './ptx.mjs';
import { nameKernels } from './report.mjs';

const root = join(dirname(fileURLToPath(import.meta.url)), '../..');

/** Cycles of an H100's multiprocessors in a microsecond. */
const clockRate = 1755;

/**
 * Times of plain products that are known, by the model: [{ name, measured, modelled, unit }].
 * @param {string} program test/native/clock, as scripts/build.mjs makes it
 * @returns {Promise<{ name: string, measured: number, modelled: number, unit: string }[]>}
 */
export async function calibrate(program) {
  const ptx = await ptxAlone('test/native/clock/plain_product.cu', join(root, 'build-emulated/ptx/clock'), '90a');
  const folder = mkdtempSync(join(tmpdir(), 'lgdistill-clock-'));
  try {
    const report = join(folder, 'counts');
    const env = {
      ...process.env,
      LGDISTILL_EMULATION_PTX: ptx,
      LGDISTILL_EMULATION_COUNTS: report,
      LGDISTILL_EMULATION_CLOCK: await makeRegisters(ptx, '90a'),
    };
    const cases = execFileSync(program, { env, encoding: 'utf8' })
      .trim()
      .split('\n')
      .map((line) => line.split(';'));
    return readFileSync(report, 'utf8')
      .trim()
      .split('\n')
      .map((line, i) => {
        const [name, M, N, K, measured, unit] = cases[i].map((text, j) => (j > 0 && j < 5 ? Number(text) : text));
        const microseconds = JSON.parse(line).cycles / clockRate;
        const modelled = {
          TF: (2 * M * N * K) / microseconds / 1e6,
          'TB/s': (2 * (M * K + M * N + N * K)) / microseconds / 1e6,
          us: microseconds,
        }[unit];
        return { name, measured, modelled, unit };
      });
  } finally {
    rmSync(folder, { recursive: true });
  }
}

async function main() {
  const {
    positionals: [student = 'mobilenet_v2'],
    values,
  } = parseArgs({
    allowPositionals: true,
    options: {
      resolution: { type: 'string', default: '224' },
      batch: { type: 'string', default: '8' },
      fusion: { type: 'string', default: 'layers' },
      tiles: { type: 'boolean' },
      whole: { type: 'boolean', default: false },
      clip: { type: 'boolean', default: false },
      lines: { type: 'string' },
      calibrate: { type: 'boolean' },
    },
  });
  execFileSync(
    process.execPath,
    [join(root, 'scripts/build.mjs'), '--with', 'emulated', ...(values.calibrate ? ['--programs'] : [])],
    { stdio: ['ignore', 'ignore', 'inherit'] },
  );
  if (values.calibrate) {
    for (const { name, measured, modelled, unit } of await calibrate(join(root, 'build-emulated/Release/clock')))
      console.log(
        `${name.padEnd(44)} measured ${String(measured).padStart(5)} ${unit.padEnd(4)}  model ${modelled.toPrecision(3)}`,
      );
    return;
  }
  const [batch, resolution] = [Number(values.batch), Number(values.resolution)];
  const ptx = await makePtx('90a');
  const launches = countLaunches(join(root, 'build-emulated/Release/lgdistill.node'), ptx, {
    student,
    resolution,
    batch,
    fusion: values.fusion,
    whole: values.whole,
    clip: values.clip,
    registers: await makeRegisters(ptx, '90a'),
  });
  const names = nameKernels([...new Set(launches.map(({ symbol }) => symbol))]);
  const multiprocessors = multiprocessorsFor({ resolution, batch, whole: values.whole });
  const rows = new Map();
  for (const { symbol, cycles, resident, threads, waits, waited } of launches) {
    const full = names.get(symbol),
      name = values.tiles ? full : withoutTile(full);
    const row = rows.get(name) ?? { name, threads, resident: [], microseconds: 0, waits: {}, waited: {} };
    rows.set(name, row);
    row.resident.push(resident);
    row.microseconds += ((cycles / clockRate) * (multiprocessors / 132)) / batch;
    addTo(row.waits, waits);
    addTo(row.waited, waited);
  }
  const sorted = [...rows.values()].sort((a, b) => b.microseconds - a.microseconds);
  const shares = (counts, most) => {
    const all = Object.values(counts).reduce((sum, count) => sum + count, 0);
    return Object.entries(counts)
      .sort(([, a], [, b]) => b - a)
      .slice(0, most)
      .map(([name, count]) => ({ name, share: (100 * count) / all }));
  };
  console.log(
    `${student}: ${batch} images of ${resolution} px, bfloat16, fusion ${values.fusion}, one of ${multiprocessors} multiprocessors for them, by a model\nmicroseconds an image, launches, threads a block, blocks at once, what warps wait for in percent, kernel`,
  );
  for (const { name, threads, resident, microseconds, waits, waited } of sorted) {
    if (values.lines !== undefined && !name.includes(values.lines)) continue;
    const [least, most] = [Math.min(...resident), Math.max(...resident)];
    console.log(
      `${microseconds.toFixed(3).padStart(8)}${String(resident.length).padStart(5)}${String(threads).padStart(5)}  ${least === most ? most : `${least}-${most}`}  ${shares(
        waits,
        3,
      )
        .map((one) => `${one.name} ${one.share.toFixed(0)}`)
        .join(', ')}  ${name.slice(0, 150)}`,
    );
    if (values.lines !== undefined)
      for (const one of shares(waited, 24)) console.log(`${one.share.toFixed(1).padStart(20)} %  ${one.name}`);
  }
  const all = sorted
    .filter(({ name }) => name !== 'sgd_kernel')
    .reduce((sum, { microseconds }) => sum + microseconds, 0);
  console.log(`${all.toFixed(2).padStart(8)}  all but sgd_kernel`);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main();
