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
    vi.advanceTimersByTime(500);
    meter.step(100, 500, 0);
    vi.advanceTimersByTime(500);
    expect(meter.step(100, 500, 0)).toEqual({ imagesPerSecond: 200, dataWait: 0, teacherWait: 0 }); // the slow first step has left the window
  });

  it('is finite for steps that take no time', () => {
    const meter = new RateMeter(2);
    const { imagesPerSecond, dataWait } = meter.step(8, 0, 0);
    expect(Number.isFinite(imagesPerSecond)).toBe(true);
    expect(dataWait).toBeGreaterThanOrEqual(0);
  });
});
