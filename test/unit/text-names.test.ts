import {
  existsSync,
  appendFileSync,
  chmodSync,
  cpSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it, test } from 'vitest';
import { builtinIds, builtinLists, describeBuiltin, readBuiltin } from '../../lib/text/builtin.js';
import { CategoryList } from '../../lib/text/names.js';
import { checkNamesFile, writeNames } from '../../lib/text/names-file.js';
import { normaliseName } from '../../lib/text/spelling.js';
import { asUser, temporaryFolder } from '../fixtures/folder.js';

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

test('JSON of any length: annotations are read one by one, and names are kept', async () => {
  const path = join(folder, 'large.json');
  const annotations = `{"id":1,"segmentation":[[${'10.5,'.repeat(20_000)}1]]}`;
  writeFileSync(path, '\uFEFF{"annotations":[');
  for (let i = 0; i < 680; i++) appendFileSync(path, `${i === 0 ? '' : ','}${annotations}`); // 68 MB
  appendFileSync(path, '],"categories":[{"id":7,"name":"cat"},{"id":3,"name":"dog"}]}');
  expect(await load(path)).toEqual(['cat', 'dog']);
});

test.each(['names.txt', 'names.csv'])(
  '%s that is longer than a text may be is refused with the limit',
  async (name) => {
    const path = file(`long-${name}`, '');
    truncateSync(path, 600 * 2 ** 20);
    await expect(load(path)).rejects.toMatchObject({
      code: 'BAD_NAMES',
      message: expect.stringContaining('600 MiB') as string,
      allowed: expect.stringContaining('512 MiB') as string,
      mend: 'Give a file of the names alone, one a line',
    });
  },
);

test('a bank in the place of names is told where it belongs', async () => {
  await expect(load(file('bank.safetensors', '12345678{}'))).rejects.toMatchObject({
    code: 'BAD_NAMES',
    mend: expect.stringContaining('--bank') as string,
  });
});

test.each([
  ['name column', 'id,name\n1,cat\n2,"bow, weapon"\n', ['cat', 'bow, weapon']],
  ['first column, headed', 'class,count\ncat,3\ndog,4\n', ['cat', 'dog']],
  ['no heading', 'cat\ndog\n', ['cat', 'dog']],
  ['semicolons', 'id;name\n1;cat\n2;dog, big\n', ['cat', 'dog, big']],
  ['byte order mark and CRLF', '\uFEFFname\r\ncat\r\n', ['cat']],
  ['a label column behind numbers', 'id,label\n1,cat\n2,dog\n', ['cat', 'dog']],
  ['a heading in capitals, wherever it stands', 'image,Count,Category\na.jpg,3,cat\nb.jpg,4,dog\n', ['cat', 'dog']],
  ['name before class before label', 'label,class,name\n0,n01,cat\n1,n02,dog\n', ['cat', 'dog']],
  ['class_name before class', 'class,class_name\n0,cat\n', ['cat']],
  ['a first row with a number is no heading', 'cat,1,label\ndog,2,class\n', ['cat', 'dog']],
  ['numbers among names', 'name\n7\ncat\n', ['7', 'cat']],
])('CSV: %s', async (kind, content, expected) => {
  expect(await load(file(`${kind}.csv`, content))).toEqual(expected);
});

test.each([
  ['a column of numbers under a heading', 'id,animal\n1,cat\n2,dog\n', 'column 1 was taken, which is headed id'],
  ['a column of numbers without one', '1,cat\n2,dog\n', 'column 1 was taken.'],
  ['labels that are numbers', 'image,label\na.jpg,3\nb.jpg,-1\n', 'column 2 was taken, which is headed label'],
])('CSV: %s is refused, with the column', async (kind, content, said) => {
  const error = await load(file(`${kind}.csv`, content)).then(
    () => undefined,
    (caught: unknown) => caught,
  );
  expect(error).toMatchObject({
    code: 'BAD_NAMES',
    option: 'names',
    message: expect.stringContaining(said) as string,
    mend: expect.stringContaining('Head the column of names with name') as string,
  });
});

test('a folder of class folders, sorted, without files and hidden folders', async () => {
  const root = join(folder, 'images');
  for (const name of ['zebra', 'Ant', 'cat', '.cache', 'lost+found']) mkdirSync(join(root, name), { recursive: true });
  writeFileSync(join(root, 'readme.txt'), '');
  expect(await load(root)).toEqual(['Ant', 'cat', 'zebra']);
});

