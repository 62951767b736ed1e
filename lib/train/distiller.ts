import type { NativeAugmentRecipe, SemanticMetrics, StepHandle, StepInfo, TensorHandle } from '../addon/native.js';
import {
  checkArgument,
  checkOptions,
  checkTeacherKind,
  checkText,
  checkTexts,
  type OptionTable,
} from '../arguments.js';
import type { TextualSemanticsBank } from '../banks/textual.js';
import { takeStartBank } from '../banks/visual.js';
import { chooseBatch, type BatchChoice, type RunConfig } from '../config/batch.js';
import { parseConfig, type ChosenMethod, type ConfigInput } from '../config/config.js';
import type { Device } from '../device.js';
import { checkSignal, isOfTheNumbers, LgdError } from '../errors.js';
import { targetsOf } from '../evaluate/accuracy.js';
import type { OnlineProbe } from '../evaluate/online.js';
import { Lifetime, Made } from '../lifetime.js';
import { checkRate, type CompiledEncoder } from '../models/compiled.js';
import type { AnyTeacher } from '../models/index.js';
import type { Student } from '../models/student.js';
import { checkBatch, checkBatches, checkDataset, type Batch, type Dataset } from './batch.js';
import { runOptions, type RunOptions } from './course.js';
import { checkBank, checkDevices, checkStudents, checkTeacherNumbers, configFor } from './distiller-checks.js';
import type { RunEvent } from './events.js';
import { runDistillation } from './loop.js';
import { chooseMethod, describeChoice } from './method.js';
import { MetricSlots } from './metric-slots.js';
import { StudentTrainer, type DistillerState } from './student-trainer.js';
import type { MemoryUse, QueueOptions, StepTicket } from './steps.js';
import { embedEarly, makeCachedFeed, makeTeacherFeed, plannedBytes, type TeacherFeed } from './teacher-feed.js';
import type { TeacherViewCache } from './view-cache.js';

export type { DistillerState } from './student-trainer.js';

/** What a {@link Distiller} is made of. */
export interface DistillerOptions {
  device: Device;
  teacher: AnyTeacher;
  /**
   * The student; or several, of different names, that learn side by side from the same views and one pass of the
   * teacher.
   */
  student: Student | readonly Student[];
  /** The text bank; methods seed and feature work without one. */
  tsb?: TextualSemanticsBank | undefined;
  /**
   * Any part of a configuration; its groups loss, train, augment and data.resolution, method and seed matter to the
   * step.
   */
  config?: ConfigInput | undefined;
  /**
   * How many images there are to train on, which `train.batchSize` and `train.learningRate` follow where they are
   * `auto` ({@link BatchChoice}). Without it they are the published 256 and 0.03: the student is compiled for its batch
   * before any images are seen. For a stream whose length nobody knows give about how many there will be, or the two
   * numbers.
   */
  images?: number | undefined;
  /** With `evaluate.online`: how many classes the training images have, whose labels batches then tell. */
  onlineClasses?: number | undefined;
}

const distillerOptions = {
  device: 'needed',
  teacher: 'needed',
  student: 'needed',
  tsb: 'optional',
  config: 'optional',
  images: 'optional',
  onlineClasses: 'optional',
} satisfies OptionTable<DistillerOptions>;

const queueOptions = {
  step: 'needed',
  learningRate: 'needed',
  students: 'optional',
  signal: 'optional',
  after: 'optional',
} satisfies OptionTable<QueueOptions>;

/**
 * Language-guided distillation (Li et al. 2024, arXiv 2406.11689): the student learns to place images among the banks'
 * anchors as the teacher does. {@link queueStep} is the step; {@link run} is the loop around it. While it trains, the
 * weights are its own: in a loop of your own, `student.load((await distiller.state()).weights)` gives them to the
 * student.
 *
 * Several students share the images, their augmented views and the teacher's pass; everything else is each one's own,
 * so that each ends with the bits that it would have alone.
 */
