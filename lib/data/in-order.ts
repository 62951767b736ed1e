import { throwIfAborted } from '../errors.js';
import { orAborted } from '../turn.js';

/** How {@link inOrder} ends where not all results are taken. */
interface Ending<Result> {
  /** Ends the waiting for results, which may never come. */
  signal?: AbortSignal | undefined;
  /** What it stops, as its error says. */
  what?: string;
  /** Takes a result that nobody came for. */
  discard?: (result: Result) => void;
}

/**
 * Works on several items at once and gives the results in the items' order. However it ends, it waits for the work that
 * was begun, unless the signal has fired.
 * @param parallel how many are worked on at once; as many again may wait, done, for one before them
 * @throws LgdError ABORTED, and what the items and the work throw
 */
export async function* inOrder<Item, Result>(
  items: Iterable<Item> | AsyncIterable<Item>,
  parallel: number,
  work: (item: Item) => Promise<Result>,
  { signal, what = 'the work', discard = () => undefined }: Ending<Result> = {},
): AsyncGenerator<Result, void, undefined> {
  const begun: Promise<Result>[] = [];
  const next = async (): Promise<Result> => {
    const result = await orAborted(begun[0]!, what, signal);
    void begun.shift();
    return result;
  };
  try {
    for await (const item of items) {
      throwIfAborted(signal, what);
      const result = work(item);
      result.catch(() => undefined); // thrown when its turn comes
      begun.push(result);
      if (begun.length >= parallel) yield await next();
    }
    while (begun.length > 0) yield await next();
  } finally {
    const left = Promise.all(begun.map((result) => result.then(discard, () => undefined)));
    await orAborted(left, what, signal).catch((error: unknown) => {
      if (!signal?.aborted) throw error;
    });
  }
}
