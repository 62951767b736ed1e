/** What a run's log says of the CUDA graph that its steps are run as. */
import type { GraphWay, StepInfo } from '../addon/native.js';
import type { StepTaker } from './step-taker.js';

/** Asks the distiller for it, as seldom as it can: that waits for the device's thread. On a CPU there is none. */
export class GraphLog {
  /** Is it said which way was found to be the best? */
  #tuningTold: boolean;
  /** Does a graph run, in that way, or was a refusal told? A first refusal later is looked for at checkpoints. */
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
      `the GPU took no CUDA graph of a step (${refused}): until it takes one, which is tried now and then, steps run ` +
        'call by call, with the same numbers, and slower',
    );
    this.#settled = this.#refusalTold = true;
  }

  /** At the end: how many steps a GPU took as a whole, all but a few, or something slows training down. */
  async atEnd(): Promise<void> {
    if (this.distiller.device.kind === 'cpu') return;
    const { launched, eager, interrupted, refused } = await this.distiller.stepInfo();
    const steps = launched + eager + interrupted;
    const why = refused === undefined ? '' : `; the GPU took none of others (${refused})`;
    await this.log(`${launched} of ${steps} steps ran as one CUDA graph each, those before the run included${why}`);
  }
}

/** Which way of running its graph a step has found. */
function describeWays(way: GraphWay, ways: StepInfo['ways']): string {
  const words = {
    programmatic: ['kernels one after the other', 'kernels started early'],
    inOrder: ['the teacher beside the student', 'the teacher before the student'],
    oneCarveout: ["kernels' own carve-outs", 'one carve-out for all'],
  };
  const open = (Object.keys(words) as (keyof GraphWay)[]).filter((choice) =>
    ways.some((one) => one[choice] !== way[choice]),
  );
  const times = ways.map(({ milliseconds }) => milliseconds);
  return `a step's CUDA graph ran in ${ways.length} ways: ${times[0]!.toFixed(3)} ms as usual, ${Math.min(...times).toFixed(3)} ms at best; it goes on with ${open.map((choice) => words[choice][Number(way[choice])]).join(', ')}`;
}
