import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { readCoco } from '../../lib/data/coco.js';
import { parseMembers } from '../../lib/data/json-members.js';
import { temporaryFolder } from '../fixtures/folder.js';

const folder = temporaryFolder();

/** The text in chunks of so many bytes; what comes of it, its lists' members back in their places. */
async function parsed(text: string, size: number): Promise<unknown> {
  const bytes = Buffer.from(text);
  async function* chunks() {
    for (let from = 0; from < bytes.length; from += size) yield bytes.subarray(from, from + size);
  }
  const lists = new Map<string, unknown[]>();
  const rest = await parseMembers(chunks(), (key, member) => void lists.set(key, [...(lists.get(key) ?? []), member]));
  for (const [key, members] of lists) {
    expect((rest as Record<string, unknown>)[key], key).toEqual(members.map(() => 0));
    (rest as Record<string, unknown>)[key] = members;
  }
  return rest;
}

const texts = [
  '{"images":[{"id":1,"a":[1,[2,{"b":[]}],"],"]},{"id":2}],"annotations":[],"n":{"list":[1,2]},"x":"[1,","categories":[ 1 , "zwei, \\"drei\\"" ,null,[4,5] ]}',
  ' {\n "größe \\"[" : [ "€", "\\\\" , "\\u00fc" ] ,\t"b" : [\n] } ',
  '{}',
  '[1,[2],{"a":[3]}]',
  '"text"',
  '3',
];

it.each(texts)('lists are taken apart wherever a chunk ends: %s', async (text) => {
  for (let size = 1; size <= text.length + 3; size++)
    expect(await parsed(text, size), `${size}`).toEqual(JSON.parse(text));
});

it.each([
  '',
  'text',
  '{"a":[1,2}',
  '{"a":[1,]}',
  '{"a":[,1]}',
  '{"a":[1 2]}',
  '{"a":[1,2]',
  '{"a":[1]]}',
  '{"a":[{]}',
  '{"a":["]}',
  '{"a" [1]}',
  '{"a":[1],}',
  '{"a":[1]} []',
  '{[1]}',
])('what is no JSON is refused: %s', async (text) => {
  expect(() => JSON.parse(text) as unknown).toThrow(SyntaxError);
  for (let size = 1; size <= text.length + 1; size++)
    await expect(parsed(text, size), `${size}`).rejects.toThrow(SyntaxError);
});

it('keys of lists are found behind long texts, in a time that grows as these do', async () => {
  const description = '"\\"'.repeat(50_000) + 'a'.repeat(2 ** 25);
  async function* chunks() {
    yield Buffer.from(`{"info":${JSON.stringify({ description })},"a\\"b":[1`);
    yield Buffer.from('],"c":[2]}');
  }
  const keys: string[] = [];
  const from = performance.now();
  await parseMembers(chunks(), (key) => void keys.push(key));
  expect(keys).toEqual(['a"b', 'c']);
  expect(performance.now() - from).toBeLessThan(10_000);
});

it('what is no list may be no longer than a string', async () => {
  async function* chunks() {
    for (let i = 0; i < 100; i++) yield Buffer.from(i === 0 ? '{"a":[1,2],"b":[' : '3,4,');
    yield Buffer.from('5],"c":"');
    for (let i = 0; i < 10; i++) yield Buffer.from('ten bytes.');
    yield Buffer.from('"}');
  }
  expect(await parseMembers(chunks(), () => undefined, 200)).toMatchObject({ a: [0, 0], c: 'ten bytes.'.repeat(10) });
  await expect(parseMembers(chunks(), () => undefined, 80)).rejects.toThrow(RangeError);
});