export class Distiller implements Disposable {
  readonly device: Device;
  readonly teacher: AnyTeacher;
  readonly students: readonly Student[];
  readonly tsb: TextualSemanticsBank | undefined;
  /** Batch size, learning rate and method are what was given or chosen, never `auto`. */
  readonly config: RunConfig;
  /** How the first two came about. */
  readonly batchChoice: BatchChoice;
  /** What the students learn by. */
  readonly method: ChosenMethod;
  /** A line that says so, and why, where `auto` chose it. */
  readonly methodChoice: string | undefined;
  readonly #trainers: readonly StudentTrainer[];
  readonly #feed: TeacherFeed;
  #cachedFeed: TeacherFeed | undefined;
  #viewCache: TeacherViewCache | undefined;
  readonly #step: StepHandle;
  readonly #recipe: NativeAugmentRecipe;
  readonly #images: TensorHandle;
  readonly #life = new Lifetime(
    'the distiller',
    'Make another one; the student keeps the weights of the last checkpoint, or those given to student.load()',
  );
  /** Is a step being queued? It may be waiting for a teacher outside the device. */
  #queueing = false;
  /**
   * Ends with the last of the {@link queueStep} calls under way, whatever comes of it; undefined where there are none.
   */
  #underWay: Promise<void> | undefined;
  readonly #slots = new MetricSlots();

  /**
   * @throws LgdError BAD_CONFIG, BAD_OPTION, BAD_SHAPE (a student's embedding size or a resolution that does not fit),
   *   BAD_BANK (of another size than the teacher's), OUT_OF_MEMORY
   */
  constructor(options: DistillerOptions) {
    checkOptions(options, 'new Distiller()', distillerOptions);
    const { device, teacher, student, tsb, config: input = {}, images, onlineClasses } = options;
    checkArgument('device', device);
    checkArgument('teacher', teacher);
    checkTeacherKind(teacher);
    const students = [student].flat() as Student[];
    for (const one of students) checkArgument('student', one);
    if (tsb !== undefined) checkArgument('tsb', tsb);
    const parsed = parseConfig(input);
    this.batchChoice = chooseBatch(parsed.train, images);
    const method = (this.method = chooseMethod(parsed.method, tsb?.size ?? 0));
    const config = configFor(students, parsed, this.batchChoice, method);
    checkDevices(device, teacher, students);
    checkTeacherNumbers(teacher);
    checkStudents(teacher, students);
    checkBank(teacher, tsb, parsed);
    [this.device, this.teacher, this.students, this.tsb, this.config] = [device, teacher, students, tsb, config];
    if (parsed.method === 'auto') this.methodChoice = describeChoice(method, tsb!.size);
    const [{ addon, handle }, resolution] = [device, config.data.resolution ?? teacher.resolution];
    const vsb = tsb && takeStartBank(tsb, config.seed);
    this.#recipe = { ...config.augment, train: true, mean: teacher.mean, std: teacher.std };
    const made = new Made();
    try {
      this.#trainers = students.map((one) =>
        made.add(
          new StudentTrainer(one, {
            device,
            embeddingSize: teacher.embeddingSize,
            resolution,
            tsb,
            vsb,
            config,
            method,
            onlineClasses,
          }),
          (trainer) => trainer.dispose(),
        ),
      );
      this.#step = made.add(addon.makeStep(handle), (step) => addon.release(step));
      this.#images = made.add(this.encoder.makeImages(), (images) => addon.release(images));
      this.#feed = makeTeacherFeed({
        device,
        teacher,
        encoder: this.encoder,
        images: this.#images,
        recipe: this.#recipe,
        places: config.train.accumulate,
      });
    } catch (error) {
      made.free();
      throw error;
    }
  }

  /** The student; the first of several. */
  get student(): Student {
    return this.students[0]!;
  }

  /** The student, compiled for training; it owns the weights while the distiller lives. Of several the first. */
  get encoder(): CompiledEncoder {
    return this.encoderOf(0);
  }

  /** The encoder of the student of this number. */
  encoderOf(student: number): CompiledEncoder {
    return this.#trainer(student).encoder;
  }

  /**
   * Takes the teacher's embeddings from a cache as far as it has them, and fills it; undefined: none. The cache stays
   * the caller's. {@link run} does so by `teacherCache.views`.
   * @throws LgdError BAD_OPTION (one of another device, whose thread would write it at the same time), DISPOSED
   */
  useViewCache(cache: TeacherViewCache | undefined): void {
    this.#life.check();
    if (cache !== undefined && cache.device !== this.device)
      throw new LgdError('BAD_OPTION', 'the cache of teacher views was opened on another device.', {
        option: 'cache',
        found: cache.path,
        mend: "Open it on the distiller's",
      });
    this.#cachedFeed?.dispose();
    this.#viewCache = cache;
    this.#cachedFeed =
      cache &&
      makeCachedFeed(this.#feed, cache, {
        device: this.device,
        encoder: this.encoder,
        places: this.config.train.accumulate,
      });
  }

  /**
   * Queues one optimiser step over `train.accumulate` batches; nothing here waits for the device (unless the teacher
   * works outside it), which starts it as a whole where it can (as a CUDA graph, teacher and student beside each
   * other). Gradients are averaged over the batches, the banks move once. Calls that are not awaited are queued one
   * after the other, in their order; one that fails costs those after it nothing. A step that fails when it has begun
   * moves no weight, momentum or bank; on a GPU, where it was no graph ($LGDISTILL_GRAPHS=0) or was not queued to its
   * end, batch norms may have taken in its images.
   * @returns what {@link readMetrics} reads the step's numbers by
   * @throws LgdError BAD_SHAPE, BAD_OPTION, BAD_DATASET of options and batches that do not fit, before anything is
   *   queued; DISPOSED; those of a teacher outside the device; faults of queued work come with the metrics
   */
  async queueStep(batches: readonly Batch[], options: QueueOptions): Promise<StepTicket> {
    this.#life.check();
    checkOptions(options, 'queueStep(batches, ...)', queueOptions);
    const { step, learningRate, students, signal } = options;
    if (!Number.isSafeInteger(step) || step < 0)
      throw new LgdError('BAD_OPTION', 'not the number of a step.', {
        option: 'step',
        found: step,
        allowed: 'a whole number from 0',
      });
    checkRate(learningRate);
    checkBatches(batches, this.config.train.accumulate);
    checkSignal(signal);
    const trainers = students === undefined ? this.#trainers : this.#some(students);
    const { batch: size } = this.#trainers[0]!.encoder;
    for (const batch of batches)
      checkBatch(batch, size, trainers.find(({ online }) => online !== undefined)?.online!.classes);
    const [taken, given] = [[...batches], { ...options }];
    return this.#inTurn(() => this.#queue(taken, trainers, given));
  }

  /**
   * Begins at once where nothing is under way: a step that waits for nobody is queued when this returns, and leaves
   * nothing to wait for.
   */
  #inTurn(queue: () => Promise<StepTicket>): Promise<StepTicket> {
    const queued = this.#underWay === undefined ? queue() : this.#underWay.then(queue);
    if (this.#underWay === undefined && !this.#queueing) return queued;
    const nothing = (): void => undefined;
    const ended = queued.then(nothing, nothing);
    this.#underWay = ended;
    void ended.then(() => {
      if (this.#underWay === ended) this.#underWay = undefined;
    });
    return queued;
  }

  async #queue(
    batches: readonly Batch[],
    trainers: readonly StudentTrainer[],
    { step, learningRate, signal, after }: QueueOptions,
  ): Promise<StepTicket> {
    this.#life.check();
    const { addon, handle } = this.device;
    const embeddings: TensorHandle[] = [];
    const slots: number[] = [];
    let teacherMilliseconds = 0;
    const slotsBefore = this.#slots.given;
    addon.beginStep(this.#step);
    this.#queueing = true;
    let queued = false;
    try {
      const feed = this.#cachedFeed ?? this.#feed;
      const asked = performance.now();
      const sent = embedEarly(feed, this.teacher, batches, signal);
      const early = sent instanceof Promise ? await sent : sent;
      if (early.length > 0) {
        teacherMilliseconds += performance.now() - asked;
        if (after) await after('teacher');
      }
      for (const { encoder } of trainers) {
        encoder.keepStatistics(this.#step);
        encoder.zeroGradients();
      }
      for (const [place, batch] of batches.entries()) {
        const slot = this.#slots.next();
        addon.augment(batch.dataset.store, this.#recipe, batch, this.#images);
        if (after) await after('augment');
        const from = performance.now();
        const embedded = early[place] ?? feed.embed(batch, place, signal);
        // no needless turn: distillers that share a device would cut each other's steps short
        const zT = embedded instanceof Promise ? await embedded : embedded;
        if (this.teacher.kind !== 'native') teacherMilliseconds += performance.now() - from;
        if (after) await after('teacher');
        for (const trainer of trainers) {
          trainer.forward(this.#images, step * this.config.train.accumulate + place);
          if (after) await after('student forward');
          if (trainer === trainers[0]) addon.joinBranch(handle); // the teacher's forward, beside the first student's
          trainer.computeLoss(zT, slot);
          if (after) await after('loss');
          trainer.backward();
          if (after) await after('backward');
        }
        embeddings.push(zT);
        slots.push(slot);
      }
      // What may still fail comes before what moves: a step that has lost work leaves everything as it was.
      this.#queueProbes(trainers, batches.at(-1)!);
      for (const trainer of trainers) {
        this.#update(() => trainer.updateBanks(embeddings, slots.at(-1)!));
        if (after) await after('loss');
      }
      for (const trainer of trainers) {
        this.#update(() => {
          trainer.optimizerStep(learningRate, batches.length);
          trainer.online?.takeStep();
        });
        if (after) await after('optimiser');
      }
      queued = true;
    } finally {
      addon.endStep(this.#step, !queued);
      this.#queueing = false;
      if (this.#life.ended) this.#free(); // disposed of meanwhile
    }
    const students = trainers.map((trainer) => this.#trainers.indexOf(trainer));
    return this.#slots.issue({ slots, students, teacherMilliseconds, slotsBefore });
  }

  /** Queues what outlives the step, which is not done where the step has lost work, whoever was told of that. */
  #update(queue: () => void): void {
    const { addon } = this.device;
    addon.beginUpdate(this.#step);
    try {
      queue();
    } finally {
      addon.endUpdate(this.#step);
    }
  }

  /** Online probes learn from the last batch of a step, within it, so that their faults are the step's. */
  #queueProbes(trainers: readonly StudentTrainer[], { dataset, images, shown = images }: Batch): void {
    if (trainers.every(({ online }) => online === undefined)) return;
    const labels = targetsOf(dataset as { labels: Int32Array }, shown);
    for (const { online, encoder } of trainers) online?.queueGradient(encoder.output, labels);
  }

  /** Optimiser steps behind the weights of the student of this number, whoever had them taken. */
  stepsOf(student: number): number {
    return this.#trainer(student).steps;
  }

  /** The online probe of the student of this number, if there is one. */
  onlineOf(student: number): OnlineProbe | undefined {
    return this.#trainer(student).online;
  }

  /**
   * The numbers of a queued step, means over its batches. Call it once the step after it is queued, so that the device
   * has work while this waits; numbers that nobody reads are gone 64 batches later.
   * @param student which of several
   * @throws LgdError BAD_OPTION, NON_FINITE, ZERO_EMBEDDING, and whatever failed in the device's queue, in this
   *   distiller's steps or, where others use the device, beside them
   */
  async readMetrics(ticket: StepTicket, student = 0): Promise<SemanticMetrics> {
    this.#slots.check(ticket);
    const { slots, students } = ticket;
    const trainer = this.#trainer(student);
    if (!students.includes(student))
      throw new LgdError('BAD_OPTION', 'this student took no part in that step.', {
        option: 'student',
        found: student,
        allowed: students.join(', '),
      });
    return this.#ofWholeSteps(trainer.metrics(slots));
  }

  /** Device memory, as it is now. */
  get memory(): MemoryUse {
    this.#life.check();
    const { allocatedBytes, peakBytes } = this.device.info;
    return {
      planned: this.plans.reduce((sum, plan) => sum + plannedBytes(plan), 0),
      used: allocatedBytes,
      peak: peakBytes,
    };
  }

  /** What was compiled for it: the students, and a teacher on the device. */
  get plans(): readonly CompiledEncoder[] {
    this.#life.check();
    return [...this.#trainers.map(({ encoder }) => encoder), this.#feed.plan].filter((plan) => plan !== undefined);
  }

  /** How the device ran the steps queued so far; resolves once it has taken them up. */
  async stepInfo(): Promise<StepInfo> {
    this.#life.check();
    return this.device.addon.stepInfo(this.#step);
  }

  /**
   * Waits for the steps whose {@link queueStep} has resolved and reads everything the next one depends on, besides the
   * images: where a {@link BatchPlan} stands is the plan's. Typed arrays and numbers, which `serialize` of node:v8
   * writes; JSON would lose the arrays.
   * @param student which of several
   * @throws LgdError as {@link readMetrics}
   */
  async state(student = 0): Promise<DistillerState> {
    return this.#ofWholeSteps(this.#trainer(student).state());
  }

  /**
   * What is read after steps, of which none may have lost work: a fault that others made on the device reaches whoever
   * waits first, and costs every step that was queued by then.
   */
  async #ofWholeSteps<Result>(reading: Promise<Result>): Promise<Result> {
    const [read] = await Promise.allSettled([reading]);
    // numbers of a step that is not whole say nothing
    const lost = this.#lostWork(read.status === 'rejected' && !isOfTheNumbers(read.reason));
    if (read.status === 'fulfilled' && lost === undefined) return read.value;
    this.#viewCache?.forget(); // what of such a step was kept, nobody knows
    throw lost ?? (read as PromiseRejectedResult).reason;
  }

  /** @param isTold is there another error than of the numbers already? */
  #lostWork(isTold: boolean): unknown {
    try {
      if (!this.#life.ended) this.device.addon.checkStep(this.#step, isTold);
      return undefined;
    } catch (error) {
      return error;
    }
  }

  /**
   * Continues from a state; one of which a part does not fit leaves the student as it was.
   * @param student which of several
   * @throws LgdError BAD_MODEL, BAD_OPTION (of another optimiser), BAD_SHAPE, BAD_BANK
   */
  restore(state: DistillerState, student = 0): void {
    checkArgument('state', state);
    this.#trainer(student).restore(state);
  }

  /**
   * Trains: the whole schedule over a data set, with evaluations and checkpoints in the run folder `config.output`. The
   * student has the final weights after it. To stop earlier, abort `options.signal`: a checkpoint is written and the
   * last event is `interrupted`. Leaving the loop by `break` or an error writes none; run folder and student are then
   * as the last checkpoint left them. The distiller has gone on by then: with `resume` it goes back to a checkpoint,
   * but a run from the start needs a distiller and a student that have taken no step.
   * @throws LgdError BAD_CONFIG, BAD_OPTION (from the start, after steps), BAD_DATASET, NOT_WRITABLE, NON_FINITE (with
   *   a replay folder), BAD_CHECKPOINT, and faults of device and teacher
   */
  run(dataset: Dataset, options: RunOptions = {}): AsyncGenerator<RunEvent, void, undefined> {
    this.#life.check();
    checkDataset(dataset);
    checkOptions(options, 'run(dataset, ...)', runOptions);
    for (const option of ['evaluation', 'frozen', 'online'] as const)
      if (options[option] !== undefined) checkArgument(option, options[option]);
    if (options.remarks !== undefined) checkTexts(options.remarks, 'remarks', 'a line');
    if (options.resume !== undefined)
      checkText(options.resume, 'resume', "'last', 'previous', 'best', or a checkpoint's folder");
    checkSignal(options.signal);
    return runDistillation(this, dataset, options);
  }

  /** Was it disposed of? */
  get disposed(): boolean {
    return this.#life.ended;
  }

  /**
   * Frees device memory, not the teacher's and the students' own; work that is queued is done first. Later calls throw
   * DISPOSED, also those of a run under way.
   */
  dispose(): void {
    if (this.#life.end() && !this.#queueing) this.#free();
  }

  /** For `using`: {@link dispose}. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  #free(): void {
    const { addon } = this.device;
    this.#cachedFeed?.dispose();
    this.#feed.dispose();
    for (const object of [this.#step, this.#images]) addon.release(object);
    for (const trainer of this.#trainers) trainer.dispose();
  }

  #trainer(student: number): StudentTrainer {
    this.#life.check();
    const trainer = this.#trainers[student];
    if (trainer === undefined)
      throw new LgdError('BAD_OPTION', 'there is no such student.', {
        option: 'student',
        found: student,
        allowed: `0 to ${this.#trainers.length - 1}`,
      });
    return trainer;
  }

  #some(students: readonly number[]): readonly StudentTrainer[] {
    if (Array.isArray(students) && students.length > 0 && new Set(students).size === students.length)
      return students.map((student) => this.#trainer(student));
    throw new LgdError('BAD_OPTION', 'these are not students that a step could be of.', {
      option: 'students',
      found: students,
      allowed: 'an array of numbers from 0, each once',
      mend: 'Leave it out where all are to learn',
    });
  }
}
