import { chmod, mkdir, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { isNotOfTheImage } from '../../lib/data/read-patiently.js';
import { openImageFolder } from '../../lib/data/image-folder.js';
import { imagesFromBuffers, sampleSource } from '../../lib/data/sources.js';
import { asUser, temporaryFolder } from '../fixtures/folder.js';

const root = temporaryFolder();

async function folderOf(name: string, files: readonly string[]): Promise<string> {
  const folder = join(root, name);
  await mkdir(folder, { recursive: true });
  for (const file of files) {
    await mkdir(dirname(join(folder, file)), { recursive: true });
    await writeFile(join(folder, file), file);
  }
  return folder;
}

describe('openImageFolder', () => {
  it('finds images at any depth, sorted, and nothing else', async () => {
    const folder = await folderOf('deep', [
      'b.JPG',
      'a/z.png',
      'a/deep/er/y.webp',
      'notes.txt',
      '.hidden.png',
      '.thumbs/x.jpg',
      'lost+found/x.jpg',
      'Z.gif',
      'a.tiff',
      'é.avif',
      'x.svg',
      'x.jpeg',
    ]);
    const source = await openImageFolder(folder);
    expect(source.ids).toEqual([
      'Z.gif',
      'a.tiff',
      'a/deep/er/y.webp',
      'a/z.png',
      'b.JPG',
      'x.jpeg',
      'x.svg',
      'é.avif',
    ]);
    expect(source.labels).toBeUndefined();
    expect((await source.read(3)).toString()).toBe('a/z.png');
  });

  it('says that pictures of kinds that are not read take no part', async () => {
    const { ids, remarks } = await openImageFolder(
      await folderOf('phone', ['a/1.HEIC', 'a/2.heic', 'a/3.jpg', 'b/4.bmp', 'b/notes.txt', 'all.zip']),
    );
    expect(ids).toEqual(['a/3.jpg']);
    expect(remarks).toEqual([expect.stringMatching(/phone: 1 \.bmp, 2 \.heic, 1 \.zip left out: not among/u)]);
  });

  it('labels by first-level folder', async () => {
    const folder = await folderOf('classes', [
      'dog/1.jpg',
      'dog/more/2.jpg',
      'cat/1.jpg',
      'empty/readme.md',
      'ant hill/3.png',
    ]);
    const source = await openImageFolder(folder, { labels: 'folders' });
    expect(source.classNames).toEqual(['ant hill', 'cat', 'dog']);
    expect(source.ids.map((id, i) => [id, source.labels![i]])).toEqual([
      ['ant hill/3.png', 0],
      ['cat/1.jpg', 1],
      ['dog/1.jpg', 2],
      ['dog/more/2.jpg', 2],
    ]);
  });

  it('refuses images outside the class folders when there must be labels', async () => {
    const folder = await folderOf('loose', ['dog/1.jpg', 'stray.jpg']);
    await expect(openImageFolder(folder, { labels: 'folders' })).rejects.toMatchObject({
      code: 'BAD_DATASET',
      message: expect.stringContaining('stray.jpg'),
    });
  });

  it('follows links once, and survives circles and broken links', async () => {
    const folder = await folderOf('links', ['real/1.jpg']);
    const elsewhere = await folderOf('elsewhere', ['2.jpg']);
    await symlink(folder, join(folder, 'real', 'up'));
    await symlink(elsewhere, join(folder, 'other'));
    await symlink(join(elsewhere, '2.jpg'), join(folder, 'linked.jpg'));
    await symlink(join(folder, 'nowhere.jpg'), join(folder, 'broken.jpg'));
    expect((await openImageFolder(folder)).ids).toEqual(['linked.jpg', 'other/2.jpg', 'real/1.jpg']);
    const throughLink = join(root, 'link-to-links');
    await symlink(folder, throughLink);
    expect((await openImageFolder(throughLink)).ids).toHaveLength(3);
  });

  it('says of a file, and of a folder, that its name is not UTF-8', async () => {
    const folder = await folderOf('latin1', ['good.jpg']);
    const latin1 = (name: string) => Buffer.from(join(folder, name), 'latin1');
    await writeFile(latin1('caf\u00e9.jpg'), 'x');
    const source = await openImageFolder(folder);
    expect(source.ids).toEqual(['caf\uFFFD.jpg', 'good.jpg']);
    const error = await source.read(0).then(
      () => undefined,
      (cause: unknown) => cause,
    );
    expect(error).toMatchObject({
      code: 'BAD_IMAGE',
      message: expect.stringContaining('not UTF-8') as string,
      mend: 'Rename it',
    });
    expect(isNotOfTheImage(error)).toBe(false);
    await rm(join(folder, 'good.jpg'));
    await expect(source.read(1)).rejects.toMatchObject({ code: 'ENOENT' });
    await mkdir(latin1('caf\u00e9'));
    await expect(openImageFolder(folder)).rejects.toMatchObject({
      code: 'BAD_DATASET',
      message: expect.stringMatching(/caf\uFFFD: its name is not UTF-8/u) as string,
    });
  });

  it('says of a folder that its path is longer than the system takes', async () => {
    const [folder, half] = await Promise.all(['long', 'half'].map(async (name) => folderOf(name, ['good.jpg'])));
    const below = Array.from({ length: 9 }, () => 'x'.repeat(240)).join('/');
    for (const start of [folder!, half!]) await mkdir(join(start, below), { recursive: true });
    await rename(half!, join(folder!, below, 'half'));
    await expect(openImageFolder(folder!)).rejects.toMatchObject({
      code: 'BAD_DATASET',
      message: expect.stringContaining('its path is too long') as string,
    });
    await rename(join(folder!, below, 'half'), half!); // or nothing removes it
  });

  it('says which folder it may list but not enter', async () => {
    const folder = await folderOf('closed', ['cat/1.jpg']);
    await chmod(root, 0o755);
    await chmod(folder, 0o444);
    await asUser(() =>
      expect(openImageFolder(folder)).rejects.toMatchObject({
        code: 'BAD_DATASET',
        message: expect.stringContaining(`cannot read the folder ${join(folder, 'cat')}`) as string,
        mend: 'Check its permissions',
      }),
    );
    await chmod(folder, 0o755);
  });

  it('explains what is wrong with a path', async () => {
    await expect(openImageFolder(join(root, 'missing'))).rejects.toMatchObject({
      code: 'FILE_NOT_FOUND',
      mend: 'Check the path',
    });
    await expect(openImageFolder('no-such-folder')).rejects.toMatchObject({
      mend: 'Check the path; it is relative to the current folder',
    });
    const folder = await folderOf('none', ['a.txt', 'b.txt', 'c.bmp', 'README']);
    await expect(openImageFolder(join(folder, 'a.txt'))).rejects.toMatchObject({
      code: 'BAD_DATASET',
      message: expect.stringContaining('is a file'),
    });
    await expect(openImageFolder(join(folder, 'a.txt', 'below'))).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
    await expect(openImageFolder(folder)).rejects.toMatchObject({
      code: 'BAD_DATASET',
      message: expect.stringMatching(/2 \.txt.*1 \.bmp|2 \.txt, 1 no ending/),
    });
    await expect(openImageFolder(await folderOf('empty', []))).rejects.toMatchObject({
      code: 'BAD_DATASET',
      message: expect.stringContaining('empty'),
    });
  });

  it('stops on a signal', async () => {
    await expect(openImageFolder(root, { signal: AbortSignal.abort() })).rejects.toMatchObject({ code: 'ABORTED' });
  });
});

describe('imagesFromBuffers', () => {
  const bytes = Uint8Array.of(1, 2, 3);

  it('keeps order, bytes and labels', async () => {
    const source = imagesFromBuffers(
      [
        { id: 'b', bytes: new Uint8Array(bytes.buffer, 1, 2), label: 1 },
        { id: 'a', bytes, label: 0 },
      ],
      ['x', 'y'],
    );
    expect(source.ids).toEqual(['b', 'a']);
    expect(source.labels).toEqual(Int32Array.of(1, 0));
    expect([...(await source.read(0))]).toEqual([2, 3]);
  });

  it('refuses labels that say nothing', () => {
    const refuse = (...args: Parameters<typeof imagesFromBuffers>) =>
      expect(() => imagesFromBuffers(...args)).toThrow(expect.objectContaining({ code: 'BAD_DATASET' }));
    refuse([]);
    refuse([{ id: 'a', bytes, label: 0 }]);
    refuse(
      [
        { id: 'a', bytes, label: 0 },
        { id: 'b', bytes },
      ],
      ['x'],
    );
    refuse([{ id: 'a', bytes, label: 1 }], ['x']);
    refuse([{ id: 'a', bytes, label: 0.5 }], ['x', 'y']);
  });
});

describe('sampleSource', () => {
  const images = Array.from({ length: 10 }, (_, i) => ({ id: String(i), bytes: Uint8Array.of(i), label: i % 2 }));

  it('takes images evenly, with their labels and bytes', async () => {
    const sample = sampleSource(imagesFromBuffers(images, ['even', 'odd']), 4);
    expect(sample.ids).toEqual(['0', '2', '5', '7']);
    expect(sample.labels).toEqual(Int32Array.of(0, 0, 1, 1));
    expect(sample.classNames).toEqual(['even', 'odd']);
    expect([...(await sample.read(2))]).toEqual([5]);
  });

  it('leaves a small source as it is', () => {
    const source = imagesFromBuffers(images.map(({ id, bytes }) => ({ id, bytes })));
    expect(sampleSource(source, 10)).toBe(source);
    expect(sampleSource(source, 3).labels).toBeUndefined();
  });
});
