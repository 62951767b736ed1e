import { parseConfig, type ConfigInput } from '../config.js';
import type { Device } from '../device.js';
import type { ChannelTriple } from '../models/teachers/types.js';
import type { ImageCache } from './cache.js';
import type { PlannedBatch } from './loader.js';

/** What {@link readViews} makes. */
export interface ViewOptions {
  /** Where the views are made. */
  device: Device;
  /** R, the side of a view in pixels. */
  resolution: number;
  /** Views are (pixel - mean) / std with pixels in 0..1. */
  mean: ChannelTriple;
  std: ChannelTriple;
  /**
   * How views are drawn for training; an option that is left out has its default (crop, flip, jitter, grey, blur: MoCo v2's recipe). false: the middle of the image
   * resized to R, as in evaluation.
   */
  augment?: ConfigInput['augment'] | false;
}

/**
 * Views of cached images as an array, for models outside this package. A draw depends on the image's place in the source, the seed and the epoch alone: taken twice,
 * at the resolutions of teacher and student, it shows both the same crop.
 * @param batch of a {@link BatchPlan}, or your own indices into the cache
 * @returns [N,3,R,R], NCHW
 * @throws LgdError BAD_OPTION (an index that the cache lacks, a recipe out of range), DISPOSED, OUT_OF_MEMORY
 */
export async function readViews(images: Pick<ImageCache, 'store'>, batch: Pick<PlannedBatch, 'images' | 'drawIds' | 'seed' | 'epoch'>, { device, resolution, mean, std, augment = {} }: ViewOptions): Promise<Float32Array> {
  const { addon, handle } = device;
  const recipe = augment === false ? { train: false, resize: resolution } : { ...parseConfig({ augment }).augment, train: true };
  const views = addon.makeImages(handle, batch.images.length, resolution, resolution, false);
  try {
    addon.augment(images.store, { ...recipe, mean, std }, batch, views);
    return await addon.readImages(views);
  } finally {
    addon.release(views);
  }
}
