import sharp from 'sharp';
import { describe, expect, it, vi } from 'vitest';
import { loadAddon } from '../../lib/addon/addon.js';
import type { NativeAddon, PixelStoreHandle } from '../../lib/addon/native.js';
import type { PreparedImages } from '../../lib/data/cache.js';
import { inOrder } from '../../lib/data/in-order.js';
import { chooseMode, decodedBytes, openDataset } from '../../lib/data/open-dataset.js';
import { readAhead } from '../../lib/data/read-ahead.js';
import { imagesFromBuffers, type ImageSource } from '../../lib/data/sources.js';
import { StreamedImages, type StreamedImagesOptions } from '../../lib/data/streamed.js';
import { Device, openDevice } from '../../lib/device.js';
import { temporaryFolder } from '../fixtures/folder.js';

const addon = loadAddon();
const device = await openDevice('cpu', { threads: 1 });
const options: StreamedImagesOptions = { device, resolution: 16, margin: 1, maxBrokenShare: 0.5 };
const spillFolder = temporaryFolder();

/** `count` pictures of one grey level each, image i of level i * 5; the ones named in `broken` are no pictures. */
async function levels(count: number, broken: readonly number[] = []): Promise<ImageSource> {
  const draw = (level: number) =>
    sharp({ create: { width: 20, height: 24, channels: 3, background: { r: level, g: level, b: level } } })
      .png()
      .toBuffer();
  return imagesFromBuffers(
    await Promise.all(
      Array.from({ length: count }, async (_, i) => ({
        id: `image ${i}`,
        bytes: broken.includes(i) ? Buffer.from('x') : await draw(5 * i),
      })),
    ),
  );
}

/** Level of each image, as it stands in a prepared store. */
async function levelsOf({ store }: PreparedImages, images: Int32Array): Promise<number[]> {
  const tensor = addon.makeImages(device.handle, images.length, 2, 2, false);
  addon.augment(
    store,
    { train: false, mean: [0, 0, 0], std: [1, 1, 1] },
    { images, drawIds: images, seed: 0, epoch: 0 },
    tensor,
  );
  const values = await addon.readImages(tensor);
  return Array.from(images, (_, i) => Math.round(values[12 * i]! * 51));
}

