import { spawnSync } from 'node:child_process';
import { chmodSync, mkdirSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
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
