/**
 * What a run will take, found out before it starts: a few measured steps, the time each part of them takes, and the
 * memory of larger batches.
 */
import { checkArgument, checkOptions, optionTable } from '../arguments.js';
import { median } from '../averages.js';
import { checkFilled, checkSteps } from '../config/batch.js';
import { BatchPlan } from '../data/loader.js';
import { throwIfAborted } from '../errors.js';
import { endedBy } from '../lifetime.js';
import { freeMemory } from '../machine/memory.js';
import { resizable } from '../models/teachers/tower-sizes.js';
import { largestBatch, type BatchMemory } from './batch-memory.js';
import { preparedBatches, type Batch, type Dataset } from './batch.js';
import type { Distiller, DistillerState } from './distiller.js';
import { makeSchedule } from './schedule.js';
import { stages, type Stage, type StepTicket } from './steps.js';

/** A part of a step, or `data`: what the loop does for a batch before it is queued. */
export type TimedStage = 'data' | Stage;

/** What {@link preflight} finds. */
export interface PreflightReport {
  type: 'preflight';
  students: string[];
  /** Images an optimiser step. */
  effectiveBatch: number;
  /** Optimiser steps of the run. */
  steps: number;
  /** Where `auto` chose the batch size or the learning rate: a line that says what they are, and why. */
  batchChoice?: string;
  imagesPerSecond: number;
  /**
   * Of all the run's steps; evaluations and checkpoints come on top. Epochs that find all embeddings in `teacherCache`
   * are counted without the teacher's share.
   */
  hours: number;
  /** Bytes of device memory. */
  memory: {
    /** Foreseen for students and teacher: parameters and activations. */
    planned: number;
    /** Held after the measured steps. */
    used: number;
    /** Held at most, from when the device was opened. */
    peak: number;
    /** What there is for this run: the device's memory, on the CPU what is free besides what is used already. */
    available: number;
  };
  /** The largest `train.batchSize` that fits by prediction, and what is foreseen for it. */
  largestBatch: BatchMemory;
  /**
   * Time of each part of a step, one after the other: milliseconds a step, and the share of their sum. A GPU runs the
   * teacher beside the student, so that a step may take less than their sum.
   */
  stages: { stage: TimedStage; milliseconds: number; share: number }[];
  bottleneck: TimedStage;
  /** What would shorten the bottleneck. */
  advice: string;
}

/** How {@link preflight} goes about it. */
export interface PreflightOptions {
  /** Time to measure for, twice, besides a first step; default 2. A single step may take longer. */
  seconds?: number | undefined;
  signal?: AbortSignal | undefined;
}

const preflightOptions = optionTable<PreflightOptions>()('seconds? signal?');

const mostSteps = 8;

/**
 * Measures a few steps on the first batches of a run. Weights, momentum and banks are put back as they were, so that a
 * run after it has the bits of one without it.
 * @throws LgdError as {@link Distiller.run} does in its first steps; BAD_OPTION, ABORTED
 */
