import { spawnSync } from 'node:child_process';
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { delimiter, join, relative } from 'node:path';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { allArchitectures, architectureOf, installedArchitectures } from '../../scripts/sources.mjs';
import { temporaryFolder } from '../fixtures/folder.js';
import { noteSkip } from '../shared.js';

const folder = temporaryFolder();
afterEach(() => vi.unstubAllEnvs());

describe('what CUDA code is built for', () => {
  test.each([
    ['8.0', '80'],
    ['8.6', '86'],
    ['9.0', '90a'],
    ['10.0', '100'],
    ['12.0', '120'],
    ['8.7', '86'],
    ['8.9', '86'],
    ['10.3', '100'],
    ['12.1', '120'], // the nearest below of the same generation
    ['11.0', '80'], // another generation: as PTX
  ])('a card of compute capability %s takes %s', (capability, architecture) => {
    expect(architectureOf(capability)).toBe(architecture);
    expect(`${allArchitectures()}`.split(';')).toContain(architecture);
  });

  test.each([
    ['an H100', '9.0', '90a'],
    ['two kinds', '9.0\n8.0\n9.0', '80;90a'],
    ['a driver that has no such question', 'Field "compute_cap" is not a valid field to query.', undefined],
    ['no card', '', undefined],
  ])('%s: by what nvidia-smi says', (name, says, expected) => {
    const bin = join(folder, name);
    mkdirSync(bin, { recursive: true });
    writeFileSync(
      join(bin, 'nvidia-smi'),
      `#!/bin/sh\n[ "$*" = "--query-gpu=compute_cap --format=csv,noheader" ] || exit 1\nprintf '%s\\n' '${says}'\n`,
    );
    chmodSync(join(bin, 'nvidia-smi'), 0o755);
    vi.stubEnv('PATH', `${bin}${delimiter}${process.env['PATH'] ?? ''}`);
    expect(installedArchitectures()).toBe(expected);
  });

  test('no driver: by nothing', () => {
    vi.stubEnv('PATH', join(folder, 'nowhere'));
    expect(installedArchitectures()).toBeUndefined();
  });

  test.each(['foo', '90a-virtual', '80;sm_90'])(
    '%s, which is no architecture, is refused before anything is built',
    (arch) => {
      const args = ['--only', 'native', '--with', 'cmake', '--cuda', 'off', '--out', join(folder, 'never')];
      const { status, stderr } = spawnSync(process.execPath, ['scripts/build.mjs', ...args], {
        encoding: 'utf8',
        env: { ...process.env, LGDISTILL_CUDA_ARCH: arch },
      });
      expect(stderr).toMatch(/is no architecture\. Allowed: all, native, or such as 80/u);
      expect(status).toBe(1);
    },
  );
});

/** A program of this name in a folder of its own; gives the folder. */
function program(name: string, script: string, at = join(folder, `with-${name}`)): string {
  mkdirSync(at, { recursive: true });
  writeFileSync(join(at, name), `#!/bin/sh\n${script}\n`);
  chmodSync(join(at, name), 0o755);
  return at;
}

function buildInto(out: string, cuda: string, env: NodeJS.ProcessEnv): { status: number | null; stderr: string } {
  const args = [
    'scripts/build.mjs',
    '--only',
    'native',
    '--with',
    'cmake',
    '--arch',
    '80',
    '--cuda',
    cuda,
    '--out',
    relative('.', out),
  ];
  return spawnSync(process.execPath, args, { encoding: 'utf8', env: { ...process.env, CUDACXX: '', ...env } });
}