describe('StreamedImages', () => {
  it('decodes a batch under the images own indices; the next one that can be decoded stands in for a broken one', async () => {
    using images = await StreamedImages.open(await levels(12, [4, 5, 11]), options);
    const batch = Int32Array.of(9, 4, 0, 11, 11, 5);
    const prepared = await images.prepare(batch);
    expect(await levelsOf(prepared, batch)).toEqual([9, 6, 0, 0, 0, 6]);
    expect([...prepared.shown!]).toEqual([9, 6, 0, 0, 0, 6]);
    prepared.release();
    const whole = await images.prepare(Int32Array.of(3, 6));
    expect(whole.shown).toBeUndefined();
    whole.release();
    expect(images.broken.map(({ id }) => id).sort()).toEqual(['image 11', 'image 4', 'image 5']);
    expect(images.decoded.images).toBeGreaterThanOrEqual(5);
    expect(images.decoded.seconds).toBeGreaterThan(0);
    expect(() => images.store).toThrow(expect.objectContaining({ code: 'BAD_OPTION' }) as Error);
  });

  it('tries each of many broken ones in a row once, however many images of a batch look for a stand-in behind them', async () => {
    const [broken, batch] = [60, Int32Array.from({ length: 40 }, (_, i) => i)];
    const source = await levels(
      64,
      Array.from({ length: broken }, (_, i) => i),
    );
    const read = vi.fn((index: number) => source.read(index));
    using images = await StreamedImages.open({ ...source, read }, { ...options, maxBrokenShare: 1 });
    const prepared = await images.prepare(batch);
    expect([...prepared.shown!]).toEqual(Array(40).fill(broken));
    expect(images.broken).toHaveLength(broken);
    expect(images.broken).toBe(images.broken); // not made anew for each line of a run's metrics
    expect(read).toHaveBeenCalledTimes(broken + batch.length);
    prepared.release();
    const looked = vi.spyOn(Map.prototype, 'has');
    const again = await images.prepare(batch);
    const lookups = looked.mock.calls.filter(([key]) => typeof key === 'number').length;
    looked.mockRestore();
    expect([...again.shown!]).toEqual(Array(40).fill(broken));
    expect(lookups).toBeLessThan(4 * batch.length); // from each at once to what stands in for it
    again.release();
  });

  it('stops at too many broken ones, and where none can be decoded', async () => {
    using some = await StreamedImages.open(await levels(10, [1, 2, 3]), { ...options, maxBrokenShare: 0.2 });
    await expect(some.prepare(Int32Array.of(1))).rejects.toMatchObject({
      code: 'TOO_MANY_BROKEN_IMAGES',
      message: expect.stringContaining('3 of the 10') as string,
    });
    using none = await StreamedImages.open(await levels(2, [0, 1]), { ...options, maxBrokenShare: 1 });
    await expect(none.prepare(Int32Array.of(0, 1))).rejects.toMatchObject({ code: 'BAD_DATASET' });
    await expect(StreamedImages.open({ ...(await levels(1)), sequential: true }, options)).rejects.toMatchObject({
      code: 'BAD_DATASET',
      option: 'data.cache',
    });
    await expect(StreamedImages.open(await levels(1), { ...options, margin: 0 })).rejects.toMatchObject({
      code: 'BAD_OPTION',
    });
  });

  it('gives a batch no memory that another has, and knows its images by what was asked for', async () => {
    using images = await StreamedImages.open(await levels(6, [4]), options);
    const first = await images.prepare(Int32Array.of(0));
    first.release();
    first.release();
    const batch = Int32Array.of(1, 4);
    const both = Promise.all([images.prepare(Int32Array.of(0, 1)), images.prepare(batch)]);
    batch.fill(0);
    const [one, other] = await both;
    expect(await levelsOf(one, Int32Array.of(0, 1))).toEqual([0, 1]);
    expect([...other.shown!]).toEqual([1, 5]);
    for (const index of [-1, 6])
      await expect(images.prepare(Int32Array.of(index))).rejects.toMatchObject({ code: 'BAD_OPTION', found: index });
  });

  it('lets go of what never comes when it is disposed of', async () => {
    const source = await levels(4);
    const images = await StreamedImages.open({ ...source, read: () => new Promise(() => undefined) }, options);
    const prepared = images.prepare(Int32Array.of(0, 1, 2, 3));
    images.dispose();
    await expect(prepared).rejects.toMatchObject({ code: 'DISPOSED' });
  });

  it('a batch ends with what failed, though another of its reads never ends', async () => {
    const source = await levels(4);
    const failing = Object.assign(new Error('too many open files'), { code: 'EMFILE' });
    const read = (index: number) => (index === 0 ? new Promise<never>(() => undefined) : Promise.reject(failing));
    using images = await StreamedImages.open({ ...source, read }, { ...options, threads: 4, readPauses: [] });
    await expect(images.prepare(Int32Array.of(0, 1))).rejects.toMatchObject({ cause: failing });
  });

  it('uses the memory of a released batch again, and never while work on it is queued', async () => {
    const made: PixelStoreHandle[] = [];
    const counting: NativeAddon = {
      ...addon,
      makePixelStore: (settings) => (made.push(addon.makePixelStore(settings)), made.at(-1)!),
    };
    const images = await StreamedImages.open(await levels(8), {
      ...options,
      device: new Device('cpu', counting, device.handle, 'counts'),
    });
    for (let i = 0; i < 20; i++) {
      const batch = Int32Array.of(i % 8, (i + 3) % 8);
      const prepared = await images.prepare(batch);
      expect(await levelsOf(prepared, batch)).toEqual([...batch]);
      prepared.release();
    }
    expect(made).toHaveLength(1);
    const batch = Int32Array.of(1);
    const prepared = await images.prepare(batch);
    const tensor = addon.makeImages(device.handle, 1, 512, 512, false);
    // half a second of work, so that some is left however late this thread comes to the release
    for (let i = 0; i < 1000; i++)
      addon.augment(
        prepared.store,
        { train: true, mean: [0, 0, 0], std: [1, 1, 1] },
        { images: batch, drawIds: batch, seed: 0, epoch: 0 },
        tensor,
      );
    expect(() => prepared.release()).toThrow(expect.objectContaining({ code: 'BAD_OPTION' }) as Error);
    await addon.synchronize(device.handle);
    prepared.release();
    images.dispose();
    await expect(images.prepare(batch)).rejects.toMatchObject({ code: 'DISPOSED' });
  });
});

