/** How far what a device leaves is from what the CPU does: what {@link verifyDevice} judges by. */
import type { RunConfig } from '../../config/batch.js';
import type { GraphSpec } from '../../models/graph.js';
import { optimizerOf } from '../../models/optimizer.js';
import type { WeightRecord } from '../../models/weights.js';
import type { DistillerState } from '../student-trainer.js';
import type { Taken } from './bench.js';

/** Of each part of a step but its views. */
export type Errors = Partial<Record<'teacher' | 'loss' | 'gradients' | 'update' | 'bank' | 'inference', number>>;

export interface UpdateOptions {
  graph: GraphSpec;
  train: RunConfig['train'];
  learningRate: number;
}

/** What a step left on a device beside what it left on the CPU. */
export function errorsOf(found: Taken, expected: Taken, before: DistillerState, options: UpdateOptions): Errors {
  const optimizer = optimizerOf(options);
  const moved = (moment: 'momentum' | 'secondMoment', kept: number): number => {
    const [ours, right, earlier] = [found, expected, { state: before }].map(({ state }) =>
      inOrder(state[moment]!, expected.state[moment]!),
    ) as [Float32Array[], Float32Array[], Float32Array[]];
    // which is in both, and no gradient
    return wholeError(
      ours,
      right,
      earlier.map((values) => values.map((value) => kept * value)),
    );
  };
  const [bank, rightBank, bankBefore] = [found, expected, { state: before }].map(({ state }) => state.semantic.visual);
  return {
    loss: Math.abs(found.loss / expected.loss - 1),
    gradients:
      optimizer.name === 'sgd'
        ? moved('momentum', optimizer.momentum)
        : Math.max(moved('momentum', optimizer.beta1), moved('secondMoment', optimizer.beta2)),
    update: updateError(found.state, before, options),
    ...(rightBank && { bank: wholeError([bank!], [rightBank], [bankBefore!]) }),
  };
}

/**
 * Whether weights moved as the optimiser's formula says of what it keeps beside them: norm of the difference, past the
 * rounding of the weights, over the norm of how the formula moves them, in float64 from the moments after the step.
 */
function updateError(
  after: DistillerState,
  before: DistillerState,
  { graph, train, learningRate }: UpdateOptions,
): number {
  const optimizer = optimizerOf({ train });
  let [difference, size] = [0, 0];
  for (const { name, trainable, decay } of graph.parameters) {
    if (!trainable) continue;
    const [was, is, momentum, second] = [
      before.weights[name]!,
      after.weights[name]!,
      after.momentum[name]!,
      after.secondMoment?.[name],
    ].map((tensor) => tensor?.data) as [Float32Array, Float32Array, Float32Array, Float32Array?];
    const decayed = decay || train.decayNormAndBias ? train.weightDecay : 0; // of SGD it is in the momentum
    const [firstShare, secondShare] =
      optimizer.name === 'sgd'
        ? [1, 1]
        : ([optimizer.beta1, optimizer.beta2].map((beta) => 1 - beta ** after.steps!) as [number, number]);
    for (let i = 0; i < was.length; i++) {
      const direction =
        optimizer.name === 'sgd'
          ? momentum[i]!
          : decayed * was[i]! + momentum[i]! / firstShare / (Math.sqrt(second![i]! / secondShare) + optimizer.epsilon);
      const off = Math.abs(was[i]! - learningRate * direction - is[i]!);
      difference += off <= 2 ** -23 * Math.abs(was[i]!) ? 0 : off ** 2; // NaN is none
      size += (learningRate * direction) ** 2;
    }
  }
  return difference === 0 ? 0 : Math.sqrt(difference / size);
}

function inOrder(record: WeightRecord, names: WeightRecord): Float32Array[] {
  return Object.keys(names).map((name) => record[name]!.data);
}

/** Norm of the difference over the norm of what is expected, besides what both have in common. */
export function wholeError(
  found: readonly Float32Array[],
  expected: readonly Float32Array[],
  common?: readonly Float32Array[],
): number {
  let [difference, size] = [0, 0];
  for (const [array, values] of expected.entries()) {
    const [other, shared] = [found[array]!, common?.[array]];
    for (let i = 0; i < values.length; i++) {
      difference += (other[i]! - values[i]!) ** 2;
      size += (values[i]! - (shared?.[i] ?? 0)) ** 2;
    }
  }
  return difference === 0 ? 0 : Math.sqrt(difference / size);
}

/** The share of values of which a bit differs. */
export function otherBits(a: DistillerState, b: DistillerState): number {
  let [other, all] = [0, 0];
  const arraysOf = ({ weights, momentum, secondMoment = {}, semantic }: DistillerState, names: DistillerState) =>
    [
      ...inOrder(weights, names.weights),
      ...inOrder(momentum, names.momentum),
      ...inOrder(secondMoment, names.secondMoment ?? {}),
      ...[semantic.visual, semantic.queue].filter((values) => values !== undefined),
    ].map((values) => new Uint32Array(values.buffer, values.byteOffset, values.length));
  const expected = arraysOf(b, b);
  for (const [array, words] of arraysOf(a, b).entries()) {
    all += words.length;
    for (let i = 0; i < words.length; i++) if (words[i] !== expected[array]![i]) other++;
  }
  return other / all;
}

/**
 * What rounding alone is to a network's output: each value a unit in its last place off, up or down. After a few steps
 * the running statistics of norms are far from those of the batches, and a deep network can make the difference of a
 * last bit a thousand times as large.
 * @param draw counted from 0: each draws other signs
 */
export function nudged(values: Float32Array, draw: number): Float32Array {
  let word = draw + 1; // of xorshift32 (Marsaglia 2003)
  return values.map((value) => {
    word ^= word << 13;
    word ^= word >>> 17;
    word ^= word << 5;
    return value * (1 + Math.sign(word) * 2 ** -23);
  });
}

export function nudgedWeights(weights: WeightRecord, draw: number): WeightRecord {
  return Object.fromEntries(
    Object.entries(weights).map(([name, tensor]) => [name, { ...tensor, data: nudged(tensor.data, draw) }]),
  );
}
