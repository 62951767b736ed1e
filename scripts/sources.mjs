// Prints the addon's C++ sources (and, with "cuda", the CUDA ones), one a line: the one list that every build reads.
import { spawnSync } from 'node:child_process';
import { readFileSync, readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');

export function sources(kind, folder = 'native') {
  const extension = kind === 'cuda' ? '.cu' : '.cpp';
  return readdirSync(join(root, folder), { recursive: true })
    .filter((name) => name.endsWith(extension))
    .map((name) => `${folder}/${name.replaceAll('\\', '/')}`)
    .sort();
}

/**
 * The path of a tool of CUDA's, as CMakeLists.txt finds nvcc: that beside $CUDACXX, else that of PATH, else where CUDA
 * installs itself. undefined: there is none.
 */
export function cudaTool(name) {
  const { CUDACXX: chosen } = process.env;
  const paths = chosen ? [join(dirname(chosen), name)] : [name, `/usr/local/cuda/bin/${name}`];
  return paths.find((path) => spawnSync(path, ['--version'], { stdio: 'ignore' }).status === 0);
}

/** The CUDA sources with kernels: all but the runtime's calls. */
export const kernelSources = () => sources('cuda').filter((name) => name !== 'native/core/cuda_runtime.cu');

const cmakeLists = () => readFileSync(join(root, 'CMakeLists.txt'), 'utf8');

/** Every CUDA architecture that is built for, "80;90a" and the like; CMakeLists.txt names them. */
export function allArchitectures() {
  return /set\(LGD_CUDA_ARCHITECTURES "([^"]+)"/u.exec(cmakeLists())[1];
}

/**
 * What is built for a compute capability ("9.0"): its own architecture, else the nearest below of its generation, whose
 * code it runs, else the first, as PTX.
 */
export function architectureOf(capability) {
  const [major, minor] = capability.split('.').map(Number);
  const known = allArchitectures().split(';');
  const numbers = known.map((name) => Number.parseInt(name, 10));
  const at = numbers.findLastIndex((number) => Math.floor(number / 10) === major && number % 10 <= minor);
  return known[Math.max(at, 0)];
}

/**
 * The architectures of the GPUs that are here, "80;90a"; undefined: nvidia-smi lists none. nvcc's -arch=native makes no
 * more than 90 for an H100, without products by warpgroups.
 */
export function installedArchitectures() {
  const { status, stdout } = spawnSync('nvidia-smi', ['--query-gpu=compute_cap', '--format=csv,noheader'], {
    encoding: 'utf8',
  });
  const capabilities =
    status === 0
      ? stdout
          .split('\n')
          .map((line) => line.trim())
          .filter((line) => /^\d+\.\d+$/u.test(line))
      : [];
  const wanted = new Set(capabilities.map(architectureOf));
  return wanted.size === 0
    ? undefined
    : allArchitectures()
        .split(';')
        .filter((name) => wanted.has(name))
        .join(';');
}

/** The architecture whose PTX a card's code is made of: its own, unless CMakeLists.txt says otherwise. */
export function ptxOf(architecture) {
  return new RegExp(`set\\(LGD_PTX_OF_${architecture} (\\w+)\\)`, 'u').exec(cmakeLists())?.[1] ?? architecture;
}

/** Programs that run CUDA kernels without Node, on a GPU or on the emulated one, and the folders of their sources. */
export const programs = {
  cuda_ops: 'test/native/cuda_ops',
  cuda_augment: 'test/native/cuda_augment',
  cuda_semantic: 'test/native/cuda_semantic',
  cuda_streams: 'test/native/cuda_streams',
  kernels: 'bench/kernels',
};

/** Programs of the emulated build alone. */
export const emulatedPrograms = { clock: 'test/native/clock', cpu_ops: 'test/native/cpu_ops', far: 'test/native/far' };

if (process.argv[1] === fileURLToPath(import.meta.url)) console.log(sources(process.argv[2] ?? 'cpu').join('\n'));
