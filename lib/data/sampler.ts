import { LgdError } from '../errors.js';
import { checkNumber, checkSeed, checkWhole } from '../number-limits.js';
import { PhiloxStream } from './philox.js';

/** Keeps the shuffling apart from other uses of the same seed. */
const shuffleKey = 0x73687566666c6521n;

/**
 * A permutation of 0 ... count - 1, drawn from (seed, epoch) by Fisher-Yates; the same on every machine.
 * @param seed a whole number from 0
 * @param epoch likewise
 */
export function shuffledOrder(count: number, seed: number, epoch: number): Int32Array {
  return new Shuffle(count, seed, epoch).finish();
}

/** {@link shuffledOrder} in pieces: a million images at once would hold up the main thread for a tenth of a second. */
class Shuffle {
  readonly #order: Int32Array;
  readonly #random: PhiloxStream;
  #last: number;

  constructor(
    count: number,
    seed: number,
    readonly epoch: number,
  ) {
    this.#order = new Int32Array(count);
    for (let i = 0; i < count; ++i) this.#order[i] = i;
    this.#random = new PhiloxStream(BigInt(seed) ^ shuffleKey, BigInt(epoch));
    this.#last = count - 1;
  }

  /** Settles at least `places` more places, from the end. */
  advance(places: number): void {
    const order = this.#order;
    for (let i = this.#last; i > Math.max(0, this.#last - places); --i) {
      const j = Math.floor(this.#random.next() * (i + 1));
      const taken = order[i]!;
      order[i] = order[j]!;
      order[j] = taken;
    }
    this.#last = Math.max(0, this.#last - places);
  }

  /** Settles the rest. */
  finish(): Int32Array {
    this.advance(this.#last);
    return this.#order;
  }
}

/** Where a sampler stands: the batch `step` of `epoch` comes next. */
export interface SamplerPosition {
  epoch: number;
  step: number;
}

/**
 * Batches of shuffled indices for training, epoch after epoch without end. The last batch of an epoch is dropped when
 * it is not full, so all have `batchSize` indices. Setting {@link position} continues exactly there.
 * @throws LgdError BAD_OPTION when there are fewer images than a batch takes
 */
export class ShuffledSampler {
  readonly count: number;
  readonly batchSize: number;
  readonly seed: number;
  readonly stepsPerEpoch: number;
  #epoch = 0;
  #step = 0;
  #order: { epoch: number; indices: Int32Array } | undefined;
  /** The next epoch's order: each batch taken settles as many places of it. */
  #following: Shuffle | undefined;

  constructor({ count, batchSize, seed }: { count: number; batchSize: number; seed: number }) {
    checkSeed(seed);
    checkWhole('train.batchSize', batchSize);
    if (!(batchSize <= count)) {
      throw new LgdError('BAD_OPTION', `a batch cannot be filled from ${count} images.`, {
        option: 'train.batchSize',
        found: batchSize,
        allowed: `1 to ${count}`,
        mend: 'Take a smaller batch or more images',
      });
    }
    this.count = count;
    this.batchSize = batchSize;
    this.seed = seed;
    this.stepsPerEpoch = Math.floor(count / batchSize);
  }

  get position(): SamplerPosition {
    return { epoch: this.#epoch, step: this.#step };
  }

  set position({ epoch, step }: SamplerPosition) {
    checkNumber('position.epoch', epoch, { whole: true, least: 0 });
    checkNumber('position.step', step, { whole: true, least: 0, most: this.stepsPerEpoch - 1 });
    this.#epoch = epoch;
    this.#step = step;
  }

  /** The next batch's indices, and where it stands. */
  next(): SamplerPosition & { indices: Int32Array } {
    const { epoch, step } = this.position;
    if (this.#order?.epoch !== epoch) {
      const shuffle = this.#following?.epoch === epoch ? this.#following : new Shuffle(this.count, this.seed, epoch);
      this.#order = { epoch, indices: shuffle.finish() };
      this.#following = new Shuffle(this.count, this.seed, epoch + 1);
    }
    this.#following?.advance(Math.ceil(this.count / this.stepsPerEpoch));
    const indices = this.#order.indices.slice(step * this.batchSize, (step + 1) * this.batchSize);
    this.#step += 1;
    if (this.#step === this.stepsPerEpoch) {
      this.#epoch += 1;
      this.#step = 0;
    }
    return { epoch, step, indices };
  }
}

/** A batch of {@link sequentialBatches}: `indices` has the full size, the first `valid` of them count. */
export interface PaddedBatch {
  indices: Int32Array;
  valid: number;
}

/** Every index once and in order, for evaluation; the last batch is filled up by repeating the last index. */
export function* sequentialBatches(count: number, batchSize: number): Generator<PaddedBatch, void, undefined> {
  checkWhole('batchSize', batchSize);
  for (let start = 0; start < count; start += batchSize) {
    const indices = Int32Array.from({ length: batchSize }, (_, i) => Math.min(start + i, count - 1));
    yield { indices, valid: Math.min(batchSize, count - start) };
  }
}
