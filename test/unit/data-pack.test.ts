import { copyFile, mkdir, readFile, readdir, readlink, rm, symlink, truncate, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import CRC32C from 'crc-32/crc32c.js';
import sharp from 'sharp';
import { beforeAll, describe, expect, it, vi } from 'vitest';
import { loadAddon } from '../../lib/addon/addon.js';
import { ImageCache, type ImageCacheOptions } from '../../lib/data/cache.js';
import { decodeImage } from '../../lib/data/decode.js';
import { readJpegHeader } from '../../lib/data/jpeg-header.js';
import { openImages } from '../../lib/data/open-images.js';
import { decodeIndex, encodeEnd } from '../../lib/data/pack/format.js';
import { Journal, readJournal } from '../../lib/data/pack/journal.js';
import { packImages, type PackOptions } from '../../lib/data/pack/pack.js';
import { PackFile } from '../../lib/data/pack/reader.js';
import { PackWriter } from '../../lib/data/pack/writer.js';
import { imagesFromBuffers, sampleSource, type ImageSource } from '../../lib/data/sources.js';
import { StreamedImages } from '../../lib/data/streamed.js';
import { readViews } from '../../lib/data/views.js';
import { Device, openDevice } from '../../lib/device.js';
import { syncFile } from '../../lib/files/sync.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { picture } from '../fixtures/images/draw.js';

vi.mock('../../lib/files/sync.js', { spy: true });

const addon = loadAddon();
const folder = temporaryFolder();
const data = join(folder, 'data');
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
let source: ImageSource;
let packs = 0;
const output = () => join(folder, `${packs++}.pack`);

beforeAll(async () => {
  device = await openDevice('cpu');
  for (const name of ['left', 'right']) await mkdir(join(data, name), { recursive: true });
  for (let i = 0; i < 12; i++) {
    const image = picture(40 + 3 * i, 64 - 2 * i, [20 * i, 40, 40], [40, 180, 10 * i]);
    const bytes =
      i % 3 === 0
        ? await image.png().toBuffer()
        : await image
            .withMetadata(i % 3 === 1 ? {} : { orientation: 6 })
            .jpeg({ quality: 92 })
            .toBuffer();
    await writeFile(
      join(data, i < 5 ? 'left' : 'right', `${String(i).padStart(2, '0')} ü.${i % 3 === 0 ? 'png' : 'jpg'}`),
      bytes,
    );
  }
  await writeFile(join(data, 'left', '03b broken.jpg'), 'no picture');
  source = await openImages(data, { labels: 'folders' });
});

const pack = (more: Partial<PackOptions> = {}, from = source) =>
  packImages(from, { output: output(), maxBrokenShare: 0.5, ...more });
const broken = 'left/03b broken.jpg';

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
    const kept = source.ids.flatMap((id, place) => (id === broken ? [] : [place]));
    expect(index.ids).toEqual(kept.map((place) => source.ids[place]));
    expect([...index.places]).toEqual(kept);
    expect([...index.labels!]).toEqual(kept.map((place) => source.labels![place]));
    const reopened = await openImages(file, { labels: 'folders' });
    for (const [i, place] of kept.entries())
      expect(Buffer.from(await reopened.read(i)).equals(await source.read(place)), source.ids[place]).toBe(true);
    expect([index.widths[1], index.heights[1]]).toEqual([43, 62]);
    expect([index.widths[2], index.heights[2]]).toEqual([60, 46]); // upright
    expect(index.checksums[0]).toBe(CRC32C.buf(await source.read(0)) >>> 0);
    expect((await openImages(file)).labels).toBeUndefined();
  });

  it('has plain names of images whatever the source calls them, that of an old pack too', async () => {
    const bytes = await source.read(0);
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
    const unpacked = await views(source);
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
      const [before, after] = [await source.read(source.ids.indexOf(id)), await small.read(i)];
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
});

