/** The loop around the step: batches, schedule, evaluations, checkpoints, and the events that tell of them. */
import type { Config } from '../config.js';
import type { BrokenImage } from '../data/cache.js';
import { BatchPlan, type BatchPlanState } from '../data/loader.js';
import { LgdError } from '../errors.js';
import type { FrozenEvaluation, FrozenScores } from '../evaluate/during-training.js';
import type { ZeroShotScore } from '../evaluate/score.js';
import type { ZeroShotEvaluation } from '../evaluate/zeroshot.js';
import type { SemanticMetrics } from '../native.js';
import { version } from '../version.js';
import type { Batch, Dataset } from './batch.js';
import { CheckpointStore, type Manifest } from './checkpoint.js';
import type { Distiller, StepTicket } from './distiller.js';
import type { CheckpointEvent, EvaluationEvent, RunEvent, StepEvent } from './events.js';
import { imagesOf, imagesOfContinued, writeImageList, type RunImages } from './image-list.js';
import { LossMonitor, type MonitorState } from './monitor.js';
import { RateMeter } from './rate.js';
import { writeReplay } from './replay.js';
import { RunFolder } from './run-folder.js';
import { endLine, startLine } from './run-log.js';
import { makeSchedule, type Schedule } from './schedule.js';
import type { StudentInfo } from './student-file.js';

/** How {@link Distiller.run} goes about it. */
export interface RunOptions {
  /** Stops the run after the steps under way, with a checkpoint. */
  signal?: AbortSignal;
  /** Zero-shot evaluation every `evaluate.everyEpochs` and `evaluate.everySteps`. */
  evaluation?: ZeroShotEvaluation;
  /** Protocols on frozen features that go with it. */
  frozen?: FrozenEvaluation;
  /** Continue the run in the run folder: from its `last` checkpoint (or from the start where it has none yet), the `previous`, the `best`, or a checkpoint's folder. */
  resume?: 'last' | 'previous' | 'best' | (string & {});
}

/** What makes a checkpoint the best. */
type Metric = Exclude<Config['evaluate']['metric'], 'auto'>;

/** What a checkpoint keeps of the loop. */
interface Progress {
  plan: BatchPlanState;
  dataset: string;
  monitor: MonitorState;
  best: Manifest['best'];
  /** Step of the last evaluation; 0 before the first. */
  evaluated: number;
  teacherScore: ZeroShotScore | null;
}

/** A step in the device's queue. */
interface Pending {
  step: number;
  learningRate: number;
  batches: Batch[];
  ticket: StepTicket;
}

/** Runs a distiller over a data set. See {@link Distiller.run}. */
export async function* runDistillation(distiller: Distiller, dataset: Dataset, options: RunOptions): AsyncGenerator<RunEvent, void, undefined> {
  const run = await Run.open(distiller, dataset, options);
  try {
    yield* run.events();
  } catch (error) {
    await run.folder.log(`failed: ${(error as Error).message}`).catch(() => undefined); // a full disk must not hide the error
    throw error;
  } finally {
    await distiller.device.synchronize().catch(() => undefined); // nothing of this run stays queued, whatever ended it
    await run.folder.close();
  }
}

class Run {
  readonly #config: Config;
  readonly #plan: BatchPlan;
  readonly #schedule: Schedule;
  readonly #monitor: LossMonitor;
  readonly #metric: Metric;
  readonly #started = performance.now();
  /** Steps done and judged. */
  #step = 0;
  #evaluated = 0;
  #best: Manifest['best'] = null;
  #teacherScore: ZeroShotScore | undefined;
  #lastCheckpoint: { step: number; evaluated: number; folder: string; time: number };
  #memoryLogged = false;
  readonly #rate: RateMeter;