test('a folder that may not be read is told of', async () => {
  const root = join(folder, 'secret');
  mkdirSync(join(root, 'cat'), { recursive: true });
  chmodSync(root, 0o700);
  chmodSync(folder, 0o755);
  await asUser(() =>
    expect(CategoryList.load(root)).rejects.toMatchObject({
      code: 'BAD_NAMES',
      message: expect.stringContaining(`cannot read ${root}`) as string,
      mend: 'Check the permissions of the path',
    }),
  );
});

test('a folder of splits is not taken for classes', async () => {
  for (const name of ['train', 'val']) mkdirSync(join(folder, 'set', name), { recursive: true });
  await expect(CategoryList.load(join(folder, 'set'))).rejects.toMatchObject({
    code: 'BAD_NAMES',
    mend: expect.stringContaining(join('set', 't')) as string,
  });
});

const lists = fileURLToPath(new URL('../../lib/text/lists', import.meta.url));

describe('built-in lists', () => {
  // Sizes and landmarks from the data sets' own pages: a name that was lost, doubled or moved shifts one of them.
  const landmarks: Record<string, [number, Record<number, string>]> = {
    'imagenet-1k': [
      1000,
      {
        0: 'tench',
        1: 'goldfish',
        99: 'goose',
        134: 'crane bird',
        151: 'Chihuahua',
        207: 'golden retriever',
        264: 'Cardigan Welsh corgi',
        281: 'tabby',
        340: 'zebra',
        388: 'giant panda',
        404: 'airliner',
        474: 'cardigan',
        517: 'crane',
        530: 'digital clock',
        605: 'iPod',
        639: 'maillot tank suit',
        701: 'parachute',
        779: 'school bus',
        850: 'teddy',
        920: 'traffic light',
        954: 'banana',
        980: 'volcano',
        999: 'toilet tissue',
      },
    ],
    coco: [
      80,
      { 0: 'person', 11: 'stop sign', 15: 'cat', 26: 'handbag', 39: 'bottle', 60: 'dining table', 79: 'toothbrush' },
    ],
    lvis: [
      1203,
      {
        0: 'aerosol can',
        22: 'trash can',
        135: 'archery bow',
        161: 'bull',
        224: 'cat',
        447: 'fish as food',
        666: 'manger',
        697: 'computer monitor',
        792: 'person',
        997: 'crawfish',
        1104: 'cover',
        1202: 'zucchini',
      },
    ],
    cityscapes: [19, { 0: 'road', 6: 'traffic light', 11: 'person', 13: 'car', 18: 'bicycle' }],
    ade20k: [
      150,
      {
        0: 'wall',
        12: 'person',
        20: 'car',
        49: 'fireplace',
        79: 'hovel',
        99: 'buffet',
        126: 'animal',
        141: 'crt screen',
        149: 'flag',
      },
    ],
    voc: [20, { 0: 'aeroplane', 14: 'person', 19: 'tv monitor' }],
    cifar10: [10, { 0: 'airplane', 9: 'truck' }],
    cifar100: [100, { 0: 'apple', 52: 'oak tree', 99: 'worm' }],
  };

  it('are those that have a file, and no more', () => {
    expect(readdirSync(lists).sort()).toEqual(builtinIds.map((id) => `${id}.txt`).sort());
    expect([...builtinIds].sort()).toEqual(Object.keys(landmarks).sort());
  });

  it.each(Object.entries(landmarks))(
    '%s: count, landmarks, no duplicates, nothing for the doctor to mend',
    async (id, [size, known]) => {
      const { names } = await CategoryList.load(id);
      expect(names).toHaveLength(size);
      expect(builtinLists[id]!.count).toBe(size);
      expect(new Set(names.map(normaliseName)).size).toBe(size);
      expect(Object.fromEntries(Object.keys(known).map((index) => [index, names[Number(index)]]))).toEqual(known);
      const report = await (await CategoryList.builtin(id)).check();
      expect(report).toMatchObject({ clean: true, mended: names });
      expect(describeBuiltin(id)[0]).toContain(`${id}: ${size} names`);
      expect(readFileSync(join(lists, `${id}.txt`), 'utf8')).toBe(`${names.join('\n')}\n`);
    },
  );

  it('are refused where there is none of the name', async () => {
    for (const id of ['cocoo', 'toString', undefined as never]) {
      expect(() => describeBuiltin(id)).toThrow(
        expect.objectContaining({ code: 'BAD_OPTION', option: 'names' }) as Error,
      );
      await expect(readBuiltin(id)).rejects.toMatchObject({ code: 'BAD_OPTION' });
    }
  });

  it('number their classes alphabetically where their data sets do', async () => {
    for (const id of ['cifar10', 'cifar100']) expect(await load(id)).toEqual([...(await load(id))].sort());
    const voc = (await load('voc')).map((name) => name.replace(' ', ''));
    expect(voc).toEqual([...voc].sort());
  });

  it('are refused when a file is not the one that was shipped', async () => {
    const copy = join(folder, 'lists');
    cpSync(lists, copy, { recursive: true });
    expect(await readBuiltin('voc', copy)).toHaveLength(20);
    writeFileSync(join(copy, 'voc.txt'), readFileSync(join(copy, 'voc.txt'), 'utf8').replace('sofa', 'couch'));
    await expect(readBuiltin('voc', copy)).rejects.toMatchObject({
      code: 'BAD_FILE',
      message: expect.stringContaining('voc.txt') as string,
    });
    await expect(readBuiltin('voc', join(folder, 'nowhere'))).rejects.toMatchObject({ code: 'BAD_FILE' });
    await expect(CategoryList.builtin('imagenet')).rejects.toMatchObject({
      code: 'BAD_OPTION',
      mend: 'Did you mean imagenet-1k?',
    });
    await expect(CategoryList.load('imagenet')).rejects.toMatchObject({
      code: 'FILE_NOT_FOUND',
      mend: 'Did you mean the built-in list imagenet-1k?',
    });
  });

  it('give way to a file of the same name, unless the built-in one is asked for', async () => {
    const path = join(folder, 'shadow');
    mkdirSync(path);
    writeFileSync(join(path, 'coco'), 'hot chocolate\n');
    const before = process.cwd();
    process.chdir(path);
    try {
      expect(await load('coco')).toEqual(['hot chocolate']);
      expect((await CategoryList.builtin('coco')).size).toBe(80);
    } finally {
      process.chdir(before);
    }
  });
});

