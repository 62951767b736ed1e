/** Whether weights moved as the optimiser's formula says of what it keeps beside them. */
import type { RunConfig } from '../config-batch.js';
import type { GraphSpec } from '../models/graph.js';
import { optimizerOf } from '../models/optimizer.js';
import type { DistillerState } from './pupil.js';

export interface UpdateOptions {
  graph: GraphSpec;
  train: RunConfig['train'];
  learningRate: number;
}

/**
 * Norm of the difference, past the rounding of the weights, over the norm of how the formula moves them, in float64
 * from the moments after the step.
 */
export function updateError(
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