  private constructor(
    readonly distiller: Distiller,
    readonly dataset: Dataset,
    readonly options: RunOptions,
    readonly folder: RunFolder,
    readonly store: CheckpointStore,
    readonly images: RunImages,
  ) {
    const { config } = distiller;
    const { train, evaluate } = config;
    this.#config = config;
    this.#plan = new BatchPlan(images, { batchSize: train.batchSize, seed: config.seed });
    this.#schedule = makeSchedule({ ...train, effectiveBatch: train.batchSize * train.accumulate, stepsPerEpoch: this.#plan.stepsPerEpoch / train.accumulate });
    this.#monitor = new LossMonitor(train.outlierFactor);
    this.#rate = new RateMeter(Math.max(10, config.log.everySteps));
    this.#metric = evaluate.metric === 'auto' ? (options.evaluation === undefined ? 'loss' : 'top1') : evaluate.metric;
    this.#lastCheckpoint = { step: -1, evaluated: 0, folder: '', time: performance.now() };
  }

  static async open(distiller: Distiller, dataset: Dataset, options: RunOptions): Promise<Run> {
    const { config } = distiller;
    const plan = new BatchPlan(dataset, { batchSize: config.train.batchSize, seed: config.seed });
    if (plan.stepsPerEpoch * config.train.epochs < config.train.accumulate) {
      throw new LgdError('BAD_CONFIG', `the run has ${plan.stepsPerEpoch * config.train.epochs} batches, fewer than one step takes.`, { option: 'train.accumulate', found: config.train.accumulate, mend: 'Lower it, or train for more epochs' });
    }
    const folder = await RunFolder.open(config.output, config, { resume: options.resume !== undefined });
    try {
      const store = await CheckpointStore.open(config.output);
      const continues = options.resume !== undefined && (await store.list()).length > 0;
      const images = continues ? await imagesOfContinued(config, dataset, options.signal) : await imagesOf(dataset, options.signal);
      const run = new Run(distiller, dataset, options, folder, store, images);
      if (options.resume !== undefined) await run.#resume(options.resume);
      await folder.recordConfig(config); // only now: a path that turns out wrong must not take the place of the right one
      if (!continues) await writeImageList(config.output, dataset);
      return run;
    } catch (error) {
      await folder.close();
      throw error;
    }
  }

