import { expect, test } from 'vitest';
import { parseConfig } from '../../lib/config/config.js';
import { DueSteps } from '../../lib/train/due.js';

/** Steps of a run of ten that something falls due after; an epoch takes so many. */
function stepsOf(
  what: 'evaluation' | 'checkpoint' | 'comparison',
  every: { everyEpochs: number; everySteps: number },
  stepsPerEpoch: number,
): number[] {
  const due = new DueSteps(parseConfig({ evaluate: every, checkpoint: every }), 10, (step) => step / stepsPerEpoch);
  return Array.from({ length: 10 }, (_, i) => i + 1).filter((step) => due[what](step));
}

test.each([
  [{ everyEpochs: 1, everySteps: 0 }, 4, [4, 8]],
  [{ everyEpochs: 2, everySteps: 0 }, 2.5, [5, 10]], // epochs that end within a step count after it
  [{ everyEpochs: 1, everySteps: 0 }, 0.5, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]],
  [{ everyEpochs: 0, everySteps: 3 }, 4, [3, 6, 9]],
  [{ everyEpochs: 1, everySteps: 3 }, 4, [3, 4, 6, 8, 9]],
  [{ everyEpochs: 0, everySteps: 0 }, 4, []],
] as const)('%j, epochs of %d steps: after %j', (every, stepsPerEpoch, steps) => {
  expect(stepsOf('checkpoint', every, stepsPerEpoch)).toEqual(steps);
  expect(stepsOf('evaluation', every, stepsPerEpoch)).toEqual([...new Set([...steps, 10])]);
  const isByClock = every.everyEpochs === 0 && every.everySteps === 0;
  expect(stepsOf('comparison', every, stepsPerEpoch)).toEqual(
    isByClock ? [1, 2, 3, 4, 5, 6, 7, 8, 9, 10] : [...new Set([...steps, 10])],
  );
});
