import { spawnSync } from 'node:child_process';
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { delimiter, join, relative } from 'node:path';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { allArchitectures, architectureOf, installedArchitectures } from '../../scripts/sources.mjs';
import { temporaryFolder } from '../fixtures/folder.js';

const folder = temporaryFolder();
afterEach(() => vi.unstubAllEnvs());

describe('what CUDA code is built for', () => {
  test.each([
    ['8.0', '80'], ['8.6', '86'], ['9.0', '90a'], ['10.0', '100'], ['12.0', '120'],
    ['8.7', '86'], ['8.9', '86'], ['10.3', '100'], ['12.1', '120'], // the nearest below of the same generation
    ['11.0', '80'], // another generation: as PTX
  ])('a card of compute capability %s takes %s', (capability, architecture) => {
    expect(architectureOf(capability)).toBe(architecture);
    expect(`${allArchitectures()}`.split(';')).toContain(architecture);
  });

  test.each([
    ['an H100', '9.0', '90a'], ['two kinds', '9.0\n8.0\n9.0', '80;90a'], ['a driver that has no such question', 'Field "compute_cap" is not a valid field to query.', undefined], ['no card', '', undefined],
  ])('%s: by what nvidia-smi says', (name, says, expected) => {
    const bin = join(folder, name);
    mkdirSync(bin, { recursive: true });
    writeFileSync(join(bin, 'nvidia-smi'), `#!/bin/sh\n[ "$*" = "--query-gpu=compute_cap --format=csv,noheader" ] || exit 1\nprintf '%s\\n' '${says}'\n`);
    chmodSync(join(bin, 'nvidia-smi'), 0o755);
    vi.stubEnv('PATH', `${bin}${delimiter}${process.env['PATH'] ?? ''}`);
    expect(installedArchitectures()).toBe(expected);
  });

  test('no driver: by nothing', () => {
    vi.stubEnv('PATH', join(folder, 'nowhere'));
    expect(installedArchitectures()).toBeUndefined();
  });

  test.each(['foo', '90a-virtual', '80;sm_90'])('%s, which is no architecture, is refused before anything is built', (arch) => {
    const args = ['--only', 'native', '--with', 'cmake', '--cuda', 'off', '--out', join(folder, 'never')];
    const { status, stderr } = spawnSync(process.execPath, ['scripts/build.mjs', ...args], { encoding: 'utf8', env: { ...process.env, LGDISTILL_CUDA_ARCH: arch } });
    expect(stderr).toMatch(/is no architecture\. Allowed: all, native, or such as 80/u);
    expect(status).toBe(1);
  });
});

test('a folder that was built for something else is configured anew', () => {
  const [bin, out] = [join(folder, 'cmake'), join(folder, 'built')];
  mkdirSync(bin);
  // Notes its arguments; does what cmake-js looks for.
  writeFileSync(join(bin, 'cmake'), `#!/bin/sh
echo "$*" >> ${folder}/calls
case "$1" in
  --version) echo cmake version 3.25.1 ;;
  --help) printf 'Generators\\n\\n* Unix Makefiles = makefiles\\n' ;;
  --build) mkdir -p ${out}/Release && : > ${out}/Release/lgdistill.node ;;
  *) : > ${out}/CMakeCache.txt ;;
esac
`);
  chmodSync(join(bin, 'cmake'), 0o755);
  const env = { ...process.env, PATH: `${bin}${delimiter}${process.env['PATH'] ?? ''}` };
  for (const cuda of ['off', 'auto']) {
    const { status, stderr } = spawnSync(process.execPath, ['scripts/build.mjs', '--only', 'native', '--with', 'cmake', '--cuda', cuda, '--out', relative('.', out)], { encoding: 'utf8', env });
    expect(stderr).toBe('');
    expect(status).toBe(0);
  }
  const calls = readFileSync(join(folder, 'calls'), 'utf8').split('\n').flatMap((line) => /-DLGD_CUDA=\w+|--build/u.exec(line) ?? []);
  expect(calls).toEqual(['-DLGD_CUDA=OFF', '--build', '-DLGD_CUDA=AUTO', '--build']);
});
