import { execFileSync } from 'node:child_process';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parquetWriteBuffer } from 'hyparquet-writer';
import sharp from 'sharp';
import { create } from 'tar';
import { describe, expect, it } from 'vitest';
import { openImages } from '../../lib/data/open-images.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { picture } from '../fixtures/images/draw.js';

const folder = temporaryFolder();
const jpeg = (level: number) => picture(20, 16, [level, 0, 0]).jpeg().toBuffer();
let made = 0;
async function newFolder(): Promise<string> {
  const path = join(folder, `folder-${made++}`);
  await mkdir(path);
  return path;
}

/** Writes a tar file of these members, in order. */
async function tar(file: string, members: Record<string, Buffer | string>, options = {}): Promise<string> {
  const from = await newFolder();
  for (const [name, content] of Object.entries(members)) {
    await mkdir(join(from, name, '..'), { recursive: true });
    await writeFile(join(from, name), content);
  }
  await create({ file, cwd: from, portable: true, ...options }, Object.keys(members));
  return file;
}

describe('tar shards', () => {
  const longName = `${'deep/'.repeat(40)}0002.jpg`; // more than a tar header holds
  it('are read in order, with labels and names', async () => {
    const path = await newFolder();
    const [a, b, c] = await Promise.all([jpeg(10), jpeg(20), jpeg(30)]);
    await tar(join(path, 'shard-000.tar'), { '0000.jpg': a, '0000.cls': '1\n', '0000.txt': 'a caption', 'sub/0001.jpg': b, 'sub/0001.cls': '0' });
    await tar(join(path, 'shard-001.tar'), { [longName]: c, [longName.replace('jpg', 'json')]: JSON.stringify({ label: 2, class_name: 'third' }) });
    for (const given of [path, join(path, 'shard-{000..001}.tar')]) {
      const source = await openImages(given, { labels: 'folders' });
      expect(source.ids).toEqual(['shard-000.tar/0000.jpg', 'shard-000.tar/sub/0001.jpg', `shard-001.tar/${longName}`]);
      expect([...source.labels!]).toEqual([1, 0, 2]);
      expect(source.classNames).toEqual(['0', '1', 'third']);
      expect(await Promise.all([2, 0, 1].map((i) => source.read(i)))).toEqual([c, a, b]);
    }
    await writeFile(join(path, 'classnames.txt'), 'zero\none\ntwo\n');
    expect((await openImages(path, { labels: 'auto' })).classNames).toEqual(['zero', 'one', 'two']);
    expect((await openImages(join(path, 'shard-001.tar'))).labels).toBeUndefined();
  });

  it('made by `tar c .` have the names of those that are not, and their labels', async () => {
    const [dotted, plain] = [await newFolder(), await newFolder()];
    const members = { 'sub/0000.jpg': await jpeg(10), 'sub/0000.cls': '1', 'deep/er/0001.jpg': await jpeg(20), 'deep/er/0001.cls': '0' };
    const from = await newFolder();
    await tar(join(plain, 'a.tar'), members);
    execFileSync('tar', ['xf', join(plain, 'a.tar'), '-C', from]);
    execFileSync('tar', ['cf', join(dotted, 'a.tar'), '-C', from, '--sort=name', '.']);
    const source = await openImages(dotted, { labels: 'folders' });
    expect(source.ids).toEqual(['a.tar/deep/er/0001.jpg', 'a.tar/sub/0000.jpg']);
    expect([...source.labels!]).toEqual([0, 1]);
    expect([...source.ids].sort()).toEqual([...(await openImages(plain)).ids].sort());
  });

  it.each([
    ['as they are', ['cat/1.jpg', 'dog/2.jpg', 'cat/deep/3.jpg']],
    ['made by `tar c .`', ['./cat/1.jpg', './dog/2.jpg', './cat/deep/3.jpg']],
    ['below folders that all lie in', ['photos/train/cat/1.jpg', 'photos/train/dog/2.jpg', 'photos/train/cat/deep/3.jpg']],
  ])('without labels have their folders for classes: %s', async (_, names) => {
    const image = await jpeg(1);
    const path = await newFolder();
    const shards = [names.slice(0, 2), names.slice(2)];
    for (const [i, shard] of shards.entries()) await tar(join(path, `${i}.tar`), Object.fromEntries(shard.map((name) => [name, image])));
    const source = await openImages(path, { labels: 'folders' });
    expect(source.classNames).toEqual(['cat', 'dog']);
    expect([...source.labels!]).toEqual([0, 1, 0]);
    await tar(join(path, '2.tar'), { 'loose.jpg': image });
    expect((await openImages(path, { labels: 'auto' })).labels).toBeUndefined();
  });

  it('whose folders number them have no classes, and one whose folders are numbers has', async () => {
    const [numbered, digits] = [await newFolder(), await newFolder()];
    const image = await jpeg(1);
    for (const name of ['000', '001']) await tar(join(numbered, `${name}.tar`), { [`${name}/a.jpg`]: image, [`${name}/b.jpg`]: image });
    await tar(join(digits, 'all.tar'), { '0/a.jpg': image, '1/b.jpg': image });
    expect((await openImages(numbered, { labels: 'auto' })).labels).toBeUndefined();
    expect((await openImages(digits, { labels: 'auto' })).classNames).toEqual(['0', '1']);
  });

  it('without labels have none; what is no tar, compressed, cut or empty is refused', async () => {
    const file = await tar(join(folder, 'plain.tar'), { 'a.png': await picture(9, 9).png().toBuffer(), 'b.jpg': await jpeg(1), 'b.cls': '3' });
    expect((await openImages(file, { labels: 'auto' })).labels).toBeUndefined();
    await expect(openImages(file, { labels: 'folders' })).rejects.toMatchObject({ code: 'BAD_DATASET', message: expect.stringContaining('no labels') as string });
    const compressed = await tar(join(folder, 'compressed.tar'), { 'a.jpg': await jpeg(1) }, { gzip: true });
    const cut = join(folder, 'cut.tar');
    await writeFile(cut, (await sharp({ create: { width: 1, height: 1, channels: 3, background: 'red' } }).png().toBuffer()).subarray(0, 5));
    const empty = await tar(join(folder, 'empty.tar'), { 'a.txt': 'no picture' });
    const wrong = await tar(join(folder, 'wrong.tar'), { 'a.jpg': await jpeg(1), 'a.cls': 'cat' });
    for (const path of [compressed, cut, empty, wrong]) await expect(openImages(path), path).rejects.toMatchObject({ code: 'BAD_DATASET', mend: expect.any(String) as string });
    await expect(openImages(join(folder, 'none-{0..2}.tar'))).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
  });
});

