/** The loop of a dense network's training: steps, evaluations, and what is kept of them. What is read, lost and scored is the task's. */
import type { Config } from '../config.js';
import { ShuffledSampler } from '../data/sampler.js';
import { openDevice, type Device, type DeviceName } from '../device.js';
import { isOfTheNumbers, LgdError, throwIfAborted } from '../errors.js';
import type { GraphSpec } from '../models/graph.js';
import type { WeightRecord } from '../models/weights.js';
import type { TensorHandle } from '../native.js';
import { DenseFolder } from './folder.js';
import type { DenseInfo } from './network-file.js';
import { DenseTrainer, denseRate, denseSteps, precisionOf, startWeights } from './trainer.js';

/** What is trained: `Losses` are told of a step, `Score` of an evaluation, both in an `Event`. */
export interface DenseTask<Batch extends { pixels: Float32Array }, Losses, Score, Event extends object> {
  info: Omit<DenseInfo, 'step'>;
  graph: GraphSpec;
  /** The student's. */
  weights: Readonly<WeightRecord>;
  /** Images to train on. */
  images: number;
  /** The views of these images. @param first number of the first view, which keys its draws */
  draw(images: Int32Array, first: number): Promise<Batch>;
  openLoss(device: Device): DenseLoss<Batch, Losses>;
  /** Of a network with these weights; undefined: there is nothing to evaluate on. */
  score: ((state: WeightRecord, device: Device) => Promise<Score>) | undefined;
  /** What the best network has most of. */
  rank(score: Score): number;
  /** The event as the task's callers get it, and as metrics.jsonl has it. */
  tell(event: DenseEvent<Losses, Score>): Event;
}

/** The loss of a task, with its memory on the device. */
export interface DenseLoss<Batch, Losses> extends Disposable {
  /** Queues what writes dOutput from the network's output. */
  queue(output: TensorHandle, dOutput: TensorHandle, batch: Batch): void;
  /** Waits for it. @throws LgdError NON_FINITE */
  read(batch: Batch, step: number): Promise<Losses>;
}

export type DenseEvent<Losses, Score> =
  | { type: 'start'; totalSteps: number }
  | { type: 'step'; step: number; losses: Losses; learningRate: number; seconds: number }
  | { type: 'evaluation'; step: number; score: Score; best: boolean }
  | { type: 'done'; step: number; seconds: number; folder: string; score: Score | undefined };

/**
 * Trains a task into a folder. Batches are drawn while the device works on the one before. Whatever ends it early, the network as it is stays in last.safetensors.
 * @throws LgdError BAD_CONFIG, BAD_DATASET, NOT_WRITABLE, ABORTED, and those of the task and the device
 */
export async function* trainDense<Batch extends { pixels: Float32Array }, Losses, Score, Event extends object>(
  task: DenseTask<Batch, Losses, Score, Event>, output: string, config: Config, signal: AbortSignal | undefined,
): AsyncGenerator<Event, void> {
  const { dense, seed, log } = config;
  const { info, graph, images } = task;
  const { steps, perEpoch } = denseSteps(dense, images);
  const folder = await DenseFolder.open(output, config);
  using device = await openDevice(config.device as DeviceName, { threads: config.threads });
  using trainer = new DenseTrainer(device, graph, startWeights(graph, task.weights, seed), { batch: dense.batchSize, resolution: dense.resolution, precision: precisionOf(config) });
  using loss = task.openLoss(device);
  yield task.tell({ type: 'start', totalSteps: steps });
  const sampler = new ShuffledSampler({ count: images, batchSize: dense.batchSize, seed });
  const draw = (step: number) => {
    const batch = task.draw(sampler.next().indices, step * dense.batchSize);
    batch.catch(() => undefined); // reported when its turn comes
    return batch;
  };
  const begun = performance.now();
  const seconds = () => (performance.now() - begun) / 1000;
  const logged = async (event: DenseEvent<Losses, Score>): Promise<Event> => {
    const told = task.tell(event);
    await folder.log(told);
    return told;
  };
  let step = 0;
  let saved = 0;
  let score: Score | undefined;
  let ahead = draw(0);
  try {
    while (step < steps) {
      throwIfAborted(signal, 'the training');
      const batch = await ahead;
      if (step + 1 < steps) ahead = draw(step + 1);
      const learningRate = denseRate(step, steps, dense.learningRate);
      trainer.queueStep(batch.pixels, (result, dResult) => loss.queue(result, dResult, batch), { step, seed, learningRate, momentum: dense.momentum, weightDecay: dense.weightDecay });
      step++;
      if (step % log.everySteps === 0 || step === steps) yield await logged({ type: 'step', step, losses: await loss.read(batch, step), learningRate, seconds: seconds() });
      else await device.synchronize();
      const isDue = step === steps || (dense.everyEpochs > 0 && step % (dense.everyEpochs * perEpoch) === 0);
      if (!isDue) continue;
      const state = await trainer.network.state();
      await folder.save({ ...info, step }, state);
      saved = step;
      if (task.score === undefined) continue;
      score = await task.score(state, device);
      const best = await folder.rank({ ...info, step }, state, task.rank(score));
      yield await logged({ type: 'evaluation', step, score, best });
    }
  } catch (error) {
    if (step > saved && !isOfTheNumbers(error)) {
      const isAborted = error instanceof LgdError && error.code === 'ABORTED';
      await trainer.network.state().then((state) => folder.save({ ...info, step }, state)).catch((fault: unknown) => {
        if (isAborted) throw fault;
      });
    }
    throw error;
  }
  yield task.tell({ type: 'done', step, seconds: seconds(), folder: output, score });
}
