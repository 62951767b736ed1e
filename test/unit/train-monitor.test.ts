import { describe, expect, it } from 'vitest';
import { LossMonitor } from '../../lib/train/monitor.js';

describe('LossMonitor', () => {
  it('finds what is not finite at once, and outliers once it has a median', () => {
    const monitor = new LossMonitor(10);
    expect(monitor.check(NaN)).toContain('NaN');
    expect(monitor.check(1000)).toBeUndefined();
    for (let i = 0; i < 30; i++) expect(monitor.check(5 + (i % 3))).toBeUndefined();
    expect(monitor.median).toBe(6);
    expect(monitor.check(60)).toBeUndefined();
    expect(monitor.check(60.1)).toContain('median of 6');
    expect(monitor.check(Infinity)).toBeDefined();
  });

  it('takes the latest hundred and one losses for its median, and the first twenty for none', () => {
    const monitor = new LossMonitor(10);
    expect(monitor.median).toBeNaN();
    for (let i = 0; i < 19; i++) monitor.check(1);
    expect(monitor.check(11)).toBeUndefined();
    expect(monitor.check(11)).toContain('median of 1');
    for (let i = 0; i < 51; i++) monitor.check(5);
    expect(monitor.median).toBe(5);
    for (let i = 0; i < 50; i++) monitor.check(2);
    expect(monitor.state().recent).toEqual([...Array<number>(51).fill(5), ...Array<number>(50).fill(2)]);
  });

  it('takes none for an outlier with factor 0', () => {
    const monitor = new LossMonitor(0);
    for (let i = 0; i < 50; i++) monitor.check(1);
    expect(monitor.check(1e6)).toBeUndefined();
  });

  it('smooths, and goes on after a restore as if nothing had happened', () => {
    const whole = new LossMonitor(10);
    const first = new LossMonitor(10);
    const second = new LossMonitor(10);
    const losses = Array.from({ length: 300 }, (_, i) => 3 + Math.sin(i));
    losses.forEach((loss, i) => {
      whole.check(loss);
      if (i < 150) first.check(loss);
      else {
        if (i === 150) second.restore(JSON.parse(JSON.stringify(first.state())));
        second.check(loss);
      }
    });
    expect(second.state()).toEqual(whole.state());
    expect(second.smoothed).toBe(whole.smoothed);
    const constant = new LossMonitor(10);
    for (let i = 0; i < 5; i++) constant.check(4);
    expect(constant.smoothed).toBeCloseTo(4, 12);
    const state = constant.state();
    const other = new LossMonitor(10);
    other.restore(state);
    for (const one of [constant, other]) one.check(4);
    expect(state.recent).toHaveLength(5);
    constant.restart(); // a queue is full
    constant.check(7);
    expect(constant.smoothed).toBe(7);
  });
});
