/** What a run tells while it goes on. */
import type { ChosenMethod } from '../config/config.js';
import type { ZeroShotScore } from '../evaluate/score.js';
import type { WaitingEvent } from '../stall.js';
import type { StepMetrics } from './steps.js';

interface OfStudent {
  /** Which of several students it is about; absent where there is one. */
  studentName?: string;
}

/** Before the first step. */
export interface StartEvent extends OfStudent {
  type: 'start';
  /** Steps already done: 0, or those of the checkpoint that is continued. */
  step: number;
  /** Steps of the whole schedule. */
  totalSteps: number;
  /** Step at which this run ends: totalSteps, or train.maxSteps. */
  lastStep: number;
  /** Optimiser steps an epoch; a fraction where accumulated batches cross its end. */
  stepsPerEpoch: number;
  /** Training images. */
  images: number;
  /** Images that could not be decoded; broken-images.txt in the run folder lists them. */
  broken: number;
  /** Images an optimiser step. */
  effectiveBatch: number;
  method: ChosenMethod;
  /** Where `auto` chose the method: a line that says so, and why. */
  choice?: string;
  /** Where `auto` chose the batch size or the learning rate: a line that says what they are, and why. */
  batchChoice?: string;
  /**
   * Where the run has few steps, or would have other numbers if it had been told how many images there are: a line that
   * says what to do about it.
   */
  advice?: string;
  /**
   * Images that were left out of a source on opening; in a run that goes on: what is not as it was when it was left,
   * such as another kind of device, another value of an option that the weights depend on, or a file that it was
   * started from and that is gone. A line each.
   */
  remarks?: readonly string[];
  /**
   * Device memory in MiB: planned for the parameters (with gradients and what the optimiser keeps) and activations of
   * student and teacher, and in use now. The first step adds input and scratch memory.
   */
  memory: { planned: number; used: number };
}

/**
 * After each step; the numbers are those of this step alone, the rates those of the last ten steps or `log.everySteps`,
 * whichever is more.
 */
export interface StepEvent extends StepMetrics, OfStudent {
  type: 'step';
  /** Steps done. */
  step: number;
  /** Passes over the images done, with its fraction. */
  epoch: number;
  /** What the optimiser took in this step. */
  learningRate: number;
  /** Training images. */
  imagesPerSecond: number;
  /**
   * Share of the time that the loop spent on batches, foreign teachers and its caller rather than waiting for the
   * device.
   */
  dataWait: number;
  /** Share of the time spent on a teacher outside the device; part of dataWait, 0 for a teacher on it. */
  teacherWait: number;
  /** Was it written to metrics.jsonl? */
  logged: boolean;
}

/** After each evaluation. At least one of the scores is there. */
export interface EvaluationEvent extends OfStudent {
  type: 'evaluation';
  step: number;
  epoch: number;
  /** Of zero-shot classification; undefined where there are no names to choose among. */
  student: ZeroShotScore | undefined;
  /** The teacher's of the same; undefined also for one of precomputed embeddings. */
  teacher: ZeroShotScore | undefined;
  /** The student's of the protocols that `evaluate.also` names. */
  knn?: ZeroShotScore;
  linear?: ZeroShotScore;
  /** Of the online probe, with `evaluate.online`. */
  online?: ZeroShotScore;
  /** Is this the best so far? */
  best: boolean;
  seconds: number;
}

/** After each checkpoint. */
export interface CheckpointEvent extends OfStudent {
  type: 'checkpoint';
  step: number;
  epoch: number;
  folder: string;
  /** Is it the best so far? */
  best: boolean;
}

/** The last event of a run that its signal stopped; its checkpoint is written. */
export interface InterruptedEvent extends OfStudent {
  type: 'interrupted';
  step: number;
  epoch: number;
  folder: string;
}

/** The last event of a run that came to its end. */
export interface DoneEvent extends OfStudent {
  type: 'done';
  step: number;
  epoch: number;
  folder: string;
  /** The chosen metric's best value and where it was reached. */
  best: { metric: string; value: number; step: number } | null;
  /** Since this call of run() began: of a run that was continued those before are not in it. */
  seconds: number;
}

/** Everything that {@link Distiller.run} tells; `type` says which. */
export type RunEvent =
  StartEvent | StepEvent | WaitingEvent | EvaluationEvent | CheckpointEvent | InterruptedEvent | DoneEvent;