  async *events(): AsyncGenerator<RunEvent, void, undefined> {
    const { signal } = this.options;
    const { totalSteps } = this.#schedule;
    const { batchSize, accumulate, maxSteps } = this.#config.train;
    const lastStep = Math.min(totalSteps, maxSteps ?? totalSteps);
    const stepsPerEpoch = this.#plan.stepsPerEpoch / accumulate;
    const { length: images } = this.dataset;
    const broken = this.#broken();
    await this.folder.log(startLine({ step: this.#step, lastStep, images, broken: broken.length, device: this.distiller.device.info, version }));
    await this.folder.listBroken(broken);
    const { gone } = this.images;
    if (gone.length > 0) await this.folder.log(`${gone.length} images are gone since the run began (broken-images.txt lists them); the next ones stand in for them`);
    const { planned, used } = this.distiller.memory;
    await this.folder.log(`device memory: planned ${mebibytes(planned)} MiB for the parameters and activations of student and teacher, in use ${mebibytes(used)} MiB`);
    yield {
      type: 'start', step: this.#step, totalSteps, lastStep, stepsPerEpoch, images, broken: broken.length, effectiveBatch: batchSize * accumulate,
      memory: { planned: mebibytes(planned), used: mebibytes(used) },
    };
    let start = this.#rate.pause();
    if (this.#step > 0) yield* this.#boundary(lastStep); // an evaluation that a stop kept from being made
    start();
    let pending: Pending | undefined;
    for (let next = this.#step; next < lastStep && !signal?.aborted; next++) {
      // The step before is read while this one runs: the device never waits for the host, and is never more than two steps behind.
      const queued = await this.#queue(next);
      if (pending !== undefined) yield await this.#settle(pending, lastStep);
      pending = queued;
      if (!this.#isBoundary(next + 1, lastStep)) continue;
      yield await this.#settle(pending, lastStep);
      pending = undefined;
      start = this.#rate.pause();
      yield* this.#boundary(lastStep);
      start();
    }
    if (pending !== undefined) yield await this.#settle(pending, lastStep);
    const { step, evaluated } = this.#lastCheckpoint;
    if (step !== this.#step || evaluated !== this.#evaluated) yield await this.#checkpoint(false);
    const evaluationMissing = this.#evaluationDue(this.#step, lastStep) && this.#evaluated < this.#step;
    yield await this.#finish(this.#step >= lastStep && !evaluationMissing);
  }

  /** Plans and queues the step of this number, counted from 0. */
  async #queue(step: number): Promise<Pending> {
    const learningRate = this.#schedule.learningRate(step);
    const batches = Array.from({ length: this.#config.train.accumulate }, () => this.#nextBatch());
    try {
      const ticket = await this.distiller.queueStep(batches, { step, learningRate });
      return { step, learningRate, batches, ticket };
    } catch (error) {
      throw await this.#explained({ step, learningRate, batches }, error); // a teacher outside the device
    }
  }

  #nextBatch(): Batch {
    const batch = this.#plan.next();
    const { standIns } = this.images;
    return { ...batch, dataset: this.dataset, images: standIns === undefined ? batch.images : batch.images.map((index) => standIns[index]!) };
  }

  /** Images left out: those that could not be decoded, and those that are gone. */
  #broken(): BrokenImage[] {
    const { gone } = this.images;
    const ids = new Set(gone.map(({ id }) => id));
    return [...(this.dataset.broken ?? []).filter(({ id }) => !ids.has(id)), ...gone];
  }

  /** Waits for a queued step and judges its loss. */
  async #settle(pending: Pending, lastStep: number): Promise<StepEvent> {
    const from = performance.now();
    let metrics: SemanticMetrics;
    try {
      metrics = await this.distiller.readMetrics(pending.ticket);
    } catch (error) {
      throw await this.#explained(pending, error);
    }
    const waited = performance.now() - from;
    const wrong = this.#monitor.check(metrics.loss);
    if (wrong !== undefined) throw await this.#fault(pending, wrong);
    this.#step = pending.step + 1;
    const logged = this.#step % this.#config.log.everySteps === 0 || this.#step === 1 || this.#step === lastStep;
    const line = {
      type: 'step' as const, step: this.#step, epoch: this.#epochs(this.#step), ...metrics, learningRate: pending.learningRate,
      ...this.#rate.step(pending.batches.length * this.#config.train.batchSize, waited, pending.ticket.teacherMilliseconds),
    };
    if (logged) await this.folder.metrics(line);
    if (!this.#memoryLogged) await this.#logMemory();
    return { ...line, logged };
  }

  /** What the first step turned out to need. */
  async #logMemory(): Promise<void> {
    this.#memoryLogged = true;
    const { planned, used, peak } = this.distiller.memory;
    await this.folder.log(`device memory after the first step: in use ${mebibytes(used)} MiB, at most ${mebibytes(peak)} MiB (planned ${mebibytes(planned)} MiB)`);
  }

  /** What falls due after a step: an evaluation, a checkpoint. */
  async *#boundary(lastStep: number): AsyncGenerator<EvaluationEvent | CheckpointEvent, void, undefined> {
    let isBest = false;
    if (this.#evaluationDue(this.#step, lastStep) && this.#evaluated < this.#step) {
      const event = await this.#evaluate();
      if (event === undefined) return; // stopped: the checkpoint that follows says that the evaluation is still to be made
      isBest = event.best;
      yield event;
    }
    const { step, evaluated } = this.#lastCheckpoint;
    const unsaved = step !== this.#step || evaluated !== this.#evaluated;
    if (isBest || (unsaved && (this.#checkpointDue(this.#step) || this.#step === lastStep))) yield await this.#checkpoint(isBest);
  }

  #isBoundary(step: number, lastStep: number): boolean {
    return step === lastStep || this.#evaluationDue(step, lastStep) || this.#checkpointDue(step);
  }

  #evaluationDue(step: number, lastStep: number): boolean {
    if (this.options.evaluation === undefined) return false;
    const { everyEpochs, everySteps } = this.#config.evaluate;
    return step === lastStep || (everySteps > 0 && step % everySteps === 0) || this.#endsEpochs(step, everyEpochs);
  }

  #checkpointDue(step: number): boolean {
    const { everyEpochs, everySteps, everyMinutes } = this.#config.checkpoint;
    const late = everyMinutes > 0 && performance.now() - this.#lastCheckpoint.time >= everyMinutes * 60_000;
    return late || (everySteps > 0 && step % everySteps === 0) || this.#endsEpochs(step, everyEpochs);
  }

  /** Is this the first step after a number of whole epochs that `every` divides? */
  #endsEpochs(step: number, every: number): boolean {
    const whole = Math.floor(this.#epochs(step));
    return every > 0 && whole % every === 0 && whole > Math.floor(this.#epochs(step - 1));
  }

  /** Passes over the images after this many steps. */
  #epochs(step: number): number {
    return (step * this.#config.train.accumulate) / this.#plan.stepsPerEpoch;
  }

  async #evaluate(): Promise<EvaluationEvent | undefined> {
    const { signal } = this.options;
    const evaluation = this.options.evaluation!;
    const { encoder, teacher } = this.distiller;
    const from = performance.now();
    try {
      this.#teacherScore ??= await evaluation.evaluateTeacher(teacher, { batch: encoder.batch, precision: encoder.precision, signal });
      const student = await evaluation.evaluateEncoder(encoder, { signal });
      const also = await this.options.frozen?.evaluate(await encoder.state(), { signal });
      this.#evaluated = this.#step;
      const values: Record<Metric, number | undefined> = { top1: student.top1, top5: student.top5, loss: undefined, knn: also?.knn?.top1, linear: also?.linear?.top1 };
      const value = values[this.#metric];
      const best = value !== undefined && this.#improves(value);
      const event: EvaluationEvent = {
        type: 'evaluation', step: this.#step, epoch: this.#epochs(this.#step), student, teacher: this.#teacherScore, ...also, best, seconds: (performance.now() - from) / 1000,
      };
      await this.folder.metrics(event);
      await this.folder.log(`step ${this.#step}: zero-shot top-1 ${percent(student.top1)}, top-${student.topK} ${percent(student.top5)}${this.#teacherScore ? ` (teacher ${percent(this.#teacherScore.top1)}, ${percent(this.#teacherScore.top5)})` : ''}${alsoText(also)}${best ? ', the best so far' : ''}`);
      return event;
    } catch (error) {
      if (error instanceof LgdError && error.code === 'ABORTED' && signal?.aborted) return undefined;
      throw error;
    }
  }

  /** Takes a value in if it is better than the best so far. */
  #improves(value: number): boolean {
    const sign = this.#metric === 'loss' ? -1 : 1;
    if (!Number.isFinite(value) || (this.#best?.metric === this.#metric && sign * value <= sign * this.#best.value)) return false;
    this.#best = { metric: this.#metric, value, step: this.#step };
    return true;
  }

  async #checkpoint(isBest: boolean): Promise<CheckpointEvent> {
    if (this.#metric === 'loss') isBest = this.#improves(this.#monitor.smoothed);
    const { distiller } = this;
    const { weights, momentum, semantic } = await distiller.state();
    const progress: Progress = {
      plan: this.#plan.state(),
      dataset: this.images.hash,
      monitor: this.#monitor.state(),
      best: this.#best,
      evaluated: this.#evaluated,
      teacherScore: this.#teacherScore ?? null,
    };
    await this.folder.sync();
    const folder = await this.store.write(
      { info: this.#studentInfo(), weights, momentum, bank: distiller.tsb, semantic, progress },
      { best: this.#best, isBest, keep: this.#config.checkpoint.keep },
    );
    distiller.student.load(weights);
    this.#lastCheckpoint = { step: this.#step, evaluated: this.#evaluated, folder, time: performance.now() };
    await this.folder.log(`step ${this.#step}: checkpoint ${folder}${isBest ? ', the best so far' : ''}`);
    return { type: 'checkpoint', step: this.#step, epoch: this.#epochs(this.#step), folder, best: isBest };
  }

  async #finish(done: boolean): Promise<RunEvent> {
    const where = { step: this.#step, epoch: this.#epochs(this.#step), folder: this.#lastCheckpoint.folder };
    await this.folder.log(endLine(done, this.#step));
    await this.folder.sync();
    if (!done) return { type: 'interrupted', ...where };
    return { type: 'done', ...where, best: this.#best, seconds: (performance.now() - this.#started) / 1000 };
  }

  /** A fault of the numbers gets its step and a replay folder; any other error stays as it is. */
  async #explained(step: Omit<Pending, 'ticket'>, error: unknown): Promise<unknown> {
    if (!(error instanceof LgdError) || (error.code !== 'NON_FINITE' && error.code !== 'ZERO_EMBEDDING')) return error;
    return this.#fault(step, error.message.replace(/\.$/u, ''), error);
  }

  /** Writes what is needed to replay a step that went wrong, and makes the error that ends the run. */
  async #fault({ step, learningRate, batches }: Omit<Pending, 'ticket'>, reason: string, cause?: LgdError): Promise<LgdError> {
    const { folder } = this.#lastCheckpoint;
    const where = await writeReplay(this.distiller, this.folder.path, { step, learningRate, batches, reason, checkpoint: folder === '' ? null : folder });
    return new LgdError(cause?.code ?? 'NON_FINITE', `step ${step + 1} went wrong: ${reason}.`, {
      mend: `${where} Lower train.learningRate, or look at those images; train.outlierFactor sets what counts as an outlier`, cause,
    });
  }

  #studentInfo(): StudentInfo {
    const { student, teacher, tsb, encoder } = this.distiller;
    return {
      architecture: student.name,
      widthMultiplier: student.widthMultiplier,
      embeddingSize: student.embeddingSize,
      resolution: encoder.resolution,
      mean: teacher.mean,
      std: teacher.std,
      names: tsb?.names ?? [],
      templates: tsb?.templates ?? [],
      bankHash: tsb?.hash ?? '',
      textEncoder: tsb?.encoderId ?? '',
      teacher: teacher.id,
      method: this.#config.method,
      step: this.#step,
      epoch: Math.floor(this.#epochs(this.#step)),
    };
  }

  async #resume(which: string): Promise<void> {
    if (which === 'last' && (await this.store.list()).length === 0) {
      await this.folder.rewind(0, 0);
      await this.folder.log('there is no checkpoint yet: from the start');
      return;
    }
    const checkpoint = await this.store.read(which);
    const { info, folder } = checkpoint;
    const here = this.#studentInfo();
    for (const [field, option] of resumeFields) {
      if (here[field] === info[field]) continue;
      throw new LgdError('BAD_CHECKPOINT', `${folder} was made with another ${field}.`, { option, found: here[field], allowed: String(info[field]), mend: 'Resume with the configuration of that run' });
    }
    const progress = checkpoint.progress as Progress;
    if (progress.dataset !== this.images.hash) {
      throw new LgdError('BAD_CHECKPOINT', `${folder} was made with other images.`, { option: 'data.train', mend: 'Resume with the images of that run, none added, removed or broken since' });
    }
    this.#plan.restore(progress.plan);
    this.#monitor.restore(progress.monitor);
    this.distiller.restore(checkpoint);
    this.distiller.student.load(checkpoint.weights);
    [this.#step, this.#evaluated, this.#best, this.#teacherScore] = [info.step, progress.evaluated, progress.best, progress.teacherScore ?? undefined];
    this.#lastCheckpoint = { step: info.step, evaluated: progress.evaluated, folder, time: performance.now() };
    await this.folder.rewind(info.step, progress.evaluated);
    await this.folder.log(`resumed from ${folder}`);
  }
}

const resumeFields = [
  ['architecture', 'student.name'],
  ['widthMultiplier', 'student.widthMultiplier'],
  ['embeddingSize', 'teacher'],
  ['resolution', 'data.resolution'],
  ['teacher', 'teacher'],
  ['bankHash', 'bank'],
  ['method', 'method'],
] as const satisfies readonly (readonly [keyof StudentInfo, string])[];

function mebibytes(bytes: number): number {
  return Math.round(bytes / 2 ** 20);
}

function alsoText(scores: FrozenScores = {}): string {
  return Object.entries(scores).map(([name, { top1 }]) => `, ${name} ${percent(top1)}`).join('');
}

function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}
