import { checkArgument, checkGiven, checkOptions } from '../arguments.js';
import { LgdError } from '../errors.js';
import type { ImageCache } from './cache.js';
import { ShuffledSampler } from './sampler.js';

/** One training batch, as {@link NativeAddon.augment} takes it. */
export interface PlannedBatch {
  /** Indices into the cache. */
  images: Int32Array;
  /**
   * Names of the draws: the images' places in the source, so that a draw depends neither on the order nor on broken
   * neighbours.
   */
  drawIds: Int32Array;
  /** The plan's. */
  seed: number;
  /** From 0. */
  epoch: number;
  /** Number of the batch within its epoch, from 0. */
  step: number;
}

/** What {@link BatchPlan.restore} needs to continue exactly. Plain data. */
export interface BatchPlanState {
  epoch: number;
  step: number;
  seed: number;
  batchSize: number;
  images: number;
}

/**
 * The batches of a training run, epoch after epoch without end: which images, in which order, with which draws. Pixels
 * stay native: a batch is handed to the device's queue, which crops and augments it while the device works on the batch
 * before. The trainer keeps that queue filled by taking batches ahead; a checkpoint holds {@link stateAfter} the last
 * batch whose step was done.
 */
export class BatchPlan implements Iterable<PlannedBatch> {
  readonly #cache: Pick<ImageCache, 'length' | 'sourceIndex'>;
  readonly #sampler: ShuffledSampler;

  /**
   * @param options.batchSize images a batch; the last images of an epoch that fill no batch are left out of it
   * @param options.seed of the shuffling and of all draws, a whole number from 0
   * @throws LgdError BAD_OPTION when the cache has fewer images than a batch takes
   */
  constructor(cache: Pick<ImageCache, 'length' | 'sourceIndex'>, options: { batchSize: number; seed: number }) {
    checkArgument('images', cache);
    checkOptions(options, 'new BatchPlan()', { batchSize: 'needed', seed: 'needed' });
    this.#cache = cache;
    this.#sampler = new ShuffledSampler({ count: cache.length, ...options });
  }

  get stepsPerEpoch(): number {
    return this.#sampler.stepsPerEpoch;
  }

  /** Takes the next batch. */
  next(): PlannedBatch {
    const { epoch, step, indices } = this.#sampler.next();
    return {
      images: indices,
      drawIds: indices.map((index) => this.#cache.sourceIndex[index]!),
      seed: this.#sampler.seed,
      epoch,
      step,
    };
  }

  /** All batches to come; take as many as you want. */
  *[Symbol.iterator](): Generator<PlannedBatch, never, undefined> {
    for (;;) yield this.next();
  }

  /** Another plan that stands where this one does. */
  fork(): BatchPlan {
    const { batchSize, seed } = this.#sampler;
    const plan = new BatchPlan(this.#cache, { batchSize, seed });
    plan.restore(this.state());
    return plan;
  }

  /** Where the plan stands: the next batch is batch `step` of `epoch`. */
  state(): BatchPlanState {
    const { seed, batchSize, count } = this.#sampler;
    return { ...this.#sampler.position, seed, batchSize, images: count };
  }

  /** Where the plan stood when this batch had been taken, and none after it. */
  stateAfter({ epoch, step }: Pick<PlannedBatch, 'epoch' | 'step'>): BatchPlanState {
    const last = step + 1 === this.stepsPerEpoch;
    return { ...this.state(), epoch: last ? epoch + 1 : epoch, step: last ? 0 : step + 1 };
  }

  /**
   * Continues where `state` was taken.
   * @throws LgdError BAD_CHECKPOINT when it was taken with other images, another batch size or another seed; BAD_OPTION
   *   where there is none
   */
  restore(state: BatchPlanState): void {
    checkGiven(state, 'restore()', 'epoch, step, seed, batchSize, images');
    const here = this.state();
    for (const [field, option, mend] of [
      ['images', 'data.train', 'Resume with the images of the interrupted run'],
      ['batchSize', 'train.batchSize', 'Resume with the same batch size'],
      ['seed', 'seed', 'Resume with the same seed'],
    ] as const) {
      if (state[field] === here[field]) continue;
      throw new LgdError('BAD_CHECKPOINT', `the checkpoint was made with another number (${field}).`, {
        option,
        found: here[field],
        allowed: String(state[field]),
        mend,
      });
    }
    const { epoch, step } = state;
    try {
      this.#sampler.position = { epoch, step };
    } catch (cause) {
      throw new LgdError('BAD_CHECKPOINT', `the checkpoint's position, epoch ${epoch}, step ${step}, does not exist.`, {
        mend: 'Resume from another checkpoint',
        cause,
      });
    }
  }
}
