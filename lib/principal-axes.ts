/** Principal axes of a set of rows, near enough for what this package does with them. */

const sampleMost = 1024; // rows looked at: axes of more would hardly differ

/** Four partial sums, so that additions need not wait for each other. */
export function dot(values: Float32Array, i: number, j: number, length: number): number {
  let s0 = 0,
    s1 = 0,
    s2 = 0,
    s3 = 0;
  let k = 0;
  for (; k + 3 < length; k += 4) {
    s0 += values[i + k]! * values[j + k]!;
    s1 += values[i + k + 1]! * values[j + k + 1]!;
    s2 += values[i + k + 2]! * values[j + k + 2]!;
    s3 += values[i + k + 3]! * values[j + k + 3]!;
  }
  for (; k < length; k++) s0 += values[i + k]! * values[j + k]!;
  return s0 + s1 + s2 + s3;
}

/**
 * Orthonormal axes near the leading principal axes of an evenly spaced sample of the rows, the largest first, by
 * subspace iteration from a fixed start.
 * @param rows [count,dimension]
 * @param n axes; no more than the centred rows span
 * @param rounds the more, the nearer: 100 for a picture
 * @returns [n,dimension]
 */
export function principalAxes(
  rows: Float32Array,
  count: number,
  dimension: number,
  n: number,
  { rounds }: { rounds: number },
): Float32Array {
  const sampleCount = Math.min(count, sampleMost);
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
  // so that no start is orthogonal to what is sought
  for (let i = 0; i < axes.length; i++) axes[i] = 1e-3 * Math.sin(i * 12.9898);
  for (let p = 0; p < n; p++) axes[p * dimension + p]! += 1;
  orthonormalise(axes, n, dimension);
  for (let round = 0; round < rounds; round++) {
    const next = new Float32Array(n * dimension);
    for (let i = 0; i < sampleCount; i++) {
      for (let p = 0; p < n; p += 4) addAlong(sample, i * dimension, axes, next, p, n, dimension);
    }
    // the rows span fewer axes than asked for: those of the last round still serve
    if (!orthonormalise(next, n, dimension)) break;
    axes = next;
  }
  return axes;
}

/** Adds a row's parts along the axes [p, p+4) to those of `next`: four sums at once need not wait for each other. */
function addAlong(
  sample: Float32Array,
  row: number,
  axes: Float32Array,
  next: Float32Array,
  p: number,
  n: number,
  dimension: number,
): void {
  const a0 = p * dimension;
  const a1 = Math.min(p + 1, n - 1) * dimension;
  const a2 = Math.min(p + 2, n - 1) * dimension;
  const a3 = Math.min(p + 3, n - 1) * dimension;
  let s0 = 0,
    s1 = 0,
    s2 = 0,
    s3 = 0;
  for (let k = 0; k < dimension; k++) {
    const value = sample[row + k]!;
    s0 += value * axes[a0 + k]!;
    s1 += value * axes[a1 + k]!;
    s2 += value * axes[a2 + k]!;
    s3 += value * axes[a3 + k]!;
  }
  for (let k = 0; k < dimension; k++) {
    const value = sample[row + k]!;
    next[a0 + k]! += s0 * value;
    if (p + 1 < n) next[a1 + k]! += s1 * value;
    if (p + 2 < n) next[a2 + k]! += s2 * value;
    if (p + 3 < n) next[a3 + k]! += s3 * value;
  }
}

/**
 * Gram-Schmidt in place, three passes for orthogonality to rounding even where rows are nearly dependent; false where
 * one vanishes.
 */
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
