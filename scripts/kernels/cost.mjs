// What each kernel of a student's training step, of a teacher's forward pass, or of the augmented views, asks of a GPU,
// counted where its PTX is executed on the host (test/native/emulation/ptx/counts.cpp), and the least time that an H100
// needs for it.
//   node scripts/kernels/cost.mjs [student, clip_rn50 or views] [--resolution 224] [--batch 4] [--fusion layers]
//     [--precision bfloat16] [--clip] [--lines <part of a kernel>]
// About a minute, most of it compiling; needs g++ and nvcc. Weights and their gradients, which images share, weigh 64
// times what they do with 256 images if they are 4, and 8 times if they are 32, which takes another minute. Grids are
// made for as many multiprocessors as leave each as much to do as 256 images of 224 px leave an H100's 132. --clip:
// gradients are clipped. --lines: where in the source a kernel's slots of issue go, and which accesses take more waves
// than they must.
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { makePtx } from './ptx.mjs';
import { nameKernels } from './report.mjs';

const root = join(dirname(fileURLToPath(import.meta.url)), '../..');

/**
 * @typedef {{ student: string, resolution: number, batch: number, fusion?: string, precision?: string, registers?:
 *   string, whole?: boolean, clip?: boolean }} Setting registers: a file of makeRegisters, for the clock; whole: grids for all of a
 *   card, whatever the images
 */
/**
 * @typedef {{ at: string, does: string, memory: 'shared' | 'global', requests: number, waves: number, least: number,
 *   far: number }} Access
 */
/**
 * Kernels of one name, whatever their tiles. read, written: bytes; beyond: of these what passes level-2 cache, by the
 * model of far_cache.h; slots: of issue by unit; lines: slots by place in the source; code: bytes of machine code that
 * are executed at all, of all launches; longest: by place in the source, of the launch with most.
 * @typedef {{ name: string, launches: number, read: number, written: number, beyond: number, code: number, slots:
 *   Record<string, number>, instructions: Record<string, number>, lines: Record<string, number>, longest:
 *   Record<string, number>, places: Access[] }} Cost
 */

/** Image towers by the names that stand for them here. */
export const teachers = { clip_rn50: { layers: [3, 4, 6, 3], width: 64, heads: 32, outputDim: 1024 } };

/** The share of a step of 256 images of 224 px. */
const shareOf = ({ resolution, batch, whole = false }) => (whole ? 1 : (batch * resolution ** 2) / (256 * 224 ** 2));
/** How many multiprocessors a step of this size is to be laid out for. */
export const multiprocessorsFor = (setting) => Math.max(1, Math.round(132 * shareOf(setting)));
/**
 * Bytes of level-2 cache: four fifths of an H100's, in which streams of reads and writes do not get in each other's way
 * so neatly.
 */
const cacheFor = (setting) => Math.round(0.8 * 50e6 * shareOf(setting));

export const withoutTile = (name) => name.replace(/Tile<[^>]*>, /u, '');

const total = (numbers) => Object.values(numbers).reduce((sum, number) => sum + number, 0);

export function addTo(sum, numbers) {
  for (const [key, number] of Object.entries(numbers)) sum[key] = (sum[key] ?? 0) + number;
}

/**
 * Runs forward, backward and SGD of a student once, a teacher forward, or the augmentation of views, and counts.
 * @param {string} addon the emulated one
 * @param {string} ptx a folder of makePtx
 * @param {Setting} setting
 * @returns a row a launch, as counts.cpp writes it
 */
