import { checkArgument, checkGiven, checkOptions, optionTable } from '../arguments.js';
import { parseConfig, type ConfigInput } from '../config/config.js';
import type { Device } from '../device.js';
import { LgdError } from '../errors.js';
import { Made } from '../lifetime.js';
import { checkNormalisation } from '../models/teachers/preprocessor.js';
import type { ChannelTriple } from '../models/teachers/types.js';
import { checkWhole, mostImages, mostSide } from '../number-limits.js';
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
  /** Above 0. */
  std: ChannelTriple;
  /**
   * How views are drawn for training; an option that is left out has its default (crop, flip, jitter, grey, blur: MoCo
   * v2's recipe). false: the middle of the image resized to R, as in evaluation.
   */
  augment?: ConfigInput['augment'] | false | undefined;
}

const viewOptions = optionTable<ViewOptions>()('device resolution mean std augment?');

type Drawn = Pick<PlannedBatch, 'images' | 'drawIds' | 'seed' | 'epoch'>;

/**
 * Which views {@link readViews} makes: a batch of a {@link BatchPlan} has it all. With `augment: false` the indices are
 * enough.
 */
export interface ViewBatch {
  /** Indices into the cache. */
  images: Int32Array;
  /** A number for each image that names its draw: its place in the source. */
  drawIds?: Int32Array | undefined;
  seed?: number | undefined;
  epoch?: number | undefined;
}

/**
 * Views of cached images as an array, for models outside this package. A draw depends on the image's place in the
 * source, the seed and the epoch alone: taken twice, at the resolutions of teacher and student, it shows both the same
 * crop. What each step computes: docs/data.md of the repository, Views.
 * @param batch of a {@link BatchPlan}, or of your own
 * @returns [N,3,R,R], NCHW
 * @throws LgdError BAD_OPTION (an index that the cache lacks, more than 65,535 images, a recipe out of range), DISPOSED,
 *   OUT_OF_MEMORY
 */
export async function readViews(
  images: Pick<ImageCache, 'store'>,
  batch: ViewBatch,
  options: ViewOptions,
): Promise<Float32Array> {
  checkGiven(images, 'readViews(images, ...)', 'store');
  checkGiven(batch, 'readViews()', 'images');
  checkOptions(options, 'readViews()', viewOptions);
  const { device, resolution, mean, std, augment = {} } = options;
  checkArgument('device', device);
  checkWhole('resolution', resolution, mostSide);
  checkNormalisation({ mean, std });
  const { addon, handle } = device;
  // no chance in the middle of an image
  const draws = augment === false ? { ...batch, drawIds: batch.images, seed: 0, epoch: 0 } : batch;
  if (!Number.isInteger((batch as Partial<ViewBatch>).images?.length) || !isDrawn(draws))
    throw new LgdError('BAD_OPTION', 'this batch does not say how its views are drawn.', {
      option: 'batch',
      allowed: 'images, drawIds, seed and epoch, as a BatchPlan gives them',
      mend: 'Give all of them, or augment: false',
    });
  const recipe =
    augment === false ? { train: false, resize: resolution } : { ...parseConfig({ augment }).augment, train: true };
  checkWhole('batch.images.length', batch.images.length, mostImages);
  using made = new Made();
  const views = made.add(addon.makeImages(handle, batch.images.length, resolution, resolution, false), addon.release);
  addon.augment(images.store, { ...recipe, mean, std }, draws, views);
  return await addon.readImages(views);
}

function isDrawn(batch: ViewBatch): batch is Drawn {
  return batch.drawIds !== undefined && batch.seed !== undefined && batch.epoch !== undefined;
}
