import { expect, test } from 'vitest';
import { nearestPairs } from '../../lib/text/nearest-pairs.js';
import { randomNumbers } from '../fixtures/random.js';

/**
 * Unit rows around a common direction, as text embeddings are, some of them close to others; `decay` lets later columns
 * matter less.
 */
function unitRows(count: number, dimension: number, seed: number, decay = Infinity): Float32Array {
  const random = randomNumbers(seed);
  const rows = new Float32Array(count * dimension);
  const scales = Float64Array.from({ length: dimension }, (_, k) => Math.exp(-k / decay));
  // a spread of 1 is a noise of about length 1 beside a centre of length 2
  const total = Math.sqrt(scales.reduce((sum, scale) => sum + scale * scale, 0) / 3);
  for (let i = 0; i < count; i++) {
    const parent = i % 5 === 4 ? Math.floor(random() * i) : -1;
    const spread = parent >= 0 ? 0.3 * random() : 1;
    let squares = 0;
    for (let k = 0; k < dimension; k++) {
      const centre = parent >= 0 ? rows[parent * dimension + k]! : 2 / Math.sqrt(dimension);
      const value = centre + (spread * scales[k]! * (2 * random() - 1)) / total;
      rows[i * dimension + k] = value;
      squares += value * value;
    }
    for (let k = 0; k < dimension; k++) rows[i * dimension + k]! /= Math.sqrt(squares);
  }
  return rows;
}

function allPairs(rows: Float32Array, count: number, threshold: number): string[] {
  const dimension = rows.length / count;
  const found: string[] = [];
  for (let a = 0; a < count; a++) {
    for (let b = a + 1; b < count; b++) {
      let sum = 0;
      for (let k = 0; k < dimension; k++) sum += rows[a * dimension + k]! * rows[b * dimension + k]!;
      if (sum >= threshold) found.push(`${a}-${b}`);
    }
  }
  return found;
}

test.each([
  [600, 64, 0.98],
  [600, 64, 0.9],
  [400, 3, 0.98],
  [300, 1, 0.98],
  [7, 40, 0.9],
])('finds what the comparison of all %d rows of %d finds at %f', async (count, dimension, threshold) => {
  const rows = unitRows(count, dimension, count + dimension);
  const expected = allPairs(rows, count, threshold);
  expect(expected.length).toBeGreaterThan(0);
  const { pairs, total } = await nearestPairs(rows, count, threshold, { limit: count * count });
  expect(total).toBe(expected.length);
  expect(pairs.map(({ a, b }) => `${a}-${b}`).sort()).toEqual(expected.sort());
  expect(pairs.every((pair, i) => i === 0 || pairs[i - 1]!.similarity >= pair.similarity)).toBe(true);
});

test('keeps the most alike pairs where there are too many, and counts all', async () => {
  const rows = unitRows(500, 8, 3);
  const all = await nearestPairs(rows, 500, 0.9, { limit: 1e6 });
  const some = await nearestPairs(rows, 500, 0.9, { limit: 10 });
  expect(all.total).toBeGreaterThan(100);
  expect(some).toEqual({ pairs: all.pairs.slice(0, 10), total: all.total });
});

test('rows that are all alike, zero columns, one row and no rows', async () => {
  const alike = new Float32Array(20 * 4);
  for (let i = 0; i < 20; i++) alike[i * 4 + 2] = 1;
  expect((await nearestPairs(alike, 20, 1)).total).toBe(190);
  expect(await nearestPairs(alike.subarray(0, 4), 1, 0.9)).toEqual({ pairs: [], total: 0 });
  expect(await nearestPairs(new Float32Array(0), 0, 0.9)).toEqual({ pairs: [], total: 0 });
});

test('of rows that are alike to most others all pairs are found, and others have their turn meanwhile', async () => {
  const [count, dimension] = [1200, 64];
  const rows = unitRows(count, dimension, 11);
  const expected = allPairs(rows, count, 0.5);
  expect(expected.length).toBeGreaterThan(count ** 2 / 3);
  let turns = 0;
  let next: NodeJS.Immediate;
  const turn = () => {
    turns++;
    next = setImmediate(turn);
  };
  turn();
  const { pairs, total } = await nearestPairs(rows, count, 0.5, { limit: count ** 2 });
  clearImmediate(next!);
  expect(total).toBe(expected.length);
  expect(new Set(pairs.map(({ a, b }) => `${a}-${b}`))).toEqual(new Set(expected));
  expect(turns).toBeGreaterThanOrEqual((expected.length * dimension) / 2 ** 22);
});

test('finds rows that stood in half precision, and are not quite of length 1', async () => {
  const rows = unitRows(300, 64, 13).map((value, i) => value * (Math.floor(i / 64) % 2 === 0 ? 0.9991 : 1.0009));
  const expected = allPairs(rows, 300, 0.95);
  expect((await nearestPairs(rows, 300, 0.95, { limit: 1e6 })).pairs.map(({ a, b }) => `${a}-${b}`).sort()).toEqual(
    expected.sort(),
  );
});

test.each([0.98, 0.8])(
  '20,000 rows that are no more alike than by chance take seconds, also at %f, and tell how far they are',
  async (threshold) => {
    const random = randomNumbers(5);
    const rows = Float32Array.from({ length: 20_000 * 256 }, () => random() + random() - 1);
    for (let i = 0; i < rows.length; i += 256) {
      const norm = Math.hypot(...rows.subarray(i, i + 256));
      for (let k = i; k < i + 256; k++) rows[k]! /= norm;
    }
    rows.copyWithin(19_000 * 256, 7 * 256, 8 * 256);
    const start = process.cpuUsage();
    const told: number[] = [];
    const { pairs } = await nearestPairs(rows, 20_000, threshold, {
      onProgress: (done, total) => told.push(done / total),
    });
    // the process's own time: the machine may be busy with other things
    const seconds = process.cpuUsage(start).user / 1e6;
    console.log(`near-duplicate search, 20,000 rows of 256 at ${threshold}: ${seconds.toFixed(1)} s of CPU time`);
    expect(pairs).toMatchObject([{ a: 7, b: 19_000 }]);
    expect(told.length).toBeGreaterThan(10);
    expect(seconds).toBeLessThan(15);
  },
);

test('stops when told to', async () => {
  const signal = AbortSignal.timeout(20);
  await expect(nearestPairs(unitRows(20_000, 32, 7), 20_000, 0.5, { signal })).rejects.toMatchObject({
    code: 'ABORTED',
  });
});