test.each([
  ['a slip in an id', 'cocoo', 'FILE_NOT_FOUND', 'Did you mean the built-in list coco?'],
  ['a missing file', 'nowhere/names.txt', 'FILE_NOT_FOUND', 'Check the path'],
  [
    'names with commas',
    'cat, dog,bird',
    'FILE_NOT_FOUND',
    expect.stringContaining(`--names '["cat","dog","bird"]'`) as string,
  ],
  [
    'a list without its quotes',
    '[cat,dog]',
    'FILE_NOT_FOUND',
    expect.stringContaining(`--names '["cat","dog"]'`) as string,
  ],
  ['one name', 'giraffe', 'FILE_NOT_FOUND', expect.stringContaining(`--names '["giraffe"]'`) as string],
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
  ['UTF-16 without a mark', 'wide.txt', Buffer.from('cat\ndog\n', 'utf16le')],
  ['a ragged table', 'ragged.csv', 'cat,1\ndog, large,2\n'],
])('refuses %s', async (_, name, content) => {
  await expect(CategoryList.load(file(name, content))).rejects.toMatchObject({ code: 'BAD_NAMES' });
});

test('refuses an array with no names or with something else in it', async () => {
  await expect(CategoryList.load([])).rejects.toMatchObject({ code: 'BAD_NAMES' });
  await expect(CategoryList.load(['cat', 4 as unknown as string])).rejects.toMatchObject({
    code: 'BAD_NAMES',
    found: 4,
  });
});

test('what is written is read back, and a name that would not be is refused', async () => {
  const path = join(folder, 'written.txt');
  await writeNames(path, ['C# logo', ' dog', 'cat, lion']);
  expect(await load(path)).toEqual(['C# logo', ' dog', 'cat, lion']);
  for (const name of ['#1 fan', ' # hash', 'two\nlines', '', ' ']) {
    await expect(writeNames(path, ['cat', name], { overwrite: true })).rejects.toMatchObject({
      code: 'BAD_NAMES',
      found: name,
    });
  }
  expect(await load(path)).toHaveLength(3);
});

test('a place that cannot be written to is told of before names are checked; folders on the way are made', async () => {
  const path = join(folder, 'new', 'deep', 'written.txt');
  await checkNamesFile(path, {});
  expect(existsSync(join(folder, 'new'))).toBe(false);
  await writeNames(path, ['cat']);
  expect(await load(path)).toEqual(['cat']);
  await expect(checkNamesFile(join(path, 'below.txt'), {})).rejects.toMatchObject({ code: 'NOT_WRITABLE' });
});
