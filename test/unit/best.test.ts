import { describe, expect, it } from 'vitest';
import { BestScore } from '../../lib/train/best.js';

describe('the best checkpoint so far', () => {
  it('has the highest accuracy, the first of two that are equal', () => {
    const score = new BestScore('top1', 0);
    expect([0.3, 0.3, 0.2, 0.4].map((value, i) => score.improves(value, 10 * i))).toEqual([true, false, false, true]);
    expect(score.best).toEqual({ metric: 'top1', value: 0.4, step: 30 });
  });

  it('has the lowest loss', () => {
    const score = new BestScore('loss', 0);
    expect([3, 4, 2].map((value, i) => score.improves(value, i))).toEqual([true, false, true]);
  });

  it('is none of a value that is not finite', () => {
    const score = new BestScore('loss', 0);
    expect([NaN, Infinity].map((value) => score.improves(value, 1))).toEqual([false, false]);
    expect(score.best).toBeNull();
  });

  it('is the latest until fifty steps after a queue is full', () => {
    const score = new BestScore('loss', 20);
    expect(
      [
        [1, 10],
        [5, 69],
        [6, 70],
        [7, 71],
        [5.5, 80],
      ].map(([value, step]) => score.improves(value!, step!)),
    ).toEqual([true, true, true, false, true]);
    expect(score.best).toEqual({ metric: 'loss', value: 5.5, step: 80 });
  });

  it('is not held to another measure, such as that of the run before a resume', () => {
    const score = new BestScore('knn', 0);
    score.best = { metric: 'top1', value: 0.9, step: 40 };
    expect(score.improves(0.5, 50)).toBe(true);
  });
});
