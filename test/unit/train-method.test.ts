import { expect, it } from 'vitest';
import { fewNames, parseConfig } from '../../lib/config/config.js';
import { anchorsOf, chooseMethod } from '../../lib/train/method.js';
import { checkQueueMemory } from '../../lib/train/student-trainer.js';

it('auto is seed with few names and lgd from then on; another method stays what it is', () => {
  expect(parseConfig({}).method).toBe('auto');
  expect([1, fewNames - 1, fewNames, 20_000].map((names) => chooseMethod('auto', names))).toEqual([
    'seed',
    'seed',
    'lgd',
    'lgd',
  ]);
  expect([chooseMethod('lgd', 2), chooseMethod('seed', 20_000), chooseMethod('combined', 2)]).toEqual([
    'lgd',
    'seed',
    'combined',
  ]);
});

it('gives each method the anchors of its description', () => {
  const { loss } = parseConfig({ loss: { alpha: 0.25, queueSize: 7 } });
  expect(anchorsOf('lgd', loss)).toEqual({ useTextual: true, useVisual: true, alpha: 0.25, queueSize: 0 });
  expect(anchorsOf('combined', loss)).toEqual({ useTextual: true, useVisual: true, alpha: 0.25, queueSize: 7 });
  expect(anchorsOf('seed', loss)).toEqual({ useTextual: false, useVisual: false, alpha: 1, queueSize: 7 });
  expect(anchorsOf('hybrid', loss)).toEqual({ useTextual: false, useVisual: true, alpha: 1, queueSize: 7 });
  expect(anchorsOf('visual', loss)).toEqual({ useTextual: false, useVisual: true, alpha: 1, queueSize: 0 });
  expect(anchorsOf('text', loss)).toEqual({ useTextual: true, useVisual: false, alpha: 0, queueSize: 0 });
  expect(anchorsOf('feature', loss)).toEqual({ useTextual: false, useVisual: false, feature: true, queueSize: 0 });
});

it('a queue that this machine has no room for is refused, with the largest that it has', () => {
  const gigabytes = 24e9;
  const check =
    (queueSize: number, embeddingSize: number, memory = gigabytes, kind: 'cpu' | 'cuda' = 'cpu') =>
    () =>
      checkQueueMemory(queueSize, embeddingSize, { kind }, memory);
  expect(check(4096, 1024)).not.toThrow();
  expect(check(0, 1024, 0)).not.toThrow();
  expect(check(10_000_000, 256)).toThrow(
    expect.objectContaining({
      code: 'OUT_OF_MEMORY',
      option: 'loss.queueSize',
      message: expect.stringMatching(/takes 30\.7 GB .* has 24\.0\. .*at most 7812500 embeddings/u) as string,
    }) as Error,
  );
  expect(check(7_812_500, 256)).not.toThrow();
  expect(check(10_000_000, 256, gigabytes, 'cuda')).not.toThrow(); // it is on the card, which refuses for itself
});
