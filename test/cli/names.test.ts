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
