/** Images on their way into a step. */
import type { ImageCache } from '../data/cache.js';
import type { PlannedBatch } from '../data/loader.js';
import type { PreparableImages } from '../data/read-ahead.js';
import type { DecodeRate } from '../data/streamed.js';

/** What training reads of its images: an {@link ImageCache}, {@link StreamedImages}, or anything with the same pixels, ids and places. */
export interface Dataset extends Pick<ImageCache, 'length' | 'ids' | 'sourceIndex'>, Partial<Pick<ImageCache, 'broken' | 'fileBytes' | 'labels'>>, PreparableImages {
  /** What was decoded since the start, where images are decoded while training goes on. */
  readonly decoded?: DecodeRate;
}

/** One batch of a data set. */
export interface Batch extends PlannedBatch {
  /** Its store holds the batch's images at least. */
  dataset: Dataset;
  /** Which image's pixels each one has, as {@link PreparedImages.shown}. */
  shown?: Int32Array;
  /** Called once the work on the batch is done. */
  release?(): void;
}

/** Ids of the images whose pixels a batch has. */
export function idsOf({ dataset, images, shown = images }: Batch): string[] {
  return Array.from(shown, (index) => dataset.ids[index]!);
}