describe('readAhead', () => {
  it('gives batches in order, so many ahead and no more, and gives back those that nobody took', async () => {
    const events: string[] = [];
    const store = addon.makePixelStore({ memoryLimitBytes: 0, spillFolder: '' });
    const dataset = {
      store,
      prepare: async (images: Int32Array): Promise<PreparedImages> => {
        events.push(`prepare ${images[0]}`);
        await new Promise((resolve) => setTimeout(resolve, images[0] === 0 ? 20 : 1)); // the first is the slowest
        return { store, release: () => events.push(`release ${images[0]}`) };
      },
    };
    const batches = Array.from({ length: 9 }, (_, i) => ({ images: Int32Array.of(i) }));
    const taken: number[] = [];
    for await (const { images, release } of readAhead(dataset, batches, 2)) {
      taken.push(images[0]!);
      expect(events.filter((event) => event.startsWith('prepare'))).toHaveLength(images[0]! + 3);
      release();
      if (images[0] === 3) break;
    }
    expect(taken).toEqual([0, 1, 2, 3]);
    expect(events.filter((event) => event.startsWith('release'))).toEqual(
      [0, 1, 2, 3, 4, 5].map((i) => `release ${i}`),
    );
  });

  it('takes prepared images that are a class', async () => {
    const store = addon.makePixelStore({ memoryLimitBytes: 0, spillFolder: '' });
    class Prepared {
      released = 0;
      get store() {
        return store;
      }
      get shown() {
        return Int32Array.of(7);
      }
      release() {
        this.released++;
      }
    }
    const given: Prepared[] = [];
    const dataset = { store, prepare: () => (given.push(new Prepared()), given.at(-1)!) };
    for await (const batch of readAhead(
      dataset,
      [0, 1, 2, 3].map((i) => ({ images: Int32Array.of(i) })),
      1,
    )) {
      const { release } = batch;
      expect([batch.store, [...batch.shown!]]).toEqual([store, [7]]);
      release();
      if (batch.images[0] === 1) break;
    }
    expect(given.map(({ released }) => released)).toEqual([1, 1, 1]);
  });

  it('throws where a batch fails, when its turn comes', async () => {
    const store = addon.makePixelStore({ memoryLimitBytes: 0, spillFolder: '' });
    const dataset = {
      store,
      prepare: (images: Int32Array) =>
        images[0] === 1 ? Promise.reject(new Error('gone')) : { store, release: () => undefined },
    };
    const seen: number[] = [];
    const read = async () => {
      for await (const { images } of readAhead(
        dataset,
        [0, 1, 2].map((i) => ({ images: Int32Array.of(i) })),
        2,
      ))
        seen.push(images[0]!);
    };
    await expect(read()).rejects.toThrow('gone');
    expect(seen).toEqual([0]);
  });

  it('says who threw what is no error, also of batches that nobody took', async () => {
    const store = addon.makePixelStore({ memoryLimitBytes: 0, spillFolder: '' });
    const release = () => {
      throw 'not mine';
    };
    const read = async () => {
      const batches = [0, 1, 2].map((i) => ({ images: Int32Array.of(i) }));
      for await (const { images } of readAhead({ store, prepare: () => ({ store, release }) }, batches, 1))
        if (images[0] === 0) break;
    };
    await expect(read()).rejects.toMatchObject({ code: 'BAD_DATASET', found: 'not mine' });
  });

  it.each([undefined, -1, 1.5, NaN])('refuses to read %s batches ahead', async (ahead) => {
    const store = addon.makePixelStore({ memoryLimitBytes: 0, spillFolder: '' });
    const batches = readAhead({ store }, [{ images: Int32Array.of(0) }], ahead as number);
    await expect(batches.next()).rejects.toMatchObject({ code: 'BAD_OPTION', option: 'ahead' });
  });
});

