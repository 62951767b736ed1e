import { getEventListeners } from 'node:events';
import { setImmediate } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { orAborted, pause } from '../../lib/turn.js';

it('lets any number wait for one signal, without a warning, and leaves nothing on it', async () => {
  const warnings: Error[] = [];
  const note = (warning: Error) => warnings.push(warning);
  process.on('warning', note);
  const { signal } = new AbortController();
  const ends: (() => void)[] = [];
  const waits = Array.from({ length: 30 }, () =>
    orAborted(new Promise<void>((resolve) => ends.push(resolve)), 'it', signal),
  );
  await setImmediate(); // warnings come in a later turn
  expect(getEventListeners(signal, 'abort')).toHaveLength(1);
  ends.slice(1).forEach((end) => end());
  await Promise.all(waits.slice(1));
  expect(getEventListeners(signal, 'abort')).toHaveLength(1);
  ends[0]!();
  await waits[0];
  await setImmediate();
  expect(getEventListeners(signal, 'abort')).toEqual([]);
  process.off('warning', note);
  expect(warnings).toEqual([]);
});

it('ends every wait when the signal fires, and those that begin after it', async () => {
  const stop = new AbortController();
  const never = new Promise<void>(() => undefined);
  const waits = [orAborted(never, 'this', stop.signal), pause(1e6, 'that', stop.signal)];
  stop.abort(new Error('enough'));
  waits.push(orAborted(Promise.resolve(), 'a later one', stop.signal));
  for (const [i, what] of ['this', 'that', 'a later one'].entries())
    await expect(waits[i]).rejects.toMatchObject({
      code: 'ABORTED',
      message: `${what} was stopped.`,
      cause: { message: 'enough' },
    });
  expect(getEventListeners(stop.signal, 'abort')).toEqual([]);
});
