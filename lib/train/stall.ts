/** Waits that last far longer than a step: a file system that hangs, a server that does not answer, a GPU that stopped. They must not look like training. */

/** What a step waits for: its images, a teacher outside the device, or the device. */
export type WaitedFor = 'images' | 'teacher' | 'device';

/** A wait that goes on. */
export interface Wait {
  for: WaitedFor;
  /** So far. */
  seconds: number;
}

/**
 * What the promise gives; until then a wait whenever it has lasted `minutes`, twice as long, four times ...
 * @param minutes 0 tells of none
 * @returns what the promise gives, or throws what it is rejected with
 */
export async function* tellingOfWaits<Value>(promise: Promise<Value>, what: WaitedFor, minutes: number): AsyncGenerator<Wait, Value, undefined> {
  if (minutes === 0) return promise;
  const settled = promise.then(() => true, () => true);
  const from = performance.now();
  for (let limit = 60_000 * minutes; ; limit *= 2) {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<false>((resolve) => {
      timer = setTimeout(resolve, from + limit - performance.now(), false).unref();
    });
    const isSettled = await Promise.race([settled, late]);
    clearTimeout(timer);
    if (isSettled) return promise;
    yield { for: what, seconds: Math.round((performance.now() - from) / 1000) };
  }
}

const questions: Record<WaitedFor, string> = {
  images: 'do the disk and the server of the images answer?',
  teacher: 'does the teacher answer?',
  device: 'does the device still work (nvidia-smi)?',
};

/** A line for people. @param step the one that waits, counted from 1 */
export function describeWait({ for: what, seconds }: Wait, step: number): string {
  const time = seconds < 120 ? `${seconds} seconds` : `${Math.round(seconds / 60)} minutes`;
  return `step ${step} has waited ${time} for ${what === 'images' ? 'its images' : `the ${what}`}: ${questions[what]}`;
}