export function countLaunches(
  addon,
  ptx,
  { student, resolution, batch, fusion = 'layers', precision = 'bfloat16', registers, whole = false, clip = false },
) {
  const folder = mkdtempSync(join(tmpdir(), 'lgdistill-kernels-'));
  const report = join(folder, 'counts');
  try {
    const env = {
      ...process.env,
      LGDISTILL_ADDON: addon,
      LGDISTILL_PROBE: 'off',
      LGDISTILL_GRAPHS: '0',
      LGDISTILL_FUSION: fusion,
      LGDISTILL_EMULATION_ORDER: 'forward',
      LGDISTILL_EMULATION_PTX: ptx,
      LGDISTILL_EMULATION_COUNTS: report,
      LGDISTILL_EMULATION_MULTIPROCESSORS: String(multiprocessorsFor({ resolution, batch, whole })),
      LGDISTILL_EMULATION_CACHE: String(cacheFor({ resolution, batch, whole })),
      ...(registers === undefined ? {} : { LGDISTILL_EMULATION_CLOCK: registers }),
    };
    const { status, stdout, stderr } = spawnSync(
      process.execPath,
      [
        join(root, 'scripts/kernels/step.mjs'),
        report,
        student,
        String(resolution),
        String(batch),
        precision,
        clip ? '1' : '0',
      ],
      { env, encoding: 'utf8' },
    );
    if (status !== 0) throw new Error(`the step failed: ${stdout}${stderr}`);
    return readFileSync(report, 'utf8')
      .slice(Number(stdout))
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line));
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** What countLaunches gives, a row a kernel. @returns {Cost[]} */
export function sumByName(launches) {
  const names = nameKernels([...new Set(launches.map(({ symbol }) => symbol))]);
  const rows = new Map();
  for (const {
    symbol,
    read,
    written,
    filled,
    written_back: back,
    slots,
    instructions,
    lines,
    code,
    places,
  } of launches) {
    const name = withoutTile(names.get(symbol));
    const row = rows.get(name) ?? {
      name,
      launches: 0,
      read: 0,
      written: 0,
      beyond: 0,
      code: 0,
      slots: {},
      instructions: {},
      lines: {},
      longest: {},
      places: new Map(),
    };
    rows.set(name, row);
    addTo(row, { launches: 1, read, written, beyond: filled + back, code: total(code) });
    if (total(code) > total(row.longest)) row.longest = code;
    addTo(row.slots, slots);
    addTo(row.instructions, instructions);
    addTo(row.lines, lines);
    for (const { at, does, memory, ...counts } of places) {
      const key = `${memory} ${does} ${at}`;
      const place = row.places.get(key) ?? { at, does, memory, requests: 0, waves: 0, least: 0, far: 0 };
      addTo(place, counts);
      row.places.set(key, place);
    }
  }
  return [...rows.values()].map((row) => ({ ...row, places: [...row.places.values()] }));
}

/** The bytes of a step, without those of SGD, which images share. */
export const bytesOf = (rows) =>
  rows.filter(({ name }) => name !== 'sgd_kernel').reduce((sum, { read, written }) => sum + read + written, 0);

/** Waves of a kernel's accesses to one memory, the least, and what of them reaches level-2 cache. */
export function wavesOf({ places }, memory) {
  const sum = { waves: 0, least: 0, far: 0 };
  for (const { memory: of, waves, least, far } of places) if (of === memory) addTo(sum, { waves, least, far });
  return sum;
}

/**
 * An H100's rates. cycles: of all multiprocessors, in a microsecond at 1.755 GHz; bytes in a microsecond: nine tenths
 * of 3.35 TB/s, and the most that a kernel was measured to get out of level-2 cache (docs/kernel-costs.md, Level-2
 * cache). Warps' instructions a cycle of a multiprocessor: four are issued; two go to the integer units and two more of
 * some kinds to the float32 ones; mma.sync reaches 0.62 of the tensor cores' rate, one m16n8k16 a cycle.
 */
const h100 = {
  cycles: 132 * 1755,
  memory: 3.0e6,
  cache: 6.6e6,
  issue: 4,
  integer: 3,
  special: 0.5,
  float64: 2,
  shared: 1,
  tensor: 0.62,
};

/** Least times of a kernel on an H100 by what it waits for, in microseconds. */
export function timesOf(row) {
  const slots = total(row.slots);
  const at = (number, rate) => number / rate / h100.cycles;
  return {
    memory: (row.read + row.written) / h100.memory,
    cache: (wavesOf(row, 'global').far * 32) / h100.cache,
    issue: at(slots, h100.issue),
    integer: at(row.slots.integer, h100.integer),
    special: at(row.slots.special, h100.special),
    float64: at(row.slots.float64, h100.float64),
    shared: at(wavesOf(row, 'shared').waves, h100.shared),
    tensor: at(row.slots.tensor, h100.tensor),
  };
}

const longest = (times) => Math.max(...Object.values(times));
/** The same for memory alone, past level-2 cache. */
const beyondOf = (row) => row.beyond / h100.memory;