describe('an interruption', () => {
  /** Stops after some images, as Ctrl-C does. */
  async function stopAfter(images: number, more: Partial<PackOptions> & { output: string }): Promise<void> {
    const controller = new AbortController();
    const slow: ImageSource = {
      ...source,
      read: async (index) => {
        if (index >= images) controller.abort();
        return source.read(index);
      },
    };
    await expect(pack({ ...more, signal: controller.signal }, slow)).rejects.toMatchObject({ code: 'ABORTED' });
  }

  it('leaves no pack; the same call goes on and writes the same file', async () => {
    for (const as of ['original', 'jpeg', 'raw'] as const) {
      const whole = await pack({ as });
      const path = output();
      await stopAfter(6, { output: path, as });
      expect((await readdir(folder)).filter((name) => join(folder, name).startsWith(path)).sort()).toEqual(
        [`${path}.journal`, `${path}.part`].map((name) => name.slice(folder.length + 1)),
      );
      await expect(openImages(path)).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
      await expect(PackFile.open(`${path}.part`)).rejects.toMatchObject({ code: 'BAD_FILE' });
      // As after a power cut: more bytes than the journal tells of, and half a line.
      await writeFile(`${path}.part`, 'not recorded', { flag: 'a' });
      await writeFile(`${path}.journal`, '[7,123', { flag: 'a' });
      const { resumed } = await pack({ output: path, as });
      expect(resumed).toBeGreaterThan(0);
      expect((await readFile(path)).equals(await readFile(whole.file)), as).toBe(true);
      expect((await readdir(folder)).filter((name) => /part|journal|lock/u.test(name))).toEqual([]);
      await writeFile(`${path}.journal`, 'of a writer that was killed when the pack had its name');
      await expect(pack({ output: path, as })).rejects.toMatchObject({ code: 'BAD_OPTION', option: 'output' });
      expect((await readdir(folder)).filter((name) => /journal/u.test(name))).toEqual([]);
    }
  });

  it('is not gone on with by another task, nor where the bytes are not those the journal tells of', async () => {
    const path = output();
    await stopAfter(6, { output: path });
    await expect(pack({ output: path, as: 'raw' })).rejects.toMatchObject({ code: 'BAD_CONFIG', option: 'output' });
    await expect(pack({ output: path }, sampleSource(source, 9))).rejects.toMatchObject({ code: 'BAD_CONFIG' });
    const journal = await readFile(`${path}.journal`, 'utf8');
    const part = await readFile(`${path}.part`);
    const damaged = { code: 'BAD_FILE', mend: expect.stringContaining('--overwrite') as string };
    await truncate(`${path}.part`, 100);
    await expect(pack({ output: path })).rejects.toMatchObject(damaged);
    await writeFile(`${path}.part`, part);
    // its place, the width, the checksum
    for (const another of [
      journal.replace('\n[0,', '\n[5,'),
      journal.replace(/\n\[(\d+,\d+,\d+,\d+,\d)/u, '\n[$11'),
      journal.replace(/ \d/u, ' x'),
    ]) {
      await writeFile(`${path}.journal`, another);
      expect(another).not.toBe(journal);
      await expect(pack({ output: path })).rejects.toMatchObject(damaged);
    }
    await writeFile(`${path}.journal`, journal);
    // the header, the last image that the journal tells of
    for (const at of [0, Number(/,(\d+).*\n$/u.exec(journal)![1])]) {
      await writeFile(
        `${path}.part`,
        part.map((byte, i) => (i === at ? byte ^ 1 : byte)),
      );
      await expect(pack({ output: path })).rejects.toMatchObject(damaged);
    }
    expect((await pack({ output: path, as: 'raw', overwrite: true })).resumed).toBe(0);
    await expect(pack({ output: path })).rejects.toMatchObject({ code: 'BAD_OPTION', option: 'output' });
    expect((await pack({ output: path, overwrite: true })).images).toBe(12);
  });

  it('is told by a journal of any length: it is read piece by piece, wherever a piece ends', async () => {
    const path = join(folder, 'pieces.journal');
    const task = JSON.stringify({ task: 'für alle' });
    const entry = (place: number) => ({
      place,
      offset: 64 + 2 ** 33 * place,
      bytes: 10,
      checksum: 2 ** 32 - 1 - place,
      width: 3,
      height: 4,
      fileBytes: 5,
    });
    const journal = await Journal.open(path, task, 0, addon.checksum);
    await journal.append([entry(0), { place: 1, reason: 'kein Bild: \u2028 «größer»\n' }]);
    await journal.append([entry(2), entry(3)]);
    await journal.close();
    const bytes = (await readFile(path)).byteLength;
    await writeFile(path, '[4,1', { flag: 'a' });
    for (const bytesAtOnce of [1, 2, 7, 64, bytes, undefined]) {
      expect(await readJournal(path, task, addon.checksum, bytesAtOnce), `${bytesAtOnce}`).toEqual({
        entries: [entry(0), entry(2), entry(3)],
        refused: [{ place: 1, reason: 'kein Bild: \u2028 «größer»\n' }],
        next: 4,
        end: entry(3).offset + 10,
        bytes,
      });
    }
    await expect(readJournal(path, 'another', addon.checksum, 7)).rejects.toMatchObject({ code: 'BAD_CONFIG' });
    expect(await readJournal(join(folder, 'none.journal'), task, addon.checksum)).toBeUndefined();
    await writeFile(path, '{"task"'); // torn in its first line
    expect(await readJournal(path, task, addon.checksum)).toBeUndefined();
  });

  it('two processes do not write one pack', async () => {
    const path = output();
    const stat = await readFile(`/proc/${process.pid}/stat`, 'utf8');
    await writeFile(
      `${path}.lock`,
      JSON.stringify({
        host: hostname(),
        pid: process.pid,
        started: stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19],
      }),
    );
    await expect(pack({ output: path })).rejects.toMatchObject({
      code: 'BAD_CONFIG',
      message: expect.stringContaining(`process ${process.pid}`) as string,
    });
    // of one that is gone
    await writeFile(`${path}.lock`, JSON.stringify({ host: hostname(), pid: process.pid, started: '1' }));
    expect((await pack({ output: path })).images).toBe(12);
  });
});

