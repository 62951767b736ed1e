import { mkdir, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import sharp from 'sharp';
import { describe, expect, it } from 'vitest';
import { loadAddon } from '../../lib/addon/addon.js';
import { parseConfig } from '../../lib/config/config.js';
import { ImageCache, type ImageCacheOptions } from '../../lib/data/cache.js';
import type { CacheProgress } from '../../lib/data/decode-all.js';
import { openImageFolder } from '../../lib/data/image-folder.js';
import { chooseMode } from '../../lib/data/open-dataset.js';
import { imagesFromBuffers, sampleSource, type ImageSource } from '../../lib/data/sources.js';
import { StreamedImages } from '../../lib/data/streamed.js';
import { Device, openDevice } from '../../lib/device.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { brokenFiles, picture } from '../fixtures/images/draw.js';
import { noteSkip, sharedPath } from '../shared.js';

const addon = loadAddon();
const spillFolder = temporaryFolder();
const device = await openDevice('cpu', { threads: 1 });
const options: ImageCacheOptions = {
  device,
  resolution: 28,
  margin: 256 / 224,
  memoryLimitBytes: 1e9,
  spillFolder,
  maxBrokenShare: 0.05,
};

/** `count` pictures of one grey level each, image i of level i * 5; the ones named in `broken` are no pictures. */
async function levels(count: number, broken: readonly number[] = []): Promise<ImageSource> {
  const images = Array.from({ length: count }, async (_, i) => {
    const colour = { r: i * 5, g: i * 5, b: i * 5 };
    const bytes = broken.includes(i)
      ? Buffer.from('no picture')
      : await sharp({ create: { width: 40 + (i % 3), height: 50, channels: 3, background: colour } })
          .png()
          .toBuffer();
    return { id: `image ${i}`, bytes, label: i % 2 };
  });
  return imagesFromBuffers(await Promise.all(images), ['even', 'odd']);
}

/** Mean level of each cached image, 0 to 255, through the evaluation transform. */
async function cachedLevels(cache: ImageCache): Promise<number[]> {
  const images = Array.from({ length: cache.length }, (_, i) => i);
  const tensor = addon.makeImages(device.handle, images.length, 2, 2, false);
  addon.augment(
    cache.store,
    { train: false, mean: [0, 0, 0], std: [1, 1, 1] },
    { images, drawIds: images, seed: 0, epoch: 0 },
    tensor,
  );
  const values = await addon.readImages(tensor);
  return images.map((i) => Math.round(values[i * 12]! * 255));
}

describe('ImageCache', () => {
  it('keeps order, ids, labels and places, leaving out broken images', async () => {
    using cache = await ImageCache.build(await levels(40, [3, 17]), options);
    const kept = Array.from({ length: 40 }, (_, i) => i).filter((i) => i !== 3 && i !== 17);
    expect(cache.length).toBe(38);
    expect([...cache.sourceIndex]).toEqual(kept);
    expect(cache.ids).toEqual(kept.map((i) => `image ${i}`));
    expect([...cache.labels!]).toEqual(kept.map((i) => i % 2));
    expect(cache.classNames).toEqual(['even', 'odd']);
    expect(cache.shortSide).toBe(32);
    expect(cache.bytes).toBe(kept.reduce((sum, i) => sum + 32 * Math.round((50 / (40 + (i % 3))) * 32) * 3, 0));
    expect(await cachedLevels(cache)).toEqual(kept.map((i) => i * 5));
    expect(cache.broken.map(({ id }) => id)).toEqual(['image 3', 'image 17']);
    expect(cache.broken[0]!.reason).toMatch(/unsupported/i);
  });

  it('takes a source that is a class, with methods and accessors of its own', async () => {
    const plain = await levels(8);
    class Shop implements ImageSource {
      readonly #images = plain;
      get root() {
        return 'shop';
      }
      get ids() {
        return this.#images.ids;
      }
      get labels() {
        return this.#images.labels!;
      }
      get classNames() {
        return this.#images.classNames!;
      }
      async read(index: number) {
        return this.#images.read(index);
      }
    }
    using cache = await ImageCache.build(new Shop(), options);
    expect(cache.broken).toEqual([]);
    expect(await cachedLevels(cache)).toEqual(Array.from({ length: 8 }, (_, i) => i * 5));
    using few = await ImageCache.build(sampleSource(new Shop(), 4), options);
    expect(await cachedLevels(few)).toEqual([0, 10, 20, 30]);
    expect([sampleSource(new Shop(), 4).root, few.classNames, [...few.labels!]]).toEqual([
      'shop',
      ['even', 'odd'],
      [0, 0, 0, 0],
    ]);
  });

  it('takes the defaults of the configuration, and the folder for temporary files', async () => {
    const { margin, cacheMemory, maxBrokenShare } = parseConfig({}).data;
    const made: unknown[] = [];
    const noting = {
      ...addon,
      makePixelStore: (settings: Parameters<typeof addon.makePixelStore>[0]) => (
        made.push(settings),
        addon.makePixelStore(settings)
      ),
    };
    const noted = new Device('cpu', noting, device.handle, 'notes');
    using cache = await ImageCache.build(await levels(40, [3]), { device: noted, resolution: 24 });
    expect(cache.shortSide).toBe(24 * margin);
    expect(made).toEqual([{ memoryLimitBytes: cacheMemory * 2 ** 20, spillFolder: tmpdir() }]);
    await expect(ImageCache.build(await levels(2), { ...options, background: 'no colour' })).rejects.toMatchObject({
      code: 'BAD_OPTION',
      option: 'background',
      found: 'no colour',
    });
    await expect(ImageCache.build(await levels(40, [1, 2, 3]), { device, resolution: 24 })).rejects.toMatchObject({
      allowed: `a share of at most ${maxBrokenShare}`,
    });
    using undefinedOnes = await ImageCache.build(await levels(2), {
      device,
      resolution: 24,
      margin: undefined,
      memoryLimitBytes: undefined,
      spillFolder: undefined,
      maxBrokenShare: undefined,
    });
    expect(undefinedOnes.shortSide).toBe(24 * margin);
    using streamed = await StreamedImages.open(await levels(2), { device, resolution: 24 });
    expect(streamed.shortSide).toBe(24 * margin);
    await expect(chooseMode(await levels(2), 'auto', { resolution: 24 })).resolves.toBe('all');
  });

  it('spills to a file past the memory limit, with the same pixels', async () => {
    using cache = await ImageCache.build(await levels(20), { ...options, memoryLimitBytes: 20_000 });
    expect(cache.spilledBytes).toBeGreaterThan(0);
    expect(cache.bytes - cache.spilledBytes).toBeLessThanOrEqual(20_000);
    expect(await cachedLevels(cache)).toEqual(Array.from({ length: 20 }, (_, i) => i * 5));
    await expect(
      ImageCache.build(await levels(5), { ...options, memoryLimitBytes: 0, spillFolder: join(spillFolder, 'missing') }),
    ).rejects.toMatchObject({ code: 'NOT_WRITABLE' });
  });

  it('stops on too many broken images, naming some', async () => {
    await expect(ImageCache.build(await levels(40, [1, 2, 3]), options)).rejects.toMatchObject({
      code: 'TOO_MANY_BROKEN_IMAGES',
      option: 'data.maxBrokenShare',
      message: expect.stringContaining('image 1 ('),
    });
    using cache = await ImageCache.build(await levels(40, [1, 2, 3]), { ...options, maxBrokenShare: 0.1 });
    expect(cache.length).toBe(37);
  });

  it('says what a source threw as the cause, where its mistake makes every image a broken one', async () => {
    const mistake = new TypeError("Cannot read properties of undefined (reading 'bytes')");
    const wrong = { ...(await levels(60)), labels: undefined, read: () => Promise.reject(mistake) };
    await expect(ImageCache.build(wrong, options)).rejects.toMatchObject({
      code: 'TOO_MANY_BROKEN_IMAGES',
      cause: mistake,
    });
    await expect(ImageCache.build({ ...wrong, ids: wrong.ids.slice(0, 3) }, options)).rejects.toMatchObject({
      code: 'BAD_DATASET',
      cause: mistake,
    });
    for (const [maxBrokenShare, code] of [
      [options.maxBrokenShare, 'TOO_MANY_BROKEN_IMAGES'],
      [1, 'BAD_DATASET'],
    ] as const) {
      using images = await StreamedImages.open(wrong, { ...options, maxBrokenShare });
      await expect(images.prepare(Int32Array.of(0, 1, 2, 3))).rejects.toMatchObject({ code, cause: mistake });
    }
  });

  it('says so when nothing can be decoded', async () => {
    await expect(ImageCache.build(await levels(3, [0, 1, 2]), options)).rejects.toMatchObject({ code: 'BAD_DATASET' });
    await expect(ImageCache.build(await levels(3, [0, 1, 2]), { ...options, maxBrokenShare: 1 })).rejects.toMatchObject(
      { code: 'BAD_DATASET' },
    );
    const many = Array.from({ length: 200 }, (_, i) => i);
    await expect(ImageCache.build(await levels(200, many), options)).rejects.toMatchObject({
      message: expect.stringContaining('50 of the first 50'),
    });
  });

  it('reports progress, lets timers run and stops on a signal', async () => {
    const reports: CacheProgress[] = [];
    let ticks = 0;
    const timer = setInterval(() => (ticks += 1), 1);
    using cache = await ImageCache.build(await levels(30, [2]), {
      ...options,
      onProgress: (progress) => reports.push(progress),
    });
    clearInterval(timer);
    expect(cache.length).toBe(29);
    expect(ticks).toBeGreaterThan(0);
    expect(reports.at(-1)).toEqual({ done: 30, total: 30, broken: 1 });
    const controller = new AbortController();
    const onProgress = (): void => controller.abort();
    await expect(
      ImageCache.build(await levels(30), { ...options, signal: controller.signal, onProgress }),
    ).rejects.toMatchObject({ code: 'ABORTED' });
  });

  it('leaves reads that hang as soon as the signal fires, and takes no notice of what comes of them', async () => {
    const { ids, ...source } = await levels(8);
    const pending: ((error: Error) => void)[] = [];
    const read = (index: number) =>
      index < 3 ? source.read(index) : new Promise<never>((_, reject) => pending.push(reject));
    const controller = new AbortController();
    const reason = new Error('enough');
    const built = ImageCache.build({ ...source, ids, read }, { ...options, signal: controller.signal });
    while (pending.length === 0) await nextTurn();
    controller.abort(reason);
    await expect(built).rejects.toMatchObject({ code: 'ABORTED', cause: reason });
    for (const reject of pending) reject(new Error('too late'));
    await nextTurn(); // an unhandled rejection fails the run
  });

  it('refuses options out of range, and use after dispose', async () => {
    const source = await levels(1);
    for (const change of [
      { resolution: 0 },
      { resolution: 1.5 },
      { margin: 0.9 },
      { memoryLimitBytes: -1 },
      { maxBrokenShare: 1.1 },
    ]) {
      await expect(ImageCache.build(source, { ...options, ...change })).rejects.toMatchObject({ code: 'BAD_OPTION' });
    }
    const cache = await ImageCache.build(source, options);
    cache.dispose();
    cache.dispose();
    expect(() => cache.store).toThrow(expect.objectContaining({ code: 'DISPOSED' }));
  });
});

describe('a folder of everything', () => {
  it('decodes what is sound and counts what is broken', async () => {
    const folder = join(spillFolder, 'everything');
    await mkdir(folder);
    const noise = Buffer.from(Uint16Array.from({ length: 30 * 20 * 3 }, (_, i) => (i * 40503) & 0xffff).buffer);
    const sound: Record<string, Buffer> = {
      'cmyk.jpg': await picture(50, 40).toColourspace('cmyk').jpeg().toBuffer(),
      'one.png': await picture(1, 1).png().toBuffer(),
      'turned.jpg': await picture(50, 40).withMetadata({ orientation: 6 }).jpeg().toBuffer(),
      'deep.png': await sharp(new Uint16Array(noise.buffer, noise.byteOffset, 1800), {
        raw: { width: 30, height: 20, channels: 3 },
      })
        .toColourspace('rgb16')
        .png()
        .toBuffer(),
      'grey-alpha.png': await sharp(noise.subarray(0, 1200), { raw: { width: 30, height: 20, channels: 2 } })
        .toColourspace('b-w')
        .png()
        .toBuffer(),
      'animated.gif': await sharp(
        [await picture(9, 9).png().toBuffer(), await picture(9, 9).negate().png().toBuffer()],
        { join: { animated: true } },
      )
        .gif()
        .toBuffer(),
      'long.webp': await picture(4000, 8).webp().toBuffer(),
      'drawing.svg': Buffer.from(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10"><circle cx="5" cy="5" r="4" fill="red"/></svg>',
      ),
      'png-named.jpg': await picture(20, 20).png().toBuffer(),
    };
    const broken = await brokenFiles();
    for (const [name, bytes] of Object.entries({ ...sound, ...broken })) await writeFile(join(folder, name), bytes);
    const source = await openImageFolder(folder);
    await rm(join(folder, 'one.png')); // gone between listing and reading
    using cache = await ImageCache.build(source, { ...options, maxBrokenShare: 1 });
    expect(cache.ids).toEqual(
      Object.keys(sound)
        .filter((name) => name !== 'one.png')
        .sort(),
    );
    expect(cache.broken.map(({ id }) => id)).toEqual([...Object.keys(broken), 'one.png'].sort());
    expect(await readdir(spillFolder)).toEqual(['everything']);
  });

  const photos = sharedPath('data', 'photos');
  if (photos === undefined) noteSkip('decoding of full-size photos', 'there is no shared folder');
  it.skipIf(photos === undefined)('decodes full-size photos', async () => {
    const source = await openImageFolder(photos!, { labels: 'folders' });
    const started = performance.now();
    using cache = await ImageCache.build(source, { ...options, resolution: 224 });
    console.log(
      `${cache.length} photos decoded to ${cache.shortSide} px, ${Math.round(cache.length / ((performance.now() - started) / 1000))} images/s`,
    );
    expect(cache.broken).toEqual([]);
    expect(cache.length).toBe(source.ids.length);
    expect(cache.classNames!.length).toBe(new Set(cache.labels).size);
  });
});

describe('a stream of images', () => {
  const grey = (level: number) =>
    sharp({ create: { width: 40, height: 40, channels: 3, background: { r: level, g: level, b: level } } })
      .png()
      .toBuffer();
  const still = { pulled: 0, ended: false };
  async function* stream(
    count: number,
    { broken = [], label }: { broken?: readonly number[]; label?: (i: number) => number | undefined } = {},
  ) {
    [still.pulled, still.ended] = [0, false];
    try {
      for (let i = 0; i < count; i++) {
        still.pulled++;
        yield {
          id: `image ${i}`,
          bytes: broken.includes(i) ? Buffer.from('no picture') : await grey(i * 5),
          label: label?.(i),
        };
      }
    } finally {
      still.ended = true;
    }
  }

  it('gives what a source of the same images gives', async () => {
    const seen: CacheProgress[] = [];
    using cache = await ImageCache.fromStream(stream(40, { broken: [3], label: (i) => i % 2 }), {
      ...options,
      classNames: ['even', 'odd'],
      onProgress: (progress) => seen.push(progress),
    });
    const kept = Array.from({ length: 40 }, (_, i) => i).filter((i) => i !== 3);
    expect([...cache.sourceIndex]).toEqual(kept);
    expect(cache.ids).toEqual(kept.map((i) => `image ${i}`));
    expect([...cache.labels!]).toEqual(kept.map((i) => i % 2));
    expect(cache.classNames).toEqual(['even', 'odd']);
    expect(await cachedLevels(cache)).toEqual(kept.map((i) => i * 5));
    expect(cache.broken).toEqual([{ id: 'image 3', reason: expect.stringMatching(/unsupported/iu) as string }]);
    expect(seen.at(-1)).toEqual({ done: 40, total: 40, broken: 1 });
    expect(still).toEqual({ pulled: 40, ended: true });
  });

  it('is read no further ahead than the decoder needs, and spills past the memory limit', async () => {
    let most = 0;
    let kept = 0;
    const counting = {
      ...addon,
      appendPixels: (...args: Parameters<typeof addon.appendPixels>) => {
        most = Math.max(most, still.pulled - kept++);
        return addon.appendPixels(...args);
      },
    };
    using cache = await ImageCache.fromStream(stream(60), {
      ...options,
      device: new Device('cpu', counting, device.handle, 'counts'),
      memoryLimitBytes: 20_000,
    });
    expect(cache.length).toBe(60);
    expect(most).toBeLessThanOrEqual(4 * 4);
    expect(cache.bytes - cache.spilledBytes).toBeLessThanOrEqual(20_000);
    expect(cache.labels).toBeUndefined();
  });

  it('takes a plain array, and an empty one is no data set', async () => {
    using cache = await ImageCache.fromStream([{ id: 'a', bytes: await grey(5) }], options);
    expect(cache.ids).toEqual(['a']);
    await expect(ImageCache.fromStream([], options)).rejects.toMatchObject({
      code: 'BAD_DATASET',
      message: expect.stringContaining('no images') as string,
    });
  });

  it('ends when too many are broken, when it fails, and when its labels do not fit', async () => {
    await expect(
      ImageCache.fromStream(stream(200, { broken: Array.from({ length: 60 }, (_, i) => i + 20) }), options),
    ).rejects.toMatchObject({
      code: 'TOO_MANY_BROKEN_IMAGES',
      message: expect.stringContaining('50 of the first 70 images ') as string,
    });
    expect(still.ended).toBe(true);
    const failing = async function* () {
      yield { id: 'a', bytes: await grey(5) };
      throw new Error('connection lost');
    };
    await expect(ImageCache.fromStream(failing(), options)).rejects.toMatchObject({
      code: 'BAD_DATASET',
      message: expect.stringMatching(/after 1 image: connection lost/u) as string,
      cause: expect.any(Error) as Error,
    });
    const wrong: (typeof stream extends (count: number, options: infer Options) => unknown ? Options : never)[] = [
      { label: (i) => (i === 2 ? undefined : 0) },
      { label: (i) => (i === 2 ? 0 : undefined) },
      { label: () => 7 },
    ];
    for (const labels of wrong)
      await expect(ImageCache.fromStream(stream(5, labels), { ...options, classNames: ['x'] })).rejects.toMatchObject({
        code: 'BAD_DATASET',
        mend: expect.stringContaining('label') as string,
      });
  });

  it('that hangs is left as soon as the signal fires', async () => {
    const controller = new AbortController();
    const hanging = {
      [Symbol.asyncIterator]: () => ({
        next: () => new Promise<never>(() => undefined),
        return: () => {
          throw new Error('what ends it must not hide why');
        },
      }),
    };
    const built = ImageCache.fromStream(hanging, { ...options, signal: controller.signal });
    controller.abort();
    await expect(built).rejects.toMatchObject({ code: 'ABORTED' });
  });
});