it('a COCO file keeps boxes, whatever the order of its lists, and says what is wrong', async () => {
  const images = [
    { id: 5, file_name: 'a.jpg', width: 10, height: 20, license: 1 },
    { id: 3, file_name: 'b.jpg', width: 30, height: 40 },
  ];
  const annotations = [
    { id: 1, image_id: 3, category_id: 9, bbox: [1, 2, 3, 4], segmentation: [[1, 2, 3, 4, 5, 6]] },
    { id: 2, image_id: 3, category_id: 2, bbox: [0, 0, 5, 5], area: 7, iscrowd: 1 },
  ];
  const categories = [
    { id: 9, name: 'nine' },
    { id: 2, name: 'two', supercategory: 'number' },
  ];
  const file = join(folder, 'boxes.json');
  const read = async (content: unknown) => {
    await writeFile(file, typeof content === 'string' ? content : JSON.stringify(content));
    return readCoco(file);
  };
  expect(await read({ info: { contributors: ['x'] }, annotations, categories, images })).toEqual({
    names: ['two', 'nine'],
    categoryIds: [2, 9],
    images: [
      { id: 5, file: 'a.jpg', width: 10, height: 20, annotations: [] },
      {
        id: 3,
        file: 'b.jpg',
        width: 30,
        height: 40,
        annotations: [
          { label: 1, box: [1, 2, 3, 4], area: 12, crowd: false },
          { label: 0, box: [0, 0, 5, 5], area: 7, crowd: true },
        ],
      },
    ],
  });
  const crowds = [1, true, 0, false, null].map((iscrowd) => ({
    ...annotations[1],
    image_id: 'a',
    area: null,
    iscrowd,
  }));
  expect((await read({ images: [{ ...images[0], id: 'a' }], annotations: crowds, categories })).images).toMatchObject([
    { id: 'a', annotations: [true, true, false, false, false].map((crowd) => ({ crowd, area: 25 })) },
  ]);
  const refused: [unknown, string][] = [
    ['{"images":[', 'it is not JSON ('],
    [{ images, categories }, 'it needs images, annotations and categories'],
    [{ images, annotations: {}, categories }, 'it needs images, annotations and categories'],
    [{ images, annotations, categories: [] }, 'it needs images, annotations and categories'],
    [null, 'it needs images, annotations and categories'],
    [{ images: [null], annotations, categories }, 'images[0] has no id'],
    [
      { images: [images[0], { ...images[1], id: 5 }], annotations: [], categories },
      'images[0] and images[1] have the same id. Found: {"id":5,"file_name":"b.jpg"',
    ],
    ...[
      ['file_name', ''],
      ['width', '30'],
      ['width', 0],
      ['height', 1.5],
      ['height', undefined],
    ].map(([key, value]): [unknown, string] => [
      { images: [images[0], { ...images[1], [key as string]: value }], annotations, categories },
      key === 'file_name' ? 'images[1] has no file_name' : 'images[1] has no width and height in whole pixels',
    ]),
    [{ images, annotations, categories: [categories[0], { id: 2 }] }, 'categories[1] has no name. Found: {"id":2}'],
    [{ images, annotations, categories: [{ id: '9', name: 'nine' }] }, 'categories[0] has no id that is a number'],
    [
      { images, annotations, categories: [...categories, { id: 9, name: 'again' }] },
      'two categories have the same id. Found: [{"id":9,"name":"nine"},{"id":9,"name":"again"}]',
    ],
    ...(
      [
        ['image_id', 4, 'has an image_id that no image has'],
        ['image_id', undefined, 'has an image_id'],
        ['image_id', '3', 'has an image_id'],
        ['category_id', 1, 'has a category_id that no category has'],
        ['category_id', undefined, 'has a category_id'],
        ['bbox', undefined, 'has no bbox of four numbers'],
        ['bbox', ['1', 2, 3, 4], 'has no bbox'],
        ['bbox', [1, 2, 3], 'has no bbox'],
        ['bbox', [1, 2, -3, 4], 'has a bbox of negative width or height'],
        ['bbox', [1, 2, null, 4], 'has no bbox'],
        ['area', 'big', 'has an area that is no number from 0'],
        ['area', -1, 'has an area'],
        ['iscrowd', 'no', 'has an iscrowd that is neither 0 nor 1'],
        ['iscrowd', 2, 'has an iscrowd'],
      ] as const
    ).map(([key, value, why]): [unknown, string] => [
      { images, annotations: [annotations[0], { ...annotations[1], [key]: value }], categories },
      `annotations[1] ${why}`,
    ]),
  ];
  for (const [content, why] of refused)
    await expect(read(content), why).rejects.toMatchObject({
      code: 'BAD_DATASET',
      option: 'dense.annotations',
      message: expect.stringContaining(why) as string,
    });
  await expect(readCoco(join(folder, 'none.json'))).rejects.toMatchObject({
    code: 'FILE_NOT_FOUND',
    option: 'dense.annotations',
  });
  await expect(readCoco(folder)).rejects.toMatchObject({
    code: 'BAD_DATASET',
    option: 'dense.annotations',
    message: expect.stringContaining('it is a folder') as string,
    mend: 'Give the file to read',
  });
});
