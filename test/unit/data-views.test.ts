import sharp from 'sharp';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ImageCache } from '../../lib/data/cache.js';
import { BatchPlan } from '../../lib/data/loader.js';
import { imagesFromBuffers } from '../../lib/data/sources.js';
import { readViews, type ViewOptions } from '../../lib/data/views.js';
import { openDevice, type Device } from '../../lib/device.js';
import { temporaryFolder } from '../fixtures/folder.js';

const folder = temporaryFolder();
let device: Device;
let images: ImageCache;
let options: ViewOptions;

beforeAll(async () => {
  device = await openDevice('cpu', { threads: 1 });
  // Left half dark, right half light: the mean of a view tells where the crop lay.
  const picture = await sharp(
    Buffer.from(
      '<svg xmlns="http://www.w3.org/2000/svg" width="96" height="96"><rect width="96" height="96" fill="#333"/><rect x="48" width="48" height="96" fill="#ccc"/></svg>',
    ),
  )
    .png()
    .toBuffer();
  images = await ImageCache.build(
    imagesFromBuffers(Array.from({ length: 8 }, (_, i) => ({ id: `${i}`, bytes: picture }))),
    {
      device,
      resolution: 64,
      margin: 1.25,
      memoryLimitBytes: 1e9,
      spillFolder: folder,
      maxBrokenShare: 0,
    },
  );
  options = { device, resolution: 32, mean: [0, 0, 0], std: [1, 1, 1] };
});
afterAll(() => {
  images.dispose();
  device.dispose();
});

const meanOf = (values: Float32Array) => values.reduce((sum, value) => sum + value, 0) / values.length;
const image = (views: Float32Array, index: number, side: number) =>
  views.subarray(index * 3 * side * side, (index + 1) * 3 * side * side);

test('a batch of a plan gives views that its seed and epoch decide', async () => {
  const batch = new BatchPlan(images, { batchSize: 4, seed: 1 }).next();
  const views = await readViews(images, batch, options);
  expect(views).toHaveLength(4 * 3 * 32 * 32);
  expect(await readViews(images, batch, options)).toEqual(views);
  expect(await readViews(images, { ...batch, epoch: 1 }, options)).not.toEqual(views);
  const means = [0, 1, 2, 3].map((i) => meanOf(image(views, i, 32)));
  expect(new Set(means.map((mean) => mean.toFixed(3))).size).toBeGreaterThan(1); // crops of one picture differ
});

test('the same draw at another resolution is the same crop', async () => {
  const batch = new BatchPlan(images, { batchSize: 8, seed: 2 }).next();
  const augment = { jitterProbability: 0, greyProbability: 0, blurProbability: 0 };
  const [small, large] = await Promise.all(
    [32, 64].map((resolution) => readViews(images, batch, { ...options, resolution, augment })),
  );
  for (let i = 0; i < 8; i++) expect(meanOf(image(small!, i, 32))).toBeCloseTo(meanOf(image(large!, i, 64)), 1);
});

test('without augmentation it is the middle of the image, normalised', async () => {
  const all = { images: Int32Array.of(0), drawIds: Int32Array.of(0), seed: 0, epoch: 0 };
  const plain = await readViews(images, all, { ...options, augment: false });
  expect(plain[16 * 32 + 4]).toBeCloseTo(0.2, 2);
  expect(plain[16 * 32 + 28]).toBeCloseTo(0.8, 2);
  const normalised = await readViews(images, all, { ...options, augment: false, mean: [0.2, 0, 0], std: [2, 1, 1] });
  expect(normalised[16 * 32 + 28]).toBeCloseTo(0.3, 2);
});

test('what it cannot show is refused', async () => {
  const batch = { images: Int32Array.of(99), drawIds: Int32Array.of(99), seed: 0, epoch: 0 };
  await expect(readViews(images, batch, options)).rejects.toMatchObject({ code: 'BAD_OPTION' });
  await expect(
    readViews(images, { ...batch, images: Int32Array.of(0) }, { ...options, augment: { flipProbability: 2 } }),
  ).rejects.toMatchObject({ code: 'BAD_OPTION', option: 'augment.flipProbability' });
  for (const resolution of [0, 32.5, '32'])
    await expect(
      readViews(images, { images: Int32Array.of(0) }, { ...options, augment: false, resolution: resolution as number }),
    ).rejects.toMatchObject({ code: 'BAD_OPTION', option: 'resolution' });
});
