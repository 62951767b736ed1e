/**
 * One student's side of a training run: its losses, evaluations and checkpoints, and the folder that they are written
 * to. The loop is in loop.ts.
 */
import { adviseBatch, type RunConfig } from '../config/batch.js';
import type { Config } from '../config/config.js';
import { remarksOnOptimizer } from '../config/optimizer.js';
import type { BatchPlanState } from '../data/loader.js';
import { isOfTheNumbers, type LgdError } from '../errors.js';
import type { EmbedOptions } from '../evaluate/embed.js';
import { hasCheckpoint } from '../files/checkpoint-folders.js';
import { hashIfReadable } from '../files/hash-file.js';
import { kindOf, type Student } from '../models/student.js';
import { notFinite } from '../models/weights.js';
import { version } from '../package.js';
import { CheckpointStore } from '../runs/checkpoint-store.js';
import { readRunConfig, RunFolder } from '../runs/run-folder.js';
import { endLine, startLine } from '../runs/run-log.js';
import type { StudentInfo } from '../runs/student-file.js';
import { watched, type WaitingEvent } from '../stall.js';
import { BrokenList } from './broken-list.js';
import type { Course, PlannedStep } from './course.js';
import { DueSteps } from './due.js';
import type { CheckpointEvent, DoneEvent, EvaluationEvent, InterruptedEvent, StartEvent, StepEvent } from './events.js';
import { GraphLog } from './graph-log.js';
import { evaluationLine, failureLines, mebibytes, memoryAfterLine, memoryLine } from './log-lines.js';
import { anchorsOf } from './method.js';
import { LossMonitor } from './monitor.js';
import type { Rates } from './rate.js';
import { faultOf } from './replay.js';
import { checkStart, hashStart } from './resume/beginning.js';
import { checkContinued, remarksOn, type Progress } from './resume/continued.js';
import { RunScores } from './run-scores.js';
import type { StepMetrics } from './steps.js';

export class Run {
  readonly config: RunConfig;
  readonly student: Student;
  readonly #monitor: LossMonitor;
  readonly #scores: RunScores;
  readonly #started = performance.now();
  /** Steps done and judged. */
  #step = 0;
  #judged: PlannedStep | undefined;
  #lastCheckpoint: { step: number; evaluated: number; folder: string; time: number };
  #memoryLogged = false;
  readonly #graphLog: GraphLog;
  readonly #broken: BrokenList;
  /** Of the file that the run was started from. */
  #startWeights: string | undefined;
  /** What is not as it was when the run was left, as its checkpoint tells. */
  #remarks: readonly string[] = [];
  /**
   * Lines of the log that follow its start: a line before would have the pause since the last one count as time of the
   * run.
   */
  readonly #told: string[] = [];

  private constructor(
    readonly course: Course,
    readonly number: number,
    readonly folder: RunFolder,
    readonly store: CheckpointStore,
  ) {
    this.config = course.configs[number]!;
    this.student = course.distiller.students[number]!;
    this.#monitor = new LossMonitor(course.config.train.outlierFactor);
    this.#scores = new RunScores(course, number, this.#queueFullAfter);
    this.#graphLog = new GraphLog(course.distiller, (line) => folder.log(line), number === 0);
    this.#broken = new BrokenList(course, folder);
    this.#lastCheckpoint = { step: -1, evaluated: 0, folder: '', time: performance.now() };
  }

  /** Opens the folder of the student of this number. @throws LgdError NOT_WRITABLE, BAD_CONFIG */
  static async open(course: Course, number: number): Promise<Run> {
    const config = course.configs[number]!;
    const { resume, signal } = course.options;
    const start = resume === undefined ? await hashStart(course.distiller.students[number]!, signal) : undefined;
    const folder = await RunFolder.open(config.output, config, { resume: resume !== undefined, start });
    try {
      const run = new Run(course, number, folder, await CheckpointStore.open(config.output));
      course.folders.push(folder);
      return run;
    } catch (error) {
      await folder.close().catch(() => undefined);
      throw error;
    }
  }

  /** Steps done and judged. */
  get step(): number {
    return this.#step;
  }

  /** Is there a checkpoint to continue from? */
  async continues(): Promise<boolean> {
    return this.course.options.resume !== undefined && (await hasCheckpoint(this.folder.path));
  }

