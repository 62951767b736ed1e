/** Warm-up, then half a cosine, per optimiser step. */

import { checkGiven } from '../arguments.js';
import { LgdError } from '../errors.js';

export interface ScheduleOptions {
  /** Learning rate for 256 images a step. */
  learningRate: number;
  /** Images a batch. */
  batchSize: number;
  /** Batches an optimiser step. */
  accumulate: number;
  /** Whole batches; a step may take some of one epoch and some of the next. */
  batchesPerEpoch: number;
  epochs: number;
  /** May be a fraction. */
  warmupEpochs: number;
}

const needed = [
  'learningRate',
  'batchSize',
  'accumulate',
  'batchesPerEpoch',
  'epochs',
  'warmupEpochs',
] as const satisfies readonly (keyof ScheduleOptions)[];

/** Learning rates by step. */
export interface Schedule {
  /** Steps of the whole run, a whole number: batches at its end that make no step are left. */
  readonly totalSteps: number;
  /** batchesPerEpoch x warmupEpochs / accumulate, rounded to the nearest whole number; no more than totalSteps. */
  readonly warmupSteps: number;
  /** learningRate x batchSize x accumulate / 256: the rate at the end of the warm-up. */
  readonly peak: number;
  /**
   * The rate of step `step`, counted from 0; 0 from totalSteps on.
   * @throws LgdError BAD_OPTION where it is no number from 0
   */
  learningRate(step: number): number;
}

/**
 * peak = learningRate x batchSize x accumulate / 256 (linear scaling, Goyal et al. 2017, section 2.1). With w warm-up
 * steps of n, step s has peak (s + 1) / w for s < w, and peak (1 + cos(pi (s - w) / (n - w))) / 2 after (Loshchilov and
 * Hutter 2017, equation 5, without restarts).
 * @param options may hold more, such as the rest of a configuration's `train`
 * @throws LgdError BAD_OPTION
 */
export function makeSchedule(options: ScheduleOptions): Schedule {
  checkGiven(options, 'makeSchedule()', needed.join(', '));
  for (const name of needed) checkFromZero(name, options[name], name === 'learningRate' || name === 'warmupEpochs');
  const { learningRate, batchSize, accumulate, batchesPerEpoch, epochs, warmupEpochs } = options;
  const totalSteps = Math.floor((batchesPerEpoch * epochs) / accumulate);
  const warmupSteps = Math.min(totalSteps, Math.round((batchesPerEpoch * warmupEpochs) / accumulate));
  const peak = (learningRate * batchSize * accumulate) / 256;
  return {
    totalSteps,
    warmupSteps,
    peak,
    learningRate: (step) => {
      checkFromZero('step', step, true);
      if (step >= totalSteps) return 0; // the cosine would rise again
      if (step < warmupSteps) return peak * ((step + 1) / warmupSteps);
      return peak * ((1 + Math.cos((Math.PI * (step - warmupSteps)) / (totalSteps - warmupSteps))) / 2);
    },
  };
}

/** @throws LgdError BAD_OPTION */
function checkFromZero(option: string, found: number, mayBeZero: boolean): void {
  if (Number.isFinite(found) && (mayBeZero ? found >= 0 : found > 0)) return;
  throw new LgdError('BAD_OPTION', 'not a number of this kind.', {
    option,
    found,
    allowed: mayBeZero ? 'a number from 0' : 'a number above 0',
  });
}
