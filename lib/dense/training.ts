/**
 * The loop of a dense network's training: steps, evaluations, and what is kept of them. What is read, lost and scored
 * is the task's.
 */
import type { TensorHandle } from '../addon/native.js';
import { optionTable } from '../arguments.js';
import type { Config, ConfigInput } from '../config/config.js';
import { ShuffledSampler } from '../data/sampler.js';
import { openDevice, type Device, type DeviceName } from '../device.js';
import { hasCode, isOfTheNumbers, LgdError, throwIfAborted } from '../errors.js';
import { precisionOf } from '../models/compiled.js';
import { startWeights } from '../models/features.js';
import type { GraphSpec } from '../models/graph.js';
import type { WeightRecord } from '../models/weights.js';
import type { DenseInfo } from '../runs/network-file.js';
import { waitingEvents, watched, type WaitedFor, type WaitingEvent, type Watched } from '../stall.js';
import { orAborted } from '../turn.js';
import { DenseFolder } from './folder.js';
import type { StartStudent } from './start.js';
import { DenseTrainer, denseRate, denseSteps } from './trainer.js';

/** What trainings of dense networks are given. */
export const trainingOptions = optionTable<{
  student: string;
  output: string;
  config: ConfigInput;
  signal?: AbortSignal | undefined;
}>()('student output config signal?');

/** What is trained. `Start` and `Step` are what the start and each step tell besides, `Score` is of an evaluation. */
export interface TrainedTask<Batch extends { pixels: Float32Array }, Score, Start, Step> {
  info: Omit<DenseInfo, 'step'>;
  graph: GraphSpec;
  student: StartStudent;
  /** Images to train on. */
  images: number;
  evaluationImages: number;
  start: Start;
  /** The views of these images. @param first number of the first view, which keys its draws */
  draw(images: Int32Array, first: number): Promise<Batch>;
  openLoss(device: Device): DenseLoss<Batch, Step>;
  /** Of a network with these weights; undefined: there is nothing to evaluate on. */
  score: ((state: WeightRecord, device: Device, options: Watched) => Promise<Score>) | undefined;
  /** What the best network has most of. */
  rank(score: Score): number;
}

/** The loss of a task, with its memory on the device. */
export interface DenseLoss<Batch, Step> extends Disposable {
  /** Queues what writes dOutput from the network's output. */
  queue(output: TensorHandle, dOutput: TensorHandle, batch: Batch): void;
  /** Waits for it. @throws LgdError NON_FINITE */
  read(batch: Batch, step: number): Promise<{ loss: number } & Step>;
}

/** Looks at what a step's loss added up to. @throws LgdError NON_FINITE */
export function checkLoss(sums: readonly number[], step: number): void {
  if (!sums.every(Number.isFinite))
    throw new LgdError('NON_FINITE', `the loss of step ${step} is not a number.`, { mend: 'Lower dense.learningRate' });
}

/** What trainings of dense networks tell while they go on; `Start` and `Step` are what a task adds. */
export type DenseTrainingEvent<Score, Start = object, Step = object> =
  | ({ type: 'start'; images: number; evaluationImages: number; classes: number; totalSteps: number } & Start)
  /** Every `log.everySteps` steps, and after the last. */
  | ({ type: 'step'; step: number; loss: number; learningRate: number; seconds: number } & Step)
  | WaitingEvent
  | { type: 'evaluation'; step: number; score: Score; best: boolean }
  /**
   * The score is that of the best network, which model.safetensors holds, and of its step; of equals the first.
   * undefined: nothing was evaluated.
   */
  | {
      type: 'done';
      step: number;
      seconds: number;
      folder: string;
      score: Score | undefined;
      bestStep: number | undefined;
    };

/** What draws the batches, one step after the other. */
function drawing<Batch extends { pixels: Float32Array }>(
  task: Pick<TrainedTask<Batch, unknown, unknown, unknown>, 'images' | 'draw'>,
  { dense: { batchSize }, seed }: Config,
): (step: number) => Promise<Batch> {
  const sampler = new ShuffledSampler({ count: task.images, batchSize, seed });
  return (step) => {
    const batch = task.draw(sampler.next().indices, step * batchSize);
    batch.catch(() => undefined); // reported when its turn comes
    return batch;
  };
}

