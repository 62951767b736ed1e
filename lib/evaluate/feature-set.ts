/**
 * Frozen features with labels on a device, standardised, and linear classifiers on them (native/semantic/classifier.h).
 */
import { types } from 'node:util';
import type { TensorHandle } from '../addon/native.js';
import type { Device } from '../device.js';
import { LgdError } from '../errors.js';
import { Made } from '../lifetime.js';
import type { OnlineState as HeadsState } from '../runs/checkpoint.js';
import { nextTurn } from '../turn.js';
import type { Answers } from './accuracy.js';

const valuesAtOnce = 2 ** 20; // about a millisecond of work on the main thread

/** Mean and standard deviation of each feature. */
export interface FeatureScale {
  mean: Float32Array;
  /** 1 for a feature that never changes. */
  deviation: Float32Array;
}

/** Mean and standard deviation (of the whole, not of a sample) of each column of [N,D]. @throws LgdError ABORTED */
export async function measureScale(
  features: Float32Array,
  dimension: number,
  signal?: AbortSignal,
): Promise<FeatureScale> {
  const count = features.length / dimension;
  const sums = new Float64Array(dimension);
  const squares = new Float64Array(dimension);
  const each = async (take: (row: Float32Array) => void) => {
    for (let row = 0; row < count; row++) {
      if ((row * dimension) % valuesAtOnce < dimension) await nextTurn(signal, 'the linear probe');
      take(features.subarray(row * dimension, (row + 1) * dimension));
    }
  };
  await each((row) => row.forEach((value, d) => (sums[d]! += value)));
  const mean = Float32Array.from(sums, (sum) => sum / count);
  await each((row) => row.forEach((value, d) => (squares[d]! += (value - mean[d]!) ** 2)));
  const deviation = Float32Array.from(squares, (sum) => {
    const found = Math.sqrt(sum / count);
    return found > 1e-12 ? found : 1;
  });
  return { mean, deviation };
}

/** Weights of H classifiers of K classes side by side, with gradient and momentum, on the device. */
export class LinearHeads implements Disposable {
  readonly weights: TensorHandle;
  readonly bias: TensorHandle;
  readonly dWeights: TensorHandle;
  readonly dBias: TensorHandle;
  readonly #made = new Made();
  readonly #vWeights: TensorHandle;
  readonly #vBias: TensorHandle;

