import { LgdError } from '../errors.js';
import { dot, principalAxes } from '../principal-axes.js';
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

const axesMost = 64; // leading axes kept: enough to tell apart nearly all pairs of a real list
const axesAtOnce = 8;
const rowsPerTurn = 32;
const productsPerTurn = 2 ** 22; // a few milliseconds
const task = 'the search for near-duplicate names';

/** Looks whether a similarity is one that rows can be alike by. @throws LgdError BAD_OPTION */
export function checkSimilarity(similarity: number): void {
  if (similarity > 0 && similarity <= 1) return;
  throw new LgdError('BAD_OPTION', 'the similarity must be a cosine.', { option: 'similarity', found: similarity, allowed: 'above 0, up to 1' });
}

/**
 * All pairs of unit rows whose cosine is at least `threshold`, exactly (up to float32 rounding), without comparing most pairs in full.
 *
 * For unit rows cos(x,y) >= t is |x-y|^2 <= 2-2t = r^2, and |x-y|^2 = |P(x-y)|^2 + |Q(x-y)|^2 >= |P(x-y)|^2 + (|Qx|-|Qy|)^2 for any orthonormal P
 * and its complement Q. P holds the leading principal axes of a sample of the rows, where distances are largest: rows are sorted along the first, only rows within r
 * of each other on it are looked at, and a pair is dropped as soon as its partial distance passes r^2. Time is O(K^2) partial distances at worst, memory O(K).
 *
 * @param rows [count,dimension], unit rows
 * @param threshold cosine, in (0, 1]; the higher, the faster
 * @param options.onProgress called with the rows compared and all of them; in the order of the search the first have the most others to be compared with
 * @throws LgdError ABORTED, BAD_SHAPE
 */
export async function nearestPairs(
  rows: Float32Array,
  count: number,
  threshold: number,
  { limit = 1000, signal, onProgress }: { limit?: number; signal?: AbortSignal | undefined; onProgress?: ((done: number, total: number) => void) | undefined } = {},
): Promise<NearestPairs> {
  const dimension = rows.length / Math.max(1, count);
  if (!Number.isInteger(dimension)) throw new LgdError('BAD_SHAPE', `${rows.length} values are not ${count} rows of one length.`);
  if (count < 2) return { pairs: [], total: 0 };
  const radiusSquared = Math.max(0, 2 - 2 * threshold) + 1e-5; // the slack covers rounding; survivors are checked in full
  const search = { count, dimension, threshold, ...(await projectAndSort(rows, count, dimension, signal)), radiusSquared };
  const found = new Best(limit);
  for (let from = 0; from < count; from += rowsPerTurn) {
    await nextTurn(signal, task);
    onProgress?.(from, count);
    searchRows(search, from, Math.min(from + rowsPerTurn, count), found);
  }
  return { pairs: found.sorted(), total: found.total };
}

interface Search {
  count: number;
  dimension: number;
  threshold: number;
  /** The row at each place of the sorted order. */
  order: Int32Array;
  /** The rows in that order, so that neighbours in the search are neighbours in memory. */
  sorted: Float32Array;
  /** Their coordinates [count + 5, width], sorted along the first; rows of NaN after the last. */
  projected: Float32Array;
  width: number;
  radiusSquared: number;
}

/** Compares the sorted rows [from,to) with all that follow them. Apart from the asynchronous loop, where V8 compiles it to code several times slower. */
function searchRows({ count, dimension, threshold, order, sorted, projected, width, radiusSquared }: Search, from: number, to: number, found: Best): void {
  const radius = Math.sqrt(radiusSquared);
  for (let i = from; i < to; i += 2) {
    const reach = projected[Math.min(i + 1, count - 1) * width]! + radius;
    for (let j = i + 1; j < count && projected[j * width]! <= reach; j += 4) {
      const near = pairsInReach(projected, i * width, j * width, width, radiusSquared);
      for (let bit = 0; near >> bit !== 0; bit++) {
        const p = i + (bit >> 2);
        const q = j + (bit & 3);
        if (((near >> bit) & 1) === 0 || q <= p) continue;
        const a = Math.min(order[p]!, order[q]!);
        const b = Math.max(order[p]!, order[q]!);
        const similarity = dot(sorted, p * dimension, q * dimension, dimension);
        if (similarity >= threshold - 1e-6) found.add({ a, b, similarity });
      }
    }
  }
}

/**
 * Which of 2 x 4 pairs of projected rows (from offsets i and j) stay within the radius: bit 4 r + c is row r with row c. Eight pairs at once keep a number in a register
 * for several of them; the partial distances are looked at after every few axes, since most pairs part within the first. Rows past the end are NaN and never within.
 */
