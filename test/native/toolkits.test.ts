import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import { cudaTool, programs } from '../../scripts/sources.mjs';

const root = fileURLToPath(new URL('../..', import.meta.url));
const nvcc = cudaTool('nvcc');
if (nvcc === undefined) console.log('SKIPPED older CUDA toolkits: there is no nvcc');

/** What CUDA 12.3 brought, of which older toolkits know nothing. */
const since12030 = [
  'cudaGraphEdgeData',
  'cudaGraphKernelNodePortProgrammatic',
  'cudaGraphDependencyTypeProgrammatic',
  'cudaGraphAddDependencies_v2',
  'cudaFuncGetName',
];

describe.skipIf(nvcc === undefined)('the calls of the CUDA runtime', () => {
  const folder = mkdtempSync(join(tmpdir(), 'lgdistill-toolkits-'));
  afterAll(() => rmSync(folder, { recursive: true }));

  /** Compiles them as with a toolkit of this version, where a name that it lacks is an error. */
  function compileAs(version: number, lacks: readonly string[]): { status: number | null; stderr: string } {
    const header = join(folder, `${version}.h`);
    writeFileSync(
      header,
      `#include <cuda_runtime.h>\n#undef CUDART_VERSION\n#define CUDART_VERSION ${version}\n${lacks.map((name) => `#undef ${name}\n#pragma GCC poison ${name}\n`).join('')}`,
    );
    const flags = ['-std=c++20', '--expt-relaxed-constexpr', '-arch=compute_80', '-Inative']; // as CMakeLists.txt has them
    const defined = ['-DLGD_WITH_CUDA=1', '-DLGD_CUDA_ARCHITECTURES="90a"'];
    return spawnSync(
      nvcc!,
      [...flags, ...defined, '-include', header, '-c', '-o', join(folder, 'runtime.o'), 'native/core/cuda_runtime.cu'],
      { cwd: root, encoding: 'utf8' },
    );
  }

  it('use nothing of CUDA 12.3 where the toolkit is older', () => {
    expect(compileAs(12_020, since12030)).toMatchObject({ status: 0 });
    const { status, stderr } = compileAs(13_000, since12030); // the check finds what it looks for
    expect(stderr).toContain('attempt to use poisoned "cudaGraphEdgeData"');
    expect(status).not.toBe(0);
  }, 300_000);
});

const cmake = spawnSync('cmake', ['--version']).status === 0;
if (!cmake) console.log('SKIPPED the programs that travel to a GPU: there is no cmake');

describe.skipIf(nvcc === undefined || !cmake)('the programs that travel to a GPU', () => {
  const folder = mkdtempSync(join(tmpdir(), 'lgdistill-programs-'));
  afterAll(() => rmSync(folder, { recursive: true }));

  it('carry libstdc++ along, as the addon does', () => {
    const settings = ['LGD_CUDA=ON', 'LGD_CUDA_ARCHITECTURES=90a', 'LGD_TESTS=ON', 'LGD_PORTABLE=ON'];
    const { status, stderr } = spawnSync(
      'cmake',
      ['-S', '.', '-B', folder, ...settings.map((setting) => `-D${setting}`)],
      {
        cwd: root,
        encoding: 'utf8',
      },
    );
    expect(status, stderr).toBe(0);
    const linked = (name: string) => readFileSync(join(folder, 'CMakeFiles', `${name}.dir`, 'link.txt'), 'utf8');
    for (const name of ['lgdistill', ...Object.keys(programs)]) expect(linked(name)).toContain(' -static-libstdc++ ');
  });
});
