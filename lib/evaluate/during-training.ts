/** Protocols on frozen features while a student is trained: they see its weights as they are at that step. */
import { checkArgument, checkOptions, optionTable } from '../arguments.js';
import type { Config } from '../config/config.js';
import { hashImages, plainId } from '../data/image-id.js';
import type { GraphSpec } from '../models/graph.js';
import type { WeightRecord } from '../models/weights.js';
import { accuracyOf } from './accuracy.js';
import { embedOptions, type EmbedOptions } from './embed.js';
import { ImageFeatures, type StudentFeaturesOptions } from './features.js';
import { judgeByNeighbours, judgeByProbes, type Judged } from './frozen.js';
import type { LabelledSet } from './labelled.js';
import type { ZeroShotScore } from './score.js';

/** Scores by protocol; those that are asked for. */
export type FrozenScores = Partial<Record<'knn' | 'linear', ZeroShotScore>>;

export interface FrozenEvaluationOptions extends Omit<StudentFeaturesOptions, 'graph' | 'weights'> {
  /** `evaluate.also` says which protocols; the group has their settings. */
  config: Config;
  /** Labelled images to learn from, and to be judged on; their labels are indices into the same class names. */
  train: LabelledSet;
  test: LabelledSet;
}

const frozenOptions = optionTable<FrozenEvaluationOptions>()(
  'device batch resolution precision mean std config train test',
);

/** Tells labelled images from any others. @throws LgdError ABORTED */
export async function markLabelled({ ids, labels }: LabelledSet, signal?: AbortSignal): Promise<string> {
  return hashImages(ids.map(plainId), labels!, signal);
}

/** `evaluate.also` at work. Linear probes are fitted by SGD here. */
export class FrozenEvaluation {
  /** @throws LgdError BAD_OPTION */
  constructor(readonly options: FrozenEvaluationOptions) {
    checkOptions(options, 'new FrozenEvaluation()', frozenOptions);
    checkArgument('device', options.device);
    for (const set of ['train', 'test'] as const) checkArgument('images', options[set], set);
  }

  /** Tells which images are learnt from. @throws LgdError ABORTED */
  async mark(signal?: AbortSignal): Promise<string> {
    return markLabelled(this.options.train, signal);
  }

  /**
   * The scores of a student with these weights.
   * @param graph the student's, with its projection head
   * @throws LgdError BAD_OPTION, NON_FINITE, ABORTED, OUT_OF_MEMORY, and device faults
   */
  async evaluate(graph: GraphSpec, weights: Readonly<WeightRecord>, options: EmbedOptions = {}): Promise<FrozenScores> {
    checkOptions(options, 'evaluate()', embedOptions);
    const { config, train, test } = this.options;
    const { also } = config.evaluate;
    const images = { train, test, classNames: test.classNames! };
    const score = ({ answers }: Judged) => accuracyOf(answers, images.classNames.length);
    const { device, batch, resolution, precision, mean, std } = this.options;
    using features = ImageFeatures.ofStudent({ device, graph, weights, batch, resolution, precision, mean, std });
    return {
      ...(also !== 'linear' && { knn: score(await judgeByNeighbours(features, images, config, options)) }),
      ...(also !== 'knn' && {
        linear: score(
          (
            await judgeByProbes(
              features,
              images,
              { ...config, evaluate: { ...config.evaluate, solver: 'sgd' } },
              { ...options, onFit: options.onProgress },
            )
          )[0]!,
        ),
      }),
    };
  }
}
