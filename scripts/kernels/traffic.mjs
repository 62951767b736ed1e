// Counts the bytes that each kernel of a student's training step moves through a GPU's memory, on the emulated GPU (test/native/emulation/traffic.h).
//   node scripts/kernels/traffic.mjs [student] [--resolution 128] [--batch 16] [--fusion layers] [--precision bfloat16]      about a minute; needs g++ and nm
// Grids are made for as many multiprocessors as leave each as much to do as 256 images of 224 px leave an H100's 132.
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { nameKernels } from './report.mjs';

const root = join(dirname(fileURLToPath(import.meta.url)), '../..');
const step = join(root, 'scripts/kernels/traffic-step.mjs');

/** @typedef {{ student: string, resolution: number, batch: number, fusion?: string, precision?: string }} Setting */

/** How many multiprocessors a step of this size is to be laid out for. */
export const multiprocessorsFor = ({ resolution, batch }) => Math.max(1, Math.round((132 * batch * resolution ** 2) / (256 * 224 ** 2)));

/**
 * Runs a step on an addon with the check for races, which writes a report to the file that a variable names.
 * @param {Setting} setting
 * @returns the report's lines
 */
export function reportOf(variable, addon, { student, resolution, batch, fusion = 'layers', precision = 'bfloat16' }) {
  const folder = mkdtempSync(join(tmpdir(), 'lgdistill-kernels-'));
  const report = join(folder, 'kernels.txt');
  try {
    const env = {
      ...process.env, LGDISTILL_ADDON: addon, LGDISTILL_PROBE: 'off', LGDISTILL_GRAPHS: '0', LGDISTILL_FUSION: fusion, LGDISTILL_EMULATION_ORDER: 'forward',
      [variable]: report, LGDISTILL_EMULATION_MULTIPROCESSORS: String(multiprocessorsFor({ resolution, batch })),
    };
    const { status, stdout, stderr } = spawnSync(process.execPath, [step, report, student, String(resolution), String(batch), precision], { env, encoding: 'utf8' });
    if (status !== 0) throw new Error(`the step failed: ${stdout}${stderr}`);
    return readFileSync(report, 'utf8').slice(Number(stdout)).trim().split('\n');
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** Symbols of an addon by their places in it. */
export function symbolsOf(addon) {
  const lines = execFileSync('nm', [addon], { encoding: 'utf8', maxBuffer: 1 << 28 }).split('\n').map((line) => line.split(' '));
  return new Map(lines.filter(({ length }) => length === 3).map(([at, , symbol]) => [parseInt(at, 16), symbol]));
}

/**
 * @param {Setting} setting
 * @returns {{ name: string, launches: number, read: number, written: number }[]} bytes by kernel, whatever its tiles; those that move most first
 */
export function countTraffic(addon, setting) {
  const symbols = symbolsOf(addon);
  const launches = reportOf('LGDISTILL_EMULATION_TRAFFIC', addon, setting)
    .map((line) => /^(\d+) (\d+) (\w+) (.*)$/u.exec(line))
    .map(([, read, written, at, name]) => ({ read: Number(read), written: Number(written), symbol: symbols.get(parseInt(at, 16)) ?? name }));
  const names = nameKernels([...new Set(launches.map(({ symbol }) => symbol))]);
  const rows = new Map();
  for (const { read, written, symbol } of launches) {
    const name = withoutTile(names.get(symbol));
    const row = rows.get(name) ?? { name, launches: 0, read: 0, written: 0 };
    rows.set(name, { name, launches: row.launches + 1, read: row.read + read, written: row.written + written });
  }
  return [...rows.values()].sort((a, b) => b.read + b.written - a.read - a.written);
}

export const withoutTile = (name) => name.replace(/Tile<[^>]*>, /u, '');

/** The bytes of a step, without those of SGD, which images share. */
export const bytesOf = (rows) => rows.filter(({ name }) => name !== 'sgd_kernel').reduce((sum, { read, written }) => sum + read + written, 0);

/** The step that a command line asks for, and an addon that watches it. */
export function fromCommandLine() {
  const { positionals: [student = 'mobilenet_v2'], values } = parseArgs({
    allowPositionals: true,
    options: { resolution: { type: 'string', default: '128' }, batch: { type: 'string', default: '16' }, fusion: { type: 'string', default: 'layers' }, precision: { type: 'string', default: 'bfloat16' } },
  });
  const setting = { student, fusion: values.fusion, precision: values.precision, resolution: Number(values.resolution), batch: Number(values.batch) };
  execFileSync(process.execPath, [join(root, 'scripts/build.mjs'), '--with', 'emulated', '--programs'], { env: { ...process.env, LGDISTILL_SANITIZE: 'races' }, stdio: ['ignore', 'ignore', 'inherit'] });
  return { setting, addon: join(root, 'build-emulated-races/Release/lgdistill.node') };
}

function main() {
  const { setting, addon } = fromCommandLine();
  const { student } = setting;
  const rows = countTraffic(addon, setting);
  const megabytes = (bytes) => (bytes / setting.batch / 1e6).toFixed(3).padStart(9);
  console.log(`${student}: forward, backward and SGD, ${setting.batch} images of ${setting.resolution} px, ${setting.precision}, fusion ${setting.fusion}, grids for ${multiprocessorsFor(setting)} multiprocessors\nMB an image  read  written  launches  kernel`);
  for (const { name, launches, read, written } of rows) console.log(`${megabytes(read + written)}${megabytes(read)}${megabytes(written)}${String(launches).padStart(7)}  ${name.slice(0, 140)}`);
  console.log(`${megabytes(bytesOf(rows))} in all but sgd_kernel, ${rows.reduce((sum, { launches }) => sum + launches, 0)} launches`);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) main();
