import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { pathToFileURL } from 'node:url';
import { buildSync } from 'esbuild';
import { afterEach, beforeAll, describe, expect, test, vi } from 'vitest';
import {
  explainLoadError,
  explainVersion,
  mendFor,
  type AddonFault,
  type SystemFacts,
} from '../../lib/addon/search.js';
import { version } from '../../lib/package.js';
import { ensureBuilt } from '../cli/built.js';
import { root } from '../fixtures/child.js';
import { writeFakeAddon } from '../fixtures/fake-addon.js';
import { temporaryFolder } from '../fixtures/folder.js';

const folder = temporaryFolder();
const debian: SystemFacts = { platform: 'linux', arch: 'x64', glibc: '2.36', checkout: false };
const alpine: SystemFacts = { ...debian, glibc: undefined };
const old: SystemFacts = { ...debian, glibc: '2.17' };

afterEach(() => {
  vi.unstubAllEnvs();
  vi.resetModules();
});

describe('why an addon does not load', () => {
  test.each<[string, SystemFacts, AddonFault, string]>([
    [
      "/lib64/libc.so.6: version `GLIBC_2.28' not found (required by /x/lgdistill.node)",
      old,
      'older glibc',
      'needs glibc 2.28, this system has 2.17',
    ],
    [
      'Error loading shared library ld-linux-x86-64.so.2: No such file or directory',
      alpine,
      'musl',
      'built for glibc, this system has musl',
    ],
    ['/x/lgdistill.node: invalid ELF header', debian, 'another system', 'not built for linux x64'],
    [
      '/x/lgdistill.node: undefined symbol: napi_get_last_error',
      debian,
      'missing symbol',
      'undefined symbol: napi_get_last_error',
    ],
    ["libstdc++.so.6: version `GLIBCXX_3.4.30' not found", debian, 'missing symbol', 'GLIBCXX_3.4.30'],
    ['/x/lgdistill.node: failed to map segment from shared object', debian, 'unmapped', 'failed to map'],
    ['/x/lgdistill.node: file too short', debian, 'broken', 'file too short'],
  ])('%s', (message, facts, fault, detail) => {
    const attempt = explainLoadError('/x/lgdistill.node', new Error(message), facts);
    expect(attempt).toMatchObject({ place: '/x/lgdistill.node', fault });
    expect(attempt.detail).toContain(detail);
  });

  test('where Node may load none, nothing is to be installed', () => {
    const file = join(folder, 'any.node');
    writeFileSync(file, '');
    const script = `import(${JSON.stringify(pathToFileURL(join(root, 'dist/addon/addon.js')).href)}).then((m) => m.loadAddon()).catch((e) => console.log(JSON.stringify(e)));`;
    const { stdout } = spawnSync(process.execPath, ['--no-addons', '-e', script], {
      encoding: 'utf8',
      env: { ...process.env, LGDISTILL_ADDON: file },
    });
    expect(JSON.parse(stdout)).toMatchObject({
      code: 'ADDON_NOT_FOUND',
      message: expect.stringContaining('may load no native addon') as string,
      mend: expect.stringContaining('--allow-addons') as string,
    });
  });

  test('a version is this one or another', () => {
    expect(explainVersion('x', version)).toBeUndefined();
    expect(explainVersion('x', '0.0.1')).toMatchObject({
      fault: 'another version',
      detail: `version 0.0.1, but lgdistill is ${version}`,
    });
  });
});

test.each([
  ['esm', 'app.mjs'],
  ['cjs', 'app.cjs'],
] as const)('code in a bundle (%s) is told of, wherever that lies', (format, name) => {
  const outfile = join(folder, 'bundle', 'out', name);
  buildSync({
    stdin: { contents: "import { loadAddon } from './lib/addon/addon.js'; loadAddon();", resolveDir: root },
    bundle: true,
    platform: 'node',
    format,
    logLevel: 'error',
    packages: 'external',
    outfile,
  });
  const { stderr } = spawnSync(process.execPath, [outfile], {
    encoding: 'utf8',
    env: { ...process.env, LGDISTILL_ADDON: undefined },
  });
  expect(stderr).toContain('Leave lgdistill out of the bundle');
});

test('the mend is one command where one is enough', () => {
  const absent = [{ place: 'p', fault: 'not there' as const, detail: 'not installed' }];
  vi.stubEnv('LGDISTILL_ADDON', '');
  expect(mendFor(absent, debian)).toBe(`Type: npm install --include=optional @lgdistill/linux-x64@${version}`);
  expect(mendFor(absent, { ...debian, checkout: true })).toContain('npm run build:native');
  expect(mendFor(absent, { ...debian, platform: 'darwin', arch: 'arm64' })).toMatch(
    /^There is no prebuilt addon for darwin arm64\. Build it in a checkout/u,
  );
  expect(mendFor(absent, alpine)).toContain('needs glibc');
  expect(mendFor([{ place: 'p', fault: 'older glibc', detail: '' }], old)).toContain('newer system');
  expect(mendFor([{ place: 'p', fault: 'unmapped', detail: '' }], debian)).toContain('noexec');
  vi.stubEnv('LGDISTILL_ADDON', '/x');
  expect(mendFor(absent, debian)).toContain('Unset LGDISTILL_ADDON');
});

