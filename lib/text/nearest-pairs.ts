import { openDevice, type Device } from '../device.js';
import { LgdError } from '../errors.js';
import { checkNumber } from '../number-limits.js';
import { dot } from '../principal-axes.js';
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

const rowsAtOnce = 1024; // a second of work or two for 100,000 rows
const nearestAsked = 64;
const resultsAtOnce = 2 ** 22;
const productsPerTurn = 2 ** 22; // a few milliseconds
const longest = 1.001; // rows of a bank that stood in half precision
const rounding = 1e-6;
const task = 'the search for near-duplicate names';

/** Looks whether a similarity is a cosine that rows can be alike by. @throws LgdError BAD_OPTION */
export function checkSimilarity(similarity: number): void {
  checkNumber('similarity', similarity, { above: 0, most: 1 });
}

/**
 * All pairs of unit rows whose cosine is at least `threshold`, exactly (up to float32 rounding). Each block of rows is
 * compared on the CPU device with those from its first on, half of all pairs; of each row the nearest are looked at
 * again here, and more of them where all of those are near. Time is O(K^2 D): 100,000 rows of 512 take some 50 seconds
 * of one core with AVX-512.
 *
 * @param rows [count,dimension], unit rows
 * @param threshold cosine, in (0, 1]
 * @param options.onProgress called with the rows compared and all of them; the first have the most others to be
 *   compared with
 * @throws LgdError ABORTED, BAD_SHAPE, NON_FINITE, ADDON_NOT_FOUND
 */
export async function nearestPairs(
  rows: Float32Array,
  count: number,
  threshold: number,
  {
    limit = 1000,
    signal,
    onProgress,
  }: {
    limit?: number;
    signal?: AbortSignal | undefined;
    onProgress?: ((done: number, total: number) => void) | undefined;
  } = {},
): Promise<NearestPairs> {
  const dimension = rows.length / Math.max(1, count);
  if (!Number.isInteger(dimension))
    throw new LgdError('BAD_SHAPE', `${rows.length} values are not ${count} rows of one length.`);
  if (count < 2) return { pairs: [], total: 0 };
  using device = await openDevice('cpu');
  const search = new Search(device, rows, { count, dimension, threshold, limit, signal });
  for (let from = 0; from < count; from += rowsAtOnce) {
    onProgress?.(from, count);
    const block = Int32Array.from({ length: Math.min(rowsAtOnce, count - from) }, (_, i) => from + i);
    await search.compare(block, from, nearestAsked);
  }
  return { pairs: search.found.sorted(), total: search.found.total };
}

class Search {
  readonly found: Best;
  /** Below it no pair of the device's cosines, which are of rows at length 1, is near. */
  readonly #floor: number;
  #products = 0;

  constructor(
    readonly device: Device,
    readonly rows: Float32Array,
    readonly options: {
      count: number;
      dimension: number;
      threshold: number;
      limit: number;
      signal: AbortSignal | undefined;
    },
  ) {
    this.found = new Best(options.limit);
    this.#floor = (options.threshold - rounding) / longest ** 2 - 10 * rounding;
  }

  /**
   * Compares some rows with those from `from` on, of which the nearest `asked` of each are looked at.
   * @param some ascending
   */
  async compare(some: Int32Array, from: number, asked: number): Promise<void> {
    const { addon, handle } = this.device;
    const { rows } = this;
    const { count, dimension, signal } = this.options;
    const k = Math.min(asked, count - from);
    await nextTurn(signal, task);
    const { indices, scores } = await addon.topSimilar(
      handle,
      this.#gather(some),
      rows.subarray(from * dimension),
      dimension,
      k,
    );
    const crowded: number[] = [];
    for (const [i, a] of some.entries()) {
      if (k < count - from && scores[(i + 1) * k - 1]! >= this.#floor) {
        crowded.push(a); // there may be more
        continue;
      }
      for (let place = i * k; place < (i + 1) * k && scores[place]! >= this.#floor; place++) {
        if (from + indices[place]! > a) this.#look(a, from + indices[place]!);
        if (this.#products < productsPerTurn) continue;
        this.#products = 0;
        await nextTurn(signal, task);
      }
    }
    const more = 16 * k;
    const atOnce = Math.max(1, Math.floor(resultsAtOnce / more));
    for (let i = 0; i < crowded.length; i += atOnce)
      await this.compare(Int32Array.from(crowded.slice(i, i + atOnce)), from, more);
  }

  #gather(some: Int32Array): Float32Array {
    const { rows } = this;
    const { dimension } = this.options;
    const [first, last] = [some[0]!, some.at(-1)!];
    if (last - first + 1 === some.length) return rows.subarray(first * dimension, (last + 1) * dimension);
    const gathered = new Float32Array(some.length * dimension);
    some.forEach((row, i) => gathered.set(rows.subarray(row * dimension, (row + 1) * dimension), i * dimension));
    return gathered;
  }

  #look(a: number, b: number): void {
    const { dimension, threshold } = this.options;
    this.#products += dimension;
    const similarity = dot(this.rows, a * dimension, b * dimension, dimension);
    if (similarity >= threshold - rounding) this.found.add({ a, b, similarity });
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
