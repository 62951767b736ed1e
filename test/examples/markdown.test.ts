/**
 * The TypeScript of README.md and docs/: type-checked as it stands, then run in a folder like the one it speaks of. A
 * block without an import continues the one before it.
 */
import { execFile } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import ts from 'typescript';
import { transform } from 'esbuild';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { addonPath } from '../../lib/addon/addon.js';
import { ensureBuilt } from '../cli/built.js';
import { root } from '../fixtures/child.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { drawScenes } from '../fixtures/scenes.js';
import { madeUpBank, writeMadeUpStudent } from '../fixtures/student.js';
import { drawShapes, shapeNames, tinyClip } from '../fixtures/tiny.js';

/**
 * What is another thing in the test than in the text, everywhere it occurs: a model that is here for one on the hub,
 * and sizes that take seconds for sizes that take hours.
 */
const substitutions: readonly (readonly [string, string])[] = [
  ['Xenova/clip-vit-base-patch32', tinyClip],
  ["'resnet18'", "'mobilenet_v3_small'"],
  ['epochs: 90', 'epochs: 1, batchSize: 8'],
  ['epochs: 40, resolution: 512', 'epochs: 10, batchSize: 2, resolution: 64'],
];

interface Program {
  name: string;
  code: string;
}

/** The programs of a page. */
function programsOf(page: string): Program[] {
  const programs: Program[] = [];
  for (const [, code = ''] of readFileSync(join(root, page), 'utf8').matchAll(/^```ts\n(.*?)^```$/gmsu)) {
    if (/^import /mu.test(code) || programs.length === 0)
      programs.push({ name: `${page} ${programs.length + 1}`, code });
    else programs.at(-1)!.code += code;
  }
  return programs;
}

const pages = [
  'README.md',
  ...readdirSync(join(root, 'docs'))
    .filter((name) => name.endsWith('.md'))
    .map((name) => `docs/${name}`),
];
const programs = pages.flatMap(programsOf);
const folder = temporaryFolder();
// below the root, where 'lgdistill' is this package
const scratch = join(root, `build-test-${process.pid}`, 'markdown');
const fileOf = ({ name }: Program, ending: string) => join(scratch, `${name.replaceAll(/\W/gu, '_')}.${ending}`);

beforeAll(async () => {
  await ensureBuilt();
  mkdirSync(scratch, { recursive: true });
  writeFileSync(join(folder, 'names.txt'), shapeNames.join('\n'));
  for (const name of ['photos', 'labelled']) await drawShapes(join(folder, name), { count: 6 });
  await drawScenes(join(folder, 'scenes'), { count: 2 });
  await writeMadeUpStudent(join(folder, 'student.safetensors'), 'mobilenet_v2', { widthMultiplier: 0.35 });
  await madeUpBank().save(join(folder, 'bank.safetensors'));
});
afterAll(() => rmSync(join(scratch, '..'), { recursive: true, force: true }));

test('there is such a program on the first page', () => {
  expect(programs.filter(({ name }) => name.startsWith('README.md')).length).toBeGreaterThan(0);
});

test('they pass the strict type checker', () => {
  const { config } = ts.readConfigFile(join(root, 'tsconfig.check.json'), (path) => ts.sys.readFile(path)) as {
    config: { include: string[] };
  };
  const { options } = ts.parseJsonConfigFileContent({ ...config, include: [] }, ts.sys, root);
  const files = programs.map((program) => {
    writeFileSync(fileOf(program, 'ts'), program.code);
    return fileOf(program, 'ts');
  });
  const faults = ts
    .getPreEmitDiagnostics(ts.createProgram(files, options))
    .map(({ file, messageText }) => `${file?.fileName}: ${ts.flattenDiagnosticMessageText(messageText, '\n')}`);
  expect(faults).toEqual([]);
});

test.each(programs)('$name runs', async (program) => {
  const code = substitutions.reduce((text, [from, to]) => text.replaceAll(from, to), program.code);
  const { code: script } = await transform(code, { loader: 'ts', format: 'esm', target: 'node20' });
  writeFileSync(fileOf(program, 'mjs'), script);
  rmSync(join(folder, 'runs'), { recursive: true, force: true }); // a run folder must be empty
  const { stdout } = await promisify(execFile)(process.execPath, [fileOf(program, 'mjs')], {
    cwd: folder,
    env: { ...process.env, LGDISTILL_ADDON: addonPath() },
  });
  expect(stdout).not.toBe('');
});
