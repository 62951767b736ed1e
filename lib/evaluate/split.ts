/** Seeded, class-balanced parts of labelled images. */
import { shuffledOrder } from '../data/sampler.js';

/** Images of each class in a seeded order that knows nothing of the other classes. */
function shuffledClasses(labels: Int32Array, classes: number, seed: number): Int32Array[] {
  const members: number[][] = Array.from({ length: classes }, () => []);
  labels.forEach((label, i) => members[label]!.push(i));
  return members.map((images, label) => shuffledOrder(images.length, seed, label).map((place) => images[place]!));
}

/**
 * A share of each class: its images times `share`, rounded, but one at least. The images of a smaller share are among
 * those of a larger one with the same seed.
 * @param share above 0, to 1
 * @returns indices in rising order
 */
export function balancedShare(labels: Int32Array, classes: number, share: number, seed: number): Int32Array {
  const parts = shuffledClasses(labels, classes, seed).map((images) =>
    images.subarray(0, Math.max(1, Math.round(share * images.length))),
  );
  return Int32Array.from(parts.flatMap((part) => [...part])).sort();
}

/** Parts of a training set: to fit with, and held out to choose settings by. */
export interface HoldOut {
  fit: Int32Array;
  heldOut: Int32Array;
}

/**
 * Holds out a share of each class, rounded, but at least one image of a class that has two or more. A class of one
 * stays whole in what is fitted.
 */
export function holdOut(labels: Int32Array, classes: number, share: number, seed: number): HoldOut {
  const [fit, heldOut]: [number[], number[]] = [[], []];
  for (const images of shuffledClasses(labels, classes, seed)) {
    const count = Math.min(images.length - 1, Math.max(1, Math.round(share * images.length)));
    images.forEach((image, place) => (place < count ? heldOut : fit).push(image));
  }
  return { fit: Int32Array.from(fit).sort(), heldOut: Int32Array.from(heldOut).sort() };
}
