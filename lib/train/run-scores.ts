/** What one student of a run scores: its evaluations, the teacher's beside them, and which checkpoint is the best. */
import { hasCode } from '../errors.js';
import type { EmbedOptions } from '../evaluate/embed.js';
import type { OtherScores, ZeroShotScore } from '../evaluate/score.js';
import type { Manifest } from '../files/manifest.js';
import { BestScore, metricOf, valueOf } from './best.js';
import type { Course } from './course.js';
import type { EvaluationEvent } from './events.js';
import { areOthersScored, type Progress } from './resume/continued.js';

export class RunScores {
  readonly #best: BestScore;
  #evaluated = 0;
  #teacherScore: ZeroShotScore | undefined;
  /** Had the last evaluation come to the student, past the teacher? */
  ofStudent = false;

  /**
   * @param number which of the course's students
   * @param queueFullAfter steps after which the loss's queue is full; 0 without one
   */
  constructor(
    private readonly course: Course,
    private readonly number: number,
    queueFullAfter: number,
  ) {
    const { evaluation, frozen, online } = course.options;
    const also = frozen?.options.config.evaluate.also ?? 'none';
    const has = {
      student: evaluation !== undefined,
      knn: also === 'knn' || also === 'both',
      linear: also === 'linear' || also === 'both',
      online: online !== undefined && course.distiller.onlineOf(number) !== undefined,
    };
    this.#best = new BestScore(metricOf(course.config.evaluate.metric, has), queueFullAfter);
  }

  /** Steps behind the last evaluation; 0 before the first. */
  get evaluated(): number {
    return this.#evaluated;
  }

  /** Of the checkpoints so far. */
  get best(): Manifest['best'] {
    return this.#best.best;
  }

  /** Evaluates the student as it is after so many steps; undefined where the run is stopped meanwhile. */
  async evaluate(step: number, options: EmbedOptions): Promise<EvaluationEvent | undefined> {
    const { distiller, options: given } = this.course;
    const { evaluation, frozen, online: judged, signal } = given;
    const [encoder, probe] = [distiller.encoderOf(this.number), distiller.onlineOf(this.number)];
    const from = performance.now();
    try {
      this.ofStudent = false;
      this.#teacherScore ??= await this.course.teacherScore(options);
      this.ofStudent = true;
      const student = await evaluation?.evaluateEncoder(encoder, options);
      const also: OtherScores = {
        ...(await frozen?.evaluate(distiller.students[this.number]!.graph, await encoder.state(), options)),
        ...(probe !== undefined && judged !== undefined && { online: await probe.evaluate(encoder, judged, options) }),
      };
      this.#evaluated = step;
      const value = valueOf(this.#best.metric, { student, ...also });
      return {
        type: 'evaluation',
        step,
        epoch: this.course.epochs(step),
        student,
        teacher: this.#teacherScore,
        ...also,
        best: value !== undefined && this.#best.improves(value, step),
        seconds: (performance.now() - from) / 1000,
      };
    } catch (error) {
      if (hasCode(error, 'ABORTED') && signal?.aborted) return undefined;
      throw error;
    }
  }

  /** Takes in a smoothed loss: is it the best so far? undefined where losses do not decide. */
  improves(loss: number, step: number): boolean | undefined {
    return this.#best.metric === 'loss' ? this.#best.improves(loss, step) : undefined;
  }

  /** What a checkpoint keeps of it. */
  state(): Pick<Progress, 'best' | 'evaluated' | 'teacherScore'> {
    return { best: this.best, evaluated: this.#evaluated, teacherScore: this.#teacherScore ?? null };
  }

  /** Goes on from there; scores on other images than now are dropped. */
  restore(progress: Progress): void {
    this.#evaluated = progress.evaluated;
    const isSame = progress.scoredOn?.judged === this.course.scoredOn?.judged;
    this.#teacherScore = isSame ? (progress.teacherScore ?? undefined) : undefined;
    const isComparable = this.#best.metric === 'loss' || !areOthersScored(progress, this.course);
    this.#best.best = isComparable ? progress.best : null;
  }
}