export async function preflight(
  distiller: Distiller,
  dataset: Dataset,
  options: PreflightOptions = {},
): Promise<PreflightReport> {
  checkOptions(options, 'preflight()', preflightOptions);
  checkArgument('distiller', distiller);
  checkArgument('dataset', dataset);
  const { seconds = 2, signal } = options;
  const { config, students, batchChoice } = distiller;
  const { train, seed } = config;
  checkFilled(batchChoice, dataset.length);
  const plan = new BatchPlan(dataset, { batchSize: train.batchSize, seed });
  checkSteps(train, plan.stepsPerEpoch);
  const schedule = makeSchedule({ ...train, batchesPerEpoch: plan.stepsPerEpoch });
  const before: DistillerState[] = [];
  for (const number of students.keys()) before.push(await distiller.state(number));
  const trial = new Trial(distiller, dataset, plan, signal);
  try {
    const first = await trial.staged();
    const inTurn = await repeat(seconds, first.total, () => trial.staged());
    const timings = inTurn.length > 0 ? inTurn : [first]; // a step of several seconds is not made again
    if (distiller.device.kind !== 'cpu' && inTurn.length > 0) await trial.queued(2); // graphs are built
    const milliseconds =
      inTurn.length > 0 ? await trial.queued(steps(seconds, median(timings.map(({ total }) => total)))) : first.total;
    const { planned, used, peak } = distiller.memory;
    const available = availableBytes(distiller, used);
    const parts = partsOf(timings);
    const bottleneck = parts.reduce((most, part) => (part.milliseconds > most.milliseconds ? part : most)).stage;
    const images = train.batchSize * train.accumulate;
    const lastStep = Math.min(schedule.totalSteps, train.maxSteps ?? Infinity);
    return {
      type: 'preflight',
      students: students.map(({ name }) => name),
      effectiveBatch: images,
      steps: lastStep,
      ...(batchChoice.words !== undefined && { batchChoice: batchChoice.words }),
      imagesPerSecond: (1000 * images) / milliseconds,
      hours:
        (milliseconds * effectiveSteps(distiller, lastStep, plan.stepsPerEpoch / train.accumulate, parts)) / 3_600_000,
      memory: { planned, used, peak, available },
      largestBatch: largestBatch(distiller, { used, available, most: dataset.length }),
      stages: parts,
      bottleneck,
      advice: advise(bottleneck, distiller),
    };
  } finally {
    await endedBy(
      async () => before.forEach((state, number) => distiller.restore(state, number)),
      () => trial.close(),
    );
  }
}

/**
 * Steps that take as long as all do together: those whose embeddings are cached by then leave the teacher's share out.
 */
function effectiveSteps(
  { config }: Distiller,
  lastStep: number,
  stepsPerEpoch: number,
  parts: PreflightReport['stages'],
): number {
  const { views } = config.teacherCache;
  if (views === 0) return lastStep;
  const fresh = Math.min(lastStep, views * stepsPerEpoch);
  const share = parts.find(({ stage }) => stage === 'teacher')!.share;
  return fresh + (lastStep - fresh) * (1 - share);
}

interface StepTiming {
  milliseconds: Map<TimedStage, number>;
  total: number;
}

/** Steps that nobody keeps. They learn nothing: at the run's rate, more of them than it has could go astray. */
class Trial {
  #step = 0;
  readonly #batches: AsyncGenerator<Batch, void, undefined>;
  /** Those that are not given back yet. */
  readonly #taken = new Set<Batch>();

  constructor(
    readonly distiller: Distiller,
    dataset: Dataset,
    plan: BatchPlan,
    readonly signal: AbortSignal | undefined,
  ) {
    this.#batches = preparedBatches(dataset, plan, {
      standIns: undefined,
      ahead: distiller.config.data.readAhead,
      signal,
    });
  }

  /** One step, part by part: each is waited for before the next is queued. */
  async staged(): Promise<StepTiming> {
    const milliseconds = new Map<TimedStage, number>();
    let from = performance.now();
    const begun = from;
    const took = (stage: TimedStage) => {
      const now = performance.now();
      milliseconds.set(stage, (milliseconds.get(stage) ?? 0) + now - from);
      from = now;
    };
    const batches = await this.#next();
    took('data');
    const ticket = await this.distiller.queueStep(batches, {
      step: this.#step++,
      learningRate: 0,
      signal: this.signal,
      after: async (stage) => {
        await this.distiller.device.synchronize();
        took(stage);
      },
    });
    await this.#read(ticket, batches);
    return { milliseconds, total: performance.now() - begun };
  }

  /**
   * Milliseconds a step of `count` steps that are queued as a run queues them, the last one read while the next one
   * runs.
   */
  async queued(count: number): Promise<number> {
    const from = performance.now();
    let pending: { ticket: StepTicket; batches: readonly Batch[] } | undefined;
    for (let i = 0; i < count; i++) {
      const batches = await this.#next();
      const ticket = await this.distiller.queueStep(batches, {
        step: this.#step++,
        learningRate: 0,
        signal: this.signal,
      });
      if (pending !== undefined) await this.#read(pending.ticket, pending.batches);
      pending = { ticket, batches };
    }
    if (pending !== undefined) await this.#read(pending.ticket, pending.batches);
    await this.distiller.device.synchronize();
    return (performance.now() - from) / count;
  }

  /** Gives back all batches, also of steps that failed, once nothing of these is queued any more. */
  async close(): Promise<void> {
    await this.distiller.device.synchronize().catch(() => undefined); // the fault that ends the trial itself
    this.#release(this.#taken);
    await this.#batches.return();
  }

  #release(batches: Iterable<Batch>): void {
    for (const batch of batches) if (this.#taken.delete(batch)) batch.release?.();
  }

  async #read(ticket: StepTicket, batches: readonly Batch[]): Promise<void> {
    for (const number of this.distiller.students.keys()) await this.distiller.readMetrics(ticket, number);
    this.#release(batches);
  }

  async #next(): Promise<Batch[]> {
    throwIfAborted(this.signal, 'the measurement');
    const batches: Batch[] = [];
    while (batches.length < this.distiller.config.train.accumulate) {
      const { value } = await this.#batches.next();
      this.#taken.add(value!);
      batches.push(value!);
    }
    return batches;
  }
}

