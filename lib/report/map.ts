/** Both banks in the plane: the two leading principal axes of all anchors. */
import { principalAxes } from '../principal-axes.js';
import { LgdError } from '../errors.js';
import type { RunBanks } from './banks.js';

export interface BankMap {
  /** Of the checkpoint. */
  step: number;
  names: readonly string[];
  /** [K] coordinates of the textual and the visual anchors; null where the category is unseen. */
  textual: { x: number[]; y: number[] };
  visual: { x: (number | null)[]; y: (number | null)[] };
  seen: number;
  /** Share of the anchors' spread that each axis shows, 0 to 1. */
  spread: [number, number];
  /** Cosine between the means of the two banks: how far apart texts and images lie as a whole. */
  meanCosine: number;
  /** Mean cosine between a seen category's two anchors. */
  pairCosine: number;
}

const rounds = 100;

/**
 * Projects the anchors. Each bank is centred on its own mean first: texts and images of CLIP lie in two narrow cones
 * apart from each other (Liang et al. 2022, "Mind the gap"), and that one direction would hide all others.
 * @throws LgdError BAD_CONFIG (fewer than two categories)
 */
export function mapBanks({ names, size, embeddingSize, textual, visual, seen, step }: RunBanks): BankMap {
  if (size < 2)
    throw new LgdError('BAD_CONFIG', 'a bank of one category has no map.', {
      option: 'names',
      mend: 'Train with two names or more',
    });
  const seenRows = Array.from(seen.keys()).filter((k) => seen[k] === 1);
  const means = [
    meanOf(textual, Array.from(seen.keys()), embeddingSize),
    meanOf(visual, seenRows, embeddingSize),
  ] as const;
  const points = new Float32Array((size + seenRows.length) * embeddingSize);
  const put = (place: number, rows: Float32Array, row: number, mean: Float64Array) => {
    for (let d = 0; d < embeddingSize; d++)
      points[place * embeddingSize + d] = rows[row * embeddingSize + d]! - mean[d]!;
  };
  for (let k = 0; k < size; k++) put(k, textual, k, means[0]);
  seenRows.forEach((k, i) => put(size + i, visual, k, means[1]));

  const count = size + seenRows.length;
  const span = Math.min(2, embeddingSize, size - 1 + Math.max(0, seenRows.length - 1));
  const axes = orient(principalAxes(points, count, embeddingSize, span, { rounds }), embeddingSize);
  const coordinates = project(points, count, axes, embeddingSize);
  const total = points.reduce((sum, value) => sum + value * value, 0);
  const spread = [0, 1].map((axis) => coordinates[axis]!.reduce((sum, value) => sum + value * value, 0) / total) as [
    number,
    number,
  ];
  const places = new Map(seenRows.map((k, i) => [k, size + i]));
  const ofVisual = (axis: number) =>
    Array.from(seen.keys(), (k) => (places.has(k) ? round(coordinates[axis]![places.get(k)!]!) : null));
  const ofTextual = (axis: number) => Array.from(coordinates[axis]!.subarray(0, size), round);
  return {
    step,
    names,
    spread,
    textual: { x: ofTextual(0), y: ofTextual(1) },
    visual: { x: ofVisual(0), y: ofVisual(1) },
    seen: seenRows.length,
    meanCosine: cosine(means[0], means[1]),
    pairCosine: pairCosine(textual, visual, seenRows, embeddingSize),
  };
}

function meanOf(rows: Float32Array, chosen: readonly number[], size: number): Float64Array {
  const mean = new Float64Array(size);
  for (const row of chosen) for (let d = 0; d < size; d++) mean[d]! += rows[row * size + d]! / chosen.length;
  return mean;
}

/**
 * The sign of an axis means nothing: its largest component is made positive, so that the same bank gives the same
 * picture.
 */
function orient(axes: Float32Array, size: number): Float32Array {
  for (let from = 0; from < axes.length; from += size) {
    const axis = axes.subarray(from, from + size);
    const largest = axis.reduce((best, value) => (Math.abs(value) > Math.abs(best) ? value : best), 0);
    if (largest < 0) axis.forEach((value, d) => (axis[d] = -value));
  }
  return axes;
}

/** Coordinates along two axes, [2][count]; along a second axis that is not there, 0. */
function project(points: Float32Array, count: number, axes: Float32Array, size: number): [Float64Array, Float64Array] {
  const along = (axis: number) =>
    Float64Array.from({ length: count }, (_, i) => {
      let sum = 0;
      for (let d = 0; d < size; d++) sum += points[i * size + d]! * (axes[axis * size + d] ?? 0);
      return sum;
    });
  return [along(0), along(1)];
}

function cosine(a: Float64Array, b: Float64Array): number {
  const product = (x: Float64Array, y: Float64Array) => x.reduce((sum, value, d) => sum + value * y[d]!, 0);
  return product(a, b) / Math.sqrt(product(a, a) * product(b, b));
}

function pairCosine(textual: Float32Array, visual: Float32Array, rows: readonly number[], size: number): number {
  let sum = 0;
  for (const row of rows) for (let d = row * size; d < (row + 1) * size; d++) sum += textual[d]! * visual[d]!;
  return sum / rows.length;
}

function round(value: number): number {
  return Number(value.toFixed(4));
}
