import { throwIfAborted } from './errors.js';

/**
 * Lets timers, signals and other callbacks run in the middle of long work on the main thread, then stops if the signal has fired.
 * @throws LgdError ABORTED
 */
export async function nextTurn(signal: AbortSignal | undefined, what: string): Promise<void> {
  await new Promise((resolve) => setImmediate(resolve));
  throwIfAborted(signal, what);
}
