// Compiles every CUDA kernel for every architecture and fails on register spills, on too much machine code, on
// tensor-core kernels without their instructions, and on what kernels/report.mjs names besides.
//   node scripts/check-kernels.mjs [--arch "80;90a"] [--only <part of a path>] [--quiet]      prints a table of all
//     kernels unless --quiet
// Without nvcc it says so and passes. All architectures take about nine minutes of one core, less where little changed
// (build-emulated/ptx).
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { parseArgs, promisify } from 'node:util';
import { readCode } from './kernels/code.mjs';
import { folderOf, keepRegisters, ptxOfSource } from './kernels/ptx.mjs';
import { judge, nameKernels, readPtx, readPtxas, rules, table } from './kernels/report.mjs';
import { allArchitectures, cudaTool, kernelSources, ptxOf } from './sources.mjs';

const { values: options } = parseArgs({
  options: {
    arch: { type: 'string', default: allArchitectures() },
    only: { type: 'string', default: '' },
    quiet: { type: 'boolean', default: false },
  },
});
const [nvcc, ptxas] = ['nvcc', 'ptxas'].map(cudaTool);

/** Kernels of a source for architectures that share their PTX. Device code only: no host compiler runs. */
async function compile(source, virtual, architectures, folder) {
  const path = await ptxOfSource(source, virtual);
  const ptx = readPtx(readFileSync(path, 'utf8'));
  const kernels = [];
  for (const architecture of architectures) {
    const made = join(folder, `${basename(path)}.${architecture}`);
    const { stderr, stdout } = await promisify(execFile)(
      ptxas,
      ['-v', '-O3', `-arch=sm_${architecture}`, '-o', made, path],
      { maxBuffer: 1 << 26 },
    );
    const code = readCode(readFileSync(made));
    for (const kernel of readPtxas(`${stdout}${stderr}`)) {
      const { bytes, ...found } = code.get(kernel.symbol);
      kernels.push({ ...kernel, code: bytes, ...found });
    }
    rmSync(made);
  }
  const names = nameKernels(kernels.map(({ symbol }) => symbol));
  return kernels.map((kernel) => ({
    ...kernel,
    source,
    name: names.get(kernel.symbol),
    ptx: ptx.get(kernel.symbol) ?? '',
  }));
}

async function main() {
  if (nvcc === undefined || ptxas === undefined) {
    console.log('SKIPPED the check of kernels: there is no nvcc with its ptxas');
    return 0;
  }
  const started = performance.now();
  const files = kernelSources().filter((source) => source.includes(options.only));
  const order = options.arch.split(';');
  const jobs = files.flatMap((source) =>
    [...new Set(order.map(ptxOf))].map((virtual) => ({
      source,
      virtual,
      architectures: order.filter((one) => ptxOf(one) === virtual),
    })),
  );
  const kernels = [],
    folder = mkdtempSync(join(tmpdir(), 'lgdistill-kernels-'));
  try {
    await Promise.all(
      Array.from({ length: availableParallelism() }, async () => {
        for (let job; (job = jobs.shift());)
          kernels.push(...(await compile(job.source, job.virtual, job.architectures, folder)));
      }),
    );
  } finally {
    rmSync(folder, { recursive: true });
  }
  for (const own of options.only === '' ? order.filter((one) => ptxOf(one) === one) : [])
    keepRegisters(
      folderOf(own),
      own,
      kernels.filter(({ architecture }) => architecture === own),
    );
  kernels.sort(
    (a, b) =>
      a.source.localeCompare(b.source) ||
      a.name.localeCompare(b.name) ||
      order.indexOf(a.architecture) - order.indexOf(b.architecture),
  );
  if (!options.quiet) console.log(table(kernels));
  const { faults, notes } = judge(
    kernels,
    options.only === '' ? {} : { wanted: rules.filter(({ source }) => files.some((file) => source.test(file))) },
  );
  for (const note of notes) console.log(`  let pass: ${note}`);
  for (const fault of faults) console.log(`! ${fault}`);
  console.log(
    `check-kernels: ${kernels.length} kernels of ${files.length} files for ${options.arch} in ${((performance.now() - started) / 1000).toFixed(0)} s, ${faults.length} faults`,
  );
  return faults.length > 0 ? 1 : 0;
}

process.exitCode = await main().catch((error) => {
  console.error(`${basename(process.argv[1])}: ${error.stderr || error.message}`);
  return 1;
});
