/**
 * Works on several items at once and gives the results in the items' order.
 * @param parallel how many are worked on at once; as many again may wait, done, for one before them
 */
export async function* inOrder<Item, Result>(
  items: Iterable<Item>,
  parallel: number,
  work: (item: Item) => Promise<Result>,
): AsyncGenerator<Result, void, undefined> {
  const running: Promise<Result>[] = [];
  try {
    for (const item of items) {
      const result = work(item);
      result.catch(() => undefined); // thrown when its turn comes
      running.push(result);
      if (running.length >= parallel) yield await running.shift()!;
    }
    while (running.length > 0) yield await running.shift()!;
  } finally {
    await Promise.allSettled(running);
  }
}
