// The kernels' PTX in a folder, for LGDISTILL_EMULATION_PTX (test/native/emulation/ptx/run.h): compiled again where a
// source changed.
//   node scripts/kernels/ptx.mjs [--arch 80]      prints the folder; half a minute of two cores; needs nvcc
import { execFile, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs, promisify } from 'node:util';
import { cudaTool, kernelSources } from '../sources.mjs';
import { readPtxas } from './report.mjs';

const root = join(dirname(fileURLToPath(import.meta.url)), '../..');

/** nvcc's flags for device code as the addon has it; lines of the source are for reports and change no instruction. */
const ptxFlags = (virtual) => [
  '-std=c++20',
  '-O3',
  '--expt-relaxed-constexpr',
  '-lineinfo',
  '-Inative',
  '-ptx',
  `-arch=compute_${virtual}`,
];

// Newer than every file that nvcc read?
function isFresh(path) {
  if (!existsSync(path) || !existsSync(`${path}.d`)) return false;
  const made = statSync(path).mtimeMs;
  const inputs = readFileSync(`${path}.d`, 'utf8')
    .replace(/\\\n/gu, ' ')
    .split(/\s+/u)
    .slice(1)
    .filter((input) => input !== '' && input !== ':');
  return inputs.every((input) =>
    existsSync(join(root, input)) ? statSync(join(root, input)).mtimeMs < made : existsSync(input),
  );
}

/** Where the PTX of an architecture lies. */
export const folderOf = (virtual) => join(root, 'build-emulated', 'ptx', virtual);

// Empty where it was made with other flags or by another nvcc, and without files of sources that are no more.
const prepared = new Set();
function prepare(folder, flags) {
  if (prepared.has(folder)) return;
  mkdirSync(folder, { recursive: true });
  const [note, command] = [
    join(folder, 'flags'),
    [...flags, spawnSync(cudaTool('nvcc') ?? 'nvcc', ['--version'], { encoding: 'utf8' }).stdout].join('\n'),
  ];
  const same = existsSync(note) && readFileSync(note, 'utf8') === command;
  const wanted = new Set(same ? kernelSources().flatMap((source) => [fileOf(source), `${fileOf(source)}.d`]) : []);
  for (const name of readdirSync(folder))
    if (name !== 'flags' && !name.startsWith('registers-') && !wanted.has(name)) rmSync(join(folder, name));
  writeFileSync(note, command);
  prepared.add(folder);
}

const fileOf = (source) => `${source.replaceAll('/', '_')}.ptx`;

// The path of a source's PTX in a folder, which is compiled if it is missing or old.
async function compiled(source, folder, virtual) {
  const nvcc = cudaTool('nvcc');
  if (nvcc === undefined) throw new Error('there is no nvcc, which makes PTX of the kernels');
  const path = join(folder, fileOf(source));
  if (!isFresh(path)) {
    const made = `${path}.${process.pid}`;
    await promisify(execFile)(nvcc, [...ptxFlags(virtual), '-MMD', '-MF', `${path}.d`, '-o', made, source], {
      cwd: root,
      maxBuffer: 1 << 26,
    });
    renameSync(made, path); // a run that reads the old one keeps it
  }
  return path;
}

/** The path of a kernels' source's PTX, which is compiled if it is missing or old. Rejects where there is no nvcc. */
export async function ptxOfSource(source, virtual = '80') {
  prepare(folderOf(virtual), ptxFlags(virtual));
  return compiled(source, folderOf(virtual), virtual);
}

/** The folder with the PTX of all kernels. Rejects where there is no nvcc. */
export async function makePtx(virtual = '80') {
  const jobs = kernelSources();
  await Promise.all(
    Array.from({ length: availableParallelism() }, async () => {
      for (let source; (source = jobs.shift());) await ptxOfSource(source, virtual);
    }),
  );
  return folderOf(virtual);
}

/** The folder, of its own, with the PTX of one source. Rejects where there is no nvcc. */
export async function ptxAlone(source, folder, virtual) {
  mkdirSync(folder, { recursive: true });
  await compiled(source, folder, virtual);
  return folder;
}

const registersOf = (folder, architecture) => join(folder, `registers-${architecture}`);

/** Keeps what ptxas said of all kernels in a folder of makePtx ({ symbol, registers }) where makeRegisters finds it. */
export function keepRegisters(folder, architecture, kernels) {
  // a header's kernel comes with each file that includes it
  const lines = new Set(kernels.map(({ symbol, registers }) => `${symbol} ${registers}`));
  const path = registersOf(folder, architecture);
  writeFileSync(path, `${[...lines].join('\n')}\n`);
  return path;
}

/**
 * A file with the registers a thread of each kernel in a folder of makePtx, by symbol: what ptxas says for an
 * architecture that runs such PTX.
 */
export async function makeRegisters(folder, architecture) {
  const ptxas = cudaTool('ptxas');
  if (ptxas === undefined) throw new Error('there is no ptxas, which gives kernels their registers');
  const path = registersOf(folder, architecture);
  const files = readdirSync(folder)
    .filter((name) => name.endsWith('.ptx'))
    .map((name) => join(folder, name));
  if (existsSync(path) && files.every((file) => statSync(file).mtimeMs < statSync(path).mtimeMs)) return path;
  const kernels = [];
  const jobs = [...files];
  await Promise.all(
    Array.from({ length: availableParallelism() }, async () => {
      for (let file; (file = jobs.shift());) {
        const { stderr } = await promisify(execFile)(
          ptxas,
          [`-arch=sm_${architecture}`, '-v', '-o', '/dev/null', file],
          { maxBuffer: 1 << 26 },
        );
        kernels.push(...readPtxas(stderr));
      }
    }),
  );
  return keepRegisters(folder, architecture, kernels);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { values } = parseArgs({ options: { arch: { type: 'string', default: '80' } } });
  console.log(await makePtx(values.arch));
}
