import { execFile, execFileSync } from 'node:child_process';
import { chmod, link, mkdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import { asyncBufferFromFile, parquetMetadataAsync } from 'hyparquet';
import { parquetWriteBuffer } from 'hyparquet-writer';
import sharp from 'sharp';
import { create, Header } from 'tar';
import { describe, expect, it, vi } from 'vitest';
import { openImages } from '../../lib/data/open-images.js';
import { checkRows } from '../../lib/data/parquet.js';
import { readParquet } from '../../lib/data/parquet-thread.js';
import { ensureBuilt } from '../cli/built.js';
import { asUser, temporaryFolder } from '../fixtures/folder.js';
import { picture } from '../fixtures/images/draw.js';
import { plainPicture } from '../fixtures/tiny.js';

const folder = temporaryFolder();
const jpeg = (level: number) => picture(20, 16, [level, 0, 0]).jpeg().toBuffer();
let made = 0;
async function newFolder(): Promise<string> {
  const path = join(folder, `folder-${made++}`);
  await mkdir(path);
  return path;
}

/** A folder with one file of a letter at this path. */
async function unpacked(path: string): Promise<string> {
  const root = await newFolder();
  await mkdir(join(root, path, '..'), { recursive: true });
  await writeFile(join(root, path), 'x');
  return root;
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

const block = 512;
const padded = (bytes: Buffer) => Buffer.concat([bytes, Buffer.alloc(-bytes.length & (block - 1))]);
function memberBytes(path: string, content: Buffer): Buffer {
  const header = Buffer.alloc(block);
  new Header({ path, size: content.length, type: 'File', mode: 0o644, mtime: new Date(0) }).encode(header);
  return Buffer.concat([header, padded(content)]);
}

/** Writes a tar file with members that no folder could hold side by side. */
async function rawTar(
  file: string,
  members: readonly (readonly [string, Buffer | string])[],
  end = Buffer.alloc(2 * block),
): Promise<string> {
  await mkdir(join(file, '..'), { recursive: true });
  await writeFile(
    file,
    Buffer.concat([...members.map(([name, content]) => memberBytes(name, Buffer.from(content))), end]),
  );
  return file;
}

describe('tar shards', () => {
  const longName = `${'deep/'.repeat(40)}0002.jpg`; // more than a tar header holds
  it('are read in order, with labels and names', async () => {
    const path = await newFolder();
    const [a, b, c] = await Promise.all([jpeg(10), jpeg(20), jpeg(30)]);
    await tar(join(path, 'shard-000.tar'), {
      '0000.jpg': a,
      '0000.cls': '1\n',
      '0000.txt': 'a caption',
      'sub/0001.jpg': b,
      'sub/0001.cls': '0',
    });
    await tar(join(path, 'shard-001.tar'), {
      [longName]: c,
      [longName.replace('jpg', 'json')]: JSON.stringify({ label: 2, class_name: 'third' }),
    });
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
    const members = {
      'sub/0000.jpg': await jpeg(10),
      'sub/0000.cls': '1',
      'deep/er/0001.jpg': await jpeg(20),
      'deep/er/0001.cls': '0',
    };
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
    [
      'below folders that all lie in',
      ['photos/train/cat/1.jpg', 'photos/train/dog/2.jpg', 'photos/train/cat/deep/3.jpg'],
    ],
  ])('without labels have their folders for classes: %s', async (_, names) => {
    const image = await jpeg(1);
    const path = await newFolder();
    await mkdir(join(path, 'lost+found')); // of a disk that holds nothing but the shards
    const shards = [names.slice(0, 2), names.slice(2)];
    for (const [i, shard] of shards.entries())
      await tar(join(path, `${i}.tar`), Object.fromEntries(shard.map((name) => [name, image])));
    const source = await openImages(path, { labels: 'folders' });
    expect(source.classNames).toEqual(['cat', 'dog']);
    expect([...source.labels!]).toEqual([0, 1, 0]);
    await tar(join(path, '2.tar'), { 'loose.jpg': image });
    expect((await openImages(path, { labels: 'auto' })).labels).toBeUndefined();
  });

  it('whose folders number them have no classes, and one whose folders are numbers has', async () => {
    const [numbered, digits] = [await newFolder(), await newFolder()];
    const image = await jpeg(1);
    for (const name of ['000', '001'])
      await tar(join(numbered, `${name}.tar`), { [`${name}/a.jpg`]: image, [`${name}/b.jpg`]: image });
    await tar(join(digits, 'all.tar'), { '0/a.jpg': image, '1/b.jpg': image });
    expect((await openImages(numbered, { labels: 'auto' })).labels).toBeUndefined();
    expect((await openImages(digits, { labels: 'auto' })).classNames).toEqual(['0', '1']);
  });

  it('without labels have none; what is no tar, compressed, cut or empty is refused', async () => {
    const file = await tar(join(folder, 'plain.tar'), {
      'a.png': await picture(9, 9).png().toBuffer(),
      'b.jpg': await jpeg(1),
      'b.cls': '3',
    });
    expect((await openImages(file, { labels: 'auto' })).labels).toBeUndefined();
    await expect(openImages(file, { labels: 'folders' })).rejects.toMatchObject({
      code: 'BAD_DATASET',
      message: expect.stringContaining('no labels') as string,
    });
    const compressed = await tar(join(folder, 'compressed.tar'), { 'a.jpg': await jpeg(1) }, { gzip: true });
    const cut = join(folder, 'cut.tar');
    await writeFile(cut, (await plainPicture('red', 1)).subarray(0, 5));
    const empty = await tar(join(folder, 'empty.tar'), { 'a.txt': 'no picture' });
    const wrong = await tar(join(folder, 'wrong.tar'), { 'a.jpg': await jpeg(1), 'a.cls': 'cat' });
    for (const path of [compressed, cut, empty, wrong])
      await expect(openImages(path), path).rejects.toMatchObject({
        code: 'BAD_DATASET',
        mend: expect.any(String) as string,
      });
    await expect(openImages(join(folder, 'none-{0..2}.tar'))).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
  });

  it('keep every image whose name has several dots, with its own label', async () => {
    const images = await Promise.all([1, 2, 3].map(jpeg));
    const names = ['2024.01.00.jpg', '2024.01.01.jpg', 'IMG.v1.png'];
    const plain = await openImages(
      await rawTar(
        join(folder, 'dots.tar'),
        names.map((name, i) => [name, images[i]!]),
      ),
      { labels: 'auto' },
    );
    expect(plain.ids).toEqual(names.map((name) => `dots.tar/${name}`));
    expect(plain.remarks).toBeUndefined();
    expect(await Promise.all(names.map((_, i) => plain.read(i)))).toEqual(images);
    const members = [
      ['1.0.jpg', ''],
      ['1.0.cls', '4'],
      ['1.1.jpg', ''],
      ['1.1.cls', '2'],
      ['2.0.jpg', ''],
      ['2.0.json', '{"caption": "no label"}'],
      ['2.1.jpg', ''],
      ['2.cls', '3'],
      ['3.x.jpg', ''],
      ['3.y.cls', '1'],
    ] as const;
    const labelled = await openImages(await rawTar(join(folder, 'dotted-labels.tar'), members), { labels: 'folders' });
    expect([...labelled.labels!]).toEqual([4, 2, 3, 3, 1]);
  });

  it('leave out what stands beside the image of a sample, or comes again, and say so', async () => {
    const members = [
      ['7.depth.png', 'd'],
      ['7.jpg', 'first'],
      ['7.cls', '0'],
      ['7.png', 'mask'],
      ['a/8.jpg', '8'],
      ['a/8.cls', '1'],
      ['7.jpg', 'second'],
      ['7.cls', '2'],
    ] as const;
    const source = await openImages(await rawTar(join(folder, 'samples.tar'), members), { labels: 'folders' });
    expect(source.ids).toEqual(['samples.tar/7.jpg', 'samples.tar/a/8.jpg']);
    expect([...source.labels!]).toEqual([2, 1]);
    expect(Buffer.from(await source.read(0)).toString()).toBe('second');
    expect(source.remarks).toEqual([
      expect.stringMatching(
        /^2 images in .*samples\.tar are left out, such as samples\.tar\/7\.depth\.png: .*sample$/u,
      ),
      expect.stringMatching(/^1 images in .* such as samples\.tar\/7\.jpg: a later member has the same path$/u),
    ]);
  });

  it('leave out pictures of kinds that nothing here decodes, and say so, also where there are no others', async () => {
    const some = await openImages(
      await rawTar(join(folder, 'phone.tar'), [
        ['1.heic', 'h'],
        ['2.jpg', 'j'],
        ['3.HEIC', 'h'],
      ]),
    );
    expect([some.ids, some.remarks]).toEqual([
      ['phone.tar/2.jpg'],
      [expect.stringMatching(/^2 images in .*phone\.tar are left out, such as phone\.tar\/1\.heic: .*convert/u)],
    ]);
    await expect(
      openImages(
        await rawTar(join(folder, 'all.tar'), [
          ['1.heic', 'h'],
          ['2.jxl', 'j'],
        ]),
      ),
    ).rejects.toMatchObject({ code: 'BAD_DATASET', message: expect.stringContaining('2 images in') as string });
  });

  it('that cannot be looked at are not said to be missing', async () => {
    const circle = join(folder, 'circle.tar');
    await symlink('circle.tar', circle);
    await expect(openImages(circle)).rejects.toMatchObject({
      code: 'BAD_FILE',
      message: expect.stringContaining('ELOOP') as string,
    });
    await expect(openImages(join(folder, 'none.tar'))).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
  });

  it('leave out links, which have no bytes, and say so', async () => {
    const from = await newFolder();
    await writeFile(join(from, '1.jpg'), await jpeg(1));
    await link(join(from, '1.jpg'), join(from, '2.jpg'));
    await symlink('1.jpg', join(from, '3.jpg'));
    const file = join(folder, 'links.tar');
    execFileSync('tar', ['cf', file, '-C', from, '1.jpg', '2.jpg', '3.jpg']);
    const { ids, remarks } = await openImages(file);
    expect(ids).toEqual(['links.tar/1.jpg']);
    expect(remarks).toEqual([expect.stringMatching(/^2 images in .* such as links\.tar\/2\.jpg: they are links/u)]);
  });

  it('of the same name in several folders have ids that tell them apart', async () => {
    for (const part of [0, 1])
      await rawTar(join(folder, 'parts', `${part}`, 'x.tar'), [
        ['cat/a.jpg', `${part}`],
        ['dog/a.jpg', ''],
      ]);
    const source = await openImages(join(folder, 'parts', '{0..1}', 'x.tar'), { labels: 'auto' });
    expect(source.ids).toEqual(['0/x.tar/cat/a.jpg', '0/x.tar/dog/a.jpg', '1/x.tar/cat/a.jpg', '1/x.tar/dog/a.jpg']);
    expect(source.classNames).toEqual(['cat', 'dog']);
    for (const part of [0, 1]) await rawTar(join(folder, 'parts', `${part}`, `y${part}.tar`), [['a.jpg', '']]);
    expect((await openImages(join(folder, 'parts', '0', 'y{0..0}.tar'))).ids).toEqual(['y0.tar/a.jpg']);
  });

  it('are refused where they end within a header or a member, and taken for whole where they end after one', async () => {
    const [first, second] = [
      memberBytes('a.jpg', Buffer.from('a')),
      memberBytes(longName.slice(-90), Buffer.alloc(block + 1)),
    ];
    const whole = Buffer.concat([first, second]);
    const file = join(folder, 'ends.tar');
    for (const bytes of [
      1,
      100,
      511,
      block,
      block + 1,
      first.length + 1,
      first.length + 100,
      first.length + 511,
      first.length + block,
      whole.length - 1,
    ]) {
      await writeFile(file, whole.subarray(0, bytes));
      await expect(openImages(file), `${bytes} bytes`).rejects.toMatchObject({
        code: 'BAD_DATASET',
        message: expect.stringContaining(`${file} ends in the middle of`) as string,
      });
    }
    await writeFile(file, first);
    expect((await openImages(file)).ids).toEqual(['ends.tar/a.jpg']);
    const long = execFileSync('tar', ['cf', '-', '--format=gnu', '-C', await unpacked(longName), longName]);
    await writeFile(file, long.subarray(0, 2 * block)); // a header with the next member's name
    await expect(openImages(file)).rejects.toMatchObject({
      code: 'BAD_DATASET',
      message: expect.stringContaining('ends before the member') as string,
    });
  });

  it('are refused with the same words whatever else they are', async () => {
    const file = join(folder, 'other.tar');
    const noise = Buffer.from(Uint8Array.from({ length: 5000 }, (_, i) => (i * 2654435761) >>> 24));
    for (const first of [0x80, 0xff, 0x1f]) {
      noise.fill(first, 100, 160); // where a header has its numbers: in base 256 from 0x80 on
      await writeFile(file, noise);
      await expect(openImages(file)).rejects.toMatchObject({
        code: 'BAD_DATASET',
        message: expect.stringContaining('is no tar file, or damaged: there is no header at byte 0') as string,
      });
    }
  });

  it('are refused where a label is no number of a class, if labels are asked for', async () => {
    const file = await rawTar(join(folder, 'hashes.tar'), [
      ['a.jpg', ''],
      ['a.cls', '99999999999'],
    ]);
    expect((await openImages(file)).ids).toHaveLength(1);
    await expect(openImages(file, { labels: 'folders' })).rejects.toMatchObject({
      code: 'BAD_DATASET',
      message: expect.stringContaining('the label 99999999999') as string,
    });
  });
});

describe("CIFAR's binary files", () => {
  /** `count` records; record i has the label i % 5 and pixels (i, channel * 50, x). */
  const records = (count: number, labelBytes: number) =>
    Buffer.concat(
      Array.from({ length: count }, (_, i) =>
        Buffer.concat([
          Buffer.from([9, i % 5].slice(2 - labelBytes)),
          Buffer.from(Uint8Array.from({ length: 3072 }, (__, at) => (at < 1024 ? i : at < 2048 ? 50 : at % 32))),
        ]),
      ),
    );

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
    const { data, info } = await sharp(await source.read(6))
      .raw()
      .toBuffer({ resolveWithObject: true });
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
    await expect(openImages(path)).rejects.toMatchObject({
      code: 'BAD_DATASET',
      message: expect.stringContaining('3074') as string,
    });
    await writeFile(join(path, 'train.bin'), records(6, 2));
    for (const [closed, mode] of [
      [join(path, 'train.bin'), 0],
      [path, 0o755],
      [folder, 0o755],
    ] as const)
      await chmod(closed, mode);
    await asUser(() =>
      expect(openImages(path)).rejects.toMatchObject({
        code: 'BAD_FILE',
        message: expect.stringContaining(`cannot read ${join(path, 'train.bin')}`) as string,
      }),
    );
  });
});

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
    expect(turns).toBeGreaterThan(5);
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
      timeout: 30_000,
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
      { timeout: 30_000 },
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
      checkRows(
        {
          ...metadata,
          num_rows: 10n ** 12n,
          row_groups: metadata.row_groups.map((group) => ({ ...group, num_rows: 10n ** 12n })),
        },
        bytes.length,
      ),
    ).toThrow('1000000000000 rows');
    expect(() => checkRows({ ...metadata, num_rows: 2n }, bytes.length)).toThrow();
    expect(() => checkRows(metadata, bytes.length)).not.toThrow();
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