describe('an installed package', () => {
  const installed = join(folder, 'app', 'node_modules', 'lgdistill');
  const prebuilt = join(folder, 'app', 'node_modules', '@lgdistill', 'linux-x64');

  beforeAll(async () => {
    const root = await ensureBuilt();
    mkdirSync(prebuilt, { recursive: true });
    cpSync(join(root, 'dist'), join(installed, 'dist'), { recursive: true });
    cpSync(join(root, 'package.json'), join(installed, 'package.json'));
  });

  /** Puts an addon, or a file that is none, into the prebuilt package. */
  function install(content: string, packageVersion = version): void {
    writeFileSync(
      join(prebuilt, 'package.json'),
      JSON.stringify({
        name: '@lgdistill/linux-x64',
        version: packageVersion,
        main: 'lgdistill.node',
        exports: { '.': './lgdistill.node', './package.json': './package.json' },
      }),
    );
    writeFileSync(join(prebuilt, 'lgdistill.node'), content);
  }

  /** The error of loading the addon there, in a process of its own. */
  function failure(): { code: string; message: string } {
    const script = `import(${JSON.stringify(pathToFileURL(join(installed, 'dist/addon/addon.js')).href)}).then((m) => { m.loadAddon(); }).catch((e) => console.log(JSON.stringify({ code: e.code, message: e.message })))`;
    const { stdout, stderr } = spawnSync(process.execPath, ['-e', script], {
      encoding: 'utf8',
      env: { ...process.env, LGDISTILL_ADDON: '' },
    });
    expect(stderr).toBe('');
    return JSON.parse(stdout) as { code: string; message: string };
  }

  test('without its prebuilt package says which to install, and looks nowhere else', () => {
    const { code, message } = failure();
    expect(code).toBe('ADDON_NOT_FOUND');
    expect(message).toBe(
      `the native addon could not be loaded. Tried: @lgdistill/linux-x64: not installed. Type: npm install --include=optional @lgdistill/linux-x64@${version}.`,
    );
  });

  test('refuses a prebuilt package of another version before loading it', () => {
    install('no addon at all', '0.0.1');
    expect(failure().message).toContain(
      `@lgdistill/linux-x64: another version: version 0.0.1, but lgdistill is ${version}`,
    );
  });

  test('tells a broken file from one for another system', () => {
    install('');
    expect(failure().message).toContain('file too short');
    install('MZ and so on, as a program for another system begins.'.repeat(20));
    expect(failure().message).toContain('@lgdistill/linux-x64: another system: not built for linux x64');
  });
});

describe('$LGDISTILL_ADDON', () => {
  async function load(file: string): Promise<string> {
    vi.stubEnv('LGDISTILL_ADDON', file);
    vi.resetModules();
    const { loadAddon } = await import('../../lib/addon/addon.js');
    return loadAddon().buildInfo().buildId;
  }

  test('is the only place then', async () => {
    const addon = writeFakeAddon(folder, 'works');
    expect(await load(addon)).toBe('fake works');
    expect(await load(relative(process.cwd(), addon))).toBe('fake works');
    await expect(load(join(folder, 'none.node'))).rejects.toMatchObject({
      code: 'ADDON_NOT_FOUND',
      message: `the native addon could not be loaded. Tried: $LGDISTILL_ADDON (${join(folder, 'none.node')}): not there. Unset LGDISTILL_ADDON, or name an addon of this version.`,
    });
  });

  test('an addon of another version is refused', async () => {
    await expect(load(writeFakeAddon(folder, 'works', { addonVersion: '0.0.1', name: 'older' }))).rejects.toMatchObject(
      { message: expect.stringContaining('another version: version 0.0.1') as string },
    );
  });
});

test('importing the package loads neither the addon nor CUDA', async () => {
  const root = await ensureBuilt();
  const addon = writeFakeAddon(folder, 'aborts', { name: 'untouched' });
  const script = `
    import ${JSON.stringify(pathToFileURL(join(root, 'dist', 'index.js')).href)};
    import { createRequire } from 'node:module';
    createRequire(import.meta.url)(${JSON.stringify(join(root, 'dist', 'index.cjs'))});
    const { readFileSync } = await import('node:fs');
    console.log(readFileSync('/proc/self/maps', 'utf8').split('\\n').filter((line) => /\\.node$|cuda|onnxruntime|libvips/u.test(line)).join('\\n'));`;
  const { status, stdout } = spawnSync(process.execPath, ['--input-type=module', '-e', script], {
    encoding: 'utf8',
    env: { ...process.env, LGDISTILL_ADDON: addon },
  });
  expect([status, stdout.trim()]).toEqual([0, '']);
  const { existsSync } = await import('node:fs');
  expect(existsSync(`${addon}.loads`)).toBe(false);
});
