/** The step of a {@link Distiller}: what it needs on the device, and the order in which its work is queued. */
import type { NativeAugmentRecipe, StepHandle, StepInfo, TensorHandle } from '../addon/native.js';
import type { Device } from '../device.js';
import { isOfTheNumbers, LgdError } from '../errors.js';
import { targetsOf } from '../evaluate/accuracy.js';
import { Lifetime, Made } from '../lifetime.js';
import type { CompiledEncoder } from '../models/compiled.js';
import type { AnyTeacher } from '../models/index.js';
import type { Student } from '../models/student.js';
import type { Batch } from './batch.js';
import { MetricSlots } from './metric-slots.js';
import { StudentTrainer, type StudentTrainerOptions } from './student-trainer.js';
import type { QueueOptions, StepTicket } from './steps.js';
import { embedEarly, makeCachedFeed, makeTeacherFeed, type TeacherFeed } from './teacher-feed.js';
import type { TeacherViewCache } from './view-cache.js';

export interface TrainingStepOptions extends Omit<StudentTrainerOptions, 'embeddingSize'> {
  teacher: AnyTeacher;
  students: readonly Student[];
}

/** Owns the students' trainers, the teacher's feed and the images between them. */
export class TrainingStep {
  readonly life = new Lifetime(
    'the distiller',
    'Make another one; the student keeps the weights of the last checkpoint, or those given to student.load()',
  );
  /** Where steps leave their numbers. */
  readonly slots = new MetricSlots();
  readonly #device: Device;
  readonly #teacher: AnyTeacher;
  /** Batches a step. */
  readonly #accumulate: number;
  readonly #made = new Made();
  readonly #trainers: readonly StudentTrainer[];
  readonly #feed: TeacherFeed;
  #cachedFeed: TeacherFeed | undefined;
  #viewCache: TeacherViewCache | undefined;
  readonly #step: StepHandle;
  readonly #recipe: NativeAugmentRecipe;
  readonly #images: TensorHandle;
  /** Is a step being queued? It may be waiting for a teacher outside the device. */
  #queueing = false;
  /** Ends with the last of the {@link queue} calls under way, whatever comes of it; undefined where there are none. */
  #underWay: Promise<void> | undefined;

