/** Images in parquet files. */
import { execFile } from 'node:child_process';
import { chmod, link, mkdir, mkdtemp, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import { asyncBufferFromFile, parquetMetadataAsync } from 'hyparquet';
import { parquetWriteBuffer } from 'hyparquet-writer';
import { describe, expect, it, vi } from 'vitest';
import { openImages } from '../../lib/data/open-images.js';
import { checkRowCounts } from '../../lib/data/parquet.js';
import { bytesOf, readParquet, secondsFor } from '../../lib/data/parquet-thread.js';
import { ensureBuilt } from '../cli/built.js';
import { asUser, temporaryFolder } from '../fixtures/folder.js';
import { picture } from '../fixtures/images/draw.js';

const folder = temporaryFolder();
const jpeg = (level: number) => picture(20, 16, [level, 0, 0]).jpeg().toBuffer();
const newFolder = () => mkdtemp(join(folder, 'folder-'));

const struct: NonNullable<Parameters<typeof parquetWriteBuffer>[0]['schema']> = [
  { name: 'root', num_children: 2 },
  { name: 'image', num_children: 2, repetition_type: 'OPTIONAL' },
  { name: 'bytes', type: 'BYTE_ARRAY', repetition_type: 'OPTIONAL' },
  { name: 'path', type: 'BYTE_ARRAY', converted_type: 'UTF8', repetition_type: 'OPTIONAL' },
  { name: 'label', type: 'INT64', repetition_type: 'OPTIONAL' },
];
const writeParquet = async (
  file: string,
  images: (Uint8Array | null)[],
  labels: (number | null)[],
  names?: string[],
): Promise<void> => {
  const buffer = parquetWriteBuffer({
    schema: struct,
    rowGroupSize: 3,
    columnData: [
      { name: 'image', data: images.map((bytes) => bytes && { bytes, path: 'x.jpg' }) },
      { name: 'label', data: labels.map((label) => (label === null ? null : BigInt(label))) },
    ],
    ...(names !== undefined && {
      kvMetadata: [
        {
          key: 'huggingface',
          value: JSON.stringify({ info: { features: { label: { names, _type: 'ClassLabel' } } } }),
        },
      ],
    }),
  });
  await writeFile(file, Buffer.from(buffer));
};

describe('parquet files', () => {
  it('with two damages at once are refused by one error, and no other is left behind', async () => {
    const file = join(folder, 'twice.parquet');
    const image = Buffer.from('bytes of an image');
    const twice = Buffer.from(
      parquetWriteBuffer({
        schema: struct,
        codec: 'UNCOMPRESSED',
        columnData: [
          { name: 'image', data: [{ bytes: image, path: 'x.jpg' }] },
          { name: 'label', data: [1n] },
        ],
      }),
    );
    twice.fill(0xff, twice.indexOf(image) - 4, twice.indexOf(image)); // its length
    twice.write('pbth', twice.lastIndexOf('path')); // the column of another chunk
    await writeFile(file, twice);
    const unhandled = vi.fn();
    process.on('unhandledRejection', unhandled);
    await expect((async () => (await openImages(file)).read(0))()).rejects.toMatchObject({ code: 'BAD_DATASET' });
    await new Promise((resolve) => setTimeout(resolve, 50));
    process.off('unhandledRejection', unhandled);
    expect(unhandled).not.toHaveBeenCalled();
  });

  it.each([
    [0, 10],
    [NaN, 10],
    [-1, 10],
    [1e9, 200],
    [2 ** 60, 300],
  ])('may take the longer the more they hold, within bounds: %d bytes, %d seconds', (bytes, seconds) => {
    expect(secondsFor(bytes)).toBe(seconds);
  });

  it('may take as long as their rows are worth, where these repeat each other', () => {
    const chunk = (name: string, size: bigint) => ({
      meta_data: { path_in_schema: [name], total_uncompressed_size: size },
    });
    const columns = [chunk('image', 10n ** 9n), chunk('label', 45_200n)];
    const groups = [10_000_000n, 10_000_000n].map((rows) => ({ num_rows: rows, columns }));
    const metadata = { row_groups: groups } as unknown as Parameters<typeof bytesOf>[0];
    expect(secondsFor(bytesOf(metadata, 'label'))).toBeCloseTo(64, 0);
    expect(secondsFor(bytesOf(metadata, 'image'))).toBe(300);
  });

  it('with a count that is damaged keep neither the program nor its thread at work', async () => {
    const file = join(folder, 'endless.parquet');
    const images = Array.from({ length: 6 }, (_, i) => new Uint8Array(30).fill(i));
    const bytes = Buffer.from(
      parquetWriteBuffer({
        codec: 'UNCOMPRESSED',
        columnData: [{ name: 'image', data: images, type: 'BYTE_ARRAY', nullable: true }],
      }),
    );
    await writeFile(file, bytes);
    const metadata = await parquetMetadataAsync(await asyncBufferFromFile(file));
    expect(await readParquet({ path: file, metadata }, 'image')).toEqual(images);
    // a count of six, whose low byte now tells of more that follow
    bytes[bytes.indexOf('150c1500150c', 'hex') + 5] = 0xec;
    await writeFile(file, bytes);
    let turns = 0;
    const ticking = setInterval(() => turns++, 20);
    await expect(readParquet({ path: file, metadata }, 'image', 0.5)).rejects.toMatchObject({
      code: 'BAD_DATASET',
      message: expect.stringContaining('it would take longer than 0.5 seconds to decode') as unknown,
    });
    clearInterval(ticking);
    expect(turns).toBeGreaterThan(1);
  });

  it('of many small row groups are read by one thread, which does not keep the process', async () => {
    const file = join(folder, 'small-groups.parquet');
    const images = Array.from({ length: 60 }, (_, i) => new Uint8Array(30).fill(i));
    await writeParquet(
      file,
      images,
      images.map(() => 0),
      ['cat'],
    ); // 20 groups of three
    const index = pathToFileURL(join(await ensureBuilt(), 'dist', 'index.js')).href;
    const program = `
      import { Worker } from 'node:worker_threads';
      import { openImages } from ${JSON.stringify(index)};
      const source = await openImages(${JSON.stringify(file)}, { labels: 'folders' });
      await Promise.all(source.ids.map(async (_, i) => {
        if ((await source.read(i))[0] !== i) throw new Error('another image');
      }));
      const next = new Worker('', { eval: true });
      console.log(next.threadId);
    `;
    const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', program], {
      timeout: 200_000,
    });
    expect(stdout.trim()).toBe('2'); // so that there was one before it
  });

  it('are opened a few at a time, as a process may have so many open', async () => {
    const path = await newFolder();
    await writeParquet(join(path, '0.parquet'), [new Uint8Array(30)], [0], ['cat']);
    for (let i = 1; i < 600; i++) await link(join(path, '0.parquet'), join(path, `${i}.parquet`));
    const index = pathToFileURL(join(await ensureBuilt(), 'dist', 'index.js')).href;
    const program = `
      import { openImages } from ${JSON.stringify(index)};
      console.log((await openImages(${JSON.stringify(path)}, { labels: 'none' })).ids.length);
    `;
    const { stdout } = await promisify(execFile)(
      'bash',
      ['-c', 'ulimit -n 256; exec "$0" --input-type=module -e "$1"', process.execPath, program],
      { timeout: 200_000 },
    );
    expect(stdout.trim()).toBe('600');
  });

  it('that may not be read are not called damaged', async () => {
    const path = join(folder, 'closed-parquet');
    const file = join(path, 'a.parquet');
    await mkdir(path);
    await writeParquet(file, [await jpeg(1)], [0]);
    for (const [closed, mode] of [
      [file, 0],
      [path, 0o755],
      [folder, 0o755],
    ] as const)
      await chmod(closed, mode);
    await asUser(() =>
      expect(openImages(file)).rejects.toMatchObject({ code: 'BAD_FILE', mend: 'Check the file and its permissions' }),
    );
  });

  it('that tell of more rows than they have bytes are refused', async () => {
    const file = join(folder, 'many-rows.parquet');
    const bytes = Buffer.from(
      parquetWriteBuffer({ columnData: [{ name: 'image', data: [await jpeg(1)], type: 'BYTE_ARRAY' }] }),
    );
    const metadata = await parquetMetadataAsync(
      await (async () => {
        await writeFile(file, bytes);
        return asyncBufferFromFile(file);
      })(),
    );
    expect(() =>
      checkRowCounts(
        {
          ...metadata,
          num_rows: 10n ** 12n,
          row_groups: metadata.row_groups.map((group) => ({ ...group, num_rows: 10n ** 12n })),
        },
        bytes.length,
      ),
    ).toThrow('1000000000000 rows');
    expect(() => checkRowCounts({ ...metadata, num_rows: 2n }, bytes.length)).toThrow();
    expect(() => checkRowCounts(metadata, bytes.length)).not.toThrow();
  });

  it('may have more rows than bytes, where those repeat each other', async () => {
    const file = join(folder, 'repeats.parquet');
    const image = await jpeg(1);
    const data = Array<Uint8Array>(5000).fill(image);
    const bytes = Buffer.from(
      parquetWriteBuffer({ columnData: [{ name: 'image', data, type: 'BYTE_ARRAY' }], rowGroupSize: 2500 }),
    );
    expect(bytes.length).toBeLessThan(data.length);
    await writeFile(file, bytes);
    const source = await openImages(file);
    expect(source.ids).toHaveLength(5000);
    expect(Buffer.from(await source.read(4999)).equals(image)).toBe(true);
  });

  it('have images in a column {bytes, path}, labels, and their names in the metadata', async () => {
    const path = await newFolder();
    const images = await Promise.all(Array.from({ length: 8 }, (_, i) => jpeg(20 * i)));
    await writeParquet(
      join(path, 'train-00000-of-00002.parquet'),
      images.slice(0, 5),
      [0, 1, 0, 1, 2],
      ['cat', 'dog', 'owl'],
    );
    await writeParquet(join(path, 'train-00001-of-00002.parquet'), images.slice(5), [2, 2, 0], ['cat', 'dog', 'owl']);
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
    await writeFile(
      file,
      Buffer.from(
        parquetWriteBuffer({
          columnData: [
            { name: 'jpg', data: labels.map(() => new Uint8Array(1)), type: 'BYTE_ARRAY' },
            { name: 'label', data: labels, type: 'INT32' },
          ],
        }),
      ),
    );
    const source = await openImages(file, { labels: 'auto' });
    expect([source.classNames!.length, source.labels![0], source.labels!.at(-1)]).toEqual([130_000, 129_999, 0]);
  });

  it('may have plain bytes; -1 is no label; a row without an image is a broken one; others are refused', async () => {
    const file = join(folder, 'bytes.parquet');
    const image = await jpeg(7);
    await writeFile(
      file,
      Buffer.from(
        parquetWriteBuffer({
          columnData: [
            { name: 'jpg', data: [image, image], type: 'BYTE_ARRAY' },
            { name: 'label', data: [-1, -1], type: 'INT32' },
          ],
        }),
      ),
    );
    const source = await openImages(file, { labels: 'auto' });
    expect(source.labels).toBeUndefined();
    expect(Buffer.from(await source.read(1)).equals(image)).toBe(true);
    const holes = join(folder, 'holes.parquet');
    await writeParquet(holes, [image, null], [0, 0]);
    await expect((await openImages(holes)).read(1)).rejects.toMatchObject({ code: 'BAD_IMAGE' });
    const other = join(folder, 'other.parquet');
    await writeFile(other, Buffer.from(parquetWriteBuffer({ columnData: [{ name: 'text', data: ['a'] }] })));
    await expect(openImages(other)).rejects.toMatchObject({
      code: 'BAD_DATASET',
      message: expect.stringContaining('it has text') as string,
    });
    await writeFile(other, 'no parquet at all');
    await expect(openImages(other)).rejects.toMatchObject({
      code: 'BAD_DATASET',
      message: expect.stringContaining('other.parquet') as string,
    });
  });

  it('have no labels where one is null, and are refused where one has no name, if labels are asked for', async () => {
    const file = join(folder, 'labels.parquet');
    const image = new Uint8Array(1);
    const open = async (labels: (number | null)[], names?: string[]) => {
      await writeParquet(
        file,
        labels.map(() => image),
        labels,
        names,
      );
      return openImages(file, { labels: 'auto' });
    };
    const lacking = await open([1, null, 2], ['a', 'b', 'c']);
    expect(lacking.labels).toBeUndefined();
    expect(lacking.remarks).toEqual([`1 of the 3 images of ${file} have no label, so all count as unlabelled`]);
    await expect(openImages(file, { labels: 'folders' })).rejects.toMatchObject({
      code: 'BAD_DATASET',
      message: expect.stringContaining('1 of the 3 images') as string,
    });
    expect((await open([-1, null])).remarks).toBeUndefined();
    expect((await open([1, 0, 2], ['a', 'b', 'c', 'd'])).classNames).toEqual(['a', 'b', 'c', 'd']);
    await expect(open([1, 0, 3], ['a', 'b', 'c'])).rejects.toMatchObject({
      code: 'BAD_DATASET',
      message: expect.stringMatching(/row 2 of .*labels\.parquet has the label 3, and 3 classes have names/u) as string,
    });
    expect((await openImages(file)).ids).toHaveLength(3);
    await writeFile(
      file,
      Buffer.from(
        parquetWriteBuffer({
          columnData: [
            { name: 'jpg', data: [image, image], type: 'BYTE_ARRAY' },
            { name: 'label', data: ['cat', 'dog'] },
          ],
        }),
      ),
    );
    expect((await openImages(file)).remarks).toBeUndefined();
    await expect(openImages(file, { labels: 'folders' })).rejects.toMatchObject({
      code: 'BAD_DATASET',
      message: expect.stringContaining('the column label of') as string,
    });
    await expect(open([1, 2 ** 40])).rejects.toMatchObject({
      code: 'BAD_DATASET',
      message: expect.stringContaining(`the label ${2 ** 40}`) as string,
    });
  });
});