/** How many steps fill so many seconds. */
function steps(seconds: number, milliseconds: number): number {
  return Math.min(mostSteps, Math.max(1, Math.floor((1000 * seconds) / milliseconds)));
}

/** Measures again for so many seconds; not at all where one measurement takes longer. */
async function repeat<Result>(
  seconds: number,
  milliseconds: number,
  measure: () => Promise<Result>,
): Promise<Result[]> {
  const results: Result[] = [];
  if (milliseconds > 1000 * seconds) return results;
  const until = performance.now() + 1000 * seconds;
  while (results.length === 0 || (results.length < mostSteps && performance.now() < until))
    results.push(await measure());
  return results;
}

function partsOf(timings: readonly StepTiming[]): PreflightReport['stages'] {
  const parts = (['data', ...stages] as const).map((stage) => ({
    stage,
    milliseconds: median(timings.map(({ milliseconds }) => milliseconds.get(stage) ?? 0)),
  }));
  const sum = parts.reduce((total, { milliseconds }) => total + milliseconds, 0);
  return parts.map((part) => ({ ...part, share: part.milliseconds / sum }));
}

function availableBytes({ device }: Distiller, used: number): number {
  const { kind, info } = device;
  if (kind === 'cuda') return info.memoryBytes;
  return used + freeMemory();
}

function advise(stage: TimedStage, { device, teacher, config, students }: Distiller): string {
  const gpu = device.kind === 'cpu' ? ', or a GPU' : '';
  switch (stage) {
    case 'data':
      return 'Images are not there in time: pack them (lgdistill pack), more data.cacheMemory, a faster disk for data.spillFolder, or more cores.';
    case 'augment':
      return `Views are cut from large images: lower data.margin or data.resolution${gpu}.`;
    case 'teacher':
      return teacher.kind === 'onnx'
        ? 'The teacher computes outside the device (ONNX: on the CPU): take one whose weights are in safetensors, which runs on it.'
        : teacher.kind === 'custom'
          ? 'The teacher is your own and computes outside the device: make its embed() faster, or keep its embeddings of views that come back (teacherCache.views).'
          : `Take a smaller teacher${teacher.kind === 'native' && resizable.includes(teacher.architecture) ? ' or a lower teacherResolution' : ''}, keep its embeddings of views that come back (teacherCache.views), or teach several students in one pass (student.name with commas)${gpu}.`;
    case 'loss':
      return `The loss looks at every name: a shorter list of names${gpu}.`;
    case 'optimiser':
      return 'Few images share one update: a larger train.batchSize, or train.accumulate.';
    case 'student forward':
    case 'backward':
      return `${students.length > 1 ? 'The students are' : 'The student is'} what takes the time: a lower data.resolution, a smaller student${config.student.widthMultiplier > 1 ? ' or student.widthMultiplier' : ''}${gpu}.`;
  }
}