  /** @throws LgdError BAD_OPTION, BAD_SHAPE, BAD_MODEL, OUT_OF_MEMORY */
  constructor({ teacher, students, ...options }: TrainingStepOptions) {
    const { device, config } = options;
    const { addon, handle } = device;
    const { embeddingSize, mean, std } = teacher;
    [this.#device, this.#teacher, this.#accumulate] = [device, teacher, config.train.accumulate];
    this.#recipe = { ...config.augment, train: true, mean, std };
    const made = this.#made;
    try {
      this.#trainers = students.map((student) =>
        made.add(new StudentTrainer(student, { ...options, embeddingSize }), (trainer) => trainer.dispose()),
      );
      const { encoder } = this.#trainers[0]!;
      this.#step = made.add(addon.makeStep(handle), addon.release);
      this.#images = made.add(encoder.makeImages(), addon.release);
      this.#feed = made.add(
        makeTeacherFeed({
          device,
          teacher,
          encoder,
          images: this.#images,
          recipe: this.#recipe,
          places: this.#accumulate,
        }),
        (feed) => feed.dispose(),
      );
    } catch (error) {
      made.free();
      throw error;
    }
  }

  /** The student of this number. @throws LgdError BAD_OPTION, DISPOSED */
  trainer(student: number): StudentTrainer {
    this.life.check();
    const trainer = this.#trainers[student];
    if (trainer === undefined)
      throw new LgdError('BAD_OPTION', 'there is no such student.', {
        option: 'student',
        found: student,
        allowed: `0 to ${this.#trainers.length - 1}`,
      });
    return trainer;
  }

  /** Those of these numbers; undefined: all. @throws LgdError BAD_OPTION, DISPOSED */
  trainers(students: readonly number[] | undefined): readonly StudentTrainer[] {
    if (students === undefined) return this.#trainers;
    if (Array.isArray(students) && students.length > 0 && new Set(students).size === students.length)
      return students.map((student) => this.trainer(student));
    throw new LgdError('BAD_OPTION', 'these are not students that a step could be of.', {
      option: 'students',
      found: students,
      allowed: 'an array of numbers from 0, each once',
      mend: 'Leave it out where all are to learn',
    });
  }

  /** See {@link Distiller.useViewCache}. */
  useViewCache(cache: TeacherViewCache | undefined): void {
    const { encoder } = this.trainer(0);
    this.#cachedFeed?.dispose();
    this.#viewCache = cache;
    this.#cachedFeed =
      cache && makeCachedFeed(this.#feed, cache, { device: this.#device, encoder, places: this.#accumulate });
  }

  /**
   * Queues a step after those under way. Begins at once where nothing is under way: a step that waits for nobody is
   * queued when this returns, and leaves nothing to wait for.
   */
  queue(
    batches: readonly Batch[],
    trainers: readonly StudentTrainer[],
    options: Omit<QueueOptions, 'students'>,
  ): Promise<StepTicket> {
    const queueNow = () => this.#queue(batches, trainers, options);
    const queued = this.#underWay === undefined ? queueNow() : this.#underWay.then(queueNow);
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
    { step, learningRate, signal, after }: Omit<QueueOptions, 'students'>,
  ): Promise<StepTicket> {
    this.life.check();
    const { addon, handle } = this.#device;
    const embeddings: TensorHandle[] = [];
    const slots: number[] = [];
    let teacherMilliseconds = 0;
    const slotsBefore = this.slots.given;
    addon.beginStep(this.#step);
    this.#queueing = true;
    let queued = false;
    try {
      const feed = this.#cachedFeed ?? this.#feed;
      const asked = performance.now();
      const sent = embedEarly(feed, this.#teacher, batches, signal);
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
        const slot = this.slots.next();
        addon.augment(batch.dataset.store, this.#recipe, batch, this.#images);
        if (after) await after('augment');
        const from = performance.now();
        const embedded = early[place] ?? feed.embed(batch, place, signal);
        // no needless turn: distillers that share a device would cut each other's steps short
        const zT = embedded instanceof Promise ? await embedded : embedded;
        if (this.#teacher.kind !== 'native') teacherMilliseconds += performance.now() - from;
        if (after) await after('teacher');
        for (const trainer of trainers) {
          trainer.forward(this.#images, step * this.#accumulate + place);
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
          trainer.optimizerStep(learningRate, batches.length, slots.at(-1)!);
          trainer.online?.takeStep();
        });
        if (after) await after('optimiser');
      }
      queued = true;
    } finally {
      addon.endStep(this.#step, !queued);
      this.#queueing = false;
      if (this.life.ended) this.#free(); // disposed of meanwhile
    }
    const students = trainers.map((trainer) => this.#trainers.indexOf(trainer));
    return this.slots.issue({ slots, students, teacherMilliseconds, slotsBefore });
  }

  /** Queues what outlives the step, which is not done where the step has lost work, whoever was told of that. */
  #update(queue: () => void): void {
    const { addon } = this.#device;
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

  /** What was compiled: the students, and a teacher on the device. */
  get plans(): readonly CompiledEncoder[] {
    this.life.check();
    return [...this.#trainers.map(({ encoder }) => encoder), this.#feed.plan].filter((plan) => plan !== undefined);
  }

  /** See {@link Distiller.stepInfo}. */
  info(): Promise<StepInfo> {
    this.life.check();
    return this.#device.addon.stepInfo(this.#step);
  }

  /**
   * What is read after steps, of which none may have lost work: a fault that others made on the device reaches whoever
   * waits first, and costs every step that was queued by then.
   */
  async ofWholeSteps<Result>(reading: Promise<Result>): Promise<Result> {
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
      if (!this.life.ended) this.#device.addon.checkStep(this.#step, isTold);
      return undefined;
    } catch (error) {
      return error;
    }
  }

  /** Frees what it owns, once the step that is being queued is. */
  dispose(): void {
    if (this.life.end() && !this.#queueing) this.#free();
  }

  #free(): void {
    this.#cachedFeed?.dispose();
    this.#made.free();
  }
}
