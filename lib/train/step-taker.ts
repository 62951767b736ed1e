/** What a {@link Distiller} is without the run around its steps: its parts and settings, and one step at a time. */
import type { StepInfo } from '../addon/native.js';
import { checkArgument, checkOptions, checkTeacherKind, optionTable } from '../arguments.js';
import type { TextualSemanticsBank } from '../banks/textual.js';
import { takeStartBank } from '../banks/visual.js';
import { chooseBatch, type BatchChoice, type RunConfig } from '../config/batch.js';
import type { ChosenMethod, ConfigInput } from '../config/config.js';
import type { Device } from '../device.js';
import { checkSignal, LgdError } from '../errors.js';
import type { OnlineProbe } from '../evaluate/online.js';
import { checkRate, type CompiledEncoder } from '../models/compiled.js';
import type { AnyTeacher } from '../models/index.js';
import type { Student } from '../models/student.js';
import { checkBatch, checkBatches, type Batch } from './batch.js';
import {
  checkBank,
  checkDevices,
  checkSides,
  checkStudents,
  checkTeacherNumbers,
  configFor,
  parseFor,
} from './distiller-checks.js';
import { chooseMethod, describeChoice } from './method.js';
import { TrainingStep } from './step.js';
import { queueOptions, type MemoryUse, type QueueOptions, type StepMetrics, type StepTicket } from './steps.js';
import type { DistillerState } from './student-trainer.js';
import { plannedBytes } from './teacher-feed.js';
import { checkTeacherOfViews, type TeacherViewCache } from './view-cache.js';

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

const distillerOptions = optionTable<DistillerOptions>()('device teacher student tsb? config? images? onlineClasses?');

/** Takes the steps of a {@link Distiller}, whose base it is. */
export class StepTaker implements Disposable {
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
  readonly #step: TrainingStep;

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
    const parsed = parseFor(students, input);
    this.batchChoice = chooseBatch(
      parsed.train,
      images,
      students.map(({ name }) => name),
    );
    const method = (this.method = chooseMethod(parsed.method, tsb?.size ?? 0));
    const config = configFor(students, parsed, this.batchChoice, method);
    checkDevices(device, teacher, students);
    checkTeacherNumbers(teacher);
    checkTeacherOfViews(teacher, config);
    checkStudents(teacher, students);
    const resolution = config.data.resolution ?? teacher.resolution;
    checkSides(students, resolution, config);
    checkBank(teacher, tsb, parsed);
    [this.device, this.teacher, this.students, this.tsb, this.config] = [device, teacher, students, tsb, config];
    if (parsed.method === 'auto') this.methodChoice = describeChoice(method, tsb!.size);
    this.#step = new TrainingStep({
      device,
      teacher,
      students,
      resolution,
      tsb,
      vsb: tsb && takeStartBank(tsb, config.seed),
      config,
      method,
      onlineClasses,
    });
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
    return this.#step.trainer(student).encoder;
  }

  /**
   * Takes the teacher's embeddings from a cache as far as it has them, and fills it; undefined: none. The cache stays
   * the caller's. {@link Distiller.run} does so by `teacherCache.views`.
   * @throws LgdError BAD_OPTION (one of another device, whose thread would write it at the same time), DISPOSED
   */
  useViewCache(cache: TeacherViewCache | undefined): void {
    this.checkAlive();
    if (cache !== undefined && cache.device !== this.device)
      throw new LgdError('BAD_OPTION', 'the cache of teacher views was opened on another device.', {
        option: 'cache',
        found: cache.path,
        mend: "Open it on the distiller's",
      });
    cache?.checkAlive();
    this.#step.useViewCache(cache);
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
    this.checkAlive();
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
    const trainers = this.#step.trainers(students);
    const { batch: size } = this.encoder;
    for (const batch of batches)
      checkBatch(batch, size, trainers.find(({ online }) => online !== undefined)?.online!.classes);
    return this.#step.queue([...batches], trainers, { ...options });
  }

  /** Optimiser steps behind the weights of the student of this number, whoever had them taken. */
  stepsOf(student: number): number {
    return this.#step.trainer(student).steps;
  }

  /** The online probe of the student of this number, if there is one. */
  onlineOf(student: number): OnlineProbe | undefined {
    return this.#step.trainer(student).online;
  }

  /**
   * The numbers of a queued step, means over its batches. Call it once the step after it is queued, so that the device
   * has work while this waits; numbers that nobody reads are gone 64 batches later.
   * @param student which of several
   * @throws LgdError BAD_OPTION, NON_FINITE, ZERO_EMBEDDING, and whatever failed in the device's queue, in this
   *   distiller's steps or, where others use the device, beside them
   */
  async readMetrics(ticket: StepTicket, student = 0): Promise<StepMetrics> {
    this.#step.slots.check(ticket);
    const { slots, students } = ticket;
    const trainer = this.#step.trainer(student);
    if (!students.includes(student))
      throw new LgdError('BAD_OPTION', 'this student took no part in that step.', {
        option: 'student',
        found: student,
        allowed: students.join(', '),
      });
    return this.#step.ofWholeSteps(trainer.metrics(slots));
  }

  /** Device memory, as it is now. */
  get memory(): MemoryUse {
    this.checkAlive();
    const { allocatedBytes, peakBytes } = this.device.info;
    return {
      planned: this.plans.reduce((sum, plan) => sum + plannedBytes(plan), 0),
      used: allocatedBytes,
      peak: peakBytes,
    };
  }

  /** What was compiled for it: the students, and a teacher on the device. */
  get plans(): readonly CompiledEncoder[] {
    return this.#step.plans;
  }

  /** How the device ran the steps queued so far; resolves once it has taken them up. */
  async stepInfo(): Promise<StepInfo> {
    return this.#step.info();
  }

  /**
   * Waits for the steps whose {@link queueStep} has resolved and reads everything the next one depends on, besides the
   * images: where a {@link BatchPlan} stands is the plan's. Typed arrays and numbers, which `serialize` of node:v8
   * writes; JSON would lose the arrays.
   * @param student which of several
   * @throws LgdError as {@link readMetrics}
   */
  async state(student = 0): Promise<DistillerState> {
    return this.#step.ofWholeSteps(this.#step.trainer(student).state());
  }

  /**
   * Continues from a state; one of which a part does not fit leaves the student as it was.
   * @param student which of several
   * @throws LgdError BAD_MODEL, BAD_OPTION (of another optimiser), BAD_SHAPE, BAD_BANK
   */
  restore(state: DistillerState, student = 0): void {
    checkArgument('state', state);
    this.#step.trainer(student).restore(state);
  }

  /** @throws LgdError DISPOSED */
  protected checkAlive(): void {
    this.#step.life.check();
  }

  /** Was it disposed of? */
  get disposed(): boolean {
    return this.#step.life.ended;
  }

  /**
   * Frees device memory, not the teacher's and the students' own; work that is queued is done first. Later calls throw
   * DISPOSED, also those of a run under way.
   */
  dispose(): void {
    this.#step.dispose();
  }

  /** For `using`: {@link dispose}. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}