describe('an nvcc that builds nothing', () => {
  const nvcc = (release: string, works: string): string =>
    join(
      program(
        'nvcc',
        `[ "$1" = --version ] && echo "Cuda compilation tools, release ${release}, V${release}.89" && exit 0\n${works}`,
      ),
      'nvcc',
    );

  test.each([
    ['is not there', () => join(folder, 'nowhere', 'nvcc'), /^CUDACXX: there is no nvcc at .*nowhere\/nvcc\. /u],
    ['is too old', () => nvcc('11.8', 'exit 0'), /^CUDA 11\.8 \(.*\/nvcc\) is too old: 12\.0 or later is needed\. /u],
    [
      'finds a compiler that it does not take',
      () => nvcc('12.4', 'echo "#error -- unsupported GNU version!" >&2; exit 1'),
      /unsupported GNU version!\nCUDA 12\.4 .* Name one that it takes \(CUDAHOSTCXX/u,
    ],
  ])('and %s is refused with what mends it', (_, path, message) => {
    const { status, stderr } = buildInto(join(folder, 'refused'), 'auto', { CUDACXX: path() });
    expect(stderr).toMatch(message);
    expect(stderr).toMatch(/or build for the CPU alone \(.*--cuda off\)\n$/u);
    expect(status).toBe(1);
  });
});

test.each([
  [
    'is not there',
    'exit 127',
    /^the C\+\+ compiler .*g\+\+ does not start: install GCC 11 or later, or name it \(CXX=g\+\+-12\)\n$/u,
  ],
  [
    'is too old',
    "echo '#define __GNUC__ 10'",
    /g\+\+ is GCC 10: GCC 11 or later is needed\. Name it: CXX=g\+\+-12\n$/u,
  ],
  ['is Clang', "echo '#define __GNUC__ 4'; echo '#define __clang__ 1'", /g\+\+ is Clang: GCC 11 or later is needed/u],
])('a C++ compiler that %s is refused before anything is built', (_, says, message) => {
  const CXX = join(program('g++', says), 'g++');
  const { status, stderr } = spawnSync(process.execPath, ['scripts/build.mjs', '--only', 'native', '--with', 'plain'], {
    encoding: 'utf8',
    env: { ...process.env, CXX },
  });
  expect(stderr).toMatch(message);
  expect(status).toBe(1);
});

test('a folder that was built for something else is configured anew', () => {
  const out = join(folder, 'built');
  // Notes its arguments, and whether it finds what it kept; does what cmake-js looks for.
  const bin = program(
    'cmake',
    `
case "$1" in
  --version) echo cmake version 3.25.1 ;;
  --help) printf 'Generators\\n\\n* Unix Makefiles = makefiles\\n' ;;
  --build) mkdir -p ${out}/Release && : > ${out}/Release/lgdistill.node; echo "$*" >> ${folder}/calls ;;
  *) [ -e ${out}/CMakeCache.txt ] && kept=kept; echo "$* $kept" >> ${folder}/calls; : > ${out}/CMakeCache.txt ;;
esac`,
  );
  const toolkit = (release: string): NodeJS.ProcessEnv => ({
    CUDACXX: join(
      program('nvcc', `[ "$1" = --version ] && echo "release ${release}"; exit 0`, join(folder, 'toolkit')),
      'nvcc',
    ),
  });
  const PATH = `${bin}${delimiter}${process.env['PATH'] ?? ''}`;
  for (const [cuda, release, CXX] of [
    ['off', '12.4', ''],
    ['auto', '12.4', ''],
    ['auto', '13.0', ''],
    ['auto', '13.0', 'g++-12'],
  ] as const) {
    expect(buildInto(out, cuda, { PATH, CXX, ...toolkit(release) })).toMatchObject({ stderr: '', status: 0 });
  }
  const calls = readFileSync(join(folder, 'calls'), 'utf8')
    .trim()
    .split('\n')
    .map(
      (line) => `${/-DLGD_CUDA=(\w+)|--build/u.exec(line)?.[1] ?? 'build'}${line.endsWith(' kept') ? ', kept' : ''}`,
    );
  // Of compilers that CMake knows as others, nothing is kept.
  expect(calls).toEqual(['OFF', 'build', 'AUTO, kept', 'build', 'AUTO', 'build', 'AUTO', 'build']);
});

test('what $CXXFLAGS asks for is asked of the compiler as it stands', () => {
  const out = join(folder, 'flags');
  const asked = '-Werror -isystem /first -isystem /second';
  const { error, status, stderr } = spawnSync(
    'cmake',
    ['-S', '.', '-B', out, '-G', 'Unix Makefiles', '-DLGD_CUDA=OFF', '-DCMAKE_CXX_FLAGS='], // as cmake-js sets them
    { encoding: 'utf8', env: { ...process.env, CXXFLAGS: asked } },
  );
  if (error !== undefined) return noteSkip('the flags of CXXFLAGS in the build by CMake', 'there is no cmake');
  expect(status, stderr).toBe(0);
  expect(readFileSync(join(out, 'CMakeFiles/lgdistill.dir/flags.make'), 'utf8')).toContain(` ${asked}`);
});
