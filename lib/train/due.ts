/** After which steps of a run an evaluation or a checkpoint falls due, by the steps alone. */
import type { Config } from '../config/config.js';

/** @param epochs passes over the images after so many steps */
export class DueSteps {
  constructor(
    readonly config: Pick<Config, 'evaluate' | 'checkpoint'>,
    readonly lastStep: number,
    readonly epochs: (step: number) => number,
  ) {}

  evaluation(step: number): boolean {
    const { everyEpochs, everySteps } = this.config.evaluate;
    return step === this.lastStep || this.#falls(step, everyEpochs, everySteps);
  }

  checkpoint(step: number): boolean {
    const { everyEpochs, everySteps } = this.config.checkpoint;
    return this.#falls(step, everyEpochs, everySteps);
  }

  /**
   * Is the loss compared there? Not where an interruption or the clock made the checkpoint, unless only the clock makes
   * any: a run that was stopped and went on has the best of one that was not.
   */
  comparison(step: number): boolean {
    const { everyEpochs, everySteps } = this.config.checkpoint;
    return step === this.lastStep || this.checkpoint(step) || (everyEpochs === 0 && everySteps === 0);
  }

  #falls(step: number, everyEpochs: number, everySteps: number): boolean {
    return (everySteps > 0 && step % everySteps === 0) || this.#endsEpochs(step, everyEpochs);
  }

  /** Is this the first step after a number of whole epochs that `every` divides? */
  #endsEpochs(step: number, every: number): boolean {
    const whole = Math.floor(this.epochs(step));
    return every > 0 && whole % every === 0 && whole > Math.floor(this.epochs(step - 1));
  }
}
