import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { RateMeter } from '../../lib/train/rate.js';

describe('RateMeter', () => {
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ['performance'] });
  });
  afterEach(() => {
    vi.useRealTimers();
  });

  it('looks back over its window, and leaves pauses out', () => {
    const meter = new RateMeter(3);
    vi.advanceTimersByTime(1000);
    expect(meter.step(100, 750, 125)).toEqual({ imagesPerSecond: 100, dataWait: 0.25, teacherWait: 0.125 });
    const start = meter.pause();
    vi.advanceTimersByTime(60_000);
    start();
    vi.advanceTimersByTime(500);
    expect(meter.step(100, 500, 0).imagesPerSecond).toBeCloseTo(200 / 1.5, 9);
    meter.pause()();
    vi.advanceTimersByTime(500);
    expect(meter.step(100, 500, 0).imagesPerSecond).toBeCloseTo(300 / 2, 9); // as many steps as its window
    vi.advanceTimersByTime(500);
    // the slow first step has left the window
    expect(meter.step(100, 500, 0)).toEqual({ imagesPerSecond: 200, dataWait: 0, teacherWait: 0 });
  });

  it('is finite for steps that take no time', () => {
    const meter = new RateMeter(2);
    const { imagesPerSecond, ...waits } = meter.step(8, 5, 5);
    expect(Number.isFinite(imagesPerSecond)).toBe(true);
    expect(waits).toEqual({ dataWait: 0, teacherWait: 1 });
  });
});
