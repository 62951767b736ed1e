import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { loadAddon } from '../../lib/addon/addon.js';
import type { PixelStoreHandle } from '../../lib/addon/native.js';
import { openDevice } from '../../lib/device.js';
import { devicesUnderTest } from '../devices.js';
import { augmentBatch, readAugmentFixture, storeOf, type AugmentCase, type AugmentFixture } from './augment-fixture.js';

let fixture: AugmentFixture;
beforeAll(async () => {
  fixture = await readAugmentFixture();
});

function find(name: string): AugmentCase {
  const found = fixture.cases.find((entry) => entry.name === name);
  if (!found) throw new Error(`the fixture has no case ${name}`);
  return found;
}

function greatestDifference(a: Float32Array, b: Float32Array): number {
  expect(a.length).toBe(b.length);
  let most = 0;
  for (let i = 0; i < a.length; ++i) {
    const difference = Math.abs(a[i]! - b[i]!);
    if (!(difference <= most)) most = difference; // NaN counts
  }
  return most;
}

describe.each(await devicesUnderTest('augmentation'))('augment on $name', ({ device, name: kind }) => {
  const { addon, handle } = device;
  let store: PixelStoreHandle;
  beforeAll(() => {
    store = storeOf(addon, fixture.images);
  });

  // Float32 against torchvision in float64. Hue divides by the chroma, so pixels that are nearly grey lose some bits
  // more.
  it.each([
    ['crop shrink', 2e-6],
    ['crop enlarge', 2e-6],
    ['crop flip', 2e-6],
    ['brightness', 2e-6],
    ['contrast', 3e-6],
    ['saturation', 2e-6],
    ['hue', 2e-5],
    ['jitter', 2e-5],
    ['grey', 2e-6],
    ['blur', 3e-6],
    ['moco', 6e-5],
    ['evaluation shrink', 3e-6],
    ['evaluation enlarge', 1e-5],
  ])('matches torchvision: %s', async (name, tolerance) => {
    const entry = find(name);
    expect(greatestDifference(await augmentBatch(device, store, entry), entry.expected)).toBeLessThan(tolerance);
  });

  it.skipIf(kind === 'cpu')('rounds to bfloat16 where asked', async () => {
    const entry = find('moco');
    const exact = await augmentBatch(device, store, entry);
    const rounded = await augmentBatch(device, store, entry, true);
    for (let i = 0; i < exact.length; ++i)
      expect(Math.abs(exact[i]! - rounded[i]!)).toBeLessThanOrEqual(Math.abs(exact[i]!) / 256 + 1e-30);
  });

  it('repeats itself bit for bit, in any order of the batch', async () => {
    const entry = find('moco');
    const first = await augmentBatch(device, store, entry);
    expect(await augmentBatch(device, store, entry)).toEqual(first);
    const turned = await augmentBatch(device, store, {
      ...entry,
      images: entry.images.toReversed(),
      drawIds: entry.drawIds.toReversed(),
    });
    const size = first.length / entry.images.length;
    for (let i = 0; i < entry.images.length; ++i) {
      expect(turned.subarray(i * size, (i + 1) * size)).toEqual(
        first.subarray((entry.images.length - 1 - i) * size, (entry.images.length - i) * size),
      );
    }
  });

  it('draws anew for another epoch, seed or draw id', async () => {
    const entry = find('moco');
    const first = await augmentBatch(device, store, entry);
    for (const change of [
      { epoch: entry.epoch + 1 },
      { seed: entry.seed + 1 },
      { drawIds: entry.drawIds.map((id) => id + 1) },
    ]) {
      const other = await augmentBatch(device, store, { ...entry, ...change });
      const size = first.length / entry.images.length;
      for (let i = 0; i < entry.images.length; ++i) {
        expect(
          greatestDifference(first.subarray(i * size, (i + 1) * size), other.subarray(i * size, (i + 1) * size)),
        ).toBeGreaterThan(0.05);
      }
    }
  });

  it('handles single pixels and single columns', async () => {
    const tiny = storeOf(addon, [
      { width: 1, height: 1, pixels: Uint8Array.of(255, 51, 0) },
      { width: 1, height: 9, pixels: new Uint8Array(27).fill(102) },
    ]);
    const recipe = { jitterProbability: 0, greyProbability: 0, blurProbability: 1, mean: [0, 0, 0], std: [1, 1, 1] };
    const batch = { recipe, height: 5, width: 3, seed: 1, epoch: 0, images: [0, 1], drawIds: [0, 1] };
    const expected = new Float32Array(90).fill(0.4, 45);
    expected.fill(1, 0, 15).fill(0.2, 15, 30);
    expect(greatestDifference(await augmentBatch(device, tiny, batch), expected)).toBeLessThan(1e-6);
    expect(
      greatestDifference(await augmentBatch(device, tiny, { ...batch, recipe: { ...recipe, train: false } }), expected),
    ).toBeLessThan(1e-6);
    const one = await augmentBatch(device, tiny, { ...batch, height: 1, width: 1 });
    expect(one).toHaveLength(6);
    expect(one[0]).toBeCloseTo(1, 6);
  });

  it('keeps two batches in flight apart', async () => {
    const entry = find('moco');
    const tensors = Array.from({ length: 6 }, () =>
      addon.makeImages(handle, entry.images.length, entry.height, entry.width, false),
    );
    tensors.forEach((tensor, i) => addon.augment(store, entry.recipe, { ...entry, epoch: i }, tensor));
    for (const [i, tensor] of tensors.entries()) {
      expect(await addon.readImages(tensor)).toEqual(await augmentBatch(device, store, { ...entry, epoch: i }));
    }
  });

  it('refuses what it cannot do', () => {
    const entry = find('grey');
    const tensor = addon.makeImages(handle, entry.images.length, 8, 8, false);
    const call = (recipe: object, batch: object) => () =>
      addon.augment(store, { ...entry.recipe, ...recipe }, { ...entry, ...batch }, tensor);
    expect(call({}, { images: [0, 99] })).toThrow(/no image 99/);
    expect(call({}, { images: [0, -1] })).toThrow(/no image -1/);
    expect(call({}, { images: [0] })).toThrow(expect.objectContaining({ code: 'BAD_SHAPE' }));
    expect(call({}, { drawIds: [0] })).toThrow(expect.objectContaining({ code: 'BAD_SHAPE' }));
    expect(call({ hue: 0.6 }, {})).toThrow(/recipe\.hue/);
    expect(call({ flipProbability: 1.5 }, {})).toThrow(/flipProbability/);
    expect(call({ scaleMin: 0 }, {})).toThrow(/scaleMin/);
    expect(call({ blurSigmaMin: 0 }, {})).toThrow(/blurSigmaMin/);
    expect(call({ std: [1, 0, 1] }, {})).toThrow(/std/);
  });

  it('refuses an image whose longer side would leave 32 bits', async () => {
    const long = storeOf(addon, [{ width: 1, height: 2 ** 20, pixels: new Uint8Array(3 * 2 ** 20) }]);
    const batch = {
      recipe: { train: false, resize: 4096, mean: [0, 0, 0], std: [1, 1, 1] },
      height: 8,
      width: 8,
      seed: 0,
      epoch: 0,
      images: [0],
      drawIds: [0],
    };
    await expect(augmentBatch(device, long, batch)).rejects.toMatchObject({
      code: 'BAD_SHAPE',
      message: expect.stringContaining('1x1048576 pixels is too long') as string,
    });
  });

  it.each([
    [65_536, 1, 'BAD_SHAPE', 'a batch of 65536 images'],
    [1, 1.5, 'BAD_OPTION', 'height: expected a whole number'],
    [NaN, 1, 'BAD_OPTION', 'batch: expected a whole number'],
    [2 ** 32 + 1, 1, 'BAD_OPTION', 'batch: out of range'],
  ])('refuses images of sizes %s, %s', (batch, height, code, message) => {
    expect(() => addon.makeImages(handle, batch, height, 1, false)).toThrow(
      expect.objectContaining({ code, message: expect.stringContaining(message) as string }),
    );
  });
  it.each([[[2 ** 31, 1]], [[1, 2 ** 32]], [[2 ** 30, 2 ** 30]]])('refuses a tensor of %s', (shape) => {
    expect(() => addon.makeTensor(handle, shape)).toThrow(expect.objectContaining({ code: 'BAD_SHAPE' }));
  });
});

