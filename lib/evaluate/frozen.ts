/** Protocols on frozen features: weighted nearest neighbours, and linear probes. */
import type { Config } from '../config/config.js';
import { makeAnswers, targetsOf, type Answers } from './accuracy.js';
import type { EmbedOptions } from './embed.js';
import { FeatureSet, measureScale } from './feature-set.js';
import type { ImageFeatures } from './features.js';
import { NearestNeighbours } from './knn.js';
import type { LabelledImages } from './labelled.js';
import { fitLogistic, fitSgd, type Probe, type SweepPoint } from './probe.js';
import { holdOut } from './split.js';

/** What a protocol found of the images it was judged on. */
export interface Judged {
  /** What distinguishes it, in words: `k 200, T 0.1`. */
  setting: string;
  /** Those that could be decoded, in the answers' order. */
  images: Int32Array;
  answers: Answers;
  /** The settings that were tried on held-out images. */
  sweep?: SweepPoint[];
  /** Images learnt from. */
  learntFrom: number;
}

const rowsAtOnce = 16_384; // labelled features are searched in blocks of as many

/**
 * Weighted k-nearest-neighbour classification (Wu et al. 2018). Labelled features are not kept: memory holds those that
 * are judged, and a block.
 * @throws LgdError ZERO_EMBEDDING, NON_FINITE, ABORTED, and device faults
 */
export async function judgeByNeighbours(
  features: ImageFeatures,
  { train, test, classNames }: LabelledImages,
  { evaluate }: Config,
  options: EmbedOptions,
): Promise<Judged> {
  const { neighbours, neighbourTemperature: temperature } = evaluate;
  const total = train.length + test.length;
  const { rows: queries, images } = await features.all(test, {
    ...options,
    onProgress: (done) => options.onProgress?.(done, total),
  });
  const search = new NearestNeighbours(features.device, queries, features.dimension, {
    neighbours: Math.min(neighbours, train.length),
    temperature,
    signal: options.signal,
  });
  const block = new Float32Array(Math.min(rowsAtOnce, train.length) * features.dimension);
  const labels = new Int32Array(block.length / features.dimension);
  let [learntFrom, filled] = [0, 0];
  const flush = async () => {
    if (filled > 0) await search.add(block.slice(0, filled * features.dimension), labels.slice(0, filled));
    [learntFrom, filled] = [learntFrom + filled, 0];
  };
  await features.each(
    train,
    async (rows, some) => {
      if (filled * features.dimension + rows.length > block.length) await flush();
      block.set(rows, filled * features.dimension);
      labels.set(targetsOf(train, some), filled);
      filled += some.length;
    },
    { ...options, onProgress: (done) => options.onProgress?.(test.length + done, total) },
  );
  await flush();
  const answers = { ...makeAnswers(images.length), targets: targetsOf(test, images) };
  await search.vote(answers, classNames.length);
  return { setting: `k ${Math.min(neighbours, learntFrom)}, T ${temperature}`, images, answers, learntFrom };
}

/** Learning rates for 256 images a step that SGD tries. */
const probeRates: readonly number[] = [0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1];
const probeBatch = 256;

export interface ProbeOptions extends EmbedOptions {
  /** Called while probes are fitted, with percents of each. */
  onFit?: ((done: number, total: number) => void) | undefined;
}

/**
 * Linear classifiers on standardised pooled features, extracted once; their settings are chosen on a held-out part of
 * what is learnt from, then all of it is fitted.
 * @throws LgdError NON_FINITE, ABORTED, and device faults
 */
export async function judgeByProbes(
  features: ImageFeatures,
  { train, test, classNames }: LabelledImages,
  { evaluate, seed }: Config,
  { signal, onProgress, onFit }: ProbeOptions,
): Promise<Judged[]> {
  const { device } = features;
  const total = train.length + test.length;
  const learnt = await features.all(train, { signal, onProgress: (done) => onProgress?.(done, total) });
  const labels = targetsOf(train, learnt.images);
  const scale = await measureScale(learnt.rows, features.dimension, signal);
  using known = await FeatureSet.make(device, learnt.rows, labels, scale, signal);
  const { rows, images } = await features.all(test, {
    signal,
    onProgress: (done) => onProgress?.(train.length + done, total),
  });
  using judged = await FeatureSet.make(device, rows, targetsOf(test, images), scale, signal);
  const split = holdOut(labels, classNames.length, evaluate.heldOut, seed);
  const fits = evaluate.solver === 'both' ? (['sgd', 'lbfgs'] as const) : [evaluate.solver];
  const results: Judged[] = [];
  for (const [place, solver] of fits.entries()) {
    const options = {
      classes: classNames.length,
      signal,
      onProgress: (done: number, of: number) => onFit?.(Math.round(100 * (place + done / of)), 100 * fits.length),
    };
    const probe: Probe =
      solver === 'sgd'
        ? await fitSgd(known, split, {
            ...options,
            epochs: evaluate.probeEpochs,
            batch: probeBatch,
            learningRates: probeRates,
            seed,
          })
        : await fitLogistic(known, split, options);
    using heads = probe.heads;
    results.push({
      setting: solver === 'sgd' ? `SGD, rate ${probe.chosen}` : `L-BFGS, C ${Number(probe.chosen.toPrecision(3))}`,
      images,
      answers: (await judged.loss(heads)).answers(0),
      sweep: probe.sweep,
      learntFrom: labels.length,
    });
  }
  return results;
}
