/** Protocols on frozen features: weighted nearest neighbours, and linear probes. */
import type { Config } from '../config.js';
import { makeAnswers, type Answers } from './accuracy.js';
import type { EmbedOptions } from './embed.js';
import { FeatureSet, measureScale } from './feature-set.js';
import type { FeatureExtractor } from './features.js';
import { NearestNeighbours } from './knn.js';
import type { LabelledImages } from './labelled.js';
import { fitLogistic, fitSgd, type Probe, type SweepPoint } from './probe.js';
import { holdOut } from './split.js';

/** What a protocol found of the images it was judged on. */
export interface Judged {
  /** What distinguishes it, in words: `k 200, T 0.1`. */
  setting: string;
  answers: Answers;
  /** The settings that were tried on held-out images. */
  sweep?: SweepPoint[];
  /** Images learnt from. */
  learntFrom: number;
}

const rowsAtOnce = 16_384; // labelled features are searched in blocks of as many

function newAnswers({ labels }: { labels: Int32Array | undefined }): Answers {
  return { ...makeAnswers(labels!.length), targets: labels! };
}

/** Weighted k-nearest-neighbour classification (Wu et al. 2018). Labelled features are not kept: memory holds those that are judged, and a block. @throws LgdError ZERO_EMBEDDING, NON_FINITE, ABORTED, and device faults */
export async function judgeByNeighbours(extractor: FeatureExtractor, { train, test, classNames }: LabelledImages, { evaluate }: Config, options: EmbedOptions): Promise<Judged> {
  const { neighbours, neighbourTemperature: temperature } = evaluate;
  const total = train.length + test.length;
  const queries = await extractor.all(test, { ...options, onProgress: (done) => options.onProgress?.(done, total) });
  const search = new NearestNeighbours(extractor.options.device, queries, extractor.dimension, { neighbours, temperature, signal: options.signal });
  const block = new Float32Array(Math.min(rowsAtOnce, train.length) * extractor.dimension);
  let [from, filled] = [0, 0];
  const flush = async () => {
    if (filled > 0) await search.add(block.slice(0, filled * extractor.dimension), train.labels!.subarray(from, from + filled));
    [from, filled] = [from + filled, 0];
  };
  await extractor.each(train, async (rows) => {
    if ((filled * extractor.dimension) + rows.length > block.length) await flush();
    block.set(rows, filled * extractor.dimension);
    filled += rows.length / extractor.dimension;
  }, { ...options, onProgress: (done) => options.onProgress?.(test.length + done, total) });
  await flush();
  const answers = newAnswers(test);
  await search.vote(answers, classNames.length);
  return { setting: `k ${Math.min(neighbours, train.length)}, T ${temperature}`, answers, learntFrom: train.length };
}

/** Learning rates for 256 images a step that SGD tries. */
export const probeRates: readonly number[] = [0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1];
const probeBatch = 256;

/**
 * Linear classifiers on standardised pooled features, extracted once; their settings are chosen on a held-out part of what is learnt from, then all of it is fitted.
 * @throws LgdError NON_FINITE, ABORTED, and device faults
 */
export async function judgeByProbes(extractor: FeatureExtractor, { train, test, classNames }: LabelledImages, { evaluate, seed }: Config, { signal, onProgress }: EmbedOptions): Promise<Judged[]> {
  const { device } = extractor.options;
  const total = train.length + test.length;
  const learnt = await extractor.all(train, { signal, onProgress: (done) => onProgress?.(done, 2 * total) });
  const scale = await measureScale(learnt, extractor.dimension, signal);
  using known = await FeatureSet.make(device, learnt, train.labels!, scale, signal);
  const rows = await extractor.all(test, { signal, onProgress: (done) => onProgress?.(train.length + done, 2 * total) });
  using judged = await FeatureSet.make(device, rows, test.labels!, scale, signal);
  const split = holdOut(train.labels!, classNames.length, evaluate.heldOut, seed);
  const fits = evaluate.solver === 'both' ? (['sgd', 'lbfgs'] as const) : [evaluate.solver];
  const results: Judged[] = [];
  for (const [place, solver] of fits.entries()) {
    const options = { classes: classNames.length, signal, onProgress: (done: number, of: number) => onProgress?.(total * (1 + (place + done / of) / fits.length), 2 * total) };
    const probe: Probe = solver === 'sgd'
      ? await fitSgd(known, split, { ...options, epochs: evaluate.probeEpochs, batch: probeBatch, learningRates: probeRates, seed })
      : await fitLogistic(known, split, options);
    try {
      results.push({ setting: solver === 'sgd' ? `SGD, rate ${probe.chosen}` : `L-BFGS, C ${Number(probe.chosen.toPrecision(3))}`, answers: (await judged.loss(probe.heads)).answers(0), sweep: probe.sweep, learntFrom: train.length });
    } finally {
      probe.heads[Symbol.dispose]();
    }
  }
  return results;
}

