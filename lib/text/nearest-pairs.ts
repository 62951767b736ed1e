import { LgdError } from '../errors.js';
import { nextTurn } from '../turn.js';

/** Two rows (a < b) and the cosine between them. */
export interface RowPair {
  a: number;
  b: number;
  similarity: number;
}

export interface NearestPairs {
  /** At most `limit` pairs, the most similar first, ties by row. */
  pairs: RowPair[];
  /** How many pairs reach the threshold. */
  total: number;
}

const axesMost = 32; // leading axes kept; enough to tell apart all but a few per mille of the pairs of a real list
const axesAtOnce = 6;
const rowsPerTurn = 64;

/**
 * All pairs of unit rows whose cosine is at least `threshold`, exactly (up to float32 rounding), without comparing most pairs in full.
 *
 * For unit rows cos(x,y) >= t is |x-y|^2 <= 2-2t = r^2, and |x-y|^2 = |P(x-y)|^2 + |Q(x-y)|^2 >= |P(x-y)|^2 + (|Qx|-|Qy|)^2 for any orthonormal P
 * and its complement Q. P holds the leading principal axes of a sample of the rows, where distances are largest: rows are sorted along the first, only rows within r
 * of each other on it are looked at, and a pair is dropped as soon as its partial distance passes r^2. Time is O(K^2) partial distances at worst, memory O(K).
 *
 * @param rows [count,dimension], unit rows
 * @param threshold cosine, in (0, 1]; the higher, the faster
 * @throws LgdError ABORTED, BAD_SHAPE
 */
export async function nearestPairs(
  rows: Float32Array,
  count: number,
  threshold: number,
  { limit = 1000, signal }: { limit?: number; signal?: AbortSignal } = {},
): Promise<NearestPairs> {
  const dimension = rows.length / Math.max(1, count);
  if (!Number.isInteger(dimension)) throw new LgdError('BAD_SHAPE', `${rows.length} values are not ${count} rows of one length.`);
  if (count < 2) return { pairs: [], total: 0 };
  const radiusSquared = Math.max(0, 2 - 2 * threshold) + 1e-5; // the slack covers rounding; survivors are checked in full
  const { projected, width, order } = projectAndSort(rows, count, dimension);
  const radius = Math.sqrt(radiusSquared);
  const found = new Best(limit);
  for (let i = 0; i < count; i++) {
    if (i % rowsPerTurn === 0) await nextTurn(signal, 'the search for near-duplicate names');
    const reach = projected[i * width]! + radius;
    for (let j = i + 1; j < count && projected[j * width]! <= reach; j++) {
      if (!withinReach(projected, i * width, j * width, width, radiusSquared)) continue;
      const [a, b] = order[i]! < order[j]! ? [order[i]!, order[j]!] : [order[j]!, order[i]!];
      const similarity = dot(rows, a * dimension, b * dimension, dimension);
      if (similarity >= threshold - 1e-6) found.add({ a, b, similarity });
    }
  }
  return { pairs: found.sorted(), total: found.total };
}

/** Whether the partial distance of two projected rows stays within the radius, looked at after every few axes: most pairs part within the first. */
function withinReach(projected: Float32Array, i: number, j: number, width: number, radiusSquared: number): boolean {
  let sum = 0;
  for (let from = 0; from < width; from += axesAtOnce) {
    const to = Math.min(from + axesAtOnce, width);
    for (let k = from; k < to; k++) {
      const difference = projected[i + k]! - projected[j + k]!;
      sum += difference * difference;
    }
    if (sum > radiusSquared) return false;
  }
  return true;
}

function dot(values: Float32Array, i: number, j: number, length: number): number {
  let sum = 0;
  for (let k = 0; k < length; k++) sum += values[i + k]! * values[j + k]!;
  return sum;
}

