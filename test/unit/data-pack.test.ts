import { copyFile, readFile, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import CRC32C from 'crc-32/crc32c.js';
import sharp from 'sharp';
import { beforeAll, describe, expect, it } from 'vitest';
import { loadAddon } from '../../lib/addon/addon.js';
import { ImageCache, type ImageCacheOptions } from '../../lib/data/cache.js';
import { openImages } from '../../lib/data/open-images.js';
import { decodeIndex, encodeEnd } from '../../lib/data/pack/format.js';
import type { PackOptions } from '../../lib/data/pack/pack.js';
import { PackFile } from '../../lib/data/pack/reader.js';
import { imagesFromBuffers, sampleSource, type ImageSource } from '../../lib/data/sources.js';
import { StreamedImages } from '../../lib/data/streamed.js';
import { readViews } from '../../lib/data/views.js';
import { Device, openDevice } from '../../lib/device.js';
import { replaceOpenFile } from '../fixtures/open-file.js';
import { Packs } from '../fixtures/packs.js';

const addon = loadAddon();
const packs = new Packs();
const { broken, data, folder, output, pack } = packs;
const options: ImageCacheOptions = {
  device: await openDevice('cpu'),
  resolution: 24,
  margin: 1.25,
  memoryLimitBytes: 1e9,
  spillFolder: folder,
  maxBrokenShare: 0.5,
};
const rawSide = 30; // what such a cache keeps
let device: Device;
beforeAll(async () => {
  device = await openDevice('cpu');
});

/** Augmented views of all images of a source, and what is known of them. */
async function views(
  from: ImageSource,
): Promise<{ values: Float32Array; ids: readonly string[]; places: number[]; labels: number[]; fileBytes: number[] }> {
  using images = await ImageCache.build(from, options);
  const batch = { images: Int32Array.from(images.ids, (_, i) => i), drawIds: images.sourceIndex, seed: 5, epoch: 2 };
  const values = await readViews(images, batch, { device, resolution: 24, mean: [0, 0, 0], std: [1, 1, 1] });
  return {
    values,
    ids: images.ids,
    places: [...images.sourceIndex],
    labels: [...images.labels!],
    fileBytes: [...images.fileBytes],
  };
}

describe('a pack', () => {
  it('keeps names, labels, places and files, and tells what was refused', async () => {
    const { file, images, refused, resumed, bytes } = await pack();
    expect({ images, resumed }).toEqual({ images: 12, resumed: 0 });
    expect(bytes).toBe((await readFile(file)).byteLength);
    expect(refused).toEqual([{ id: broken, reason: expect.stringMatching(/unsupported/u) as string }]);
    const { index, ...opened } = await PackFile.open(file);
    expect(opened.path).toBe(file);
    expect(index).toMatchObject({
      recipe: { kind: 'original', shortSide: 0, quality: 0 },
      classNames: ['left', 'right'],
      source: data,
      refused,
    });
    const kept = packs.source.ids.flatMap((id, place) => (id === broken ? [] : [place]));
    expect(index.ids).toEqual(kept.map((place) => packs.source.ids[place]));
    expect([...index.places]).toEqual(kept);
    expect([...index.labels!]).toEqual(kept.map((place) => packs.source.labels![place]));
    const reopened = await openImages(file, { labels: 'folders' });
    for (const [i, place] of kept.entries())
      expect(Buffer.from(await reopened.read(i)).equals(await packs.source.read(place)), packs.source.ids[place]).toBe(
        true,
      );
    expect([index.widths[1], index.heights[1]]).toEqual([43, 62]);
    expect([index.widths[2], index.heights[2]]).toEqual([60, 46]); // upright
    expect(index.checksums[0]).toBe(CRC32C.buf(await packs.source.read(0)) >>> 0);
    expect((await openImages(file)).labels).toBeUndefined();
  });

  it('has plain names of images whatever the source calls them, that of an old pack too', async () => {
    const bytes = await packs.source.read(0);
    const named = imagesFromBuffers([
      { id: './a/1.png', bytes },
      { id: 's.tar/./2.png', bytes },
      { id: './bad.png', bytes: Buffer.from('no picture') },
      { id: 'b./3.png', bytes },
    ]);
    const { file, refused } = await pack({}, named);
    expect((await openImages(file)).ids).toEqual(['a/1.png', 's.tar/2.png', 'b./3.png']);
    expect(refused.map(({ id }) => id)).toEqual(['bad.png']);
    const opened = await openImages(file);
    // as packs of `tar c .` were written
    const older: ImageSource = { ...opened, ids: opened.ids.map((id) => `./${id}`) };
    expect((await openImages((await pack({}, older)).file)).ids).toEqual(opened.ids);
  });

  it('gives the same bits as the folder: raw pixels where they lie, files decoded', async () => {
    const unpacked = await views(packs.source);
    for (const as of ['raw', 'original'] as const) {
      const { file } = await pack({ as, ...(as === 'raw' && { shortSide: rawSide }) });
      expect(await views(await openImages(file, { labels: 'folders' })), as).toEqual(unpacked);
      if (as === 'raw')
        expect(addon.pixelStoreInfo((await ImageCache.build(await openImages(file), options)).store)).toMatchObject({
          images: 12,
          bytes: 0,
        });
    }
  });

  it('is the same file for the same images', async () => {
    for (const as of ['original', 'jpeg', 'raw'] as const) {
      const [a, b] = [await pack({ as }), await pack({ as })];
      expect((await readFile(a.file)).equals(await readFile(b.file)), as).toBe(true);
    }
  });

  it('of JPEGs has them at the short side asked for; one that is small enough stays as it is', async () => {
    const { file } = await pack({ as: 'jpeg', shortSide: 50, quality: 80 });
    const small = await openImages(file);
    for (const [i, id] of small.ids.entries()) {
      const [before, after] = [await packs.source.read(packs.source.ids.indexOf(id)), await small.read(i)];
      const {
        autoOrient: { width, height },
      } = await sharp(before).metadata();
      expect(await sharp(after).metadata(), id).toMatchObject({ format: 'jpeg' });
      const { autoOrient: now } = await sharp(after).metadata();
      expect(Math.min(now.width, now.height)).toBe(Math.min(50, width, height));
      if (id.endsWith('jpg') && Math.min(width, height) <= 50) expect(Buffer.from(after).equals(before)).toBe(true);
    }
    await expect(ImageCache.build(small, { ...options, resolution: 51 })).rejects.toMatchObject({
      code: 'BAD_DATASET',
      found: 51,
      option: 'data.resolution',
    });
  });

  it('can be packed again, and looked at in part', async () => {
    const { file } = await pack({ as: 'raw', shortSide: rawSide });
    const raw = await openImages(file, { labels: 'folders' });
    const again = await pack({ as: 'raw', shortSide: rawSide }, raw);
    expect([...(await PackFile.open(again.file)).index.checksums]).toEqual([
      ...(await PackFile.open(file)).index.checksums,
    ]);
    using some = await ImageCache.build(sampleSource(raw, 4), options);
    expect(some.ids).toEqual([0, 3, 6, 9].map((i) => raw.ids[i]));
    expect([...some.sourceIndex]).toEqual([0, 3, 6, 9].map((i) => raw.places![i]));
  });

  it('is read by several at once', async () => {
    const { file } = await pack({ as: 'raw', shortSide: rawSide });
    const expected = await views(await openImages(file, { labels: 'folders' }));
    const readers = await Promise.all(Array.from({ length: 6 }, () => openImages(file, { labels: 'folders' })));
    for (const found of await Promise.all(readers.map(views))) expect(found).toEqual(expected);
    const files = await Promise.all(readers.flatMap(({ pack: opened }) => [0, 5, 11].map((i) => opened!.readEntry(i))));
    expect(files.every((bytes, i) => Buffer.from(bytes).equals(files[i % 3]!))).toBe(true);
  });

  it('is streamed with the same bits too', async () => {
    const { file } = await pack();
    const from = await openImages(file);
    using cached = await ImageCache.build(from, options);
    using streamed = await StreamedImages.open(from, options);
    const batch = { images: Int32Array.of(7, 2, 9, 2), drawIds: Int32Array.of(8, 2, 10, 2), seed: 1, epoch: 0 };
    const recipe = { device, resolution: 24, mean: [0, 0, 0] as const, std: [1, 1, 1] as const };
    const { store, release } = await streamed.prepare(batch.images);
    expect(await readViews({ store }, batch, recipe as never)).toEqual(await readViews(cached, batch, recipe as never));
    release();
  });
});

describe('damage', () => {
  it('of an index whose checksum is right is found when the pack is opened', async () => {
    const good = { place: 0, offset: 64, bytes: 12, checksum: 1, width: 2, height: 2, fileBytes: 9 };
    const index = {
      recipe: { kind: 'raw' as const, shortSide: 2, quality: 0 },
      ids: ['a', 'b'],
      labels: Int32Array.of(0, 1),
      classNames: ['x', 'y'],
      source: 's',
      refused: [],
      entries: [good, { ...good, place: 1, offset: 76 }],
    };
    const end = 88;
    const opened = (change: object, footer: object = {}) => {
      const block = Buffer.concat(encodeEnd({ ...index, ...change } as typeof index, end, addon.checksum).slice(0, -1));
      return decodeIndex(
        block,
        { indexOffset: end, indexBytes: block.byteLength, indexChecksum: addon.checksum(block), images: 2, ...footer },
        index.recipe,
        'x.pack',
        addon.checksum,
      );
    };
    expect(await opened({})).toMatchObject({ ids: ['a', 'b'], classNames: ['x', 'y'] });
    const entry = (change: object) => ({ entries: [good, { ...good, place: 1, offset: 76, ...change }] });
    const cases: [change: object, said: string, footer?: object][] = [
      [{}, 'no name_start of 9007199254740991 images', { images: Number.MAX_SAFE_INTEGER }],
      ...[{ offset: NaN }, { offset: 0 }, { offset: 80 }, { width: 0 }, { height: 3 }, { bytes: -1 }].map(
        (change): [object, string] => [entry(change), 'no place or size of image 1'],
      ),
      [{ labels: Int32Array.of(0, 2) }, 'a label that is no class'],
      [{ classNames: 'x' }, 'the classNames of its index are no list'],
      [{ refused: [{ id: 1 }] }, 'the refused of its index are no list'],
    ];
    for (const [change, said, footer] of cases)
      await expect(opened(change, footer), said).rejects.toMatchObject({
        code: 'BAD_FILE',
        message: expect.stringContaining(said) as string,
      });
  });

  const flip = async (file: string, at: number): Promise<string> => {
    const bytes = await readFile(file);
    bytes[at]! ^= 16;
    const damaged = output();
    await writeFile(damaged, bytes);
    return damaged;
  };

  it('of an image is found when it is read, by verify, and before raw pixels are used; the image is named', async () => {
    for (const as of ['original', 'raw'] as const) {
      const { file } = await pack({ as, ...(as === 'raw' && { shortSide: rawSide }) });
      const { index } = await PackFile.open(file);
      const wrong = await flip(file, index.offsets[4]! + index.bytes[4]! - 1);
      const opened = await PackFile.open(wrong);
      await expect(opened.readEntry(4)).rejects.toMatchObject({
        code: 'BAD_FILE',
        message: expect.stringContaining(index.ids[4]!) as string,
      });
      expect(await opened.verify()).toEqual([
        { id: index.ids[4], reason: expect.stringContaining('not what was written') as string },
      ]);
      expect(await (await PackFile.open(file)).verify()).toEqual([]);
      const read = views(await openImages(wrong, { labels: 'folders' }));
      if (as === 'raw')
        await expect(read).rejects.toMatchObject({
          code: 'BAD_FILE',
          message: expect.stringContaining(index.ids[4]!) as string,
        });
      else expect((await read).ids).not.toContain(index.ids[4]);
      device.dispose();
      device = await openDevice('cpu'); // it keeps an error until somebody heard of it
    }
  });

  it('of header, index or footer, and a missing end, keep a pack from being opened', async () => {
    const { file } = await pack();
    const size = (await readFile(file)).byteLength;
    for (const at of [2, 9, 15, 61, size - 1, size - 14, size - 30, size - 60, size - 100, size - 900]) {
      await expect(PackFile.open(await flip(file, at)), String(at)).rejects.toMatchObject({ code: 'BAD_FILE' });
    }
    for (const length of [0, 10, 64, 128, 1000, size - 64, size - 1]) {
      const cut = output();
      await copyFile(file, cut);
      await truncate(cut, length);
      await expect(openImages(cut), String(length)).rejects.toMatchObject({ code: 'BAD_FILE' });
    }
    await expect(PackFile.open(join(data, 'left'))).rejects.toMatchObject({
      code: 'BAD_FILE',
      message: expect.stringContaining('left is a folder') as string,
    });
    await expect(PackFile.open('/dev/null')).rejects.toMatchObject({
      code: 'BAD_FILE',
      message: expect.stringContaining('/dev/null is no regular file') as string,
    });
    await expect(PackFile.open(join(folder, 'none.pack'))).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
  });

  it('a file that is cut while its pixels are in use is an error, not the end of the process', async () => {
    const { file } = await pack({ as: 'raw', shortSide: rawSide });
    using images = await ImageCache.build(await openImages(file), options);
    await truncate(file, 4096);
    const batch = { images: Int32Array.of(9), drawIds: Int32Array.of(9), seed: 0, epoch: 0 };
    images.prepare(batch.images);
    await expect(
      readViews(images, batch, { device, resolution: 24, mean: [0, 0, 0], std: [1, 1, 1] }),
    ).rejects.toMatchObject({ code: 'BAD_FILE', message: expect.stringContaining('shorter') as string });
    device.dispose();
    device = await openDevice('cpu');
  });

  it('a file whose length the system does not tell any more is an error with its reason', async () => {
    const { file } = await pack({ as: 'raw', shortSide: rawSide });
    using images = await ImageCache.build(await openImages(file), options);
    replaceOpenFile(file, join(folder, 'pipe'));
    const batch = { images: Int32Array.of(9), drawIds: Int32Array.of(9), seed: 0, epoch: 0 };
    await expect(
      readViews(images, batch, { device, resolution: 24, mean: [0, 0, 0], std: [1, 1, 1] }),
    ).rejects.toMatchObject({ code: 'BAD_FILE', message: expect.stringContaining('Illegal seek') as string });
    device.dispose();
    device = await openDevice('cpu');
  });
});

it('refuses wrong options, too many broken images, and places that cannot be written', async () => {
  for (const more of [
    { as: 'tiff' },
    { shortSide: 100 },
    { as: 'raw', shortSide: 8 },
    { as: 'jpeg', quality: 101 },
    { maxBrokenShare: 2 },
  ] as Partial<PackOptions>[]) {
    await expect(pack(more), JSON.stringify(more)).rejects.toMatchObject({ code: 'BAD_OPTION' });
  }
  await expect(pack({ maxBrokenShare: 0.01 })).rejects.toMatchObject({
    code: 'TOO_MANY_BROKEN_IMAGES',
    message: expect.stringContaining('1 of the first 13') as string,
    mend: expect.stringContaining('--overwrite') as string,
  });
  await expect(pack({}, imagesFromBuffers([{ id: 'a', bytes: Buffer.from('x') }]))).rejects.toMatchObject({
    code: 'BAD_DATASET',
  });
  await expect(pack({ output: '/proc/no/such.pack' })).rejects.toMatchObject({ code: 'NOT_WRITABLE' });
  await expect(
    openImages((await pack({}, { ...packs.source, labels: undefined, classNames: undefined })).file, {
      labels: 'folders',
    }),
  ).rejects.toMatchObject({ code: 'BAD_DATASET' });
});