/**
 * Trains a task into a folder. Batches are drawn while the device works on the one before. Whatever ends it early, the
 * network as it is stays in last.safetensors, unless its numbers are no numbers any more or its last step may not be
 * whole. An earlier run in the folder stays until there is a first batch.
 * @throws LgdError BAD_CONFIG, BAD_DATASET, NON_FINITE, NOT_WRITABLE, ABORTED, and those of the task and the device
 */
export async function* trainDense<Batch extends { pixels: Float32Array }, Score, Start, Step>(
  task: TrainedTask<Batch, Score, Start, Step>,
  output: string,
  config: Config,
  signal: AbortSignal | undefined,
): AsyncGenerator<DenseTrainingEvent<Score, Start, Step>, void> {
  const { dense, seed, log } = config;
  const { info, graph, student, images, evaluationImages } = task;
  const { steps, perEpoch } = denseSteps(dense, images);
  await using folder = await DenseFolder.open(output, { overwrite: config.overwrite, student: student.file });
  using device = await openDevice(config.device as DeviceName, { threads: config.threads });
  using trainer = new DenseTrainer(device, graph, await startWeights(graph, student.weights, seed, signal), {
    batch: dense.batchSize,
    resolution: dense.resolution,
    precision: precisionOf(config),
    momentum: dense.momentum,
  });
  using loss = task.openLoss(device);
  yield { type: 'start', images, evaluationImages, classes: info.names.length, totalSteps: steps, ...task.start };
  const draw = drawing(task, config);
  const begun = performance.now();
  const seconds = () => (performance.now() - begun) / 1000;
  const logged = async <Event extends object>(event: Event): Promise<Event> => {
    await folder.log(event);
    return event;
  };
  let [step, whole] = [0, 0]; // steps queued, and those that are known to have run
  let best: { step: number; score: Score } | undefined;
  const keep = async (): Promise<WeightRecord> => {
    const state = await trainer.network.state();
    await folder.save({ ...info, step }, state);
    return state;
  };
  const patiently = <Value>(promise: Promise<Value>, what: WaitedFor, done = step, lastSign?: () => number) =>
    waitingEvents(promise, what, { step: done, minutes: log.stallMinutes, lastSign });
  let ahead = draw(0);
  yield* patiently(orAborted(ahead, 'the training', signal), 'images');
  throwIfAborted(signal, 'the training');
  await folder.begin(info.task, student, config);
  try {
    while (step < steps) {
      throwIfAborted(signal, 'the training');
      const batch = yield* patiently(orAborted(ahead, 'the training', signal), 'images');
      if (step + 1 < steps) ahead = draw(step + 1);
      const learningRate = denseRate(step, steps, dense.learningRate);
      trainer.queueStep(batch.pixels, (result, dResult) => loss.queue(result, dResult, batch), {
        step,
        seed,
        learningRate,
        weightDecay: dense.weightDecay,
      });
      step++;
      const isDue = step === steps || (dense.everyEpochs > 0 && step % (dense.everyEpochs * perEpoch) === 0);
      const isTold = step === steps || step % log.everySteps === 0;
      if (!isDue && !isTold) {
        yield* patiently(device.synchronize(), 'device', step - 1);
        whole = step;
        continue;
      }
      // also where nobody is told: a network that diverged is neither scored nor kept
      const read = yield* patiently(loss.read(batch, step), 'device', step - 1);
      whole = step;
      if (isTold) yield await logged({ type: 'step' as const, step, ...read, learningRate, seconds: seconds() });
      if (!isDue) continue;
      const state = await keep();
      const { score: evaluate } = task;
      if (evaluate === undefined) continue;
      const score = yield* watched(
        (options) => evaluate(state, device, options),
        signal,
        (scored, lastSign) => patiently(scored, 'evaluation', step, lastSign),
      );
      const isBest = await folder.rank({ ...info, step }, state, task.rank(score));
      if (isBest) best = { step, score };
      yield await logged({ type: 'evaluation' as const, step, score, best: isBest });
    }
  } catch (error) {
    if (whole === step && step > folder.savedStep && !isOfTheNumbers(error))
      await keep().catch((fault: unknown) => {
        if (hasCode(error, 'ABORTED')) throw fault;
      });
    throw error;
  } finally {
    // nothing of this training stays queued, where a caller left it in the middle of a wait
    await device.synchronize().catch(() => undefined);
  }
  yield { type: 'done', step, seconds: seconds(), folder: output, score: best?.score, bestStep: best?.step };
}
