/** Images on their way into a step. */
import { checkArgument } from '../arguments.js';
import type { ImageCache } from '../data/cache.js';
import type { BatchPlan, PlannedBatch } from '../data/loader.js';
import { readAhead, type PreparableImages } from '../data/read-ahead.js';
import type { DecodeRate } from '../data/streamed.js';
import { LgdError } from '../errors.js';

/** Members that a data set may have or lack. */
type Told = { [Name in 'broken' | 'fileBytes' | 'labels']?: ImageCache[Name] | undefined };

/**
 * What training reads of its images: an {@link ImageCache}, {@link StreamedImages}, or anything with the same pixels,
 * ids and places.
 */
export interface Dataset extends Pick<ImageCache, 'length' | 'ids' | 'sourceIndex'>, Told, PreparableImages {
  /** What was decoded since the start, where images are decoded while training goes on. */
  readonly decoded?: DecodeRate | undefined;
}

/** One batch of a data set. */
export interface Batch extends PlannedBatch {
  /** Its store holds the batch's images at least. */
  dataset: Dataset;
  /**
   * Which image's pixels each one has, as {@link PreparedImages.shown}: pass on what `prepare` or `readAhead` gave.
   * Without it each is taken to have its own, and to be what its label and id say.
   */
  shown?: Int32Array | undefined;
  /** Called once the work on the batch is done. */
  release?(): void;
}

/**
 * Looks whether a data set, which may be a caller's own, tells of every image: draws are named by its place.
 * @throws LgdError BAD_OPTION, BAD_DATASET
 */
export function checkDataset(dataset: Dataset): void {
  checkArgument('dataset', dataset);
  const { length, broken, decoded } = dataset as { readonly [Name in keyof Dataset]?: unknown };
  const wrong = (option: string, found: unknown, allowed: string) =>
    new LgdError('BAD_DATASET', 'a member of the data set is not what it must be.', {
      option: `dataset.${option}`,
      found,
      allowed,
      mend: 'Give the data set so',
    });
  if (!Number.isInteger(length)) throw wrong('length', length, 'a whole number of images');
  if (broken != null && !Array.isArray(broken)) throw wrong('broken', broken, 'an array of { id, reason }, or none');
  if (decoded !== undefined && (typeof decoded !== 'object' || decoded === null))
    throw wrong('decoded', decoded, '{ images, seconds }, or none');
  for (const option of ['ids', 'sourceIndex'] as const) {
    if (dataset[option].length === dataset.length) continue;
    throw new LgdError('BAD_DATASET', `there are ${dataset[option].length} ${option} of ${dataset.length} images.`, {
      option,
      allowed: 'one an image',
      mend: 'Give the data set as many of each',
    });
  }
}

/** Looks whether a step has batches, and no more than it takes. @throws LgdError BAD_SHAPE, BAD_OPTION */
export function checkBatches(batches: readonly Batch[], accumulate: number): void {
  if (!Array.isArray(batches) || batches.length < 1 || batches.length > accumulate) {
    const found = Array.isArray(batches) ? `${batches.length} batches` : batches;
    throw new LgdError('BAD_SHAPE', 'a step takes train.accumulate batches, or fewer.', {
      option: 'batches',
      found,
      allowed: `an array of 1 to ${accumulate}`,
      mend: 'Give as many, or set train.accumulate',
    });
  }
  for (const batch of batches as Batch[]) {
    checkArgument('batch', batch);
    checkArgument('dataset', batch.dataset);
  }
}

/**
 * Looks, before anything of it is queued, whether a batch is whole and tells the same of every image.
 * @param size images of a batch
 * @param classes how many there are, where labels are learnt from
 * @throws LgdError BAD_SHAPE, BAD_OPTION, BAD_DATASET (no labels)
 */
export function checkBatch(
  { dataset: { length, labels }, images, drawIds, seed, epoch, shown = images }: Batch,
  size: number,
  classes: number | undefined,
): void {
  if (images.length !== size)
    throw new LgdError('BAD_SHAPE', `a batch has ${images.length} images.`, {
      option: 'images',
      allowed: `${size}, as train.batchSize says`,
    });
  if (drawIds.length !== size)
    throw new LgdError('BAD_SHAPE', `a batch of ${size} images has ${drawIds.length} numbers of their draws.`, {
      option: 'drawIds',
      allowed: 'one an image',
    });
  if (!Number.isSafeInteger(seed)) throw undrawn('seed', seed);
  if (!Number.isSafeInteger(epoch)) throw undrawn('epoch', epoch);
  if (shown.length !== images.length) {
    throw new LgdError('BAD_SHAPE', `a batch of ${images.length} images tells of ${shown.length} which they show.`, {
      option: 'shown',
      allowed: 'one index an image',
      mend: 'Pass on what prepare gave with these images',
    });
  }
  const outside = shown.find((index) => !(index >= 0 && index < length));
  if (outside !== undefined)
    throw new LgdError('BAD_OPTION', 'a batch shows an image that is not there.', {
      option: shown === images ? 'images' : 'shown',
      found: outside,
      allowed: `indices from 0 to ${length - 1}`,
    });
  if (classes === undefined) return;
  if (labels === undefined)
    throw new LgdError('BAD_DATASET', 'the online probe needs labels, and these images have none.', {
      option: 'evaluate.online',
      mend: 'Give images in class folders, or turn it off',
    });
  if (labels.length !== length)
    throw new LgdError('BAD_SHAPE', `there are ${labels.length} labels of ${length} images.`, {
      option: 'labels',
      allowed: 'one an image',
      mend: 'Give the labels of all images of the data set, not of the batch',
    });
  const wrong = shown.find((index) => !(labels[index]! >= 0 && labels[index]! < classes));
  if (wrong !== undefined)
    throw new LgdError('BAD_OPTION', `the label of image ${wrong} is none of the ${classes} classes.`, {
      option: 'labels',
      found: labels[wrong],
      allowed: `0 to ${classes - 1}`,
    });
}

function undrawn(option: string, found: unknown): LgdError {
  return new LgdError('BAD_OPTION', 'a batch does not say how its views are drawn.', {
    option,
    found,
    allowed: 'a whole number, as a BatchPlan gives it',
  });
}

/** Ids of the images whose pixels a batch has. */
export function idsOf({ dataset, images, shown = images }: Batch): string[] {
  return Array.from(shown, (index) => dataset.ids[index]!);
}

/**
 * The batches of a plan from where it stands, without end, their pixels ready. The plan itself stays where it is.
 * @param standIns index into the data set of each image of the plan, where they differ
 * @param ahead batches on their way behind the one that is given out
 * @throws LgdError of the data set, ABORTED
 */
export async function* preparedBatches(
  dataset: Dataset,
  plan: BatchPlan,
  { standIns, ahead, signal }: { standIns: Int32Array | undefined; ahead: number; signal: AbortSignal | undefined },
): AsyncGenerator<Batch, void, undefined> {
  const { length, ids, sourceIndex, labels } = dataset;
  for await (const { store, ...batch } of readAhead(dataset, planned(plan.fork(), standIns), ahead, signal))
    yield { ...batch, dataset: { length, ids, sourceIndex, labels, store } };
}

function* planned(plan: BatchPlan, standIns: Int32Array | undefined): Generator<PlannedBatch, void, undefined> {
  for (const batch of plan)
    yield standIns === undefined ? batch : { ...batch, images: batch.images.map((index) => standIns[index]!) };
}
