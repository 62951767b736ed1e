import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { TextualSemanticsBank } from '../../lib/banks/textual.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { shapeNames, tinyClip } from '../fixtures/tiny.js';
import { lgdistill } from './program.js';

const folder = temporaryFolder();
const at = (...parts: string[]) => join(folder, ...parts);

test('bank build says of a teacher without texts that it has none, and how to go on', async () => {
  const teacher = fileURLToPath(new URL('../vectors/towers/timm-vit', import.meta.url));
  const names = JSON.stringify(shapeNames);
  const { code, stderr } = await lgdistill([
    'bank',
    'build',
    '--to',
    at('none.st'),
    '--names',
    names,
    '--teacher',
    teacher,
  ]);
  expect(code).toBe(1);
  for (const part of ['no text tower to embed the names with', 'methods seed and feature', 'bank build --embeddings'])
    expect(stderr).toContain(part);
});

test('bank build looks at what it was given before a text tower is opened', async () => {
  const build = async (to: string, ...names: string[]) =>
    lgdistill(['bank', 'build', '--to', to, '--names', JSON.stringify(names), '--text-encoder', at('nowhere')]);
  writeFileSync(at('file'), '');
  expect((await build(at('file', 'bank.safetensors'), 'a')).stderr).toContain('NOT_WRITABLE');
  expect((await build(at('made', 'bank.safetensors'), 'a', 'a')).stderr).toContain('given more than once: "a"');
  expect((await build(at('made', 'bank.safetensors'), 'a', 'b')).stderr).toContain(at('nowhere'));
  expect(existsSync(at('made'))).toBe(false);
});

test('bank build and inspect', async () => {
  const file = at('bank.safetensors');
  const build = [
    'bank',
    'build',
    '--to',
    file,
    '--names',
    JSON.stringify(shapeNames),
    '--templates',
    'none',
    '--text-encoder',
    tinyClip,
  ];
  const built = await lgdistill([...build, '--json']);
  expect(built.code).toBe(0);
  const bank = await TextualSemanticsBank.load(file);
  expect(built.documents()).toEqual([
    { file, size: 4, embeddingSize: 256, templates: ['{}'], encoder: 'tiny-clip', hash: bank.hash },
  ]);
  const { code, stdout } = await lgdistill(['bank', 'inspect', file]);
  expect(code).toBe(0);
  for (const fact of ['circle, square, triangle, cross', 'tiny-clip', bank.hash]) expect(stdout).toContain(fact);
  const [rebuilt, kept] = [await lgdistill(build), at('kept.txt')];
  expect(rebuilt.code).toBe(0);
  writeFileSync(kept, 'names by hand');
  const refused = await lgdistill([
    'bank',
    'build',
    '--to',
    kept,
    '--names',
    JSON.stringify(shapeNames),
    '--text-encoder',
    tinyClip,
  ]);
  expect([refused.code, refused.stderr.split('\n')[0], readFileSync(kept, 'utf8')]).toEqual([
    2,
    'error BAD_OPTION',
    'names by hand',
  ]);
  expect((await lgdistill(['bank', 'inspect', kept])).stderr).toContain(`${kept} is not a safetensors file.`);
  const twice = await lgdistill([
    'bank',
    'build',
    '--to',
    at('twice.safetensors'),
    '--names',
    '["dog","dog"]',
    '--text-encoder',
    tinyClip,
  ]);
  expect([twice.code, twice.stderr.split('\n')[0]]).toEqual([1, 'error BAD_NAMES']);
});
