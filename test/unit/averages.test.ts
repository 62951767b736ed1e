import { expect, it } from 'vitest';
import { mean, median } from '../../lib/averages.js';

it('the median is that of the finite values, the upper one of two in the middle', () => {
  expect(median([NaN, NaN, 97, 105, 93])).toBe(97);
  expect(median(Float64Array.of(NaN, 3, NaN, NaN, NaN))).toBe(3);
  expect(median([10, 9, 100, Infinity])).toBe(10);
  expect(median([4, 1, 3, 2])).toBe(3);
  expect([median([]), median([NaN])]).toEqual([NaN, NaN]);
});

it('the mean is that of the values that there are, null where there are none', () => {
  expect(mean([1, null, 2])).toBe(1.5);
  expect(mean([0])).toBe(0);
  expect([mean([]), mean([null])]).toEqual([null, null]);
  expect(mean([1, NaN])).toBe(NaN); // what is no number is no missing value
});
