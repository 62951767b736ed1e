import { describe, expect, it } from 'vitest';
import { makeSchedule } from '../../lib/train/schedule.js';

const published = {
  learningRate: 0.03,
  batchSize: 256,
  accumulate: 8,
  batchesPerEpoch: 5000,
  epochs: 200,
  warmupEpochs: 5,
};

describe('makeSchedule', () => {
  it('scales the published rate with the batch and peaks at the end of the warm-up', () => {
    const schedule = makeSchedule(published);
    expect(schedule).toMatchObject({ totalSteps: 125_000, warmupSteps: 3125 });
    expect(schedule.peak).toBeCloseTo(0.24, 12);
    expect(schedule.learningRate(0)).toBeCloseTo(0.24 / 3125, 12);
    expect(schedule.learningRate(3124)).toBeCloseTo(0.24, 12);
    expect(schedule.learningRate(3125)).toBeCloseTo(0.24, 12);
  });

  it('is at half the peak half way down, and just above zero at the last step', () => {
    const { learningRate, peak } = makeSchedule({
      ...published,
      accumulate: 1,
      batchesPerEpoch: 10,
      epochs: 12,
      warmupEpochs: 2,
    });
    expect(learningRate(70)).toBeCloseTo(peak / 2, 12);
    expect(learningRate(119)).toBeGreaterThan(0);
    expect(learningRate(119)).toBeLessThan(peak * 1e-3);
  });

  it('is zero after the end, where a loop that goes on would undo what was learnt', () => {
    const { learningRate, totalSteps, peak } = makeSchedule({
      ...published,
      accumulate: 1,
      batchesPerEpoch: 10,
      epochs: 12,
      warmupEpochs: 2,
    });
    expect([0, 1, totalSteps - 20].map((more) => learningRate(totalSteps + more) / peak)).toEqual([0, 0, 0]);
    for (const step of [-1, NaN, '1' as unknown as number])
      expect(() => learningRate(step)).toThrow(
        expect.objectContaining({ code: 'BAD_OPTION', option: 'step', found: step }),
      );
  });

  it.each([
    ['batchesPerEpoch', 0],
    ['accumulate', 0],
    ['epochs', -1],
    ['learningRate', -0.1],
    ['batchSize', NaN],
  ] as const)('refuses %s %s', (option, found) => {
    expect(() => makeSchedule({ ...published, [option]: found })).toThrow(
      expect.objectContaining({ code: 'BAD_OPTION', option, found }),
    );
  });

  it('rises during the warm-up and never after', () => {
    const { learningRate, totalSteps, warmupSteps } = makeSchedule({
      ...published,
      accumulate: 1,
      batchesPerEpoch: 7,
      epochs: 9,
      warmupEpochs: 1.5,
    });
    expect(warmupSteps).toBe(11);
    for (let step = 1; step < totalSteps; step++) {
      const [before, now] = [learningRate(step - 1), learningRate(step)];
      if (step < warmupSteps) expect(now).toBeGreaterThan(before);
      else expect(now).toBeLessThanOrEqual(before);
    }
  });

  it('has whole steps where batches do not fill the last', () => {
    expect(makeSchedule({ ...published, accumulate: 3, batchesPerEpoch: 4, epochs: 2 }).totalSteps).toBe(2);
    // 1.1 * 90 is more than that
    expect(makeSchedule({ ...published, accumulate: 10, batchesPerEpoch: 11, epochs: 90 }).totalSteps).toBe(99);
    // and 0.7 * 90 less
    expect(makeSchedule({ ...published, accumulate: 10, batchesPerEpoch: 7, epochs: 90 }).totalSteps).toBe(63);
  });

  it('is defined without a warm-up and with nothing but one', () => {
    const without = makeSchedule({ ...published, accumulate: 1, batchesPerEpoch: 1, epochs: 2, warmupEpochs: 0 });
    expect([without.learningRate(0), without.learningRate(1)]).toEqual([without.peak, without.peak / 2]);
    const only = makeSchedule({ ...published, accumulate: 1, batchesPerEpoch: 2, epochs: 2, warmupEpochs: 2 });
    expect([0, 1, 2, 3, 4].map((step) => only.learningRate(step) / only.peak)).toEqual([0.25, 0.5, 0.75, 1, 0]);
    const longer = makeSchedule({ ...published, accumulate: 1, batchesPerEpoch: 2, epochs: 2, warmupEpochs: 3 });
    expect([longer.warmupSteps, longer.learningRate(3)]).toEqual([4, longer.peak]);
  });
});
