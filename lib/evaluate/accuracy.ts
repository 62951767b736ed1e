/** What a classifier made of labelled images: one row an image, and the accuracies over all and in each class. */
import { makeScore, wilsonInterval, type ZeroShotScore } from './score.js';

/** What a classifier says of each image. */
export interface Answers {
  /** Index of the right class. */
  targets: Int32Array;
  /** Index of the class it chose. */
  predicted: Int32Array;
  /** How many classes it puts before the right one; 0: it is right. */
  ranks: Int32Array;
}

/** Accuracy within one class. */
export interface ClassScore {
  name: string;
  images: number;
  correct1: number;
  correct5: number;
  /** Shares of the class's images, 0 to 1. */
  top1: number;
  top5: number;
  /** 95 % confidence interval of top1, [low, high]. */
  interval1: [number, number];
  /** The wrong class that most of its images were taken for, and how many; undefined where none was. */
  mistakenFor: { name: string; images: number } | undefined;
}

export function makeAnswers(images: number): Answers {
  return { targets: new Int32Array(images), predicted: new Int32Array(images), ranks: new Int32Array(images) };
}

/** The right class of each of some images. */
export function targetsOf({ labels }: { labels: Int32Array | undefined }, images: Int32Array): Int32Array {
  return images.map((image) => labels![image]!);
}

/** Fills in rows from `from` on of the scores [n,K] of a classifier; the lower class comes first among equals. */
export function answerRows(
  { targets, predicted, ranks }: Answers,
  scores: ArrayLike<number>,
  classes: number,
  from: number,
): void {
  for (let i = 0; i < scores.length / classes; i++) {
    const at = i * classes;
    const target = targets[from + i]!;
    const right = scores[at + target]!;
    let best = 0;
    let before = 0;
    for (let k = 0; k < classes; k++) {
      const score = scores[at + k]!;
      if (score > scores[at + best]!) best = k;
      if (score > right || (score === right && k < target)) before++;
    }
    predicted[from + i] = best;
    ranks[from + i] = before;
  }
}

/** Accuracy over all images. */
export function accuracyOf({ ranks }: Pick<Answers, 'ranks'>, classes: number): ZeroShotScore {
  const topK = Math.min(5, classes);
  let [correct1, correct5] = [0, 0];
  for (const rank of ranks) {
    if (rank === 0) correct1++;
    if (rank < topK) correct5++;
  }
  return makeScore({ correct1, correct5, images: ranks.length, classes, topK });
}

/** Accuracy in each class, in the classes' order. */
export function accuracyByClass({ targets, predicted, ranks }: Answers, names: readonly string[]): ClassScore[] {
  const topK = Math.min(5, names.length);
  const wrong = names.map(() => new Map<number, number>());
  const counts = names.map(() => ({ images: 0, correct1: 0, correct5: 0 }));
  targets.forEach((target, i) => {
    const count = counts[target]!;
    count.images++;
    if (ranks[i]! < topK) count.correct5++;
    if (ranks[i] === 0) count.correct1++;
    else wrong[target]!.set(predicted[i]!, (wrong[target]!.get(predicted[i]!) ?? 0) + 1);
  });
  return counts.map(({ images, correct1, correct5 }, k) => {
    const [most] = [...wrong[k]!].sort((a, b) => b[1] - a[1] || a[0] - b[0]);
    return {
      name: names[k]!,
      images,
      correct1,
      correct5,
      top1: correct1 / images,
      top5: correct5 / images,
      interval1: wilsonInterval(correct1, images),
      mistakenFor: most && { name: names[most[0]]!, images: most[1] },
    };
  });
}
