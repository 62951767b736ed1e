import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { addonPath, loadAddon } from '../../lib/addon/addon.js';
import { prebuiltPackage } from '../../lib/addon/search.js';
import { compareVersions, glibcFloor } from '../../scripts/glibc.mjs';
import { strayFields, strayFiles } from '../../scripts/package/contents.mjs';
import { addonNotice, describeAddon } from '../../scripts/package/describe.mjs';
import { addonManifest, addonName, mainManifest } from '../../scripts/package/manifests.mjs';
import { packedPages, withoutDeadLinks } from '../../scripts/package/pages.mjs';
import { temporaryFolder } from '../fixtures/folder.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const folder = temporaryFolder();
const checkout = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as Record<string, never> & {
  version: string;
  dependencies: Record<string, string>;
  optionalDependencies: Record<string, string>;
};
const build = { ...loadAddon().buildInfo(), cuda: true, cudaRuntime: 12080, cudaArchitectures: ['80', '90a', '120'] };

test('the published package has nothing of the checkout, and its addon in this very version', () => {
  const manifest = mainManifest(checkout);
  expect(strayFields(manifest)).toEqual([]);
  expect(manifest.optionalDependencies[addonName]).toBe(checkout.version);
  expect({ ...manifest.dependencies, ...manifest.optionalDependencies }).toEqual({
    ...checkout.dependencies,
    ...checkout.optionalDependencies,
    [addonName]: checkout.version,
  });
  expect(Object.keys(manifest.dependencies)).not.toContain('@julusian/jpeg-turbo'); // nothing fails without it
  // the check can fail
  expect(strayFields(checkout)).toEqual(expect.arrayContaining(['scripts', 'devDependencies', 'private']));
});

test('the addon is for Linux with glibc on x86-64, under the name that the loader looks for', () => {
  const manifest = addonManifest(checkout, build, '2.25');
  expect(manifest).toMatchObject({
    name: addonName,
    version: checkout.version,
    os: ['linux'],
    cpu: ['x64'],
    libc: ['glibc'],
    lgdistill: { glibc: '2.25', cudaRuntime: 12080 },
  });
  if (process.platform === 'linux' && process.arch === 'x64') expect(prebuiltPackage).toBe(addonName);
  const readme = describeAddon(build, '2.25');
  for (const fact of ['glibc 2.25 or later', 'CUDA 12.8', '8.0, 9.0a, 12.0']) expect(readme).toContain(fact);
});

test("the addon's notice has the licence of what is compiled in, and NVIDIA's terms where CUDA is", () => {
  const [own, licence] = [
    readFileSync(join(root, 'NOTICE'), 'utf8'),
    readFileSync(join(root, 'node_modules', 'node-addon-api', 'LICENSE.md'), 'utf8'),
  ];
  const notice = addonNotice(own, licence, build);
  for (const part of [own, licence.trim(), 'node-addon-api', 'CUDA runtime']) expect(notice).toContain(part);
  expect(addonNotice(own, licence, { ...build, cuda: false })).not.toContain('CUDA');
});

test('links of the published pages lead to files that are published too', () => {
  const pages = packedPages(root);
  expect([...pages.keys()]).toEqual(
    expect.arrayContaining([
      'README.md',
      'NOTICE',
      'docs/options.md',
      'docs/report.png',
      'docs/figures/method.svg',
      'examples/own-images.ts',
    ]),
  );
  expect(strayFiles('lgdistill', [...pages.keys()])).toEqual([]);
  expect(mainManifest(checkout).files).toEqual(expect.arrayContaining(['docs', 'examples']));
  const links = [...pages]
    .filter(([path]) => path.endsWith('.md'))
    .flatMap(([path, text]) =>
      [
        ...String(text)
          .replaceAll(/^```[\s\S]*?^```$/gmu, '')
          .matchAll(/\]\(([^)\s#]+)[^)]*\)/gu),
      ].map(([, target = '']) => ({ path, target })),
    );
  const local = links.filter(({ target }) => !target.startsWith('https:'));
  expect(local.length).toBeGreaterThan(50);
  const published = (path: string) => [...pages.keys()].some((one) => one === path || one.startsWith(`${path}/`));
  expect(local.filter(({ path, target }) => !published(join(dirname(path), target)))).toEqual([]);
  const readme = String(pages.get('README.md'));
  expect(readme).toContain('npm install --ignore-scripts lgdistill\n');
  for (const gone of ['published yet', '.tgz', '](CONTRIBUTING.md)']) expect(readme).not.toContain(gone);
});

test('a link that leads out of the package leaves its words', () => {
  const text = '[a](docs/a.md#x), [b\nc](../lib/b.ts), [d](https://d.org), [e](#e)\n```ts\nx[0](y)\n```\n';
  expect(withoutDeadLinks(text, 'README.md', ['README.md', 'docs/a.md'])).toBe(
    text.replace('[b\nc](../lib/b.ts)', 'b\nc'),
  );
});

test('tests, sources and maps are strays', () => {
  const strays = [
    'test/unit/x.test.ts',
    'lib/index.ts',
    'dist/index.js.map',
    'native/engine.h',
    'scripts/build.mjs',
    'binding.gyp',
    'dist/x.ts',
  ];
  expect(
    strayFiles('lgdistill', [
      'package.json',
      'dist/index.js',
      'dist/index.cjs',
      'dist/cjs/models/index.d.ts',
      'dist/cjs/package.json',
      ...strays,
    ]),
  ).toEqual(strays);
  expect(strayFiles(addonName, ['lgdistill.node', 'NOTICE', 'dist/index.js'])).toEqual(['dist/index.js']);
});

test('glibc versions are compared as numbers, and an addon is asked for its newest', () => {
  expect(['2.4', '2.34', '2.2.5', '2.28'].sort(compareVersions)).toEqual(['2.2.5', '2.4', '2.28', '2.34']);
  const { version, symbols } = glibcFloor(addonPath());
  expect(version).toMatch(/^2\.\d+$/u);
  expect(symbols.length).toBeGreaterThan(0);
});

test('stubs of older glibc symbols are written where they are asked for, wherever from', () => {
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [join(root, 'scripts', 'glibc-stubs.mjs'), 'stubs', process.env['CXX'] || 'g++'],
    { cwd: folder, encoding: 'utf8' },
  );
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  const stubs = stdout.split(';');
  expect(stubs.map((path) => dirname(path))).toEqual(stubs.map(() => join(folder, 'stubs')));
  for (const stub of stubs) expect(readFileSync(stub).subarray(1, 4).toString()).toBe('ELF');
});

test('packaging refuses an addon that is none', () => {
  const file = join(folder, 'lgdistill.node');
  writeFileSync(file, 'not an addon');
  const { status, stderr } = spawnSync(
    process.execPath,
    [join(root, 'scripts', 'package.mjs'), '--addon', file, '--out', join(folder, 'out')],
    { encoding: 'utf8' },
  );
  expect(status).toBe(1);
  expect(stderr).toMatch(/^package: strip .*not recognized/u);
});