function pairsInReach(values: Float32Array, i: number, j: number, width: number, limit: number): number {
  const i1 = i + width;
  const j1 = j + width;
  const j2 = j1 + width;
  const j3 = j2 + width;
  let s0 = 0, s1 = 0, s2 = 0, s3 = 0, s4 = 0, s5 = 0, s6 = 0, s7 = 0;
  for (let from = 0; from < width; from += axesAtOnce) {
    const to = Math.min(from + axesAtOnce, width);
    for (let k = from; k < to; k++) {
      const a = values[i + k]!;
      const b = values[i1 + k]!;
      const c = values[j + k]!;
      const d = values[j1 + k]!;
      const e = values[j2 + k]!;
      const f = values[j3 + k]!;
      s0 += (a - c) * (a - c);
      s1 += (a - d) * (a - d);
      s2 += (a - e) * (a - e);
      s3 += (a - f) * (a - f);
      s4 += (b - c) * (b - c);
      s5 += (b - d) * (b - d);
      s6 += (b - e) * (b - e);
      s7 += (b - f) * (b - f);
    }
    if (!(s0 <= limit || s1 <= limit || s2 <= limit || s3 <= limit || s4 <= limit || s5 <= limit || s6 <= limit || s7 <= limit)) return 0;
  }
  return +(s0 <= limit) | (+(s1 <= limit) << 1) | (+(s2 <= limit) << 2) | (+(s3 <= limit) << 3)
    | (+(s4 <= limit) << 4) | (+(s5 <= limit) << 5) | (+(s6 <= limit) << 6) | (+(s7 <= limit) << 7);
}

/** Rows on the leading axes plus, as one more coordinate, the norm of what the axes leave out; sorted along the first axis. */
async function projectAndSort(rows: Float32Array, count: number, dimension: number, signal: AbortSignal | undefined): Promise<Pick<Search, 'order' | 'sorted' | 'projected' | 'width'>> {
  const axes = Float64Array.from(principalAxes(rows, count, dimension, Math.min(axesMost, dimension), { rounds: 4 }));
  const axisCount = axes.length / dimension;
  const width = axisCount + 1;
  const unsorted = new Float32Array(count * width);
  const atOnce = Math.ceil(productsPerTurn / axes.length);
  for (let from = 0; from < count; from += atOnce) {
    await nextTurn(signal, task);
    projectRows({ rows, dimension, axes, unsorted }, from, Math.min(from + atOnce, count));
  }
  const order = Int32Array.from({ length: count }, (_, i) => i).sort((a, b) => unsorted[a * width]! - unsorted[b * width]! || a - b);
  const projected = new Float32Array((count + 5) * width).fill(NaN);
  const sorted = new Float32Array(count * dimension);
  order.forEach((row, place) => {
    projected.set(unsorted.subarray(row * width, (row + 1) * width), place * width);
    sorted.set(rows.subarray(row * dimension, (row + 1) * dimension), place * dimension);
  });
  return { order, sorted, projected, width };
}

/** The coordinates of the rows [from,to), four axes at once: each sum would else wait for its last addition. Apart from the asynchronous loop, as {@link searchRows} is. */
function projectRows({ rows, dimension, axes, unsorted }: { rows: Float32Array; dimension: number; axes: Float64Array; unsorted: Float32Array }, from: number, to: number): void {
  const axisCount = axes.length / dimension;
  for (let i = from; i < to; i++) {
    const row = i * dimension;
    const place = i * (axisCount + 1);
    let rest = dot(rows, row, row, dimension);
    for (let p = 0; p < axisCount; p += 4) {
      const a0 = p * dimension;
      const [a1, a2, a3] = [Math.min(p + 1, axisCount - 1) * dimension, Math.min(p + 2, axisCount - 1) * dimension, Math.min(p + 3, axisCount - 1) * dimension];
      let s0 = 0, s1 = 0, s2 = 0, s3 = 0;
      for (let k = 0; k < dimension; k++) {
        const value = rows[row + k]!;
        s0 += value * axes[a0 + k]!;
        s1 += value * axes[a1 + k]!;
        s2 += value * axes[a2 + k]!;
        s3 += value * axes[a3 + k]!;
      }
      const sums = [s0, s1, s2, s3];
      for (let q = 0; q < 4 && p + q < axisCount; q++) {
        unsorted[place + p + q] = sums[q]!;
        rest -= sums[q]! * sums[q]!;
      }
    }
    unsorted[place + axisCount] = Math.sqrt(Math.max(0, rest));
  }
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
