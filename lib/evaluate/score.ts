/** Accuracy of zero-shot classification, as shares from 0 to 1. */
export interface ZeroShotScore {
  top1: number;
  /** The right class is among the `topK` best. */
  top5: number;
  /** min(5, classes). */
  topK: number;
  images: number;
  classes: number;
  correct1: number;
  correct5: number;
  /** 95 % confidence intervals, [low, high]. */
  interval1: [number, number];
  interval5: [number, number];
}

/** A protocol besides zero-shot that evaluations while training may report. */
export type OtherProtocol = 'knn' | 'linear' | 'online';
export const otherProtocols: readonly OtherProtocol[] = ['knn', 'linear', 'online'];
export type OtherScores = Partial<Record<OtherProtocol, ZeroShotScore>>;

const z = 1.959963984540054; // the normal distribution's 97.5 % point

/**
 * Wilson's score interval (1927) of a share, 95 %:
 * (p + z^2/2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n) with p = successes / n.
 */
export function wilsonInterval(successes: number, n: number): [number, number] {
  if (n === 0) return [0, 1];
  const p = successes / n;
  const centre = p + (z * z) / (2 * n);
  const spread = z * Math.sqrt((p * (1 - p)) / n + (z * z) / (4 * n * n));
  const scale = 1 + (z * z) / n;
  return [Math.max(0, (centre - spread) / scale), Math.min(1, (centre + spread) / scale)];
}

export function makeScore({
  correct1,
  correct5,
  images,
  classes,
  topK,
}: Pick<ZeroShotScore, 'correct1' | 'correct5' | 'images' | 'classes' | 'topK'>): ZeroShotScore {
  return {
    top1: correct1 / images,
    top5: correct5 / images,
    topK,
    images,
    classes,
    correct1,
    correct5,
    interval1: wilsonInterval(correct1, images),
    interval5: wilsonInterval(correct5, images),
  };
}