describe("CIFAR's binary files", () => {
  /** `count` records; record i has the label i % 5 and pixels (i, channel * 50, x). */
  const records = (count: number, labelBytes: number) => Buffer.concat(Array.from({ length: count }, (_, i) => Buffer.concat([
    Buffer.from([9, i % 5].slice(2 - labelBytes)),
    Buffer.from(Uint8Array.from({ length: 3072 }, (__, at) => (at < 1024 ? i : at < 2048 ? 50 : at % 32))),
  ])));

  it('are the pixels as they stand there', async () => {
    const path = await newFolder();
    await writeFile(join(path, 'data_batch_1.bin'), records(7, 1));
    await writeFile(join(path, 'data_batch_3.bin'), records(4, 1));
    await writeFile(join(path, 'test_batch.bin'), records(2, 1));
    await writeFile(join(path, 'batches.meta.txt'), 'airplane\nautomobile\nbird\ncat\ndeer\ndog\n\n');
    const source = await openImages(path, { labels: 'auto' });
    expect(source.ids).toHaveLength(11);
    expect(source.ids[8]).toBe('data_batch_3.bin/00001');
    expect([...source.labels!]).toEqual([0, 1, 2, 3, 4, 0, 1, 0, 1, 2, 3]);
    expect(source.classNames!.slice(0, 3)).toEqual(['airplane', 'automobile', 'bird']);
    const { data, info } = await sharp(await source.read(6)).raw().toBuffer({ resolveWithObject: true });
    expect([info.width, info.height, info.channels]).toEqual([32, 32, 3]);
    expect([...data.subarray(3 * 70, 3 * 70 + 3)]).toEqual([6, 50, 70 % 32]);
    expect((await openImages(join(path, 'test_batch.bin'))).ids).toHaveLength(2);
  });

  it('of CIFAR-100 have fine labels; a file that is not whole is refused', async () => {
    const path = await newFolder();
    await writeFile(join(path, 'train.bin'), records(6, 2));
    const source = await openImages(path, { labels: 'folders' });
    expect([...source.labels!]).toEqual([0, 1, 2, 3, 4, 0]);
    expect(source.classNames).toEqual(['0', '1', '2', '3', '4']);
    await writeFile(join(path, 'train.bin'), records(6, 2).subarray(1));
    await expect(openImages(path)).rejects.toMatchObject({ code: 'BAD_DATASET', message: expect.stringContaining('3074') as string });
  });
});

