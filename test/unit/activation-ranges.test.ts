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
  input: [{ name: 'pixels', docString: '', type: { tensorType: { elemType: 1 } } }],
  output: [],
});

const made = node('Conv', ['pixels', 'kernel'], 'x');
const alone = graphOf(made, node('Conv', ['x', 'weight'], 'y'));
const silu = graphOf(
  made,
  node('Sigmoid', ['x'], 'gate'),
  node('Mul', ['x', 'gate'], 'y'),
  node('Conv', ['y', 'weight'], 'z'),
);
const hardSwish = graphOf(made, node('HardSwish', ['x'], 'y'), node('Conv', ['y', 'weight'], 'z'));

function search(graph: OnnxGraph, images: readonly Float32Array[]) {
  const end = (pick: (...values: number[]) => number) =>
    pick(...images.map((image) => image.reduce((a, b) => pick(a, b))));
  const found = new RangeSearch(graph, new Map([['x', { min: end(Math.min), max: end(Math.max) }]]));
  for (const x of images) found.add(() => x);
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

  test.each([
    [4, 30],
    [6, 40],
  ])(
    'is that with the least error of the integers written before a hard-swish, of %d and one of %d',
    (factor, most) => {
      const values = withOne(normal(5, factor, 2 ** 16), most);
      const swish = (x: number) => (x * Math.min(6, Math.max(0, x + 3))) / 6;
      const errorOf = (max: number) => {
        const zero = Math.floor((3 * 255) / (max + 3)); // from -3, where hard-swish is one of integers
        const rounded = (x: number) =>
          (Math.min(255, Math.max(0, Math.round((x * zero) / 3) + zero)) - zero) * (3 / zero);
        return values.reduce((sum, x) => sum + (swish(rounded(x)) - swish(x)) ** 2, 0);
      };
      const tried = [1, 0.85, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2].map((share) => most * share);
      const best = tried.reduce((least, max) => (errorOf(max) < errorOf(least) ? max : least));
      expect(search(hardSwish, [values]).max).toBe(best);
      expect(best / most).toBe(factor === 4 ? 1 : 0.85);
      expect(search(alone, [values]).max / most).toBe(0.85);
    },
  );

  test('holds 0 and no nonsense, where there is only that', () => {
    const { min, max } = search(alone, [new Float32Array(8), new Float32Array(8)]);
    expect(Math.abs(min) + Math.abs(max)).toBe(0);
  });
});

test('sigmoids and what hard-sigmoids read are not measured: their ranges are known', () => {
  expect(valuesToMeasure(silu)).toEqual(['x', 'y']);
  const gate = [made, node('HardSigmoid', ['x'], 'gate'), node('Conv', ['gate', 'weight'], 'z')];
  expect(valuesToMeasure(graphOf(...gate))).toEqual(['gate']);
});
