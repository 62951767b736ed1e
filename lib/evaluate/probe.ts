/**
 * Linear probes of frozen features: SGD over a sweep of learning rates, and L-BFGS logistic regression over a sweep of
 * C. Settings are chosen on a held-out part of the training images.
 */
import { LgdError, throwIfAborted } from '../errors.js';
import { shuffledOrder } from '../data/sampler.js';
import { FeatureSet, LinearHeads, type LossResult } from './feature-set.js';
import { minimise, type Minimum } from './lbfgs.js';
import type { HoldOut } from './split.js';

/** One setting that was tried. */
export interface SweepPoint {
  /** Learning rate, or C. */
  value: number;
  /** On the held-out images: mean cross entropy, and the share that is right. */
  loss: number;
  top1: number;
}

/** A classifier fitted to all training images with the setting that did best on those held out. */
export interface Probe {
  heads: LinearHeads;
  chosen: number;
  /** In rising order of the setting. */
  sweep: SweepPoint[];
}

/** Options of {@link fitSgd}. */
export interface SgdProbeOptions {
  classes: number;
  epochs: number;
  batch: number;
  learningRates: readonly number[];
  seed: number;
  signal?: AbortSignal | undefined;
  onProgress?: ((done: number, total: number) => void) | undefined;
}

/**
 * Softmax regression by SGD with momentum 0.9, no weight decay and a cosine schedule; all learning rates (for 256
 * images a step) train side by side.
 * @throws LgdError NON_FINITE where every rate diverges, ABORTED, and device faults
 */
export async function fitSgd(
  train: FeatureSet,
  split: HoldOut,
  { learningRates, onProgress, ...options }: SgdProbeOptions,
): Promise<Probe> {
  let epochsDone = 0;
  const progress = () => onProgress?.(++epochsDone, 2 * options.epochs);
  using candidates = await trainHeads(train, split.fit, learningRates, options, progress);
  const judged = await train.loss(candidates, { rows: judging(split) });
  const sweep = learningRates
    .map((value, head) => ({ value, loss: judged.losses[head]!, top1: judged.top1[head]! }))
    .sort((a, b) => a.value - b.value);
  const chosen = bestOf(sweep).value;
  const heads = await trainHeads(
    train,
    Int32Array.from({ length: train.count }, (_, i) => i),
    [chosen],
    options,
    progress,
  );
  return { heads, chosen, sweep };
}

async function trainHeads(
  train: FeatureSet,
  images: Int32Array,
  learningRates: readonly number[],
  { classes, epochs, batch: wanted, seed, signal }: Omit<SgdProbeOptions, 'learningRates' | 'onProgress'>,
  onEpoch: () => void,
): Promise<LinearHeads> {
  const heads = new LinearHeads(train.device, train.dimension, classes, learningRates.length);
  try {
    const batch = Math.min(wanted, images.length);
    const steps = Math.floor(images.length / batch);
    for (let epoch = 0; epoch < epochs; epoch++) {
      const order = shuffledOrder(images.length, seed, epoch);
      for (let step = 0; step < steps; step++) {
        const factor = (batch / 256) * 0.5 * (1 + Math.cos((Math.PI * (epoch * steps + step)) / (epochs * steps)));
        train.queueGradient(
          heads,
          order.subarray(step * batch, (step + 1) * batch).map((place) => images[place]!),
        );
        heads.step(
          learningRates.map((rate) => rate * factor),
          { momentum: 0.9, weightDecay: 0 },
        );
        if (step % 64 === 63) await train.device.synchronize(); // the queue stays short, and signals are heard
      }
      await train.device.synchronize();
      throwIfAborted(signal, 'the linear probe');
      onEpoch();
    }
    return heads;
  } catch (error) {
    heads[Symbol.dispose]();
    throw error;
  }
}

/** Where nothing could be held out (one image a class), settings are chosen on what was fitted. */
function judging({ fit, heldOut }: HoldOut): Int32Array {
  return heldOut.length > 0 ? heldOut : fit;
}

function bestOf(points: readonly SweepPoint[]): SweepPoint {
  const finite = points.filter(({ loss }) => Number.isFinite(loss));
  if (finite.length === 0)
    throw new LgdError('NON_FINITE', 'no setting of the sweep gave a finite loss.', {
      option: 'learningRates',
      found: points.map(({ value }) => value),
      mend: 'Lower the learning rates; if they are low, look for features that are not finite',
    });
  return finite.reduce((best, point) =>
    point.top1 > best.top1 || (point.top1 === best.top1 && point.loss < best.loss) ? point : best,
  );
}

