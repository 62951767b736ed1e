/** A training run, as those who take part in it know it. */
import type { OptionTable } from '../arguments.js';
import type { RunConfig } from '../config-batch.js';
import type { BatchPlan } from '../data/loader.js';
import type { FrozenEvaluation } from '../evaluate/during-training.js';
import type { EmbedOptions } from '../evaluate/embed.js';
import type { OnlineImages } from '../evaluate/online.js';
import type { ZeroShotScore } from '../evaluate/score.js';
import type { ZeroShotEvaluation } from '../evaluate/zeroshot.js';
import type { WaitedFor, WaitingEvent } from '../stall.js';
import type { Batch, Dataset } from './batch.js';
import type { ScoredOn } from './continued.js';
import type { RunImages } from './image-list.js';
import type { Schedule } from './schedule.js';
import type { StepTaker } from './steps.js';
import type { TeacherMark } from './teacher-mark.js';

/** How {@link Distiller.run} goes about it. */
export interface RunOptions {
  /** Stops the run after the steps under way, with a checkpoint. */
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

export const runOptions = {
  signal: 'optional',
  resume: 'optional',
  evaluation: 'optional',
  frozen: 'optional',
  online: 'optional',
  remarks: 'optional',
} satisfies OptionTable<RunOptions>;

/** A step that was planned. */
export interface PlannedStep {
  /** Its number, counted from 0. */
  step: number;
  learningRate: number;
  batches: Batch[];
}

/** What all students of a run share: the loop that they go through side by side. */
export interface Course {
  readonly distiller: StepTaker;
  readonly dataset: Dataset;
  readonly options: RunOptions;
  readonly config: RunConfig;
  /**
   * Each student's own: its name, and its folder below the common one. Of a lone student the configuration as it is.
   */
  readonly configs: readonly RunConfig[];
  /** Of the images that the run was begun with, once those are known. */
  readonly plan: BatchPlan;
  readonly schedule: Schedule;
  readonly images: RunImages;
  /** What tells the teacher from any other. */
  readonly teacherMark: TeacherMark;
  /** What scores are measured on; undefined where nothing is evaluated. */
  readonly scoredOn: ScoredOn | undefined;
  /** Optimiser steps an epoch; a fraction where accumulated batches cross its end. */
  readonly stepsPerEpoch: number;
  /** Where this run ends. */
  readonly lastStep: number;
  /** Passes over the images after this many steps. */
  epochs(step: number): number;
  /**
   * The teacher's zero-shot score on the evaluation images, computed once for all students; undefined where it has
   * none.
   */
  teacherScore(options: EmbedOptions): Promise<ZeroShotScore | undefined>;
  /** Is what this step measured written down? */
  isLogged(step: number): boolean;
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
  ): AsyncGenerator<WaitingEvent, Value, undefined>;
}
