/** Protocols on frozen features while a student is trained: they see its weights as they are at that step. */
import type { Config } from '../config.js';
import type { WeightRecord } from '../models/weights.js';
import { accuracyOf } from './accuracy.js';
import { FeatureExtractor, type FeatureExtractorOptions } from './features.js';
import { judgeByNeighbours, judgeByProbes } from './frozen.js';
import type { LabelledSet } from './labelled.js';
import type { ZeroShotScore } from './score.js';

/** Scores by protocol; those that are asked for. */
export type FrozenScores = Partial<Record<'knn' | 'linear', ZeroShotScore>>;

export interface FrozenEvaluationOptions extends FeatureExtractorOptions {
  /** `evaluate.also` says which protocols; the group has their settings. */
  config: Config;
  /** Labelled images to learn from, and to be judged on; of the same classes. */
  train: LabelledSet;
  test: LabelledSet;
}

/** `evaluate.also` at work. Linear probes are fitted by SGD here. */
export class FrozenEvaluation implements Disposable {
  readonly #extractor: FeatureExtractor;

  /** @throws LgdError OUT_OF_MEMORY */
  constructor(readonly options: FrozenEvaluationOptions) {
    this.#extractor = new FeatureExtractor(options);
  }

  /** The scores of a student with these weights. @throws LgdError NON_FINITE, ABORTED, and device faults */
  async evaluate(weights: Readonly<WeightRecord>, { signal }: { signal?: AbortSignal } = {}): Promise<FrozenScores> {
    const { config, train, test } = this.options;
    const images = { train, test, classNames: test.classNames! };
    const { also } = config.evaluate;
    const score = ({ answers }: Awaited<ReturnType<typeof judgeByNeighbours>>) => accuracyOf(answers, images.classNames.length);
    this.#extractor.load(weights);
    return {
      ...(also !== 'linear' && { knn: score(await judgeByNeighbours(this.#extractor, images, config, { signal })) }),
      ...(also !== 'knn' && { linear: score((await judgeByProbes(this.#extractor, images, { ...config, evaluate: { ...config.evaluate, solver: 'sgd' } }, { signal }))[0]!) }),
    };
  }

  [Symbol.dispose](): void {
    this.#extractor[Symbol.dispose]();
  }
}
