/**
 * What an optimiser is: its name and its numbers, which a network is compiled for training with, what a step of it
 * takes, and what it keeps from step to step.
 */
import { checkOptions, checkWord, optionTable } from '../arguments.js';
import { optimizerDefaults, type Config } from '../config/schema.js';
import { LgdError } from '../errors.js';
import { checkNumber, leastEpsilon, mostMomentum } from '../number-limits.js';
import type { GraphSpec } from './graph.js';
import { checkWeights, type WeightRecord } from './weights.js';

/** Stochastic gradient descent with momentum, PyTorch's: v <- momentum v + (g + decay w); w <- w - rate v. */
export interface SgdOptimizer {
  name: 'sgd';
  /** From 0 to 0.999999; default 0.9. */
  momentum?: number | undefined;
}

/**
 * Adam with decoupled weight decay (Loshchilov and Hutter 2019), PyTorch's: m <- beta1 m + (1 - beta1) g; v <- beta2 v
 * + (1 - beta2) g^2; w <- w - rate decay w - rate (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon) in step t
 * from 1. It keeps one more float32 a parameter than SGD does.
 */
export interface AdamwOptimizer {
  name: 'adamw';
  /** From 0 to 0.999999; default 0.9. */
  beta1?: number | undefined;
  /** From 0 to 0.999999; default 0.999. */
  beta2?: number | undefined;
  /** From 1e-15 to 1; default 1e-8. */
  epsilon?: number | undefined;
}

/** An optimiser with its numbers. */
export type Optimizer = SgdOptimizer | AdamwOptimizer;

/** One with all of its numbers. */
export type WholeOptimizer =
  { name: 'sgd'; momentum: number } | { name: 'adamw'; beta1: number; beta2: number; epsilon: number };

/** Numbers of one optimiser step. */
export interface OptimizerStep {
  /** From 0. */
  learningRate: number;
  /** From 0; default 0. */
  weightDecay?: number | undefined;
  /**
   * Does weight decay reach all parameters, as published (default: true)? Else it reaches the weights of convolutions and
   * linear layers alone: not norms, biases, layer scales (`gamma`), class tokens and tables of positions.
   */
  decayNormAndBias?: boolean | undefined;
  /** What gradients are multiplied by: 1 / accumulated batches; default 1. */
  gradientScale?: number | undefined;
  /**
   * The norm that gradients are clipped to, over all parameters together, as PyTorch's `clip_grad_norm_` does: times
   * {@link OptimizerStep.gradientScale} they are multiplied by min(1, clipNorm / (norm + 1e-6)), before weight decay.
   * From 0; default 0: they are not.
   */
  clipNorm?: number | undefined;
}

/** Steps whose numbers are kept until they are read (native/engine.h). */
export const metricSlots = 64;

export const stepOptions = optionTable<OptimizerStep>()(
  'learningRate weightDecay? decayNormAndBias? gradientScale? clipNorm?',
);

/** What an optimiser keeps from step to step. */
export interface OptimizerState {
  /** SGD's, of the parameters; AdamW's first moment. */
  momentum: WeightRecord;
  /** AdamW's alone. */
  secondMoment?: WeightRecord | undefined;
  /** Steps behind it, from which AdamW tells how much the moments make up for. */
  steps: number;
}

const tables = {
  sgd: optionTable<SgdOptimizer>()('name momentum?'),
  adamw: optionTable<AdamwOptimizer>()('name beta1? beta2? epsilon?'),
};

/** Of what was before. */
const share = { least: 0, most: mostMomentum };

/** Fills in defaults. @throws LgdError BAD_OPTION */
export function wholeOptimizer(optimizer: Optimizer = { name: 'sgd' }): WholeOptimizer {
  if (typeof optimizer !== 'object' || (optimizer as unknown) === null)
    throw new LgdError('BAD_OPTION', 'not an optimiser.', {
      option: 'optimizer',
      found: optimizer,
      allowed: "{ name: 'sgd' } or { name: 'adamw' }, with its numbers",
      mend: 'Give one of these, or leave it out for SGD',
    });
  checkWord(optimizer.name, 'optimizer.name', Object.keys(tables));
  checkOptions(optimizer, 'optimizer', tables[optimizer.name]);
  if (optimizer.name === 'sgd') {
    const { momentum = optimizerDefaults.sgd.momentum } = optimizer;
    checkNumber('optimizer.momentum', momentum, share);
    return { name: 'sgd', momentum };
  }
  const {
    beta1 = optimizerDefaults.adamw.beta1,
    beta2 = optimizerDefaults.adamw.beta2,
    epsilon = optimizerDefaults.adamw.epsilon,
  } = optimizer;
  checkNumber('optimizer.beta1', beta1, share);
  checkNumber('optimizer.beta2', beta2, share);
  checkNumber('optimizer.epsilon', epsilon, { least: leastEpsilon, most: 1 });
  return { name: 'adamw', beta1, beta2, epsilon };
}

/** That of a configuration. */
export function optimizerOf({
  train: { optimizer, sgdMomentum, adamwBeta1, adamwBeta2, adamwEpsilon },
}: {
  train: Pick<Config['train'], 'optimizer' | 'sgdMomentum' | 'adamwBeta1' | 'adamwBeta2' | 'adamwEpsilon'>;
}): WholeOptimizer {
  return wholeOptimizer(
    optimizer === 'sgd'
      ? { name: 'sgd', momentum: sgdMomentum }
      : { name: 'adamw', beta1: adamwBeta1, beta2: adamwBeta2, epsilon: adamwEpsilon },
  );
}

/**
 * Looks whether an optimiser of this name can go on from a state.
 * @throws LgdError BAD_MODEL, BAD_OPTION (that of another optimiser, or one that does not say of how many steps)
 */
export function checkOptimizerState(
  graph: GraphSpec,
  { name }: WholeOptimizer,
  { momentum, secondMoment, steps }: Partial<OptimizerState>,
): void {
  checkWeights(graph, momentum ?? {}, 'trainable');
  const keepsSecond = name === 'adamw';
  if (keepsSecond !== (secondMoment !== undefined)) {
    throw new LgdError('BAD_OPTION', `this is no state of ${name}.`, {
      option: 'secondMoment',
      allowed: keepsSecond ? 'the second moment of each parameter' : 'none',
      mend: `Give one that ${name} left, or begin anew`,
    });
  }
  if (secondMoment !== undefined) checkWeights(graph, secondMoment, 'trainable');
  if (steps !== undefined ? !(Number.isSafeInteger(steps) && steps >= 0) : keepsSecond) {
    throw new LgdError('BAD_OPTION', 'not a number of steps.', {
      option: 'steps',
      found: steps,
      allowed: 'a whole number from 0',
      mend: 'Give how many steps the state has behind it',
    });
  }
}
