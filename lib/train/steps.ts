/** What a step takes and gives: what {@link Distiller.queueStep} is asked, and what it answers. */
import type { SemanticMetrics } from '../addon/native.js';
import { optionTable } from '../arguments.js';

/** One step's numbers. */
export interface StepMetrics extends SemanticMetrics {
  /**
   * With `train.clipNorm`: norm of the gradient, of all parameters together, before it was clipped; the mean of
   * `train.accumulate` batches is what has it.
   */
  gradientNorm?: number;
}

/** What a step leaves to be read: which of the heads' metric slots its batches wrote. */
export interface StepTicket {
  slots: readonly number[];
  /** Numbers of the students that took part. */
  students: readonly number[];
  /** Milliseconds that the host spent on a teacher outside the device; 0 for one on it. */
  teacherMilliseconds: number;
  /** Slots given out before: numbers whose slot another step has taken are gone. */
  readonly slotsBefore: number;
}

/** Bytes of device memory. */
export interface MemoryUse {
  /**
   * What the plans of students and teacher ask for: parameters, with gradients and what the optimiser keeps where they
   * learn, and activations.
   */
  planned: number;
  /** What the device holds now: also banks, input and scratch memory, and whatever else was made on it. */
  used: number;
  /** What it held at most. */
  peak: number;
}

/** A part of a step. */
export type Stage = 'augment' | 'teacher' | 'student forward' | 'loss' | 'backward' | 'optimiser';
/** In the order in which they are queued. */
export const stages: readonly Stage[] = ['augment', 'teacher', 'student forward', 'loss', 'backward', 'optimiser'];

/** Options of {@link Distiller.queueStep}. */
export interface QueueOptions {
  /** Number of the step from 0; with the seed it keys dropout and stochastic depth. */
  step: number;
  /**
   * Of the optimiser, a number from 0, as it is: {@link makeSchedule} gives the one that {@link Distiller.run} would
   * take.
   */
  learningRate: number;
  /** Which of several students learn: their numbers from 0, each once; default: all. */
  students?: readonly number[] | undefined;
  /** Given to a teacher outside the device, which may stop by it: before anything of the students has moved. */
  signal?: AbortSignal | undefined;
  /**
   * Awaited whenever a part of the step has been queued, for measuring: what waits here keeps the step from starting as
   * a whole, and must not be the distiller's next step.
   */
  after?: ((stage: Stage) => Promise<void>) | undefined;
}

export const queueOptions = optionTable<QueueOptions>()('step learningRate students? signal? after?');
