import type { TextualSemanticsBank } from '../banks/textual.js';
import { VisualSemanticsBank } from '../banks/visual.js';
import { parseConfig, worksWithoutNames, type Config, type ConfigInput, type Method } from '../config.js';
import type { Device } from '../device.js';
import { LgdError } from '../errors.js';
import { Lifetime } from '../lifetime.js';
import type { CompiledEncoder } from '../models/compiled.js';
import type { Student } from '../models/student.js';
import type { AnyTeacher } from '../models/index.js';
import type { WeightRecord } from '../models/weights.js';
import type { NativeAugmentRecipe, SemanticHeadHandle, SemanticMetrics, SemanticOptions, SemanticState, StepHandle, StepInfo, TensorHandle } from '../native.js';
import type { Batch, Dataset } from './batch.js';
import type { RunEvent } from './events.js';
import { runDistillation, type RunOptions } from './run.js';
import { makeTeacherFeed, plannedBytes, type TeacherFeed } from './teacher-feed.js';

/** What a {@link Distiller} is made of. */
export interface DistillerOptions {
  device: Device;
  teacher: AnyTeacher;
  student: Student;
  /** The text bank; methods seed and feature work without one. */
  tsb?: TextualSemanticsBank;
  /** Any part of a configuration; its groups loss, train, augment and data.resolution, method and seed matter to the step. */
  config?: ConfigInput;
}

/** What a step leaves to be read: which of the head's metric slots its batches wrote. */
export interface StepTicket {
  slots: readonly number[];
  /** Milliseconds that the host spent on a teacher outside the device; 0 for one on it. */
  teacherMilliseconds: number;
}

/** Bytes of device memory. */
export interface MemoryUse {
  /** What the plans of student and teacher ask for: parameters and activations. */
  planned: number;
  /** What the device holds now: also optimiser state, banks, input and scratch memory, and whatever else was made on it. */
  used: number;
  /** What it held at most. */
  peak: number;
}

/** All that the next step depends on, besides the images. */
export interface DistillerState {
  weights: WeightRecord;
  momentum: WeightRecord;
  semantic: SemanticState;
}

/** Which banks take part in the loss, and the weight of the visual part. */
const methods: Record<Method, (loss: Config['loss']) => Pick<SemanticOptions, 'useTextual' | 'useVisual' | 'feature' | 'alpha' | 'queueSize'>> = {
  lgd: ({ alpha }) => ({ useTextual: true, useVisual: true, alpha, queueSize: 0 }),
  text: () => ({ useTextual: true, useVisual: false, alpha: 0, queueSize: 0 }),
  visual: () => ({ useTextual: false, useVisual: true, alpha: 1, queueSize: 0 }),
  seed: ({ queueSize }) => ({ useTextual: false, useVisual: false, alpha: 1, queueSize }),
  hybrid: ({ queueSize }) => ({ useTextual: false, useVisual: true, alpha: 1, queueSize }),
  combined: ({ alpha, queueSize }) => ({ useTextual: true, useVisual: true, alpha, queueSize }),
  feature: () => ({ useTextual: false, useVisual: false, feature: true, queueSize: 0 }),
};

const metricSlots = 64; // native/engine.h; two steps of train.accumulate batches are unread at most

/**
 * Language-guided distillation (method.md): the student learns to place images among the banks' anchors as the teacher does. {@link queueStep} is the step;
 * {@link run} is the loop around it.
 */
export class Distiller implements Disposable {
  readonly device: Device;
  readonly teacher: AnyTeacher;
  readonly student: Student;
  readonly tsb: TextualSemanticsBank | undefined;
  readonly config: Config;
  /** The student, compiled for training; it owns the weights while the distiller lives. */
  readonly encoder: CompiledEncoder;
  readonly #feed: TeacherFeed;
  readonly #head: SemanticHeadHandle;
  readonly #step: StepHandle;
  readonly #recipe: NativeAugmentRecipe;
  readonly #images: TensorHandle;
  readonly #dStudent: TensorHandle;
  readonly #life = new Lifetime('the distiller', 'Make another one; the student keeps the weights of the last checkpoint, or those given to student.load()');
  /** Calls of {@link queueStep} that have not returned: they may be waiting for a teacher outside the device. */
  #queueing = 0;
  #slot = 0;

