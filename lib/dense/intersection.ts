/** Mean intersection over union, from counts of what each pixel is and what it was taken for. */
import { mean } from '../averages.js';

/** How well pixels were classified; the means are null where no pixel counts. */
export interface SegmentationScore {
  /** Mean of the classes' IoU, over the classes that occur in the masks or in the answers. */
  meanIou: number | null;
  /** Share of the pixels that have their class. */
  pixelAccuracy: number | null;
  /** Mean of the classes' shares of pixels found, over the classes that occur in the masks. */
  meanAccuracy: number | null;
  classes: {
    name: string;
    /** Right pixels / pixels of the class or taken for it; null where there are none. */
    iou: number | null;
    /** Right pixels / pixels of the class; null where there are none. */
    accuracy: number | null;
    /** Pixels of the class. */
    pixels: number;
  }[];
  images: number;
  /** Pixels that count. */
  pixels: number;
}

/** Counts pixels by class and answer. */
export class ConfusionCounts {
  /** [K,K]: pixels of a class (row) that were taken for another (column). */
  readonly counts: Float64Array;
  images = 0;

  constructor(readonly names: readonly string[]) {
    this.counts = new Float64Array(names.length ** 2);
  }

  /** @param truth class of each pixel, negative to leave it out; @param answers what it was taken for */
  add(truth: Int16Array, answers: Int16Array): void {
    const classes = this.names.length;
    for (let i = 0; i < truth.length; i++) {
      const is = truth[i]!;
      if (is >= 0) this.counts[is * classes + answers[i]!] = this.counts[is * classes + answers[i]!]! + 1;
    }
    this.images++;
  }

  score(): SegmentationScore {
    const [K, { counts, names }] = [this.names.length, this];
    const sum = (at: (i: number) => number) => Array.from({ length: K }, (_, i) => at(i)).reduce((a, b) => a + b, 0);
    const classes = names.map((name, k) => {
      const right = counts[k * K + k]!;
      const pixels = sum((i) => counts[k * K + i]!);
      const union = pixels + sum((i) => counts[i * K + k]!) - right;
      return { name, iou: union === 0 ? null : right / union, accuracy: pixels === 0 ? null : right / pixels, pixels };
    });
    const pixels = sum((k) => classes[k]!.pixels);
    return {
      meanIou: mean(classes.map(({ iou }) => iou)),
      pixelAccuracy: pixels === 0 ? null : sum((k) => counts[k * K + k]!) / pixels,
      meanAccuracy: mean(classes.map(({ accuracy }) => accuracy)),
      classes,
      images: this.images,
      pixels,
    };
  }
}
