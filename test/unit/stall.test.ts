import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { tellingOfWaits, waitingEvents, type WaitedFor } from '../../lib/stall.js';

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] });
});
afterEach(() => {
  vi.useRealTimers();
});

const minutes = (count: number) => vi.advanceTimersByTimeAsync(60_000 * count);

test('a wait is told of after its time, twice that and four times that, and its end is given at once', async () => {
  let settle: ((value: string) => void) | undefined;
  const waits = tellingOfWaits(
    new Promise<string>((resolve) => {
      settle = resolve;
    }),
    'images',
    5,
  );
  for (const [more, seconds] of [
    [5, 300],
    [5, 600],
    [10, 1200],
  ] as const) {
    const next = waits.next();
    let isTold = false;
    void next.then(() => {
      isTold = true;
    });
    await minutes(more - 0.1);
    expect(isTold).toBe(false);
    await minutes(0.1);
    expect(await next).toEqual({ done: false, value: { for: 'images', seconds } });
  }
  const last = waits.next();
  settle!('here');
  expect(await last).toEqual({ done: true, value: 'here' });
  expect(vi.getTimerCount()).toBe(0);
});

test('a failure comes through, also one in the middle of a wait', async () => {
  await expect(tellingOfWaits(Promise.reject(new Error('gone')), 'device', 5).next()).rejects.toThrow('gone');
  let fail: ((error: Error) => void) | undefined;
  const waits = tellingOfWaits(
    new Promise<never>((_, reject) => {
      fail = reject;
    }),
    'device',
    5,
  );
  const first = waits.next();
  await minutes(5);
  await first;
  fail!(new Error('gone'));
  await expect(waits.next()).rejects.toThrow('gone');
});

test('of what shows signs of life a wait begins with the last of them', async () => {
  let lastSign = 0;
  const next = tellingOfWaits(new Promise<never>(() => undefined), 'evaluation', 5, () => lastSign).next();
  await minutes(4);
  lastSign = performance.now();
  let isTold = false;
  void next.then(() => {
    isTold = true;
  });
  await minutes(4.9);
  expect(isTold).toBe(false);
  await minutes(0.1);
  expect(await next).toMatchObject({ value: { for: 'evaluation', seconds: 300 } });
});

test('a time that no timer has is kept', async () => {
  const next = tellingOfWaits(new Promise<never>(() => undefined), 'images', 40_000).next(); // 28 days
  let isTold = false;
  void next.then(() => {
    isTold = true;
  });
  await minutes(39_999);
  expect(isTold).toBe(false);
  await minutes(1);
  expect(await next).toMatchObject({ value: { seconds: 2_400_000 } });
});

test('nothing is told where the time is 0', async () => {
  expect(await tellingOfWaits(Promise.resolve(3), 'teacher', 0).next()).toEqual({ done: true, value: 3 });
  expect(vi.getTimerCount()).toBe(0);
});

test.each<[what: WaitedFor, minutes: number, message: RegExp]>([
  ['images', 1.5, /^step 8 has waited 90 seconds for its images: /u],
  ['evaluation', 10, /^the evaluation after step 7 has stood still for 10 minutes: /u],
  ['device', 10, /^step 8 has waited 10 minutes for the device: .*nvidia-smi/u],
])('people read what waits for its %s in seconds or minutes', async (what, limit, message) => {
  const next = waitingEvents(new Promise<never>(() => undefined), what, { step: 7, minutes: limit }).next();
  await minutes(limit);
  expect(await next).toEqual({
    done: false,
    value: {
      type: 'waiting',
      step: 7,
      for: what,
      seconds: 60 * limit,
      message: expect.stringMatching(message) as string,
    },
  });
});