describe('a write that fails', () => {
  const recipe = { kind: 'original', shortSide: 0, quality: 0 } as const;
  const images = [3000, 0, 2000, 4000].map((length, i) => ({
    bytes: Buffer.alloc(length, i + 1),
    width: 1,
    height: 1,
  }));
  const full = Object.assign(new Error('no space left'), { code: 'ENOSPC' });
  const openWriter = (path: string) =>
    PackWriter.open(path, recipe, { task: 'a task', overwrite: false, syncSeconds: 60, checksum: addon.checksum });
  const lines = async (path: string) => (await readFile(`${path}.journal`, 'utf8')).split('\n').length - 2;

  /** The rest of the images, and the pack. */
  async function end(writer: PackWriter): Promise<PackFile> {
    for (const image of images.slice(writer.next)) await writer.add(image, 1);
    await writer.finish({
      recipe,
      entries: writer.entries,
      ids: images.map((_, i) => `${i}`),
      labels: undefined,
      classNames: undefined,
      source: 'test',
      refused: [],
    });
    await writer.close();
    return PackFile.open(writer.path);
  }

  async function expectWhole(opened: PackFile): Promise<void> {
    for (const [i, { bytes }] of images.entries()) expect((await opened.readEntry(i)).equals(bytes), `${i}`).toBe(true);
  }

  it('to what cannot be looked at replaces nothing', async () => {
    const path = output();
    for (const there of [path, `${path}.part`]) {
      await symlink(there, there); // a ring, which is not that nothing is there
      await expect(openWriter(path)).rejects.toMatchObject({
        code: 'BAD_FILE',
        message: expect.stringContaining(`cannot read ${there}`) as string,
      });
      expect(await readlink(there)).toBe(there);
      await rm(there);
    }
  });

  it('at the beginning leaves no file open, and no lock', async () => {
    const path = output();
    const open = async () =>
      (
        await Promise.all((await readdir('/proc/self/fd')).map((fd) => readlink(`/proc/self/fd/${fd}`).catch(() => '')))
      ).filter((name) => name.startsWith(path));
    await mkdir(`${path}.journal`);
    await expect(openWriter(path)).rejects.toMatchObject({ code: 'NOT_WRITABLE' });
    for (const left of [`${path}.journal`, `${path}.part`]) await rm(left, { recursive: true });
    vi.mocked(syncFile).mockRejectedValueOnce(full);
    await expect(openWriter(path)).rejects.toMatchObject({ code: 'NOT_WRITABLE' });
    expect(await open()).toEqual([]);
    const writer = await openWriter(path);
    expect(await open()).toEqual([`${path}.part`, `${path}.journal`]);
    const close = writer.file.close.bind(writer.file);
    // as a network's file system does
    vi.spyOn(writer.file, 'close').mockImplementationOnce(async () => {
      await close();
      throw full;
    });
    await expect(writer.close()).rejects.toMatchObject({ code: 'NOT_WRITABLE', cause: full });
    expect(await open()).toEqual([]);
    await (await openWriter(path)).close();
  });

  it('in its middle records nothing; the next one writes what is missing, where it belongs', async () => {
    const writer = await openWriter(output());
    for (const image of images.slice(0, 3)) await writer.add(image, 1);
    const write = writer.file.writev.bind(writer.file);
    const failing = vi.spyOn(writer.file, 'writev');
    failing.mockImplementationOnce((pieces, at) => write([(pieces[0] as Buffer).subarray(0, 1000)], at));
    failing.mockImplementationOnce((pieces, at) =>
      write([pieces[0]!, pieces[1]!, (pieces[2] as Buffer).subarray(0, 500)], at),
    );
    failing.mockRejectedValueOnce(full).mockRejectedValueOnce(full);
    for (let i = 0; i < 2; i++)
      await expect(writer.sync()).rejects.toMatchObject({
        code: 'NOT_WRITABLE',
        message: expect.stringContaining('the disk is full') as string,
      });
    expect(failing.mock.calls.map(([, at]) => at)).toEqual([64, 1064, 3564, 3564]);
    expect(await lines(writer.path)).toBe(0);
    await writer.sync();
    expect(await lines(writer.path)).toBe(3);
    await expectWhole(await end(writer));
  });

  it('at the end leaves it to the next writer', async () => {
    const writer = await openWriter(output());
    for (const image of images) await writer.add(image, 1);
    await writer.sync();
    vi.spyOn(writer.file, 'writev').mockRejectedValueOnce(full);
    for (let i = 0; i < 2; i++) await expect(end(writer)).rejects.toMatchObject({ code: 'NOT_WRITABLE' });
    await writer.close();
    const next = await openWriter(writer.path);
    expect(next.next).toBe(4);
    await expectWhole(await end(next));
  });

  it.each(['file', 'journal'] as const)(
    'on its way to the disk (%s) is not synced over; the next writer goes on from what was',
    async (which) => {
      const path = output();
      const writer = await openWriter(path);
      await writer.add(images[0]!, 1);
      await writer.sync();
      await writer.add(images[1]!, 1);
      await writer.add(images[2]!, 1);
      // The journal's line is torn before it fails.
      if (which === 'file') vi.mocked(syncFile).mockRejectedValueOnce(full);
      else
        vi.spyOn(writer.journal.handle, 'writeFile').mockImplementationOnce(async () => {
          await writer.journal.handle.write('[1,30');
          throw full;
        });
      for (let i = 0; i < 2; i++) await expect(writer.sync()).rejects.toMatchObject({ code: 'NOT_WRITABLE' });
      await expect(end(writer)).rejects.toMatchObject({ code: 'NOT_WRITABLE' });
      await writer.close();
      expect(await lines(path)).toBe(1);
      const next = await openWriter(path);
      expect(next.next).toBe(1);
      await expectWhole(await end(next));
    },
  );
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
    openImages((await pack({}, { ...source, labels: undefined, classNames: undefined })).file, { labels: 'folders' }),
  ).rejects.toMatchObject({ code: 'BAD_DATASET' });
});

