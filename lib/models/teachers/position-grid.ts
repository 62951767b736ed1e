/**
 * Position embeddings for another grid of patches than a model was trained with: bicubic interpolation as PyTorch's
 * `interpolate(mode='bicubic', align_corners=False)` does it, with `antialias` or without. The two differ: the former
 * has Keys' kernel with a = -0.5, widened where the grid shrinks and renormalised at the border, as Pillow; the latter
 * has a = -0.75, always four taps an axis, and repeats the border.
 */

/** Keys' cubic convolution kernel (IEEE Trans. ASSP 29, 1981). */
function cubic(distance: number, a: number): number {
  const x = Math.abs(distance);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? a * (((x - 5) * x + 8) * x - 4) : 0;
}

/** @returns [to,from]: what each old position of an axis counts for at each new one; rows sum to 1 */
function axisWeights(from: number, to: number, antialias: boolean): Float64Array {
  const weights = new Float64Array(to * from);
  const scale = from / to;
  const stretch = antialias ? Math.max(scale, 1) : 1;
  const a = antialias ? -0.5 : -0.75;
  for (let i = 0; i < to; i++) {
    const row = weights.subarray(i * from, (i + 1) * from);
    const centre = scale * (i + 0.5) - 0.5;
    const reach = 2 * stretch;
    for (let j = Math.floor(centre - reach); j <= Math.ceil(centre + reach); j++) {
      const weight = cubic((j - centre) / stretch, a);
      if (!antialias) row[Math.min(Math.max(j, 0), from - 1)]! += weight;
      else if (j >= 0 && j < from) row[j] = weight;
    }
    const total = row.reduce((sum, weight) => sum + weight, 0);
    for (let j = 0; j < from; j++) row[j]! /= total;
  }
  return weights;
}

/**
 * @param table [from * from, C], row by row of the grid
 * @param width C
 * @returns [to * to, C]; the table itself where the grids are the same
 */
export function resamplePositions(
  table: Float32Array,
  { width, from, to, antialias }: { width: number; from: number; to: number; antialias: boolean },
): Float32Array {
  if (from === to) return table;
  const weights = axisWeights(from, to, antialias);
  const columns = alongAxis(table, weights, { outer: from, from, to, inner: width }); // [from,to,C]
  return Float32Array.from(alongAxis(columns, weights, { outer: 1, from, to, inner: to * width }));
}

/** [outer,from,inner] to [outer,to,inner]. */
function alongAxis(
  values: Float32Array | Float64Array,
  weights: Float64Array,
  { outer, from, to, inner }: { outer: number; from: number; to: number; inner: number },
): Float64Array {
  const result = new Float64Array(outer * to * inner);
  for (let o = 0; o < outer; o++)
    for (let i = 0; i < to; i++) {
      const at = (o * to + i) * inner;
      for (let j = 0; j < from; j++) {
        const weight = weights[i * from + j]!;
        if (weight === 0) continue;
        const source = (o * from + j) * inner;
        for (let k = 0; k < inner; k++) result[at + k]! += weight * values[source + k]!;
      }
    }
  return result;
}
