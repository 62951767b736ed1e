import { LgdError, throwIfAborted } from './errors.js';

/**
 * Lets timers, signals and other callbacks run in the middle of long work on the main thread, then stops if the signal
 * has fired.
 * @throws LgdError ABORTED
 */
export async function nextTurn(signal: AbortSignal | undefined, what: string): Promise<void> {
  await new Promise((resolve) => setImmediate(resolve));
  throwIfAborted(signal, what);
}

/** A promise, or ABORTED as soon as the signal fires: what a caller gives may never settle. */
export function orAborted<Value>(
  promise: Promise<Value>,
  what: string,
  signal: AbortSignal | undefined,
): Promise<Value> {
  if (!signal) return promise;
  return new Promise((resolve, reject) => {
    const stop = () => reject(new LgdError('ABORTED', `${what} was stopped.`, { cause: signal.reason as unknown }));
    if (signal.aborted) stop();
    const forget = signal.aborted ? () => undefined : onAbort(signal, stop);
    const settle = <Outcome>(how: (outcome: Outcome) => void) => {
      return (outcome: Outcome) => {
        forget();
        how(outcome);
      };
    };
    promise.then(settle(resolve), settle(reject));
  });
}

/** A pause, or ABORTED as soon as the signal fires. @param what is stopped then */
export async function pause(milliseconds: number, what: string, signal: AbortSignal | undefined): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const over = new Promise<void>((resolve) => (timer = setTimeout(resolve, milliseconds)));
  await orAborted(over, what, signal).finally(() => clearTimeout(timer));
}

/** Who waits for a signal to fire. Together they have one listener: Node warns of the eleventh. */
const waiting = new WeakMap<AbortSignal, { stops: Set<() => void>; listener: () => void }>();

/** @returns what ends the waiting, once it is over */
function onAbort(signal: AbortSignal, stop: () => void): () => void {
  let all = waiting.get(signal);
  if (all === undefined) {
    const stops = new Set<() => void>();
    all = { stops, listener: () => stops.forEach((one) => one()) };
    waiting.set(signal, all);
    signal.addEventListener('abort', all.listener, { once: true });
  }
  const { stops, listener } = all;
  stops.add(stop);
  return () => {
    stops.delete(stop);
    if (stops.size > 0 || waiting.get(signal)?.stops !== stops) return;
    waiting.delete(signal);
    signal.removeEventListener('abort', listener);
  };
}
