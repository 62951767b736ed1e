import type { NativeAddon, NativeAugmentRecipe, PixelStoreHandle } from '../../lib/addon/native.js';
import type { Device } from '../../lib/device.js';
import { readSafetensors } from '../../lib/files/safetensors.js';
import { testPath } from '../shared.js';

/** A case of test/fixtures/augment/make_fixtures.py: the batch to augment and torchvision's result for it. */
export interface AugmentCase {
  name: string;
  recipe: NativeAugmentRecipe;
  height: number;
  width: number;
  seed: number;
  epoch: number;
  images: number[];
  drawIds: number[];
  /** [B,3,H,W] */
  expected: Float32Array;
}

export interface RgbImage {
  width: number;
  height: number;
  pixels: Uint8Array;
}

export interface AugmentFixture {
  images: RgbImage[];
  cases: AugmentCase[];
  /**
   * [6,201]: quantiles 0, 0.005 ... 1 of torchvision's crops of a 160 x 96 image: top, left, height, width, area share,
   * log ratio.
   */
  cropQuantiles: Float32Array;
}

export async function readAugmentFixture(): Promise<AugmentFixture> {
  const { tensors, metadata } = await readSafetensors(testPath('fixtures', 'augment', 'augment.safetensors'));
  const images: RgbImage[] = [];
  for (let i = 0; tensors.has(`image.${i}`); ++i) {
    const { shape, data } = tensors.get(`image.${i}`)!;
    images.push({ height: shape[0]!, width: shape[1]!, pixels: data as Uint8Array });
  }
  const listing = JSON.parse(metadata['cases']!) as Omit<AugmentCase, 'expected'>[];
  const cases = listing.map((entry) => ({
    ...entry,
    expected: tensors.get(`${entry.name}.expected`)!.data as Float32Array,
  }));
  return { images, cases, cropQuantiles: tensors.get('crop.quantiles')!.data as Float32Array };
}

export function storeOf(
  addon: NativeAddon,
  images: readonly RgbImage[],
  options = { memoryLimitBytes: 1e9, spillFolder: '' },
): PixelStoreHandle {
  const store = addon.makePixelStore(options);
  for (const { width, height, pixels } of images) addon.appendPixels(store, width, height, pixels);
  return store;
}

/** Augments one batch; the result is [B,3,H,W]. */
export async function augmentBatch(
  { addon, handle }: Device,
  store: PixelStoreHandle,
  { recipe, height, width, images, drawIds, seed, epoch }: Omit<AugmentCase, 'name' | 'expected'>,
  bfloat16 = false,
): Promise<Float32Array> {
  const tensor = addon.makeImages(handle, images.length, height, width, bfloat16);
  addon.augment(store, recipe, { images, drawIds, seed, epoch }, tensor);
  const result = await addon.readImages(tensor);
  addon.release(tensor);
  return result;
}
