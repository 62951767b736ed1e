/** What all students of a training run share. */
import { join } from 'node:path';
import { optionTable } from '../arguments.js';
import { checkFilled, checkSteps, type RunConfig } from '../config/batch.js';
import { openJpegDecoder } from '../data/jpeg-decoder.js';
import { BatchPlan } from '../data/loader.js';
import { LgdError } from '../errors.js';
import { markLabelled, type FrozenEvaluation } from '../evaluate/during-training.js';
import type { EmbedOptions } from '../evaluate/embed.js';
import type { OnlineImages } from '../evaluate/online.js';
import type { ZeroShotScore } from '../evaluate/score.js';
import type { ZeroShotEvaluation } from '../evaluate/zeroshot.js';
import type { RunFolder } from '../runs/run-folder.js';
import { waitingEvents, type WaitedFor, type WaitingEvent } from '../stall.js';
import type { Batch, Dataset } from './batch.js';
import type { Circumstances, ScoredOn } from './resume/continued.js';
import type { RunImages } from './resume/image-list.js';
import { markOf, type TeacherMark } from './resume/teacher-mark.js';
import { makeSchedule, type Schedule } from './schedule.js';
import type { StepTaker } from './step-taker.js';
import { viewCachePath } from './view-cache.js';

/** How {@link Distiller.run} goes about it. */
export interface RunOptions {
  /** Stops the run after the steps under way, with a checkpoint; before the start event with ABORTED instead. */
  signal?: AbortSignal | undefined;
  /** Zero-shot evaluation every `evaluate.everyEpochs` and `evaluate.everySteps`. */
  evaluation?: ZeroShotEvaluation | undefined;
  /** Protocols on frozen features, as often; with zero-shot or without. */
  frozen?: FrozenEvaluation | undefined;
  /** What online probes are judged on, with `evaluate.online`; as often. */
  online?: OnlineImages | undefined;
  /**
   * Continue the run in the run folder: from its `last` checkpoint (or from the start, with the same student, where it
   * has none yet), the `previous`, the `best`, or a checkpoint's folder. Other options than its configuration has are
   * taken, unless student, teacher, text bank, method, images or batches would be others; the start event and log.txt
   * name each that the weights depend on, with its value before, and config.json then has the new value alone.
   */
  resume?: 'last' | 'previous' | 'best' | (string & {}) | undefined;
  /** What turned out not to be as it was when the run was left: told when it starts, with what the checkpoint tells. */
  remarks?: readonly string[] | undefined;
}

export const runOptions = optionTable<RunOptions>()('signal? resume? evaluation? frozen? online? remarks?');

/** A step that was planned. */
export interface PlannedStep {
  /** Its number, counted from 0. */
  step: number;
  learningRate: number;
  batches: Batch[];
}

/** What all students of a run share: images and schedule, which they go through side by side. */
export class Course {
  readonly config: RunConfig;
  /**
   * Each student's own: its name, and its folder below the common one. Of a lone student the configuration as it is.
   */
  readonly configs: readonly RunConfig[];
  /** Run folders of the students, as far as they are open. */
  readonly folders: RunFolder[] = [];
  #plan!: BatchPlan;
  #schedule!: Schedule;
  #images: RunImages | undefined;
  #teacherMark: TeacherMark | undefined;
  #scoredOn: ScoredOn | undefined;
  #teacherScore: Promise<ZeroShotScore | undefined> | undefined;

  /** @throws LgdError BAD_CONFIG: the images make no batch, or no step */
  constructor(
    readonly distiller: StepTaker,
    readonly dataset: Dataset,
    readonly options: RunOptions,
  ) {
    const { config, students } = distiller;
    this.config = config;
    this.configs =
      students.length === 1
        ? [config]
        : students.map((student) => configOf(config, student.name, student.widthMultiplier));
    checkFilled(distiller.batchChoice, dataset.length);
    this.#planFor(dataset);
    checkSteps(config.train, this.plan.stepsPerEpoch);
  }