  /** @throws LgdError BAD_CONFIG, BAD_OPTION, BAD_SHAPE (embedding sizes or resolution that do not fit), OUT_OF_MEMORY */
  constructor({ device, teacher, student, tsb, config: input = {} }: DistillerOptions) {
    const config = parseConfig(input);
    checkSizes(teacher, student, tsb, config);
    checkPrecision(device, config);
    [this.device, this.teacher, this.student, this.tsb, this.config] = [device, teacher, student, tsb, config];
    const { addon, handle } = device;
    const { batchSize, accumulate, precision } = config.train;
    this.encoder = student.compile({
      batch: batchSize,
      resolution: config.data.resolution ?? teacher.resolution,
      precision: precision === 'auto' ? undefined : precision,
      training: true,
    });
    this.#recipe = { ...config.augment, train: true, mean: teacher.mean, std: teacher.std };
    this.#step = addon.makeStep(handle);
    this.#images = this.encoder.makeImages();
    this.#dStudent = addon.makeTensor(handle, [batchSize, teacher.embeddingSize]);
    this.#feed = makeTeacherFeed({ device, teacher, encoder: this.encoder, images: this.#images, recipe: this.#recipe, places: accumulate });
    const { studentTemperature, teacherTemperature, momentum } = config.loss;
    this.#head = addon.makeSemanticHead(handle, {
      dimension: teacher.embeddingSize,
      categories: tsb?.size ?? 0,
      ...methods[config.method](config.loss),
      studentTemperature,
      teacherTemperature,
      momentum,
      bfloat16: this.encoder.precision === 'bfloat16',
    });
    if (tsb !== undefined) {
      const { data: visual, seen } = VisualSemanticsBank.random(tsb.size, tsb.embeddingSize, config.seed);
      addon.writeSemanticState(this.#head, { textual: tsb.data, visual, seen });
    }
  }

  /**
   * Queues one optimiser step over `train.accumulate` batches; nothing here waits for the device (unless the teacher works outside it),
   * which starts it as a whole where it can (as a CUDA graph, teacher and student beside each other).
   * Gradients are averaged over the batches, the banks move once.
   * @param step number of the step from 0; with the seed it keys dropout and stochastic depth
   * @returns what {@link readMetrics} reads the step's numbers by
   * @throws LgdError of a teacher outside the device; faults of queued work come with the metrics
   */
  async queueStep(batches: readonly Batch[], { step, learningRate }: { step: number; learningRate: number }): Promise<StepTicket> {
    this.#life.check();
    const { addon, handle } = this.device;
    const { seed, train } = this.config;
    const embeddings: TensorHandle[] = [];
    const slots: number[] = [];
    let teacherMilliseconds = 0;
    addon.beginStep(this.#step);
    this.#queueing++;
    try {
      this.encoder.zeroGradients();
      for (const [place, batch] of batches.entries()) {
        const slot = this.#nextSlot();
        addon.augment(batch.dataset.store, this.#recipe, batch, this.#images);
        const from = performance.now();
        const embedded = this.#feed.embed(batch, place);
        const zT = embedded instanceof Promise ? await embedded : embedded; // no needless turn: distillers that share a device would cut each other's steps short
        if (this.teacher.kind !== 'native') teacherMilliseconds += performance.now() - from;
        this.encoder.forwardTensor(this.#images, { training: true, seed, step: step * batches.length + place });
        addon.joinBranch(handle); // the teacher's forward, beside the student's
        addon.headLoss(this.#head, this.encoder.output, zT, this.#dStudent, 1, slot);
        this.encoder.backwardTensor(this.#dStudent);
        embeddings.push(zT);
        slots.push(slot);
      }
      addon.headUpdate(this.#head, embeddings, slots.at(-1)!);
      this.encoder.sgdStep({
        learningRate,
        momentum: train.sgdMomentum,
        weightDecay: train.weightDecay,
        decayNormAndBias: train.decayNormAndBias,
        gradientScale: 1 / batches.length,
      });
    } finally {
      addon.endStep(this.#step);
      if (--this.#queueing === 0 && this.#life.ended) this.#free(); // disposed of meanwhile
    }
    return { slots, teacherMilliseconds };
  }

  /**
   * The numbers of a queued step, means over its batches. Call it once the step after it is queued, so that the device has work while this waits.
   * @throws LgdError NON_FINITE, ZERO_EMBEDDING, and whatever failed in the device's queue
   */
  async readMetrics({ slots }: StepTicket): Promise<SemanticMetrics> {
    this.#life.check();
    const all = await Promise.all(slots.map((slot) => this.device.addon.readMetrics(this.device.handle, this.#head, slot)));
    const mean = { ...all.at(-1)! }; // the counts of categories stand in the last batch's
    for (const key of ['loss', 'lossVisual', 'lossTextual', 'klVisual', 'klTextual', 'entropyVisual', 'entropyTextual', 'ownMass', 'agreement'] as const) {
      mean[key] = all.reduce((sum, metrics) => sum + metrics[key], 0) / all.length;
    }
    return mean;
  }

  /** Device memory, as it is now. */
  get memory(): MemoryUse {
    this.#life.check();
    const { allocatedBytes, peakBytes } = this.device.info;
    return { planned: plannedBytes(this.encoder) + this.#feed.plannedBytes, used: allocatedBytes, peak: peakBytes };
  }

  /** How the device ran the steps queued so far; resolves once it has taken them up. */
  async stepInfo(): Promise<StepInfo> {
    this.#life.check();
    return this.device.addon.stepInfo(this.#step);
  }

  /** Waits for queued steps and reads everything the next one depends on. */
  async state(): Promise<DistillerState> {
    this.#life.check();
    const { addon, handle } = this.device;
    const [weights, momentum, { visual, seen, queue, queuePosition, queueFilled }] = await Promise.all([
      this.encoder.state(), this.encoder.optimiserState(), addon.readSemanticState(handle, this.#head),
    ]);
    return { weights, momentum, semantic: { visual, seen, queue, queuePosition, queueFilled } };
  }

  /** Continues from a state. @throws LgdError BAD_MODEL, BAD_SHAPE, BAD_BANK */
  restore({ weights, momentum, semantic }: DistillerState): void {
    this.#life.check();
    this.encoder.load(weights);
    this.encoder.loadOptimiserState(momentum);
    this.device.addon.writeSemanticState(this.#head, semantic);
  }

  /**
   * Trains: the whole schedule over a data set, with evaluations and checkpoints in the run folder `config.output`. The student has the final weights after it.
   * @throws LgdError BAD_CONFIG, NOT_WRITABLE, NON_FINITE (with a replay folder), BAD_CHECKPOINT, and faults of device and teacher
   */
  run(dataset: Dataset, options: RunOptions = {}): AsyncGenerator<RunEvent, void, undefined> {
    this.#life.check();
    return runDistillation(this, dataset, options);
  }

  /** Frees device memory, not the teacher's and the student's own; work that is queued is done first. Later calls throw DISPOSED, also those of a run under way. */
  dispose(): void {
    if (this.#life.end() && this.#queueing === 0) this.#free();
  }

  /** For `using`: {@link dispose}. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  #free(): void {
    const { addon } = this.device;
    this.#feed.dispose();
    for (const object of [this.#head, this.#step, this.#images, this.#dStudent]) addon.release(object);
    this.encoder.dispose();
  }

  #nextSlot(): number {
    const slot = this.#slot;
    this.#slot = (slot + 1) % metricSlots;
    return slot;
  }
}

function checkSizes(teacher: AnyTeacher, student: Student, tsb: TextualSemanticsBank | undefined, { method }: Config): void {
  const { embeddingSize } = teacher;
  if (student.embeddingSize !== embeddingSize) {
    throw new LgdError('BAD_SHAPE', `the student's embeddings have ${student.embeddingSize} values, the teacher's ${embeddingSize}.`, { option: 'student', mend: "Create the student with the teacher's embedding size" });
  }
  if (tsb === undefined && !worksWithoutNames(method)) {
    throw new LgdError('BAD_CONFIG', 'this method needs a text bank.', { option: 'method', found: method, mend: 'Give names or bank, or choose seed or feature' });
  }
  if (tsb !== undefined && tsb.embeddingSize !== embeddingSize) {
    throw new LgdError('BAD_BANK', `the text bank's embeddings have ${tsb.embeddingSize} values, the teacher's ${embeddingSize}.`, { option: 'bank', found: tsb.encoderId, mend: "Build the bank with the teacher's own text tower" });
  }
}

function checkPrecision({ info }: Device, { train: { precision } }: Config): void {
  if (precision === 'auto' || info.precisions.includes(precision)) return;
  throw new LgdError('BAD_OPTION', `this device (${info.name}) does not store activations so.`, { option: 'train.precision', found: precision, allowed: ['auto', ...info.precisions].join(', ') });
}
