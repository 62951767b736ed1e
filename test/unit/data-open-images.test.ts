/** What openImages() takes a path for: tar shards, CIFAR's binary files, folders. */
import { execFileSync } from 'node:child_process';
import { chmod, link, mkdir, mkdtemp, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import sharp from 'sharp';
import { create, Header } from 'tar';
import { describe, expect, it } from 'vitest';
import { openImages } from '../../lib/data/open-images.js';
import { asUser, temporaryFolder } from '../fixtures/folder.js';
import { picture } from '../fixtures/images/draw.js';
import { plainPicture } from '../fixtures/tiny.js';

const folder = temporaryFolder();
const jpeg = (level: number) => picture(20, 16, [level, 0, 0]).jpeg().toBuffer();
const newFolder = () => mkdtemp(join(folder, 'folder-'));

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
      expect.stringMatching(
        /^1 image in .* is left out, such as samples\.tar\/7\.jpg: a later member has the same path$/u,
      ),
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
      message: expect.stringContaining('circle.tar: its symbolic links lead round in a circle') as string,
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
