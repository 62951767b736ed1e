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
    signal.addEventListener('abort', stop, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', stop));
  });
}
