/**
 * The loop around the step: batches and schedule, and what each student's run makes of them. Students of one distiller
 * go through it side by side.
 */
import { hasCode } from '../errors.js';
import { clearGroup, openGroupFolder, recordGroup } from '../runs/group-folder.js';
import type { WaitingEvent } from '../stall.js';
import { preparedBatches, type Batch, type Dataset } from './batch.js';
import { Course, type PlannedStep, type RunOptions } from './course.js';
import type { RunEvent, StepEvent } from './events.js';
import { RateMeter } from './rate.js';
import { checkAsBegun, checkBeginning } from './resume/beginning.js';
import { imagesOf, imagesOfContinued, writeImageList } from './resume/image-list.js';
import { Run } from './run.js';
import type { StepTaker } from './step-taker.js';
import type { StepMetrics, StepTicket } from './steps.js';
import { checkViewCache, TeacherViewCache } from './view-cache.js';

/** A step in the device's queue. */
interface Pending extends PlannedStep {
  /** Those that learn in it: one that continues from a later checkpoint than the others waits for them. */
  runs: readonly Run[];
  ticket: StepTicket;
}

/** Runs a distiller over a data set. See {@link Distiller.run}. */
export async function* runDistillation(
  distiller: StepTaker,
  dataset: Dataset,
  options: RunOptions,
): AsyncGenerator<RunEvent, void, undefined> {
  const loop = await TrainingLoop.open(distiller, dataset, options);
  let failed = false;
  try {
    yield* loop.events();
  } catch (error) {
    failed = true;
    // a full disk must not hide the error
    for (const run of loop.runs) await run.logFailure(error).catch(() => undefined);
    throw error;
  } finally {
    await loop.close().catch((error: unknown) => {
      if (!failed) throw error;
    });
  }
}

class TrainingLoop {
  readonly #rate: RateMeter;
  readonly #runs: Run[] = [];
  /** Begun with the first batch, where the plan stands by then. */
  #batches: AsyncGenerator<Batch, void, undefined> | undefined;
  /** A caller that leaves the run in the middle of a wait for images, or for a teacher, does not wait for them. */
  readonly #closing = new AbortController();
  /** That, or the run's own signal. */
  readonly #stop: AbortSignal;
  /** The step that is being queued, or was last. */
  #queueing: Promise<unknown> | undefined;
  /** Those that steps have been given, until the work on them is done. */
  readonly #taken = new Set<Batch>();
  #decoded = { images: 0, seconds: 0 };
  #views: TeacherViewCache | undefined;
  /** Of the folder of several students. */
  #unlock: (() => Promise<void>) | undefined;

  private constructor(readonly course: Course) {
    this.#rate = new RateMeter(Math.max(10, course.config.log.everySteps));
    const { signal } = course.options;
    this.#stop = AbortSignal.any([this.#closing.signal, ...(signal ? [signal] : [])]);
  }

  static async open(distiller: StepTaker, dataset: Dataset, options: RunOptions): Promise<TrainingLoop> {
    const course = new Course(distiller, dataset, options);
    const { config, configs } = course;
    const { resume, signal } = options;
    for (const [number, { output }] of configs.entries()) await checkBeginning(distiller, number, output, resume);
    await course.mark(); // before anything is cleared: it may fail
    if (resume === undefined)
      await checkViewCache({
        teacher: distiller.teacher,
        config,
        precision: distiller.encoder.precision,
        dataset,
        signal,
      });
    const loop = new TrainingLoop(course);
    const names = distiller.students.map(({ name }) => name);
    if (resume !== undefined) for (const { output } of configs) await checkAsBegun(distiller, output);
    if (configs.length > 1) loop.#unlock = await openGroupFolder(config, names, resume);
    else if (resume === undefined && config.overwrite) await clearGroup(config.output);
    try {
      for (const number of configs.keys()) loop.#runs.push(await Run.open(course, number));
      const continued: boolean[] = [];
      for (const [number, run] of loop.#runs.entries()) {
        const continues = await run.continues();
        const images = continues
          ? await imagesOfContinued(configs[number]!, dataset, signal)
          : await imagesOf(dataset, signal);
        course.adopt(images, number);
        continued.push(continues);
      }
      await loop.#resume();
      await loop.#openViews();
      // Only now: a path that turns out wrong must not take the place of the right one.
      if (configs.length > 1 && resume !== undefined) await recordGroup(config, names);
      for (const [number, run] of loop.#runs.entries()) {
        await run.folder.recordConfig(configs[number]!);
        if (!continued[number]) await writeImageList(configs[number]!.output, dataset);
      }
      return loop;
    } catch (error) {
      await loop.close().catch(() => undefined);
      throw error;
    }
  }

