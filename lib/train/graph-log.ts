/** What a run's log says of the CUDA graph that its steps are run as. */
import { describeWays } from './log-lines.js';
import type { StepTaker } from './steps.js';

/** Asks the distiller for it, as seldom as it can: that waits for the device's thread. On a CPU there is none. */
export class GraphLog {
  /** Is it said which way was found to be the best? */
  #tuningTold: boolean;
  /** Does a graph run, in that way? Later refusals are looked for at checkpoints. */
  #settled: boolean;
  #refusalTold: boolean;

  /** @param isFirst of several students, one tells of the tuning of the step that they share */
  constructor(
    private readonly distiller: Pick<StepTaker, 'device' | 'stepInfo'>,
    private readonly log: (line: string) => Promise<void>,
    isFirst: boolean,
  ) {
    const { kind } = distiller.device;
    this.#tuningTold = !isFirst || kind !== 'cuda';
    this.#settled = this.#refusalTold = kind === 'cpu';
  }

  /** After a step. */
  async afterStep(): Promise<void> {
    if (!this.#settled) await this.#look();
  }

  /** At a checkpoint. */
  async atCheckpoint(): Promise<void> {
    if (!this.#refusalTold) await this.#look();
  }

  async #look(): Promise<void> {
    const { launched, tuning, way, ways, refused } = await this.distiller.stepInfo();
    if (!this.#tuningTold && ways.length > 0) await this.log(describeWays(way, ways));
    this.#settled ||= launched > 0 && !tuning;
    this.#tuningTold ||= this.#settled;
    if (refused === undefined) return;
    await this.log(
      `the GPU took no CUDA graph of a step (${refused}): steps run call by call from here on, with the same numbers, ` +
        'and slower',
    );
    this.#settled = this.#refusalTold = true;
  }

  /** At the end: how many steps a GPU took as a whole, all but a few, or something slows training down. */
  async atEnd(): Promise<void> {
    if (this.distiller.device.kind === 'cpu') return;
    const { launched, eager, interrupted, refused } = await this.distiller.stepInfo();
    const steps = launched + eager + interrupted;
    const then = refused === undefined ? '' : `; then the GPU took none (${refused})`;
    await this.log(`${launched} of ${steps} steps ran as one CUDA graph each, those before the run included${then}`);
  }
}