it('a plain JPEG decodes to the same pixels as by the long way', async () => {
  const [width, height] = [97, 61];
  const noise = Buffer.from(
    Uint8Array.from({ length: width * height * 3 }, (_, i) => (i * 7919 + (i >> 5) * 31) & 255),
  );
  const draw = () => sharp(noise, { raw: { width, height, channels: 3 } });
  for (const [options, plain] of [
    [{ quality: 90 }, true],
    [{ quality: 60, progressive: true }, true],
    [{ chromaSubsampling: '4:4:4' }, true],
  ] as const) {
    const bytes = await draw().jpeg(options).toBuffer();
    expect(readJpegHeader(bytes)).toEqual(plain ? { width, height } : undefined);
    expect(
      readJpegHeader(
        await sharp(bytes)
          .withExif({ IFD0: { Copyright: 'somebody' } })
          .jpeg()
          .toBuffer(),
      ),
    ).toEqual({ width, height });
    const withProfile = (profile: string) =>
      Buffer.concat([
        bytes.subarray(0, 2),
        Buffer.from([0xff, 0xe2, 0, 16 + profile.length]),
        Buffer.from(`ICC_PROFILE\0\x01\x01${profile}`, 'latin1'),
        bytes.subarray(2),
      ]);
    expect(readJpegHeader(withProfile('... sRGB IEC61966-2.1 ...'))).toEqual({ width, height });
    expect(readJpegHeader(withProfile('... Adobe RGB (1998) ...'))).toEqual({
      width,
      height,
      profile: Buffer.from('... Adobe RGB (1998) ...'),
    });
    // two profiles, or two parts of one
    expect(
      readJpegHeader(Buffer.concat([withProfile('a').subarray(0, 21), withProfile('b').subarray(2)])),
    ).toBeUndefined();
    expect(readJpegHeader(await sharp(bytes).withIccProfile('p3').jpeg().toBuffer())).toMatchObject({
      width,
      height,
      profile: { length: 480 },
    });
    expect(readJpegHeader(await sharp(bytes).withMetadata({ orientation: 6 }).jpeg().toBuffer())).toBeUndefined();
    // EXIF that cannot be read, in front of the very same picture: the long way.
    const exif = Buffer.concat([
      bytes.subarray(0, 2),
      Buffer.from([0xff, 0xe1, 0, 8]),
      Buffer.from('Exif\0\0'),
      bytes.subarray(2),
    ]);
    expect(readJpegHeader(exif)).toBeUndefined();
    for (const shortSide of [61, 200])
      expect(
        Buffer.from((await decodeImage(bytes, { shortSide })).pixels).equals(
          (await decodeImage(exif, { shortSide })).pixels,
        ),
        `${shortSide}`,
      ).toBe(true);
  }
  for (const other of [
    await draw().png().toBuffer(),
    await draw().toColourspace('b-w').jpeg().toBuffer(),
    await draw().toColourspace('cmyk').jpeg().toBuffer(),
    Buffer.from([0xff, 0xd8, 0xff]),
    Buffer.alloc(0),
  ])
    expect(readJpegHeader(other)).toBeUndefined();
});
