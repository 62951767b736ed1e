/** Which checkpoint of a run is the best so far. */
import type { Config } from '../config/config.js';
import type { OtherProtocol, ZeroShotScore } from '../evaluate/score.js';
import type { Manifest } from '../files/manifest.js';

/** What makes a checkpoint the best. */
export type Metric = Exclude<Config['evaluate']['metric'], 'auto'>;

/** The scores of an evaluation, as far as it has them: `student` is of zero-shot. */
export type Scores = Partial<Record<'student' | OtherProtocol, ZeroShotScore | undefined>>;

/** The metrics that `auto` chooses among, the first that there are scores of; `loss` where there are none. */
const byAuto = ['top1', 'knn', 'linear', 'online'] as const satisfies readonly Metric[];

/** The value of a metric; undefined where the scores do not tell. */
export function valueOf(metric: Metric, { student, ...others }: Scores): number | undefined {
  if (metric === 'loss') return undefined;
  return metric === 'top1' || metric === 'top5' ? student?.[metric] : others[metric]?.top1;
}

/** What `evaluate.metric` is where it may be `auto`. @param has what an evaluation tells */
export function metricOf(wanted: Config['evaluate']['metric'], has: Partial<Record<keyof Scores, boolean>>): Metric {
  if (wanted !== 'auto') return wanted;
  return byAuto.find((metric) => has[metric === 'top1' ? 'student' : metric]) ?? 'loss';
}

/** Losses in an average that tells checkpoints apart. */
const enoughLosses = 50;

export class BestScore {
  /** The best so far, plain data; null before there is one. */
  best: Manifest['best'] = null;
  /**
   * The step from which on smoothed losses can be compared: they rise while a queue fills, and then are an average of
   * few. Before, the latest is the best.
   */
  readonly #comparableFrom: number;

  /**
   * @param metric `loss`: the smoothed loss, better where it is lower; any other is an accuracy
   * @param queueFullAfter steps after which the loss's queue is full; 0 without one
   */
  constructor(
    readonly metric: Metric,
    queueFullAfter: number,
  ) {
    this.#comparableFrom = queueFullAfter === 0 ? 0 : queueFullAfter + enoughLosses;
  }

  /** Takes a value in, and returns true, if it is better than the best so far, or if that was another measure. */
  improves(value: number, step: number): boolean {
    const { best, metric } = this;
    const sign = metric === 'loss' ? -1 : 1;
    const isComparable = best?.metric === metric && (metric !== 'loss' || best.step >= this.#comparableFrom);
    if (!Number.isFinite(value) || (isComparable && sign * value <= sign * best.value)) return false;
    this.best = { metric, value, step };
    return true;
  }
}
