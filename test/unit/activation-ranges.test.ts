import { describe, expect, test } from 'vitest';
import { RangeSearch } from '../../lib/export/activation-ranges.js';
import { valuesToMeasure } from '../../lib/export/quantize-graph.js';
import type { OnnxGraph, OnnxNode } from '../../lib/onnx/format.js';
import { randomNormal } from '../fixtures/random.js';

const node = (opType: string, input: string[], output: string): OnnxNode => ({
  name: output,
  opType,
  input,
  output: [output],
  attribute: [],
});

const graphOf = (...nodes: OnnxNode[]): OnnxGraph => ({
  name: '',
  docString: '',
  node: nodes,
  initializer: [],
  input: [{ name: 'x', docString: '', type: { tensorType: { elemType: 1 } } }],
  output: [],
});

const alone = graphOf(node('Conv', ['x', 'weight'], 'y'));
const silu = graphOf(
  node('Sigmoid', ['x'], 'gate'),
  node('Mul', ['x', 'gate'], 'y'),
  node('Conv', ['y', 'weight'], 'z'),
);

function search(graph: OnnxGraph, images: readonly Float32Array[]) {
  const end = (pick: (...values: number[]) => number) =>
    pick(...images.map((image) => image.reduce((a, b) => pick(a, b))));
  const found = new RangeSearch(graph, new Map([['x', { min: end(Math.min), max: end(Math.max) }]]));
  for (const x of images) found.add({ x });
  return found.best().get('x')!;
}

describe('the range of an activation', () => {
  const normal = (seed: number, factor = 1, size = 4096) => randomNormal(size, seed).map((value) => factor * value);
  const withOne = (values: Float32Array, value: number) =>
    Float32Array.from(values, (own, i) => (i === 7 ? value : own));

  test('is that of all values, where they are spread evenly', () => {
    const even = Float32Array.from({ length: 4096 }, (_, i) => i / 2048 - 1);
    const range = search(alone, [even, even]);
    expect(range.min).toBe(-1);
    expect(range.max).toBe(even.at(-1));
  });

  test('cuts off what would widen the steps for all others, and only there', () => {
    const images = [1, 2, 3, 4, 5, 6].map((seed) => withOne(normal(seed, 1, 2 ** 16), 16));
    const { min, max } = search(alone, images);
    expect(max).toBeLessThan(14);
    expect(min).toBeLessThan(-3);
  });

  test('is not widened for all by an image with large values', () => {
    const images = Array.from({ length: 40 }, (_, seed) => normal(seed + 1));
    const large = normal(99, 10);
    const { min, max } = search(alone, [...images, large]);
    expect(max - min).toBeLessThan(0.75 * (Math.max(...large) - Math.min(...large)));
    expect(max).toBeGreaterThan(1);
  });

  test('is short of what a swish makes nothing of', () => {
    const images = [1, 2].map((seed) => normal(seed, 10));
    const wide = search(alone, images);
    const { min, max } = search(silu, images);
    expect(min).toBeGreaterThan(0.5 * wide.min);
    expect(max).toBeGreaterThan(0.8 * wide.max);
  });

  test('holds 0 and no nonsense, where there is only that', () => {
    const { min, max } = search(alone, [new Float32Array(8), new Float32Array(8)]);
    expect(Math.abs(min) + Math.abs(max)).toBe(0);
  });
});

test('a sigmoid is not measured: its range is known', () => {
  const behind = graphOf(node('Conv', ['pixels', 'kernel'], 'x'), ...silu.node);
  expect(valuesToMeasure(behind)).toEqual(['x', 'y']);
});
