/** One student of a distiller, with all that is its own: the compiled encoder, its banks and loss, and its gradient. */
import type { SemanticHeadHandle, SemanticState, TensorHandle } from '../addon/native.js';
import type { TextualSemanticsBank } from '../banks/textual.js';
import type { VisualSemanticsBank } from '../banks/visual.js';
import type { RunConfig } from '../config/batch.js';
import type { ChosenMethod } from '../config/config.js';
import type { Device } from '../device.js';
import { LgdError } from '../errors.js';
import { OnlineProbe } from '../evaluate/online.js';
import { Made } from '../lifetime.js';
import { machineMemory } from '../machine/memory.js';
import { compileBatch, precisionOf, type CompiledEncoder } from '../models/compiled.js';
import { checkOptimizerState, optimizerOf } from '../models/optimizer.js';
import type { Student } from '../models/student.js';
import { checkWeights, type WeightRecord } from '../models/weights.js';
import type { OnlineState } from '../runs/checkpoint.js';
import { anchorsOf, partMetrics } from './method.js';
import type { StepMetrics } from './steps.js';

/** All that the next step depends on, besides the images. */
export interface DistillerState {
  /** Parameters and buffers. */
  weights: WeightRecord;
  /** SGD's, of the parameters; AdamW's first moment. */
  momentum: WeightRecord;
  /** AdamW's alone. */
  secondMoment?: WeightRecord | undefined;
  /** Banks and queue. */
  semantic: SemanticState;
  /** Of the online probe, where there is one. */
  online?: OnlineState | undefined;
  /**
   * Optimiser steps behind it, 0 where it does not say; of AdamW, whose rates follow it, it must. A run from the start
   * begins with none.
   */
  steps?: number | undefined;
}

export interface StudentTrainerOptions {
  device: Device;
  /** D. */
  embeddingSize: number;
  /** Side of the input in pixels. */
  resolution: number;
  tsb: TextualSemanticsBank | undefined;
  /** That it starts from, of as many names. */
  vsb: VisualSemanticsBank | undefined;
  config: RunConfig;
  method: ChosenMethod;
  /** Classes of an online probe; undefined: none. */
  onlineClasses: number | undefined;
}

/**
 * Looks whether a queue finds room in the machine's memory, before the system ends the process for it. The trial before
 * a run and checkpoints copy it: a run on the CPU held it 3.9 times (1,000,000 x 256, peak), of which three are counted
 * here, and one less where the queue itself is on a GPU.
 * @throws LgdError OUT_OF_MEMORY
 */
export function checkQueueMemory(
  queueSize: number,
  embeddingSize: number,
  { kind }: Pick<Device, 'kind'>,
  memory = machineMemory(),
): void {
  const rowBytes = 4 * embeddingSize * (kind === 'cuda' ? 2 : 3);
  const gigabytes = (bytes: number) => (bytes / 1e9).toFixed(1);
  if (queueSize * rowBytes <= memory) return;
  throw new LgdError(
    'OUT_OF_MEMORY',
    `the queue takes ${gigabytes(queueSize * rowBytes)} GB with what checkpoints copy of it, and this machine has ${gigabytes(memory)}.`,
    {
      option: 'loss.queueSize',
      found: queueSize,
      allowed: `at most ${Math.floor(memory / rowBytes)} embeddings of ${embeddingSize} values here`,
      mend: 'Take a smaller loss.queueSize',
    },
  );
}

/** Calls queue work on the device; only those that return promises wait for it. */
export class StudentTrainer {
  /** Compiled for training; it owns the weights while the trainer lives. */
  readonly encoder: CompiledEncoder;
  readonly #device: Device;
  readonly #config: RunConfig;
  readonly #made = new Made();
  readonly #head: SemanticHeadHandle;
  readonly #dStudent: TensorHandle;
  readonly online: OnlineProbe | undefined;

