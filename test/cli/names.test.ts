import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import type { NameReport } from '../../lib/text/doctor.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { tinyClip } from '../fixtures/text-encoder.js';
import { lgdistill } from './program.js';

const folder = temporaryFolder();
const list = join(folder, 'names.txt');
writeFileSync(list, ['dog', 'hot_dog', 'crane (bird)', 'dog', ' cat ', 'Cat', 'apple', 'red apple'].join('\n'));

test('finds what was planted and writes the mended list', async () => {
  const mended = join(folder, 'mended.txt');
  const { code, stdout, stderr } = await lgdistill(['names', list, '--write', mended]);
  expect(code).toBe(0);
  expect(stderr).toBe('');
  for (const line of ['8 names', 'given more than once: 1', '"dog" (1, 4)', 'underscores: 1', 'parentheses: 1', `written: ${mended}`]) expect(stdout).toContain(line);
  expect(readFileSync(mended, 'utf8')).toBe('dog\nhot dog\ncrane\ncat\napple\nred apple\n');
  const again = await lgdistill(['names', mended, '--json']);
  expect((again.documents()[0] as unknown as NameReport).clean).toBe(true);
});

test('with an encoder, near-duplicates by cosine', async () => {
  const { code, documents } = await lgdistill(['names', list, '--encoder', tinyClip, '--templates', 'none', '--similarity', '0.8', '--offline', '--json']);
  expect(code).toBe(0);
  const [report] = documents() as unknown as NameReport[];
  expect(report!.textSpace).toMatchObject({ encoder: 'tiny-clip', similarity: 0.8 });
  expect(report!.nearDuplicates).toContainEqual(expect.objectContaining({ a: { index: 6, name: 'apple' }, b: { index: 7, name: 'red apple' } }));
});

test('a list that cannot be written is said so', async () => {
  const { code, stderr } = await lgdistill(['names', list, '--write', join(folder, 'no', 'where.txt')]);
  expect(code).toBe(1);
  expect(stderr).toMatch(/^error NOT_WRITABLE\n/u);
});

test('prints a built-in list with where it comes from, in the form of a names file', async () => {
  const { code, stdout, stderr } = await lgdistill(['names', '--builtin', 'coco']);
  expect([code, stderr]).toEqual([0, '']);
  expect(stdout).toMatch(/^# coco: 80 names\. COCO[^\n]+\n# source: Lin et al\.[^\n]+\n# order: [^\n]+\n# spelling: [^\n]+\n# licence: [^\n]+\nperson\nbicycle\n/u);
  const file = join(folder, 'coco.txt');
  writeFileSync(file, stdout);
  const [report] = (await lgdistill(['names', file, '--json'])).documents() as unknown as NameReport[];
  expect(report).toMatchObject({ count: 80, clean: true });
  const [document] = (await lgdistill(['names', '--builtin', 'imagenet-1k', '--json'])).documents() as unknown as { count: number; names: string[]; year: number }[];
  expect(document).toMatchObject({ count: 1000, year: 2012 });
  expect(document!.names).toHaveLength(1000);
});

test('says which lists are built in', async () => {
  const { code, stdout } = await lgdistill(['names', '--list-builtin']);
  expect(code).toBe(0);
  for (const line of ['imagenet-1k: 1000 names', 'lvis: 1203 names', 'ade20k: 150 names']) expect(stdout).toContain(line);
  const documents = (await lgdistill(['names', '--list-builtin', '--json'])).documents() as unknown as { id: string; count: number }[];
  expect(documents.find(({ id }) => id === 'cityscapes')).toMatchObject({ count: 19 });
});

test.each([
  ['no list', ['names'], 'there is no list to check'],
  ['a built-in list that is not there', ['names', '--builtin', 'imagenet'], 'imagenet-1k'],
])('%s is a wrong usage', async (_, args, text) => {
  const { code, stderr } = await lgdistill(args);
  expect(code).toBe(2);
  expect(stderr).toContain(text);
});