  get runs(): readonly Run[] {
    return this.#runs;
  }

  /** Lets nothing of this run stay queued, whatever ended it, gives back all batches, and closes the folders. */
  async close(): Promise<void> {
    this.#closing.abort();
    await this.#queueing?.catch(() => undefined); // by now the teacher is not waited for
    await this.course.distiller.device.synchronize().catch(() => undefined);
    const faults: unknown[] = [];
    const releaseAll = () => {
      while (this.#taken.size > 0) {
        try {
          this.#release(this.#taken);
        } catch (error) {
          faults.push(error); // of a caller's own data set: the folders are closed all the same
        }
      }
    };
    releaseAll();
    await this.#batches?.return();
    releaseAll(); // what came meanwhile
    if (this.#views !== undefined) {
      const { distiller } = this.course;
      if (!distiller.disposed) distiller.useViewCache(undefined);
      this.#views.dispose();
    }
    const closed = await Promise.allSettled(this.course.folders.map((folder) => folder.close()));
    await this.#unlock?.();
    const failed = closed.find((result) => result.status === 'rejected');
    if (failed !== undefined) throw failed.reason;
    if (faults.length > 0) throw faults[0];
  }

  async *events(): AsyncGenerator<RunEvent, void, undefined> {
    const { course } = this;
    const { lastStep } = course;
    const { signal } = course.options;
    for (const run of this.#runs) yield await run.start();
    let start = this.#rate.pause();
    // an evaluation that a stop kept from being made
    for (const run of this.#runs) if (run.step > 0) yield* run.boundary();
    start();
    let pending: Pending | undefined;
    let unread: unknown;
    for (let next = this.#firstStep; next < lastStep && !signal?.aborted; next++) {
      // The step before is read while this one runs: the device never waits for the host, and is never more than two
      // steps behind.
      let batches: Batch[] | undefined;
      try {
        batches = yield* course.patiently(this.#takeBatches(), 'images', next);
      } catch (error) {
        unread = error; // which says nothing of the steps before: they are kept
      }
      if (batches === undefined) break;
      const queueing = this.#queue(next, batches);
      this.#queueing = queueing;
      const queued = yield* course.patiently(queueing, 'teacher', next);
      if (queued === undefined) break;
      if (pending !== undefined) yield* this.#settle(pending);
      pending = queued;
      if (!queued.runs.some((run) => run.isBoundary(next + 1))) continue;
      yield* this.#settle(pending);
      pending = undefined;
      start = this.#rate.pause();
      for (const run of queued.runs) yield* run.boundary();
      start();
    }
    if (pending !== undefined) yield* this.#settle(pending);
    for (const run of this.#runs) yield* run.save();
    if (unread !== undefined) throw unread;
    for (const run of this.#runs) yield await run.finish();
  }

  get #firstStep(): number {
    return Math.min(...this.#runs.map(({ step }) => step));
  }

  /** Continues every student from its own checkpoint, and the batches from the earliest. */
  async #resume(): Promise<void> {
    const { plan } = this.course;
    const { resume } = this.course.options;
    if (resume === undefined) return;
    const begin = plan.state();
    const plans = [];
    for (const run of this.#runs) plans.push(await run.resume(resume));
    const first = this.#runs.findIndex(({ step }) => step === this.#firstStep);
    plan.restore(plans[first] ?? begin);
  }

  /** Opens the cache of teacher embeddings, if there is to be one. */
  async #openViews(): Promise<void> {
    const { config, distiller, dataset, images } = this.course;
    const { signal } = this.course.options;
    const { teacher, device } = distiller;
    const { precision } = distiller.encoder;
    if (config.teacherCache.views === 0) return;
    const views = await TeacherViewCache.open({ device, teacher, config, precision, dataset, images, signal });
    this.#views = views;
    distiller.useViewCache(views);
    const rows = views.images * views.views;
    for (const run of this.#runs) {
      run.tell(
        `teacher views: ${views.views} of each image in ${views.path} (${Math.ceil(views.bytes / 2 ** 20)} MiB), ${views.filled} of ${rows} are there${views.damaged > 0 ? `; ${views.damaged} were damaged and are filled again` : ''}`,
      );
    }
  }

  /**
   * Queues the step of this number, counted from 0; undefined where the run is stopped while a teacher outside the
   * device computes.
   */
  async #queue(step: number, batches: Batch[]): Promise<Pending | undefined> {
    const { distiller, plan, schedule } = this.course;
    const learningRate = schedule.learningRate(step);
    const runs = this.#runs.filter((run) => run.step <= step);
    try {
      const ticket = await distiller.queueStep(batches, {
        step,
        learningRate,
        students: runs.map(({ number }) => number),
        signal: this.#stop,
      });
      // a checkpoint tells of batches that a step took, not of those on their way
      for (let taken = 0; taken < batches.length; taken++) plan.next();
      return { step, learningRate, batches, runs, ticket };
    } catch (error) {
      if (hasCode(error, 'ABORTED') && this.#stop.aborted) return undefined;
      throw await runs[0]!.explained({ step, learningRate, batches }, error); // a teacher outside the device
    }
  }

  /** The batches of a step; undefined where the run is stopped while images are waited for. */
  async #takeBatches(): Promise<Batch[] | undefined> {
    const { config, options } = this.course;
    const batches: Batch[] = [];
    try {
      while (batches.length < config.train.accumulate) batches.push(await this.#nextBatch());
    } catch (error) {
      this.#release(batches);
      if (hasCode(error, 'ABORTED', 'BAD_FILE') && options.signal?.aborted) return undefined;
      throw error;
    }
    return batches;
  }

  async #nextBatch(): Promise<Batch> {
    const { config, dataset, plan, images } = this.course;
    this.#batches ??= preparedBatches(dataset, plan, {
      standIns: images.standIns,
      ahead: config.data.readAhead,
      signal: this.#stop,
    });
    const { value } = await this.#batches.next();
    const { views } = config.teacherCache;
    const batch: Batch = views === 0 ? value! : { ...value!, epoch: value!.epoch % views };
    this.#taken.add(batch);
    return batch;
  }

  /** Gives the pixels of batches back, once. */
  #release(batches: Iterable<Batch>): void {
    for (const batch of batches) if (this.#taken.delete(batch)) batch.release?.();
  }

  /** Images decoded for each second of a decoding thread since the last call; undefined where none was. */
  #decodeRate(): number | undefined {
    const { images = 0, seconds = 0 } = this.course.dataset.decoded ?? {};
    const [newImages, newSeconds] = [images - this.#decoded.images, seconds - this.#decoded.seconds];
    this.#decoded = { images, seconds };
    return newSeconds > 0 ? newImages / newSeconds : undefined;
  }

  /** Waits for a queued step, whose students judge their losses. */
  async *#settle(pending: Pending): AsyncGenerator<StepEvent | WaitingEvent, void, undefined> {
    const { course } = this;
    const from = performance.now();
    const metrics: StepMetrics[] = [];
    for (const run of pending.runs) {
      try {
        metrics.push(
          yield* course.patiently(course.distiller.readMetrics(pending.ticket, run.number), 'device', pending.step),
        );
      } catch (error) {
        throw await run.explained(pending, error);
      }
    }
    const waited = performance.now() - from;
    this.#release(pending.batches);
    const rates = this.#rate.step(
      pending.batches.length * course.config.train.batchSize,
      waited,
      pending.ticket.teacherMilliseconds,
    );
    const decodeRate = course.isLogged(pending.step + 1) ? this.#decodeRate() : undefined;
    for (const [i, run] of pending.runs.entries()) yield await run.judge(pending, metrics[i]!, rates, decodeRate);
  }
}