  #planFor(images: Pick<Dataset, 'length' | 'sourceIndex'>): void {
    const { train, seed } = this.config;
    this.#plan = new BatchPlan(images, { batchSize: train.batchSize, seed });
    this.#schedule = makeSchedule({ ...train, batchesPerEpoch: this.#plan.stepsPerEpoch });
  }

  /** Looks at the teacher and at what scores are measured on. @throws LgdError of a teacher; ABORTED */
  async mark(): Promise<void> {
    const { distiller, dataset, options } = this;
    this.#teacherMark = await markOf(distiller.teacher, dataset.ids, options.signal);
    this.#scoredOn = await markScored({ ...options, online: distiller.onlineOf(0) && options.online });
  }

  /**
   * Takes the images that the run of this student was begun with, of which some may be gone: all students see the same.
   * @throws LgdError BAD_CHECKPOINT
   */
  adopt(images: RunImages, student: number): void {
    if (this.#images === undefined) {
      this.#images = images;
      this.#planFor(images);
    }
    if (images.hash === this.#images.hash && images.gone.length === this.#images.gone.length) return;
    const { students } = this.distiller;
    throw new LgdError(
      'BAD_CHECKPOINT',
      `the run of ${students[student]!.name} was begun with other images than that of ${students[0]!.name}.`,
      {
        option: 'data.train',
        mend: 'Bring the images back as they were, or resume one student alone by its own folder',
      },
    );
  }

  /** Of the images that the run was begun with, once those are known. */
  get plan(): BatchPlan {
    return this.#plan;
  }

  get schedule(): Schedule {
    return this.#schedule;
  }

  get images(): RunImages {
    return this.#images!;
  }

  /** What scores are measured on; undefined where nothing is evaluated. */
  get scoredOn(): ScoredOn | undefined {
    return this.#scoredOn;
  }

  /** What checkpoints say of it, and a run that goes on is held to. */
  get circumstances(): Circumstances {
    const { train, teacherCache } = this.config;
    const { addon, info } = this.distiller.device;
    return {
      dataset: this.images.hash,
      views: teacherCache.views,
      accumulate: train.accumulate,
      jpegDecoder: openJpegDecoder(addon).name,
      // sums are added in another order by each
      computed: info.kind === 'cpu' ? 'the CPU' : `${info.name} by ${info.products}`,
      teacher: this.#teacherMark!,
      scoredOn: this.#scoredOn,
    };
  }

  /** Optimiser steps an epoch; a fraction where accumulated batches cross its end. */
  get stepsPerEpoch(): number {
    return this.plan.stepsPerEpoch / this.config.train.accumulate;
  }

  /** Where this run ends. */
  get lastStep(): number {
    const { totalSteps } = this.schedule;
    return Math.min(totalSteps, this.config.train.maxSteps ?? totalSteps);
  }

  /** Passes over the images after this many steps. */
  epochs(step: number): number {
    return (step * this.config.train.accumulate) / this.plan.stepsPerEpoch;
  }

  /** Is what this step measured written down? */
  isLogged(step: number): boolean {
    return step % this.config.log.everySteps === 0 || step === 1 || step === this.lastStep;
  }

  /**
   * The teacher's zero-shot score on the evaluation images, computed once for all students; undefined where it has
   * none.
   */
  async teacherScore(options: EmbedOptions): Promise<ZeroShotScore | undefined> {
    const { encoder, teacher } = this.distiller;
    this.#teacherScore ??= this.options.evaluation
      ?.evaluateTeacher(teacher, { batch: encoder.batch, precision: encoder.precision, ...options })
      .catch((error: unknown) => {
        this.#teacherScore = undefined; // one that was stopped is made again
        throw error;
      });
    return this.#teacherScore;
  }

  /**
   * What the promise gives, with a word on long waits.
   * @param step steps done
   * @param lastSign of an evaluation, see {@link tellingOfWaits}
   */
  patiently<Value>(
    promise: Promise<Value>,
    what: WaitedFor,
    step: number,
    lastSign?: () => number,
  ): AsyncGenerator<WaitingEvent, Value, undefined> {
    return waitingEvents(promise, what, { step, minutes: this.config.log.stallMinutes, lastSign }, async (message) => {
      for (const folder of this.folders) await folder.log(message);
    });
  }
}

/** Marks what scores are measured on; undefined where nothing is evaluated. */
async function markScored({ evaluation, frozen, online, signal }: RunOptions): Promise<ScoredOn | undefined> {
  const judged = evaluation === undefined ? (frozen?.options.test ?? online?.images) : undefined;
  if (evaluation === undefined && judged === undefined) return undefined;
  return {
    judged: evaluation === undefined ? await markLabelled(judged!, signal) : await evaluation.mark(signal),
    learnt: await frozen?.mark(signal),
  };
}

/** The configuration by which a student of several would be trained alone, into its own folder. */
function configOf(config: RunConfig, name: string, widthMultiplier: number): RunConfig {
  const teacherCache =
    config.teacherCache.views === 0 ? config.teacherCache : { ...config.teacherCache, file: viewCachePath(config) };
  return {
    ...config,
    output: join(config.output, name),
    teacherCache,
    student: { ...config.student, name, widthMultiplier },
  };
}
