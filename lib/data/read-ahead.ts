import type { PixelStoreHandle } from '../native.js';
import { orAborted } from '../turn.js';
import type { PreparedImages } from './cache.js';

/** A data set that batches are taken from; without `prepare` all of it is in its store. */
export interface PreparableImages {
  readonly store: PixelStoreHandle;
  /** Makes the pixels of these images ready; those of several calls may be ready at once. */
  prepare?(images: Int32Array): PreparedImages | Promise<PreparedImages>;
}

/**
 * Batches whose pixels are there, in order, while those of the next ones are on their way: an {@link ImageCache} reads a pack ahead, {@link StreamedImages} decode. Call release() of each batch once
 * the work on it is done; whatever ends the iteration gives back those that nobody took.
 * @param ahead batches on their way behind the one that is given out, 0 or more
 * @param signal ends the waiting for images, which may never come
 * @throws LgdError of the data set, ABORTED
 */
export async function* readAhead<Batch extends { images: Int32Array }>(dataset: PreparableImages, batches: Iterable<Batch>, ahead: number, signal?: AbortSignal): AsyncGenerator<Batch & PreparedImages, void, undefined> {
  const iterator = batches[Symbol.iterator]();
  const pending: { batch: Batch; prepared: Promise<PreparedImages> }[] = [];
  const prepare = async ({ images }: Batch): Promise<PreparedImages> => (dataset.prepare === undefined ? { store: dataset.store, release: () => undefined } : dataset.prepare(images));
  let ended = false;
  try {
    for (;;) {
      while (!ended && pending.length <= ahead) {
        const next = iterator.next();
        ended = next.done === true;
        if (next.done) break;
        const prepared = prepare(next.value);
        prepared.catch(() => undefined); // thrown when its turn comes
        pending.push({ batch: next.value, prepared });
      }
      const [first] = pending;
      if (first === undefined) return;
      const prepared = await orAborted(first.prepared, 'waiting for images', signal);
      pending.shift();
      const { store, shown } = prepared;
      yield { ...first.batch, store, ...(shown !== undefined && { shown }), release: () => prepared.release() };
    }
  } finally {
    const givenBack = Promise.all(pending.map(({ prepared }) => prepared.then((images) => images.release(), () => undefined)));
    if (signal?.aborted) givenBack.catch(() => undefined); // as soon as they come
    else await givenBack;
  }
}