describe('parquet files', () => {
  const struct: NonNullable<Parameters<typeof parquetWriteBuffer>[0]['schema']> = [
    { name: 'root', num_children: 2 },
    { name: 'image', num_children: 2, repetition_type: 'OPTIONAL' },
    { name: 'bytes', type: 'BYTE_ARRAY', repetition_type: 'OPTIONAL' },
    { name: 'path', type: 'BYTE_ARRAY', converted_type: 'UTF8', repetition_type: 'OPTIONAL' },
    { name: 'label', type: 'INT64', repetition_type: 'OPTIONAL' },
  ];
  const write = async (file: string, images: (Uint8Array | null)[], labels: number[], names?: string[]): Promise<void> => {
    const buffer = parquetWriteBuffer({
      schema: struct, rowGroupSize: 3,
      columnData: [{ name: 'image', data: images.map((bytes) => bytes && { bytes, path: 'x.jpg' }) }, { name: 'label', data: labels.map(BigInt) }],
      ...(names !== undefined && { kvMetadata: [{ key: 'huggingface', value: JSON.stringify({ info: { features: { label: { names, _type: 'ClassLabel' } } } }) }] }),
    });
    await writeFile(file, Buffer.from(buffer));
  };

  it('have images in a column {bytes, path}, labels, and their names in the metadata', async () => {
    const path = await newFolder();
    const images = await Promise.all(Array.from({ length: 8 }, (_, i) => jpeg(20 * i)));
    await write(join(path, 'train-00000-of-00002.parquet'), images.slice(0, 5), [0, 1, 0, 1, 2], ['cat', 'dog', 'owl']);
    await write(join(path, 'train-00001-of-00002.parquet'), images.slice(5), [2, 2, 0], ['cat', 'dog', 'owl']);
    const source = await openImages(path, { labels: 'folders' });
    expect(source.ids).toHaveLength(8);
    expect(source.ids[6]).toBe('train-00001-of-00002.parquet/000001');
    expect([...source.labels!]).toEqual([0, 1, 0, 1, 2, 2, 2, 0]);
    expect(source.classNames).toEqual(['cat', 'dog', 'owl']);
    expect(source.sequential).toBe(true);
    const read = await Promise.all(images.map((_, i) => source.read(i)));
    expect(read.every((bytes, i) => Buffer.from(bytes).equals(images[i]!))).toBe(true);
    expect(Buffer.from(await source.read(1)).equals(images[1]!)).toBe(true); // back to a group that is forgotten
  });

  it('may have more labels than a call takes arguments', async () => {
    const file = join(folder, 'many.parquet');
    const labels = Array.from({ length: 130_000 }, (_, i) => 129_999 - i);
    await writeFile(file, Buffer.from(parquetWriteBuffer({ columnData: [{ name: 'jpg', data: labels.map(() => new Uint8Array(1)), type: 'BYTE_ARRAY' }, { name: 'label', data: labels, type: 'INT32' }] })));
    const source = await openImages(file, { labels: 'auto' });
    expect([source.classNames!.length, source.labels![0], source.labels!.at(-1)]).toEqual([130_000, 129_999, 0]);
  });

  it('may have plain bytes; -1 is no label; a row without an image is a broken one; others are refused', async () => {
    const file = join(folder, 'bytes.parquet');
    const image = await jpeg(7);
    await writeFile(file, Buffer.from(parquetWriteBuffer({ columnData: [{ name: 'jpg', data: [image, image], type: 'BYTE_ARRAY' }, { name: 'label', data: [-1, -1], type: 'INT32' }] })));
    const source = await openImages(file, { labels: 'auto' });
    expect(source.labels).toBeUndefined();
    expect(Buffer.from(await source.read(1)).equals(image)).toBe(true);
    const holes = join(folder, 'holes.parquet');
    await write(holes, [image, null], [0, 0]);
    await expect((await openImages(holes)).read(1)).rejects.toMatchObject({ code: 'BAD_IMAGE' });
    const other = join(folder, 'other.parquet');
    await writeFile(other, Buffer.from(parquetWriteBuffer({ columnData: [{ name: 'text', data: ['a'] }] })));
    await expect(openImages(other)).rejects.toMatchObject({ code: 'BAD_DATASET', message: expect.stringContaining('it has text') as string });
    await writeFile(other, 'no parquet at all');
    await expect(openImages(other)).rejects.toMatchObject({ code: 'BAD_DATASET', message: expect.stringContaining('other.parquet') as string });
  });
});

describe('folders', () => {
  it('have labels where every image lies in one below, and are folders whatever else lies in them', async () => {
    const path = await newFolder();
    for (const name of ['b', 'a']) {
      await mkdir(join(path, name));
      await writeFile(join(path, name, '1.jpg'), await jpeg(1));
    }
    await writeFile(join(path, 'archive.tar'), 'left over');
    await writeFile(join(path, 'index.parquet'), 'left over');
    const source = await openImages(path, { labels: 'auto' });
    expect(source).toMatchObject({ ids: ['a/1.jpg', 'b/1.jpg'], classNames: ['a', 'b'] });
    await writeFile(join(path, '0.jpg'), await jpeg(1));
    expect((await openImages(path, { labels: 'auto' })).labels).toBeUndefined();
    await expect(openImages(join(path, 'none'))).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
  });
});
