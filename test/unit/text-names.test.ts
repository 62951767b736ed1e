import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { builtinLists } from '../../lib/text/builtin.js';
import { CategoryList } from '../../lib/text/names.js';
import { normaliseName } from '../../lib/text/spelling.js';
import { temporaryFolder } from '../fixtures/folder.js';

const folder = temporaryFolder();
const load = async (source: string | string[]) => (await CategoryList.load(source)).names;

function file(name: string, content: string | Uint8Array): string {
  const path = join(folder, name);
  writeFileSync(path, content);
  return path;
}

test('an array keeps its names as they stand, apart from later changes to it', async () => {
  const names = ['cat ', 'dog_house'];
  const list = await CategoryList.load(names);
  names.push('fish');
  expect(list.names).toEqual(['cat ', 'dog_house']);
  expect(list.size).toBe(2);
});

test('a text file: CRLF, byte order mark, comments and empty lines', async () => {
  const path = file('names.txt', '\uFEFFcat\r\n# animals end here\r\n\r\n  hot dog \r\nC# book\r\n');
  expect(await load(path)).toEqual(['cat', '  hot dog ', 'C# book']);
});

test.each([
  ['array', '["cat","dog"]'],
  ['array of objects', '[{"name":"cat"},{"name":"dog"}]'],
  ['names', '{"names":["cat","dog"]}'],
  ['COCO annotations', '{"images":[],"categories":[{"id":7,"name":"cat"},{"id":3,"name":"dog"}]}'],
  ['YOLO', '{"names":{"10":"dog","2":"cat"}}'],
  ['Hugging Face config', '{"id2label":{"0":"cat","1":"dog"}}'],
])('JSON: %s', async (kind, content) => {
  expect(await load(file(`${kind}.json`, content))).toEqual(['cat', 'dog']);
});

test.each([
  ['name column', 'id,name\n1,cat\n2,"bow, weapon"\n', ['cat', 'bow, weapon']],
  ['first column, headed', 'class,count\ncat,3\ndog,4\n', ['cat', 'dog']],
  ['no heading', 'cat\ndog\n', ['cat', 'dog']],
  ['semicolons', 'id;name\n1;cat\n2;dog, big\n', ['cat', 'dog, big']],
  ['byte order mark and CRLF', '\uFEFFname\r\ncat\r\n', ['cat']],
])('CSV: %s', async (kind, content, expected) => {
  expect(await load(file(`${kind}.csv`, content))).toEqual(expected);
});

test('a folder of class folders, sorted, without files and hidden folders', async () => {
  const root = join(folder, 'images');
  for (const name of ['zebra', 'Ant', 'cat', '.cache']) mkdirSync(join(root, name), { recursive: true });
  writeFileSync(join(root, 'readme.txt'), '');
  expect(await load(root)).toEqual(['Ant', 'cat', 'zebra']);
});

test('a folder of splits is not taken for classes', async () => {
  for (const name of ['train', 'val']) mkdirSync(join(folder, 'set', name), { recursive: true });
  await expect(CategoryList.load(join(folder, 'set'))).rejects.toMatchObject({ code: 'BAD_NAMES', mend: expect.stringContaining(join('set', 't')) as string });
});

test('built-in lists have the sizes of their data sets and no faults', async () => {
  const sizes = { coco: 80, cifar10: 10, cifar100: 100, voc: 20, cityscapes: 19 };
  expect(Object.keys(builtinLists).sort()).toEqual(Object.keys(sizes).sort());
  for (const [id, size] of Object.entries(sizes)) {
    const list = await CategoryList.load(id);
    expect(new Set(list.names.map(normaliseName)).size).toBe(size);
    expect((await list.check()).clean).toBe(true);
    expect((await list.check()).mended).toEqual(list.names);
  }
  const sorted = async (id: string) => [...(await load(id))].sort();
  expect(await load('cifar10')).toEqual(await sorted('cifar10')); // both data sets number their classes alphabetically
  expect(await load('cifar100')).toEqual(await sorted('cifar100'));
  expect((await load('coco'))[15]).toBe('cat');
  expect((await load('cityscapes'))[13]).toBe('car');
  expect((await load('voc'))[14]).toBe('person');
});

test.each([
  ['a slip in an id', 'cocoo', 'FILE_NOT_FOUND', 'Did you mean the built-in list coco?'],
  ['a missing file', 'nowhere/names.txt', 'FILE_NOT_FOUND', 'Check the path'],
])('%s', async (_, source, code, mend) => {
  await expect(CategoryList.load(source)).rejects.toMatchObject({ code, option: 'names', mend });
});

test.each([
  ['no names', 'empty.txt', '# nothing\n\n'],
  ['another kind of file', 'names.xlsx', 'x'],
  ['bad JSON', 'bad.json', '{"names": ['],
  ['JSON without names', 'other.json', '{"images": 3}'],
  ['JSON with a number', 'number.json', '["cat", 4]'],
  ['not UTF-8', 'latin.txt', Uint8Array.from([0x63, 0xe9, 0x0a])],
  ['a ragged table', 'ragged.csv', 'cat,1\ndog, large,2\n'],
])('refuses %s', async (_, name, content) => {
  await expect(CategoryList.load(file(name, content))).rejects.toMatchObject({ code: 'BAD_NAMES' });
});

test('refuses an array with no names or with something else in it', async () => {
  await expect(CategoryList.load([])).rejects.toMatchObject({ code: 'BAD_NAMES' });
  await expect(CategoryList.load(['cat', 4 as unknown as string])).rejects.toMatchObject({ code: 'BAD_NAMES', found: 4 });
});
