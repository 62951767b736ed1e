import { types } from 'node:util';
import type { PixelStoreHandle } from '../addon/native.js';
import { checkGiven } from '../arguments.js';
import { LgdError, thrownBy } from '../errors.js';
import { checkNumber } from '../number-limits.js';
import type { PreparedImages } from './cache.js';
import { inOrder } from './in-order.js';

/** A data set that batches are taken from; without `prepare` all of it is in its store. */
export interface PreparableImages {
  readonly store: PixelStoreHandle;
  /** Makes the pixels of these images ready; those of several calls may be ready at once. */
  prepare?(images: Int32Array): PreparedImages | Promise<PreparedImages>;
}

/**
 * Batches whose pixels are there, in order, while those of the next ones are on their way: an {@link ImageCache} reads
 * a pack ahead, {@link StreamedImages} decode. Call release() of each batch once the work on it is done; whatever ends
 * the iteration gives back those that nobody took.
 * @param ahead batches on their way behind the one that is given out, 0 or more
 * @param signal ends the waiting for images, which may never come
 * @throws LgdError BAD_OPTION, those of the data set, ABORTED
 */
export async function* readAhead<Batch extends { images: Int32Array }>(
  dataset: PreparableImages,
  batches: Iterable<Batch>,
  ahead: number,
  signal?: AbortSignal,
): AsyncGenerator<Batch & PreparedImages, void, undefined> {
  checkGiven(dataset, 'readAhead()', 'store');
  if (typeof (batches as Iterable<Batch> | undefined)?.[Symbol.iterator] !== 'function')
    throw new LgdError('BAD_OPTION', 'these are no batches.', {
      option: 'batches',
      found: batches,
      allowed: 'an array of them, or what else can be iterated',
    });
  checkNumber('ahead', ahead, { whole: true, least: 0 });
  const work = async (batch: Batch) => ({ batch, prepared: await prepare(dataset, batch.images) });
  const what = 'waiting for images';
  const discard = ({ prepared }: { prepared: PreparedImages }) => giveBack(prepared);
  for await (const { batch, prepared } of inOrder(batches, ahead + 1, work, { signal, what, discard })) {
    const { store, shown } = prepared;
    yield { ...batch, store, ...(shown !== undefined && { shown }), release: () => giveBack(prepared) };
  }
}

/** @throws LgdError BAD_DATASET for what a data set of a caller's own throws that is no error */
function giveBack(prepared: PreparedImages): void {
  try {
    prepared.release();
  } catch (cause) {
    throw thrownBy(cause, 'BAD_DATASET', { giver: 'the data set', call: 'release', option: 'dataset' });
  }
}

/** @throws LgdError BAD_DATASET for what a data set of a caller's own gives or throws; its own errors as they are */
async function prepare(dataset: PreparableImages, images: Int32Array): Promise<PreparedImages> {
  if (typeof dataset.prepare !== 'function' && dataset.prepare !== undefined) {
    throw new LgdError('BAD_DATASET', 'not a function.', {
      option: 'dataset.prepare',
      found: dataset.prepare,
      allowed: 'prepare(indices), which gives { store, shown?, release() }',
      mend: 'Give it so, or leave it out',
    });
  }
  if (dataset.prepare === undefined) return { store: dataset.store, release: () => undefined };
  let given: unknown;
  try {
    given = await dataset.prepare(images);
  } catch (cause) {
    throw thrownBy(cause, 'BAD_DATASET', { giver: 'the data set', call: 'prepare', option: 'dataset' });
  }
  const { store, shown, release } = (given ?? {}) as { [Name in keyof PreparedImages]?: unknown };
  if (
    store != null &&
    typeof release === 'function' &&
    (shown === undefined || (types.isInt32Array(shown) && shown.length === images.length))
  )
    return given as PreparedImages;
  throw new LgdError('BAD_DATASET', "prepare() of the data set did not give a batch's pixels.", {
    option: 'dataset',
    found: given,
    allowed: `{ store, shown?, release() }, with shown an Int32Array of ${images.length}`,
    mend: 'Let it give so',
  });
}