  /** @throws LgdError BAD_OPTION, BAD_SHAPE, OUT_OF_MEMORY */
  constructor(
    readonly student: Student,
    { device, embeddingSize, resolution, tsb, vsb, config, method, onlineClasses }: StudentTrainerOptions,
  ) {
    [this.#device, this.#config] = [device, config];
    const { addon, handle } = device;
    const { batchSize } = config.train;
    const { studentTemperature, teacherTemperature, momentum } = config.loss;
    const anchors = anchorsOf(method, config.loss);
    checkQueueMemory(anchors.queueSize, embeddingSize, device);
    const made = this.#made;
    try {
      this.encoder = made.use(
        compileBatch('train.batchSize', batchSize, () =>
          student.compile({
            batch: batchSize,
            resolution,
            precision: precisionOf(config),
            training: true,
            optimizer: optimizerOf(config),
          }),
        ),
      );
      this.#dStudent = made.add(addon.makeTensor(handle, [batchSize, embeddingSize]), addon.release);
      this.online =
        onlineClasses === undefined ? undefined : made.use(new OnlineProbe(device, embeddingSize, onlineClasses));
      this.#head = made.add(
        addon.makeSemanticHead(handle, {
          dimension: embeddingSize,
          categories: tsb?.size ?? 0,
          ...anchors,
          studentTemperature,
          teacherTemperature,
          momentum,
          bfloat16: device.kind !== 'cpu' && this.encoder.precision === 'bfloat16',
        }),
        addon.release,
      );
      if (tsb !== undefined && vsb !== undefined)
        addon.writeSemanticState(this.#head, { textual: tsb.data, visual: vsb.data, seen: vsb.seen });
    } catch (error) {
      made.free();
      throw error;
    }
  }

  /** Optimiser steps behind the weights. */
  get steps(): number {
    return this.encoder.steps;
  }

  /** @param step counts batches; with the seed it keys dropout and stochastic depth */
  forward(images: TensorHandle, step: number): void {
    this.encoder.forwardTensor(images, { training: true, seed: this.#config.seed, step });
  }

  /** The loss against the teacher's raw embeddings [B,D], and its gradient; its numbers go to a slot of the head. */
  computeLoss(teacher: TensorHandle, slot: number): void {
    this.#device.addon.headLoss(this.#head, this.encoder.output, teacher, this.#dStudent, 1, slot);
  }

  /** Adds the gradients of the last loss. */
  backward(): void {
    this.encoder.backwardTensor(this.#dStudent);
  }

  /** LGKA and the queue, from the teacher embeddings of all batches of a step. */
  updateBanks(embeddings: TensorHandle[], slot: number): void {
    this.#device.addon.headUpdate(this.#head, embeddings, slot);
  }

  /**
   * One step of the optimiser with the mean of the gradients of so many batches. The norm of gradients that are clipped
   * goes to a slot.
   */
  optimizerStep(learningRate: number, batches: number, slot: number): void {
    const { weightDecay, decayNormAndBias, clipNorm } = this.#config.train;
    this.encoder.optimizerStep(
      { learningRate, weightDecay, decayNormAndBias, gradientScale: 1 / batches, clipNorm },
      slot,
    );
  }

  /** The numbers that stand in a step's slots: their mean; of the step as a whole they stand in the last. */
  async metrics(slots: readonly number[]): Promise<StepMetrics> {
    const { addon, handle } = this.#device;
    // the losses first: a row that is no number says more than the gradients that come of it
    const [all, gradientNorm] = await Promise.all([
      Promise.all(slots.map((slot) => addon.readMetrics(handle, this.#head, slot))),
      this.#config.train.clipNorm > 0 ? this.encoder.gradientNorm(slots.at(-1)) : undefined,
    ]);
    const mean: StepMetrics = { ...all.at(-1)!, ...(gradientNorm !== undefined && { gradientNorm }) };
    for (const key of ['loss', ...partMetrics, 'agreement'] as const)
      mean[key] = all.reduce((sum, metrics) => sum + metrics[key], 0) / all.length;
    return mean;
  }

  async state(): Promise<DistillerState> {
    const { addon, handle } = this.#device;
    // All are asked for before anything is awaited: a step that is queued meanwhile is in none.
    const [weights, optimizer, { visual, seen, queue, queuePosition, queueFilled }, online] = await Promise.all([
      this.encoder.state(),
      this.encoder.optimizerState(),
      addon.readSemanticState(handle, this.#head),
      this.online?.state(),
    ]);
    return {
      weights,
      ...optimizer,
      semantic: { visual, seen, queue, queuePosition, queueFilled },
      ...(online && { online }),
    };
  }

  /**
   * A state of which a part does not fit leaves the student as it was.
   * @throws LgdError BAD_MODEL, BAD_OPTION (of another optimiser), BAD_SHAPE, BAD_BANK
   */
  restore({ weights, momentum, secondMoment, semantic, online, steps }: DistillerState): void {
    checkWeights(this.student.graph, weights);
    checkOptimizerState(this.student.graph, this.encoder.optimizer, { momentum, secondMoment, steps });
    if (online !== undefined) this.online?.check(online);
    this.#device.addon.writeSemanticState(this.#head, semantic); // whole, or refused
    if (online !== undefined) this.online?.restore(online);
    this.encoder.load(weights);
    this.encoder.loadOptimizerState({ momentum, secondMoment, steps: steps ?? 0 });
  }

  dispose(): void {
    this.#made.free();
  }
}
