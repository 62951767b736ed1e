/**
 * What rounding alone is to a network's output: after a few steps, the running statistics of norms are far from those of
 * the batches, and a deep network can make the difference of a last bit a thousand times as large.
 */
import type { WeightRecord } from '../models/weights.js';

/** Each value a unit in its last place off, up or down. @param draw counted from 0: each draws other signs */
export function nudged(values: Float32Array, draw: number): Float32Array {
  let word = draw + 1; // of xorshift32 (Marsaglia 2003)
  return values.map((value) => {
    word ^= word << 13;
    word ^= word >>> 17;
    word ^= word << 5;
    return value * (1 + Math.sign(word) * 2 ** -23);
  });
}

export function nudgedWeights(weights: WeightRecord, draw: number): WeightRecord {
  return Object.fromEntries(
    Object.entries(weights).map(([name, tensor]) => [name, { ...tensor, data: nudged(tensor.data, draw) }]),
  );
}