/** Options of {@link fitLogistic}. */
export interface LogisticOptions {
  classes: number;
  /** Default 1000. */
  maxIterations?: number;
  /** Largest component of the gradient of the objective over N at which a fit ends; default 1e-5. */
  tolerance?: number;
  signal?: AbortSignal | undefined;
  onProgress?: ((done: number, total: number) => void) | undefined;
}

/** One fit of {@link logisticRegression}. */
export interface LogisticFit extends Omit<Minimum, 'point'> {
  /** [K D] weights, then [K] bias. */
  parameters: Float64Array;
}

/**
 * Multinomial logistic regression: minimises sum of cross entropies + |W|^2 / (2 C) (scikit-learn's objective; the bias
 * is free), over its rows' number, by L-BFGS. The minimum is left in `heads`.
 * @param rows which rows of `train`; undefined: all
 * @throws LgdError ABORTED, and device faults
 */
export async function logisticRegression(
  train: FeatureSet,
  heads: LinearHeads,
  { rows, C, start, ...options }: LogisticOptions & { rows?: Int32Array; C: number; start?: Float64Array },
): Promise<LogisticFit> {
  const { addon } = train.device;
  const inner = options.classes * train.dimension;
  const count = rows?.length ?? train.count;
  const decay = 1 / (C * count);
  const put = (point: Float64Array) => {
    const values = Float32Array.from(point);
    addon.writeTensor(heads.weights, values.subarray(0, inner));
    addon.writeTensor(heads.bias, values.subarray(inner));
  };
  const objective = async (point: Float64Array) => {
    put(point);
    const found: LossResult = await train.loss(heads, { rows, gradient: true });
    const [dWeights, dBias] = await Promise.all([addon.readTensor(heads.dWeights), addon.readTensor(heads.dBias)]);
    const gradient = new Float64Array(point.length);
    let squares = 0;
    for (let i = 0; i < inner; i++) {
      squares += point[i]! * point[i]!;
      gradient[i] = dWeights[i]! + decay * point[i]!;
    }
    gradient.set(dBias, inner);
    return { value: found.losses[0]! + 0.5 * decay * squares, gradient };
  };
  const { point, ...fit } = await minimise(objective, start ?? new Float64Array(inner + options.classes), {
    tolerance: options.tolerance,
    maxIterations: options.maxIterations,
    signal: options.signal,
  });
  put(point);
  await train.device.synchronize();
  return { ...fit, parameters: point };
}

const coarse = [-6, -4, -2, 0, 2, 4, 6];
const halvings = 4; // of a stride of two decades: C is found to an eighth of a decade

/**
 * {@link logisticRegression} over C as in CLIP (Radford et al. 2021, appendix A.3): seven values from 1e-6 to 1e6, then
 * the best one's neighbours at ever smaller distances, to an eighth of a decade.
 * @throws LgdError as {@link logisticRegression}
 */
export async function fitLogistic(
  train: FeatureSet,
  split: HoldOut,
  { onProgress, ...options }: LogisticOptions,
): Promise<Probe & { fit: LogisticFit }> {
  const total = coarse.length + 2 * halvings + 1;
  const tried = new Map<number, SweepPoint & { parameters: Float64Array }>();
  const heads = new LinearHeads(train.device, train.dimension, options.classes, 1);
  const attempt = async (exponent: number) => {
    if (tried.has(exponent)) return;
    // a start, and no more: the minimum is one
    const [near] = [...tried].sort(([a], [b]) => Math.abs(a - exponent) - Math.abs(b - exponent));
    const { parameters } = await logisticRegression(train, heads, {
      ...options,
      rows: split.fit,
      C: 10 ** exponent,
      start: near?.[1].parameters,
    });
    const { losses, top1 } = await train.loss(heads, { rows: judging(split) });
    tried.set(exponent, { value: 10 ** exponent, loss: losses[0]!, top1: top1[0]!, parameters });
    onProgress?.(tried.size, total);
  };
  const peak = () => {
    const best = bestOf([...tried.values()].sort((a, b) => a.value - b.value));
    return [...tried].find(([, point]) => point === best)![0];
  };
  try {
    for (const exponent of coarse) await attempt(exponent);
    for (let stride = 1; stride >= 2 ** -(halvings - 1); stride /= 2) {
      const centre = peak();
      for (const exponent of [centre - stride, centre + stride]) await attempt(Math.min(6, Math.max(-6, exponent)));
    }
    const best = tried.get(peak())!;
    const fit = await logisticRegression(train, heads, { ...options, C: best.value, start: best.parameters });
    onProgress?.(total, total);
    const sweep = [...tried.values()]
      .map(({ value, loss, top1 }) => ({ value, loss, top1 }))
      .sort((a, b) => a.value - b.value);
    return { heads, chosen: best.value, sweep, fit };
  } catch (error) {
    heads[Symbol.dispose]();
    throw error;
  }
}