describe('the CPU backend', () => {
  it('gives the same bits for any number of threads', async () => {
    const addon = loadAddon();
    const store = storeOf(addon, fixture.images);
    const entry = find('moco');
    const results = [];
    for (const threads of [1, 2, 3, 5])
      results.push(await augmentBatch(await openDevice('cpu', { threads }), store, entry));
    for (const result of results.slice(1)) expect(result).toEqual(results[0]);
  });
});

describe('the pixel store', () => {
  const addon = loadAddon();

  it('spills past its limit and gives the same pixels from the file', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'lgd-spill-'));
    try {
      using device = await openDevice('cpu', { threads: 1 });
      const entry = find('evaluation shrink');
      const spilled = storeOf(addon, fixture.images, {
        memoryLimitBytes: fixture.images[0]!.pixels.length + 10,
        spillFolder: folder,
      });
      const bytes = fixture.images.reduce((sum, image) => sum + image.pixels.length, 0);
      expect(addon.pixelStoreInfo(spilled)).toEqual({
        images: fixture.images.length,
        bytes,
        spilledBytes: bytes - fixture.images[0]!.pixels.length,
        mappedBytes: 0,
      });
      expect(await augmentBatch(device, spilled, entry)).toEqual(
        await augmentBatch(device, storeOf(addon, fixture.images), entry),
      );
      expect(await readdir(folder)).toEqual([]); // the file has no name: nothing is left behind by a killed process
      addon.release(spilled);
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  it('says so when it cannot spill, and when sizes are wrong', () => {
    const store = addon.makePixelStore({ memoryLimitBytes: 0, spillFolder: '/nonexistent/folder' });
    expect(() => addon.appendPixels(store, 2, 2, new Uint8Array(12))).toThrow(
      expect.objectContaining({ code: 'NOT_WRITABLE' }),
    );
    expect(() => addon.appendPixels(store, 2, 2, new Uint8Array(11))).toThrow(
      expect.objectContaining({ code: 'BAD_SHAPE' }),
    );
    expect(() => addon.appendPixels(store, 0, 2, new Uint8Array(0))).toThrow(
      expect.objectContaining({ code: 'BAD_SHAPE' }),
    );
  });

  it('says of a file system that maps no files, such as that of /sys, that it is one', () => {
    const store = addon.makePixelStore({ memoryLimitBytes: 0, spillFolder: '' });
    const file = {
      path: '/sys/devices/system/cpu/online',
      offsets: new Float64Array(1),
      widths: Int32Array.of(1),
      heights: Int32Array.of(1),
      checksums: new Uint32Array(1),
      names: new Float64Array(2),
    };
    expect(() => addon.mapPixels(store, file)).toThrow(
      expect.objectContaining({
        code: 'BAD_FILE',
        message: expect.stringContaining('maps no files into memory') as unknown,
      }),
    );
  });
});