it('works on several things at once and gives results in order', async () => {
  let running = 0;
  let most = 0;
  const work = async (i: number) => {
    most = Math.max(most, ++running);
    await new Promise((resolve) => setTimeout(resolve, (7 * i) % 5));
    running--;
    if (i === 17) throw new Error('seventeen');
    return i;
  };
  const results: number[] = [];
  await expect(
    (async () => {
      for await (const result of inOrder(
        Array.from({ length: 30 }, (_, i) => i),
        4,
        work,
      ))
        results.push(result);
    })(),
  ).rejects.toThrow('seventeen');
  expect(results).toEqual(Array.from({ length: 17 }, (_, i) => i));
  expect(most).toBe(4);
  expect(running).toBe(0);
});

it('decodes all before where that fits, and streams where it does not', async () => {
  const source = await levels(10, [2]);
  const cache = { device, resolution: 16, margin: 1, memoryLimitBytes: 1e9, spillFolder, maxBrokenShare: 0.5 };
  expect(await decodedBytes(source, 16)).toBeCloseTo(10 * 3 * 16 * 19.2, -1);
  expect(await chooseMode(source, 'auto', cache)).toBe('all');
  const noRoom = { ...cache, memoryLimitBytes: 1000, spillFolder: '/no/such/folder' };
  expect(await chooseMode(source, 'auto', noRoom)).toBe('stream');
  expect(await chooseMode(source, 'all', noRoom)).toBe('all');
  expect(await chooseMode({ ...source, sequential: true }, 'auto', noRoom)).toBe('all');
  using streamed = await openDataset(source, 'stream', cache);
  expect(streamed).toBeInstanceOf(StreamedImages);
  using cached = await openDataset(source, 'auto', cache);
  expect(cached.length).toBe(9);
});

it('looks at no more images where a signal has fired', async () => {
  const cache = { resolution: 16, memoryLimitBytes: 1000 };
  for (const ends of [true, false]) {
    const controller = new AbortController();
    let read = 0;
    const source = imagesFromBuffers(Array.from({ length: 64 }, (_, i) => ({ id: String(i), bytes: Buffer.alloc(9) })));
    const stopping = async () => {
      if (++read === 9) controller.abort();
      return ends || read < 9 ? Buffer.alloc(9) : new Promise<Buffer>(() => undefined);
    };
    const { signal } = controller;
    await expect(chooseMode({ ...source, read: stopping }, 'auto', { ...cache, signal })).rejects.toMatchObject({
      code: 'ABORTED',
    });
    await new Promise(setImmediate);
    expect(read).toBe(9);
  }
});

it('is opened until a signal fires, and read on after it', async () => {
  const source = await levels(4);
  const stop = new AbortController();
  const hanging: ImageSource = {
    ...source,
    read: () => {
      setImmediate(() => stop.abort());
      return new Promise(() => undefined);
    },
  };
  const { signal } = stop;
  await expect(openDataset(hanging, 'auto', { ...options, signal })).rejects.toMatchObject({ code: 'ABORTED' });
  for (const mode of ['stream', 'all'] as const)
    await expect(openDataset(source, mode, { ...options, signal })).rejects.toMatchObject({ code: 'ABORTED' });
  const later = new AbortController();
  using images = await openDataset(source, 'stream', { ...options, signal: later.signal });
  later.abort();
  (await images.prepare(Int32Array.of(0, 1))).release();
});