/** Rows on the leading axes plus, as one more coordinate, the norm of what the axes leave out; sorted along the first axis. */
function projectAndSort(rows: Float32Array, count: number, dimension: number): { projected: Float32Array; width: number; order: Int32Array } {
  const axes = principalAxes(rows, count, dimension, Math.min(axesMost, dimension));
  const axisCount = axes.length / dimension;
  const width = axisCount + 1;
  const unsorted = new Float32Array(count * width);
  for (let i = 0; i < count; i++) {
    let rest = dot(rows, i * dimension, i * dimension, dimension);
    for (let p = 0; p < axisCount; p++) {
      let sum = 0;
      for (let k = 0; k < dimension; k++) sum += rows[i * dimension + k]! * axes[p * dimension + k]!;
      unsorted[i * width + p] = sum;
      rest -= sum * sum;
    }
    unsorted[i * width + axisCount] = Math.sqrt(Math.max(0, rest));
  }
  const order = Int32Array.from({ length: count }, (_, i) => i).sort((a, b) => unsorted[a * width]! - unsorted[b * width]! || a - b);
  const projected = new Float32Array(count * width);
  order.forEach((row, place) => projected.set(unsorted.subarray(row * width, (row + 1) * width), place * width));
  return { projected, width, order };
}

/**
 * Orthonormal axes [n,dimension] near the leading principal axes of an evenly spaced sample of the rows, by subspace iteration.
 * They steer the speed of the search, never its result, so a few rounds do.
 */
function principalAxes(rows: Float32Array, count: number, dimension: number, n: number): Float32Array {
  const sampleCount = Math.min(count, 1024);
  const sample = new Float32Array(sampleCount * dimension);
  const mean = new Float64Array(dimension);
  for (let i = 0; i < sampleCount; i++) {
    const row = Math.floor((i * count) / sampleCount);
    for (let k = 0; k < dimension; k++) {
      sample[i * dimension + k] = rows[row * dimension + k]!;
      mean[k]! += rows[row * dimension + k]! / sampleCount;
    }
  }
  for (let i = 0; i < sampleCount; i++) for (let k = 0; k < dimension; k++) sample[i * dimension + k]! -= mean[k]!;
  let axes = new Float32Array(n * dimension);
  for (let i = 0; i < axes.length; i++) axes[i] = 1e-3 * Math.sin(i * 12.9898); // so that no start is orthogonal to what is sought
  for (let p = 0; p < n; p++) axes[p * dimension + p]! += 1;
  orthonormalise(axes, n, dimension);
  for (let round = 0; round < 4; round++) {
    const next = new Float32Array(n * dimension);
    for (let i = 0; i < sampleCount; i++) {
      for (let p = 0; p < n; p++) {
        let weight = 0;
        for (let k = 0; k < dimension; k++) weight += sample[i * dimension + k]! * axes[p * dimension + k]!;
        for (let k = 0; k < dimension; k++) next[p * dimension + k]! += weight * sample[i * dimension + k]!;
      }
    }
    if (!orthonormalise(next, n, dimension)) break; // the rows span fewer axes than asked for: those of the last round still serve
    axes = next;
  }
  return axes;
}

/** Gram-Schmidt in place, three passes for orthogonality to rounding even where rows are nearly dependent; false where one vanishes. */
function orthonormalise(axes: Float32Array, n: number, dimension: number): boolean {
  for (let p = 0; p < n; p++) {
    for (let pass = 0; pass < 3; pass++) {
      for (let q = 0; q < p; q++) {
        const along = dot(axes, p * dimension, q * dimension, dimension);
        for (let k = 0; k < dimension; k++) axes[p * dimension + k]! -= along * axes[q * dimension + k]!;
      }
      const norm = Math.sqrt(dot(axes, p * dimension, p * dimension, dimension));
      if (!(norm > 0)) return false;
      for (let k = 0; k < dimension; k++) axes[p * dimension + k]! /= norm;
    }
  }
  return true;
}

/** Keeps the best `limit` pairs of any number, counting all. */
class Best {
  total = 0;
  private kept: RowPair[] = [];
  private floor = -Infinity;

  constructor(private readonly limit: number) {}

  add(pair: RowPair): void {
    this.total++;
    if (pair.similarity < this.floor) return;
    this.kept.push(pair);
    if (this.kept.length >= 2 * this.limit + 64) this.trim();
  }

  sorted(): RowPair[] {
    this.trim();
    return this.kept;
  }

  private trim(): void {
    this.kept.sort((x, y) => y.similarity - x.similarity || x.a - y.a || x.b - y.b);
    this.kept.length = Math.min(this.kept.length, this.limit);
    if (this.kept.length === this.limit) this.floor = this.kept.at(-1)?.similarity ?? Infinity;
  }
}
