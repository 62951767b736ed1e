// Prints the addon's C++ sources (and, with "cuda", the CUDA ones), one a line: the one list that every build reads.
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

/** The CUDA sources with kernels: all but the runtime's calls. */
export const kernelSources = () => sources('cuda').filter((name) => name !== 'native/core/cuda_runtime.cu');

const cmakeLists = () => readFileSync(join(root, 'CMakeLists.txt'), 'utf8');

/** Every CUDA architecture that is built for, "80;90a" and the like; CMakeLists.txt names them. */
export function allArchitectures() {
  return /set\(LGD_CUDA_ARCHITECTURES "([^"]+)"/u.exec(cmakeLists())[1];
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

/** Programs for the emulated GPU alone. */
export const emulatedPrograms = { clock: 'test/native/clock' };

if (process.argv[1] === fileURLToPath(import.meta.url)) console.log(sources(process.argv[2] ?? 'cpu').join('\n'));
