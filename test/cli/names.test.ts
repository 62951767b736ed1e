import { readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test, vi } from 'vitest';
import type { NameReport } from '../../lib/text/doctor.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { tinyClip } from '../fixtures/tiny.js';
import { lgdistill } from './program.js';

const folder = temporaryFolder();
const list = join(folder, 'names.txt');
writeFileSync(list, ['dog', 'hot_dog', 'crane (bird)', 'dog', ' cat ', 'Cat', 'apple', 'red apple'].join('\n'));

test('finds what was planted and writes the mended list', async () => {
  const mended = join(folder, 'mended.txt');
  const { code, stdout, stderr } = await lgdistill(['names', list, '--write', mended]);
  expect(code).toBe(0);
  expect(stderr).toBe('');
  for (const line of [
    '8 names',
    'given more than once: 1',
    '"dog" (1, 4)',
    'underscores: 1',
    'parentheses: 1',
    `written: ${mended}`,
  ])
    expect(stdout).toContain(line);
  expect(readFileSync(mended, 'utf8')).toBe('dog\nhot dog\ncrane\ncat\napple\nred apple\n');
  const again = await lgdistill(['names', mended, '--json']);
  expect((again.documents()[0] as unknown as NameReport).clean).toBe(true);
});

describe('what a mended list may replace', () => {
  const write = async (from: string, to: string, ...more: string[]) =>
    lgdistill(['names', from, '--write', to, ...more]);
  const refused = async (from: string, to: string, said: string) => {
    const before = readFileSync(to, 'utf8');
    const { code, stderr } = await write(from, to);
    expect([code, stderr.split('\n')[0]]).toEqual([2, 'error BAD_OPTION']);
    expect(stderr).toContain(said);
    expect(stderr).toContain('give --overwrite');
    expect(readFileSync(to, 'utf8')).toBe(before);
  };
  const make = (name: string, text: string) => {
    writeFileSync(join(folder, name), text);
    return join(folder, name);
  };

  test('itself, by whatever path', async () => {
    const own = make('own.txt', 'hot_dog\ncat\ncat\n');
    symlinkSync(own, join(folder, 'link.txt'));
    expect((await write(join(folder, 'link.txt'), own)).code).toBe(0);
    expect(readFileSync(own, 'utf8')).toBe('hot dog\ncat\n');
  });

  test('not itself, where it has comments', async () => {
    await refused(
      make('with-comments.txt', '# animals\ncat\n'),
      join(folder, 'with-comments.txt'),
      '1 lines of comments',
    );
  });

  test('no other file, unless told to', async () => {
    const other = make('other.txt', 'by hand\n');
    await refused(list, other, 'there is such a file already');
    expect((await write(list, other, '--overwrite')).code).toBe(0);
    expect(readFileSync(other, 'utf8')).toMatch(/^dog\nhot dog\n/u);
  });

  test('nothing that is no text, told to or not', async () => {
    const annotations = make('annotations.json', '{"categories":[{"name":"cat"}],"images":[1]}');
    for (const more of [[], ['--overwrite']]) {
      const { code, stderr } = await write(annotations, annotations, ...more);
      expect(code).toBe(2);
      expect(stderr).toContain(`Write ${join(folder, 'annotations.txt')}`);
    }
    expect(readFileSync(annotations, 'utf8')).toContain('images');
  });
});

test('with an encoder, near-duplicates by cosine', async () => {
  const { code, documents } = await lgdistill([
    'names',
    list,
    '--encoder',
    tinyClip,
    '--templates',
    'none',
    '--similarity',
    '0.8',
    '--offline',
    '--json',
  ]);
  expect(code).toBe(0);
  const [report] = documents() as unknown as NameReport[];
  expect(report!.textSpace).toMatchObject({ encoder: 'tiny-clip', similarity: 0.8 });
  expect(report!.nearDuplicates).toContainEqual(
    expect.objectContaining({ a: { index: 6, name: 'apple' }, b: { index: 7, name: 'red apple' } }),
  );
});

test('with an encoder, says of a list that it writes how many prompts are cut off, and which is the first', async () => {
  const [long, mended] = [join(folder, 'long.txt'), join(folder, 'shorter.txt')];
  const name = 'very long name '.repeat(40).trim();
  writeFileSync(long, ['cat', name, 'dog', `other ${name}`].join('\n'));
  const { code, stdout } = await lgdistill([
    'names',
    long,
    '--write',
    mended,
    '--encoder',
    tinyClip,
    '--templates',
    'none',
    '--offline',
  ]);
  expect(code).toBe(0);
  expect(stdout).toMatch(/^prompts of 2 names, the first number 2, are cut off after \d+ tokens: .*\nwritten: /mu);
  expect(readFileSync(mended, 'utf8')).toContain(name);
});

test('a list that cannot be written is said so', async () => {
  const { code, stderr } = await lgdistill(['names', list, '--write', join(list, 'where.txt')]);
  expect(code).toBe(1);
  expect(stderr).toMatch(/^error NOT_WRITABLE\n/u);
  expect(stderr).toContain(`cannot write ${list}: there is a file in its place`);
});

test('prints a built-in list with where it comes from, in the form of a names file', async () => {
  const { code, stdout, stderr } = await lgdistill(['names', '--builtin', 'coco']);
  expect([code, stderr]).toEqual([0, '']);
  expect(stdout).toMatch(
    /^# coco: 80 names\. COCO[^\n]+\n# source: Lin et al\.[^\n]+\n# order: [^\n]+\n# spelling: [^\n]+\n# licence: [^\n]+\nperson\nbicycle\n/u,
  );
  const file = join(folder, 'coco.txt');
  writeFileSync(file, stdout);
  const [report] = (await lgdistill(['names', file, '--json'])).documents() as unknown as NameReport[];
  expect(report).toMatchObject({ count: 80, clean: true });
  const [document] = (await lgdistill(['names', '--builtin', 'imagenet-1k', '--json'])).documents() as unknown as {
    count: number;
    names: string[];
    year: number;
  }[];
  expect(document).toMatchObject({ count: 1000, year: 2012 });
  expect(document!.names).toHaveLength(1000);
});

test('says which lists are built in', async () => {
  const { code, stdout } = await lgdistill(['names', '--list-builtin']);
  expect(code).toBe(0);
  for (const line of ['imagenet-1k: 1000 names', 'lvis: 1203 names', 'ade20k: 150 names'])
    expect(stdout).toContain(line);
  const documents = (await lgdistill(['names', '--list-builtin', '--json'])).documents() as unknown as {
    id: string;
    count: number;
  }[];
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

test('with an encoder, says how far it is where that takes long', async () => {
  const long = join(folder, 'long.txt');
  writeFileSync(long, Array.from({ length: 100 }, (_, i) => `name ${i}`).join('\n'));
  const now = performance.now.bind(performance);
  const clock = vi.spyOn(performance, 'now').mockImplementation(() => 1e4 * now());
  const { code, stderr } = await lgdistill([
    'names',
    long,
    '--encoder',
    tinyClip,
    '--templates',
    'none',
    '--offline',
  ]).finally(() => clock.mockRestore());
  expect(code).toBe(0);
  expect(stderr).toMatch(/^names 32\/100$/mu);
});

test('a built-in list is printed alone', async () => {
  for (const args of [
    ['names', list, '--builtin', 'coco'],
    ['names', '--list-builtin', '--write', join(folder, 'unwritten.txt')],
  ])
    expect(await lgdistill(args)).toMatchObject({ code: 2, stderr: expect.stringContaining('nothing else') as string });
});
