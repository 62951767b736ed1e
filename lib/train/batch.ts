/** Images on their way into a step. */
import type { ImageCache } from '../data/cache.js';
import type { PlannedBatch } from '../data/loader.js';

/** What training reads of its images: an {@link ImageCache}, or anything with the same pixels, ids and places. */
export type Dataset = Pick<ImageCache, 'length' | 'ids' | 'sourceIndex' | 'store'> & Partial<Pick<ImageCache, 'broken' | 'fileBytes'>>;

/** One batch of a data set. */
export interface Batch extends PlannedBatch {
  dataset: Dataset;
}

/** Ids of a batch's images. */
export function idsOf({ dataset, images }: Batch): string[] {
  return Array.from(images, (index) => dataset.ids[index]!);
}
