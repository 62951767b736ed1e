/**
 * Waits that last far longer than a step: a file system that hangs, a server that does not answer, a GPU that stopped.
 * They must not look like training.
 */

/**
 * What a step waits for: its images, a teacher outside the device, or the device; and after a step an evaluation, which
 * waits for the same.
 */
export type WaitedFor = 'images' | 'teacher' | 'device' | 'evaluation';

/** A wait that goes on. */
export interface Wait {
  for: WaitedFor;
  /** So far. */
  seconds: number;
}

/**
 * A step that waits, or an evaluation that stands still, for `log.stallMinutes`, twice as long, four times ...; the run
 * goes on as soon as the wait is over.
 */
export interface WaitingEvent extends Wait {
  type: 'waiting';
  /** Steps done. */
  step: number;
  /** A line that says so, and what may be wrong. */
  message: string;
}

/**
 * What the promise gives, and until then what a training tells of its waits.
 * @param step steps done
 * @param minutes and
 * @param lastSign as of {@link tellingOfWaits}
 * @param log is told of each first
 */
export async function* waitingEvents<Value>(
  promise: Promise<Value>,
  what: WaitedFor,
  { step, minutes, lastSign }: { step: number; minutes: number; lastSign?: (() => number) | undefined },
  log?: (message: string) => Promise<void>,
): AsyncGenerator<WaitingEvent, Value, undefined> {
  const waits = tellingOfWaits(promise, what, minutes, lastSign);
  for (;;) {
    const { done, value } = await waits.next();
    if (done) return value;
    const message = describeWait(value, what === 'evaluation' ? step : step + 1);
    await log?.(message);
    yield { type: 'waiting', step, ...value, message };
  }
}

/** What long work is stopped by, and what it calls at each sign of life. */
export interface Watched {
  signal: AbortSignal;
  onProgress: () => void;
}

/**
 * What work gives that is long as a whole. A caller that leaves meanwhile ends it.
 * @param patiently tells of its waits, of which each begins with the last sign of life
 */
export async function* watched<Value>(
  work: (options: Watched) => Promise<Value>,
  signal: AbortSignal | undefined,
  patiently: (promise: Promise<Value>, lastSign: () => number) => AsyncGenerator<WaitingEvent, Value, undefined>,
): AsyncGenerator<WaitingEvent, Value, undefined> {
  const left = new AbortController();
  let lastSign = performance.now();
  const done = work({
    signal: AbortSignal.any([left.signal, ...(signal ? [signal] : [])]),
    onProgress: () => {
      lastSign = performance.now();
    },
  });
  try {
    return yield* patiently(done, () => lastSign);
  } finally {
    left.abort();
    await done.catch(() => undefined);
  }
}

/**
 * What the promise gives; until then a wait whenever it has lasted `minutes`, twice as long, four times ...
 * @param minutes 0 tells of none
 * @param lastSign time (performance.now()) of the last sign of life, of what is long as a whole: the wait begins anew
 *   there
 * @returns what the promise gives, or throws what it is rejected with
 */
export async function* tellingOfWaits<Value>(
  promise: Promise<Value>,
  what: WaitedFor,
  minutes: number,
  lastSign?: () => number,
): AsyncGenerator<Wait, Value, undefined> {
  if (minutes === 0) return promise;
  const settled = promise.then(
    () => true,
    () => true,
  );
  let [from, limit] = [performance.now(), 60_000 * minutes];
  for (;;) {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<false>((resolve) => {
      timer = setTimeout(resolve, Math.min(from + limit - performance.now(), longestTimer), false).unref();
    });
    const isSettled = await Promise.race([settled, late]);
    clearTimeout(timer);
    if (isSettled) return promise;
    const sign = lastSign?.() ?? from;
    if (sign > from) [from, limit] = [sign, 60_000 * minutes];
    if (performance.now() < from + limit) continue;
    yield { for: what, seconds: Math.round((performance.now() - from) / 1000) };
    limit *= 2;
  }
}

const longestTimer = 2 ** 31 - 1; // setTimeout() takes more for nothing

const questions: Record<Exclude<WaitedFor, 'evaluation'>, string> = {
  images: 'do the disk and the server of the images answer?',
  teacher: 'does the teacher answer?',
  device: 'does the device still work (nvidia-smi)?',
};

/** A line for people. @param step the one that waits, or is evaluated, counted from 1 */
function describeWait({ for: what, seconds }: Wait, step: number): string {
  if (what === 'evaluation') return describeStandstill(`the evaluation after step ${step}`, { seconds });
  return `step ${step} has waited ${inWords(seconds)} for ${what === 'images' ? 'its images' : `the ${what}`}: ${questions[what]}`;
}

/** The same of what needs several of them. @param where what does not move */
export function describeStandstill(where: string, { seconds }: Pick<Wait, 'seconds'>): string {
  return `${where} has stood still for ${inWords(seconds)}: do the disk and the server of the images, the teacher and the device (nvidia-smi) answer?`;
}

function inWords(seconds: number): string {
  return seconds < 120 ? `${seconds} seconds` : `${Math.round(seconds / 60)} minutes`;
}