  /** All zeros. @throws LgdError OUT_OF_MEMORY */
  constructor(
    readonly device: Device,
    readonly dimension: number,
    readonly classes: number,
    readonly heads: number,
  ) {
    const { addon, handle } = device;
    const outputs = classes * heads;
    const make = (rows: number, columns: number) =>
      this.#made.add(addon.makeTensor(handle, [rows, columns]), addon.release);
    const three = (rows: number, columns: number) =>
      [make(rows, columns), make(rows, columns), make(rows, columns)] as const;
    try {
      [this.weights, this.dWeights, this.#vWeights] = three(outputs, dimension);
      [this.bias, this.dBias, this.#vBias] = three(1, outputs);
    } catch (error) {
      this.#made.free();
      throw error;
    }
  }

  /** Queues a step of SGD of each classifier at its own rate, with the gradients as they are. */
  step(learningRates: readonly number[], { momentum, weightDecay }: { momentum: number; weightDecay: number }): void {
    const { addon } = this.device;
    learningRates.forEach((learningRate, head) => {
      const [begin, end] = [head * this.classes, (head + 1) * this.classes];
      addon.sgdTensor(this.weights, {
        gradient: this.dWeights,
        velocity: this.#vWeights,
        learningRate,
        momentum,
        weightDecay,
        begin: begin * this.dimension,
        end: end * this.dimension,
      });
      addon.sgdTensor(this.bias, {
        gradient: this.dBias,
        velocity: this.#vBias,
        learningRate,
        momentum,
        weightDecay: 0,
        begin,
        end,
      });
    });
  }

  /** Everything the next step depends on: weights, bias and their momentum. */
  async state(): Promise<HeadsState> {
    const { addon } = this.device;
    const [weights, bias, weightsMomentum, biasMomentum] = await Promise.all(
      [this.weights, this.bias, this.#vWeights, this.#vBias].map((tensor) => addon.readTensor(tensor)),
    );
    return { weights: weights!, bias: bias!, weightsMomentum: weightsMomentum!, biasMomentum: biasMomentum! };
  }

  /** Looks whether a {@link state} is one of such heads. @throws LgdError BAD_SHAPE */
  check(state: HeadsState): void {
    const outputs = this.classes * this.heads;
    for (const [part, size] of [
      ['weights', outputs * this.dimension],
      ['weightsMomentum', outputs * this.dimension],
      ['bias', outputs],
      ['biasMomentum', outputs],
    ] as const) {
      const found = state[part];
      if (!types.isFloat32Array(found) || found.length !== size)
        throw new LgdError('BAD_SHAPE', 'this is the state of another classifier.', {
          option: `online.${part}`,
          found,
          allowed: `a Float32Array of ${size} values`,
        });
    }
  }

  /** Continues from a {@link state}; one that does not fit changes nothing. @throws LgdError BAD_SHAPE */
  restore(state: HeadsState): void {
    this.check(state);
    const { addon } = this.device;
    addon.writeTensor(this.weights, state.weights);
    addon.writeTensor(this.bias, state.bias);
    addon.writeTensor(this.#vWeights, state.weightsMomentum);
    addon.writeTensor(this.#vBias, state.biasMomentum);
  }

  [Symbol.dispose](): void {
    this.#made.free();
  }
}

/** What {@link FeatureSet.loss} found of each row and classifier. */
export interface LossResult {
  /** Of each classifier: mean over the rows. */
  losses: number[];
  /** Of each classifier: share of rows whose class it puts first. */
  top1: number[];
  answers: (head: number) => Answers;
}

/** Standardised features [N,D] on a device, with their labels. */
export class FeatureSet implements Disposable {
  readonly count: number;

  private constructor(
    readonly device: Device,
    readonly features: TensorHandle,
    readonly labels: Int32Array,
    readonly dimension: number,
  ) {
    this.count = labels.length;
  }

  /** Standardises features [N,D] by `scale` and sends them, in pieces. @throws LgdError OUT_OF_MEMORY, ABORTED */
  static async make(
    device: Device,
    features: Float32Array,
    labels: Int32Array,
    scale: FeatureScale,
    signal?: AbortSignal,
  ): Promise<FeatureSet> {
    const dimension = scale.mean.length;
    const tensor = device.addon.makeTensor(device.handle, [labels.length, dimension]);
    const set = new FeatureSet(device, tensor, labels, dimension);
    try {
      const rows = Math.max(1, Math.floor(valuesAtOnce / dimension));
      for (let row = 0; row < labels.length; row += rows) {
        await nextTurn(signal, 'the linear probe');
        const block = features.slice(row * dimension, (row + rows) * dimension);
        for (let i = 0; i < block.length; i++)
          block[i] = (block[i]! - scale.mean[i % dimension]!) / scale.deviation[i % dimension]!;
        device.addon.writeRows(tensor, row, block);
        await device.synchronize(); // before another could wait, and be told of a fault in it
      }
      return set;
    } catch (error) {
      set[Symbol.dispose]();
      throw error;
    }
  }

  /** Queues the gradient of the mean loss over some rows into `heads`. */
  queueGradient({ weights, bias, dWeights, dBias, heads }: LinearHeads, rows: Int32Array): void {
    const labels = rows.map((row) => this.labels[row]!);
    this.device.addon.classifierLoss({
      features: this.features,
      weights,
      bias,
      dWeights,
      dBias,
      heads,
      labels,
      rows,
      scale: 1 / rows.length,
    });
  }

  /**
   * Losses and answers over some rows, or all; with `gradient`, that of the mean loss goes to `heads`.
   * @throws LgdError device faults
   */
  async loss(
    { weights, bias, dWeights, dBias, heads }: LinearHeads,
    { rows, gradient = false }: { rows?: Int32Array; gradient?: boolean } = {},
  ): Promise<LossResult> {
    const { addon, handle } = this.device;
    const labels = rows?.map((row) => this.labels[row]!) ?? this.labels;
    const count = labels.length;
    using made = new Made();
    const results = made.add(addon.makeTensor(handle, [count, 3 * heads]), addon.release);
    addon.classifierLoss({
      features: this.features,
      weights,
      bias,
      ...(gradient && { dWeights, dBias }),
      results,
      heads,
      labels,
      rows,
      scale: 1 / count,
    });
    return readResults(await addon.readTensor(results), labels, heads);
  }

  [Symbol.dispose](): void {
    this.device.addon.release(this.features);
  }
}

/** Reads the results of {@link NativeAddon.classifierLoss}, [rows, 3 H]. */
export function readResults(results: Float32Array, labels: Int32Array, heads: number): LossResult {
  const count = labels.length;
  const column = (head: number, part: number) =>
    Float32Array.from({ length: count }, (_, i) => results[(i * heads + head) * 3 + part]!);
  const over = (value: (head: number) => number) => Array.from({ length: heads }, (_, head) => value(head));
  return {
    losses: over((head) => column(head, 0).reduce((sum, loss) => sum + loss, 0) / count),
    top1: over((head) => column(head, 2).reduce((sum, rank) => sum + (rank === 0 ? 1 : 0), 0) / count),
    answers: (head) => ({
      targets: labels,
      predicted: Int32Array.from(column(head, 1)),
      ranks: Int32Array.from(column(head, 2)),
    }),
  };
}