function printLines(row, batch) {
  const slots = total(row.slots);
  console.log(`\n${row.name}\nslots of issue an image, share, place`);
  for (const [place, number] of Object.entries(row.lines)
    .sort(([, a], [, b]) => b - a)
    .slice(0, 40))
    console.log(
      `${(number / batch).toFixed(0).padStart(10)}${((100 * number) / slots).toFixed(1).padStart(7)} %  ${place}`,
    );
  console.log('executed by warps an image, instruction');
  for (const [name, number] of Object.entries(row.instructions)
    .sort(([, a], [, b]) => b - a)
    .slice(0, 30))
    console.log(`${(number / batch).toFixed(0).padStart(10)}  ${name}`);
  console.log('bytes of machine code that the launch with most executes, place');
  for (const [place, bytes] of Object.entries(row.longest)
    .sort(([, a], [, b]) => b - a)
    .slice(0, 30))
    console.log(`${bytes.toFixed(0).padStart(10)}  ${place}`);
  console.log('waves an image, times the least, access');
  for (const { at, does, memory, waves, least } of row.places
    .sort((a, b) => b.waves - b.least - a.waves + a.least)
    .slice(0, 12))
    if (waves > least)
      console.log(
        `${(waves / batch).toFixed(0).padStart(10)}${(waves / Math.max(least, 1)).toFixed(2).padStart(7)} x  ${memory} ${does} ${at}`,
      );
}

async function main() {
  const {
    positionals: [student = 'mobilenet_v2'],
    values,
  } = parseArgs({
    allowPositionals: true,
    options: {
      resolution: { type: 'string', default: '224' },
      batch: { type: 'string', default: '4' },
      fusion: { type: 'string', default: 'layers' },
      precision: { type: 'string', default: 'bfloat16' },
      clip: { type: 'boolean', default: false },
      lines: { type: 'string' },
    },
  });
  const setting = {
    student,
    fusion: values.fusion,
    precision: values.precision,
    clip: values.clip,
    resolution: Number(values.resolution),
    batch: Number(values.batch),
  };
  execFileSync(process.execPath, [join(root, 'scripts/build.mjs'), '--with', 'emulated'], {
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  process.env.LGDISTILL_WGMMA = '0'; // the PTX for sm_80, which is counted, has no products by warpgroups
  const rows = sumByName(
    countLaunches(join(root, 'build-emulated/Release/lgdistill.node'), await makePtx(), setting),
  ).sort((a, b) => longest(timesOf(b)) - longest(timesOf(a)));
  if (values.lines !== undefined)
    return rows.filter(({ name }) => name.includes(values.lines)).forEach((row) => printLines(row, setting.batch));
  const { batch } = setting;
  const number = (value, digits) => (value / batch).toFixed(digits).padStart(9);
  const kinds = ['memory', 'cache', 'issue', 'integer', 'special', 'shared', 'tensor'];
  console.log(
    `${student}: ${student in teachers ? 'forward' : student === 'views' ? 'augmentation' : 'forward, backward and SGD'}, ${batch} images of ${setting.resolution} px, ${setting.precision}, fusion ${setting.fusion}, grids for ${multiprocessorsFor(setting)} multiprocessors`,
  );
  console.log(
    `an image: MB of memory, then the least microseconds on an H100 for ${kinds.join(', ')}; beyond: for memory where level-2 cache keeps what launches leave; code: KB of machine code executed at all, a launch\n${['MB', 'longest', 'beyond', ...kinds].map((name) => name.padStart(9)).join('')} launches   code  kernel`,
  );
  const all = { name: 'all but sgd_kernel', launches: 0, bytes: 0, beyond: 0, code: 0, times: {}, longest: 0 };
  const tail = ({ launches, code, name }) =>
    `${String(launches).padStart(9)}${(code / launches / 1e3).toFixed(1).padStart(7)}  ${name.slice(0, 140)}`;
  for (const row of rows) {
    const times = timesOf(row);
    console.log(
      `${number((row.read + row.written) / 1e6, 3)}${number(longest(times), 3)}${number(beyondOf(row), 3)}${kinds.map((kind) => number(times[kind], 3)).join('')}${tail(row)}`,
    );
    if (row.name === 'sgd_kernel') continue;
    addTo(all, {
      launches: row.launches,
      bytes: row.read + row.written,
      longest: longest(times),
      beyond: beyondOf(row),
      code: row.code,
    });
    addTo(all.times, times);
  }
  console.log(
    `${number(all.bytes / 1e6, 3)}${number(all.longest, 3)}${number(all.beyond, 3)}${kinds.map((kind) => number(all.times[kind], 3)).join('')}${tail(all)}`,
  );
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main();