  /** Has the log say something of how the run begins. */
  tell(line: string): void {
    this.#told.push(line);
  }

  /** Says what is about to begin. */
  async start(): Promise<StartEvent> {
    const { lastStep, schedule, stepsPerEpoch, dataset } = this.course;
    const { device, method, methodChoice, batchChoice, memory } = this.course.distiller;
    const { length: images } = dataset;
    const { batchSize, accumulate } = this.config.train;
    if (this.#step > 0) await this.#broken.recall();
    const { length: broken } = this.#broken.images;
    const { weights } = this.config.student;
    if (this.#step === 0 && weights !== undefined) this.#startWeights = await hashIfReadable(weights);
    await this.folder.log(startLine({ step: this.#step, lastStep, images, broken, device: device.info, version }));
    const advice =
      this.#step === 0 ? adviseBatch(this.course.config, batchChoice, images, schedule.totalSteps) : undefined;
    const remarks = [
      ...(this.course.options.remarks ?? []),
      ...this.#remarks,
      ...(this.#step === 0 ? remarksOnOptimizer(this.student.name, this.config.train) : []),
    ];
    const told: Pick<StartEvent, 'choice' | 'batchChoice' | 'advice'> = {
      ...(methodChoice !== undefined && { choice: methodChoice }),
      ...(batchChoice.words !== undefined && { batchChoice: batchChoice.words }),
      ...(advice !== undefined && { advice }),
    };
    for (const line of [...this.#told, ...Object.values(told), ...remarks]) await this.folder.log(line);
    await this.#broken.begin();
    await this.folder.log(memoryLine(memory, this.course.configs.length));
    return {
      type: 'start',
      ...this.#name,
      step: this.#step,
      totalSteps: schedule.totalSteps,
      lastStep,
      stepsPerEpoch,
      images,
      broken,
      effectiveBatch: batchSize * accumulate,
      method,
      ...told,
      ...(remarks.length > 0 && { remarks }),
      memory: { planned: mebibytes(memory.planned), used: mebibytes(memory.used) },
    };
  }

  /**
   * Judges a step that is done.
   * @param decodeRate images decoded for each second of a decoding thread since the last logged step, where any were
   */
  async judge(
    planned: PlannedStep,
    metrics: StepMetrics,
    rates: Rates,
    decodeRate: number | undefined,
  ): Promise<StepEvent> {
    if (planned.step === this.#queueFullAfter) this.#monitor.restart(); // the losses so far were over fewer embeddings
    const wrong = this.#monitor.check(metrics.loss);
    if (wrong !== undefined) throw await this.#fault(planned, wrong);
    this.#step = planned.step + 1;
    this.#judged = planned;
    const logged = this.course.isLogged(this.#step);
    const line = {
      type: 'step' as const,
      step: this.#step,
      epoch: this.course.epochs(this.#step),
      ...metrics,
      learningRate: planned.learningRate,
      ...rates,
    };
    if (logged) {
      await this.folder.metrics({ ...line, ...(decodeRate !== undefined && { decodeRate }) });
      await this.#broken.update();
      await this.#graphLog.afterStep();
    }
    if (!this.#memoryLogged) {
      this.#memoryLogged = true;
      await this.folder.log(memoryAfterLine(this.course.distiller.memory));
    }
    return { ...line, ...this.#name, logged };
  }

  /** What falls due after a step: an evaluation, a checkpoint. */
  async *boundary(): AsyncGenerator<EvaluationEvent | CheckpointEvent | WaitingEvent, void, undefined> {
    let isBest = false;
    if (this.#evaluationMissing) {
      let event: EvaluationEvent | undefined;
      try {
        event = yield* watched(
          (options) => this.#evaluate(options),
          this.course.options.signal,
          (evaluated, lastSign) => this.course.patiently(evaluated, 'evaluation', this.#step, lastSign),
        );
      } catch (error) {
        if (this.#unsaved && !isOfTheNumbers(error)) {
          // what keeps it from being written must not hide what happened
          const saved = await this.#checkpoint(false).catch(() => undefined);
          if (saved !== undefined) yield saved; // the evaluation is made up for by a resume
        }
        if (isOfTheNumbers(error) && this.#scores.ofStudent && this.#judged !== undefined)
          throw await this.#fault(
            this.#judged,
            `the student cannot be evaluated after it: ${withoutStop(error)}`,
            error,
          );
        throw error;
      }
      // stopped: the checkpoint that follows says that the evaluation is still to be made
      if (event === undefined) return;
      isBest = event.best;
      yield event;
    }
    if (isBest || (this.#unsaved && (this.#checkpointDue(this.#step) || this.#step === this.course.lastStep)))
      yield await this.#checkpoint(isBest);
  }

  /** Is one due that was not made, as where a run was stopped meanwhile? */
  get #evaluationMissing(): boolean {
    return this.#evaluationDue(this.#step) && this.#scores.evaluated < this.#step;
  }

  /** Does something fall due after this step? */
  isBoundary(step: number): boolean {
    return step === this.course.lastStep || this.#evaluationDue(step) || this.#checkpointDue(step);
  }

  get #unsaved(): boolean {
    const { step, evaluated } = this.#lastCheckpoint;
    return step !== this.#step || evaluated !== this.#scores.evaluated;
  }

  /** By the plan, which is known only once the course's images are. */
  get #due(): DueSteps {
    return new DueSteps(this.config, this.course.lastStep, (step) => this.course.epochs(step));
  }

  #evaluationDue(step: number): boolean {
    return this.course.scoredOn !== undefined && this.#due.evaluation(step);
  }

  #checkpointDue(step: number): boolean {
    const { everyMinutes } = this.config.checkpoint;
    const late = everyMinutes > 0 && performance.now() - this.#lastCheckpoint.time >= everyMinutes * 60_000;
    return late || this.#due.checkpoint(step);
  }

  async #evaluate(options: EmbedOptions): Promise<EvaluationEvent | undefined> {
    const event = await this.#scores.evaluate(this.#step, options);
    if (event === undefined) return undefined;
    await this.folder.metrics(event);
    await this.folder.log(evaluationLine(event));
    return { ...event, ...this.#name };
  }

  /** Steps after which a queue is full; 0 without one. */
  get #queueFullAfter(): number {
    const { loss, train } = this.config;
    const { queueSize } = anchorsOf(this.course.distiller.method, loss);
    return Math.ceil(queueSize / (train.batchSize * train.accumulate));
  }

  async #checkpoint(isBest: boolean): Promise<CheckpointEvent> {
    const { distiller, plan, circumstances } = this.course;
    const { weights, momentum, secondMoment, semantic, online } = await distiller.state(this.number);
    const broken = notFinite(weights); // a step's loss says nothing of what the step made of the weights
    if (broken !== undefined && this.#judged !== undefined)
      throw await this.#fault(this.#judged, `the weights after it are not finite (${broken})`);
    if (this.#due.comparison(this.#step)) isBest = this.#scores.improves(this.#monitor.smoothed, this.#step) ?? isBest;
    const progress: Progress = {
      plan: plan.state(),
      ...circumstances,
      startWeights: this.#startWeights,
      monitor: this.#monitor.state(),
      ...this.#scores.state(),
    };
    await this.folder.sync();
    const folder = await this.store.write(
      {
        info: this.#studentInfo(),
        weights,
        optimizer: this.config.train.optimizer,
        momentum,
        secondMoment,
        bank: distiller.tsb,
        semantic,
        online,
        progress,
      },
      { best: this.#scores.best, isBest, keep: this.config.checkpoint.keep },
    );
    this.student.load(weights);
    await this.#graphLog.atCheckpoint();
    this.#lastCheckpoint = { step: this.#step, evaluated: this.#scores.evaluated, folder, time: performance.now() };
    await this.folder.log(`step ${this.#step}: checkpoint ${folder}${isBest ? ', the best so far' : ''}`);
    return { type: 'checkpoint', ...this.#where, folder, best: isBest };
  }

  /** The checkpoint that a run ends with, where the last one is older. */
  async *save(): AsyncGenerator<CheckpointEvent, void, undefined> {
    if (this.#unsaved) yield await this.#checkpoint(false);
  }

  async finish(): Promise<InterruptedEvent | DoneEvent> {
    const done = this.#step >= this.course.lastStep && !this.#evaluationMissing;
    const where = { ...this.#where, folder: this.#lastCheckpoint.folder };
    await this.#broken.update();
    await this.#graphLog.atEnd();
    await this.folder.log(endLine(done, this.#step));
    await this.folder.sync();
    if (!done) return { type: 'interrupted', ...where };
    return { type: 'done', ...where, best: this.#scores.best, seconds: (performance.now() - this.#started) / 1000 };
  }

  /** Writes down what ended the run, what to do about it, and what there is to go on from. */
  async logFailure(error: unknown): Promise<void> {
    for (const line of failureLines(error, this.#step, this.#lastCheckpoint)) await this.folder.log(line);
  }

  /** Which of several students an event is about. */
  get #name(): { studentName?: string } {
    return this.course.configs.length > 1 ? { studentName: this.student.name } : {};
  }

  /** What the events after a step have in common. */
  get #where(): { studentName?: string; step: number; epoch: number } {
    return { ...this.#name, step: this.#step, epoch: this.course.epochs(this.#step) };
  }

  /** A fault of the numbers gets its step and a replay folder; any other error stays as it is. */
  async explained(planned: PlannedStep, error: unknown): Promise<unknown> {
    if (!isOfTheNumbers(error)) return error;
    return this.#fault(planned, withoutStop(error), error);
  }

  #fault({ step, learningRate, batches }: PlannedStep, reason: string, cause?: LgdError): Promise<LgdError> {
    const { folder } = this.#lastCheckpoint;
    return faultOf(
      this.course.distiller,
      this.folder.path,
      {
        student: this.number,
        config: this.config,
        step,
        learningRate,
        batches,
        reason,
        checkpoint: folder === '' ? null : folder,
      },
      cause,
    );
  }

  #studentInfo(): StudentInfo {
    const { distiller } = this.course;
    const { teacher, tsb, method } = distiller;
    return {
      ...kindOf(this.student, distiller.encoderOf(this.number).resolution),
      mean: teacher.mean,
      std: teacher.std,
      names: tsb?.names ?? [],
      templates: tsb?.templates ?? [],
      bankHash: tsb?.hash ?? '',
      textEncoder: tsb?.encoderId ?? '',
      teacher: teacher.id,
      method,
      step: this.#step,
      epoch: Math.floor(this.course.epochs(this.#step)),
    };
  }

  /**
   * Takes up what a checkpoint holds.
   * @returns where the batches stood; undefined where there is no checkpoint yet
   * @throws LgdError BAD_CHECKPOINT
   */
  async resume(which: string): Promise<BatchPlanState | undefined> {
    if (which === 'last' && !(await hasCheckpoint(this.folder.path))) {
      const { signal } = this.course.options;
      await checkStart(this.folder.path, this.student, signal);
      await this.folder.recordStart(await hashStart(this.student, signal));
      await this.folder.rewind(0, 0);
      this.tell('there is no checkpoint yet: from the start');
      return undefined;
    }
    const checkpoint = await this.store.read(which);
    const { info, folder } = checkpoint;
    const progress = checkpoint.progress as Progress;
    const { circumstances, distiller } = this.course;
    const present = { info: this.#studentInfo(), config: this.config, teacher: distiller.teacher, circumstances };
    checkContinued(checkpoint, progress, present);
    this.course.plan.restore(progress.plan); // refuses another seed, batch size or number of images
    this.#monitor.restore(progress.monitor);
    distiller.restore({ ...checkpoint, steps: info.step }, this.number);
    this.student.load(checkpoint.weights);
    this.#step = info.step;
    this.#startWeights = progress.startWeights;
    this.#scores.restore(progress);
    this.#lastCheckpoint = { step: info.step, evaluated: progress.evaluated, folder, time: performance.now() };
    await this.folder.rewind(info.step, progress.evaluated);
    this.tell(`resumed from ${folder}`);
    const before = (await readRunConfig(this.folder.path).catch(() => undefined)) as Partial<Config> | null | undefined;
    this.#remarks = await remarksOn(progress, before, present);
    return progress.plan;
  }
}

const withoutStop = ({ message }: LgdError) => message.replace(/\.$/u, '');
