import type { BatchPlan, PlannedBatch } from '../data/loader.js';
import { readAhead } from '../data/read-ahead.js';
import type { Batch, Dataset } from './batch.js';

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
