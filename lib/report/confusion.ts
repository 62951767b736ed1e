/** Which classes the student gets wrong, and what it takes them for. */
import type { ConfigInput } from '../config/config.js';
import { LgdError } from '../errors.js';
import {
  evaluateStudent,
  type Predictions,
  type StudentEvaluation,
  type StudentEvaluationOptions,
} from '../evaluate/student.js';
import type { PhaseProgress } from '../runs/phase.js';

export interface ClassConfusion {
  name: string;
  images: number;
  /** Shares of its images that are taken for it, 0 to 1. */
  student: number;
  /** undefined where the teacher was not evaluated. */
  teacher: number | undefined;
  /** What the others are taken for, the most frequent first: shares of the class's images. */
  confusions: { name: string; share: number }[];
}

export interface Confusion {
  /** Of the student's checkpoint. */
  step: number;
  /** The worst classes, the worst first. */
  worst: ClassConfusion[];
  classes: number;
  images: number;
  top1: { student: number; teacher: number | undefined };
  /** Why the teacher's scores are missing, where they should be there. */
  teacherProblem: string | undefined;
  /** How many classes have an accuracy in [0, 10 %), [10, 20 %) ... [90, 100 %]. */
  histogram: { student: number[]; teacher: number[] | undefined };
}

export interface ConfusionOptions {
  /** The run's folder: its best student, or its last. */
  run: string;
  /** With `evaluate.data`, and what its bank needs. */
  config: ConfigInput;
  /** Images evaluated, at most, spread evenly over the folder. */
  mostImages: number;
  signal?: AbortSignal | undefined;
  onProgress?: ((progress: PhaseProgress) => void) | undefined;
}

const classesShown = 20;
const confusionsShown = 3;

/** Evaluates the run's student. @throws as evaluateStudent */
export async function confusionOf({
  run,
  config,
  mostImages,
  signal,
  onProgress,
}: ConfusionOptions): Promise<Confusion> {
  const { info, predictions, student, teacher, teacherProblem } = await evaluateBoth({
    student: run,
    config,
    mostImages,
    signal,
    onProgress,
  });
  const classes = scoreClasses(predictions);
  return {
    step: info.step,
    worst: [...classes]
      .sort((a, b) => a.student - b.student || b.images - a.images || (a.name < b.name ? -1 : 1))
      .slice(0, classesShown),
    classes: classes.length,
    images: predictions.targets.length,
    top1: { student: student.top1, teacher: teacher?.top1 },
    teacherProblem,
    histogram: {
      student: histogram(classes.map((one) => one.student)),
      teacher: teacher && histogram(classes.map((one) => one.teacher!)),
    },
  };
}

/** With the teacher where it is still to be had, else the student alone. */
async function evaluateBoth(
  options: StudentEvaluationOptions,
): Promise<StudentEvaluation & { teacherProblem: string | undefined }> {
  const alone = { ...options, config: { ...options.config, teacher: undefined } };
  try {
    return { ...(await evaluateStudent(options)), teacherProblem: undefined };
  } catch (error) {
    if (!(error instanceof LgdError) || error.code === 'ABORTED' || options.config.teacher === undefined) throw error;
    // where something else is wrong, this says it
    return { ...(await evaluateStudent(alone)), teacherProblem: error.message };
  }
}

/** The score of every class that has an image. */
export function scoreClasses({
  names,
  targets,
  student,
  teacher,
}: Pick<Predictions, 'names' | 'targets' | 'student' | 'teacher'>): ClassConfusion[] {
  const places = new Map<number, number[]>();
  targets.forEach((target, i) => {
    const list = places.get(target);
    if (list === undefined) places.set(target, [i]);
    else list.push(i);
  });
  return [...places].map(([target, images]) => {
    const share = (taken: Int32Array) => images.filter((i) => taken[i] === target).length / images.length;
    const wrong = new Map<number, number>();
    for (const i of images) if (student[i] !== target) wrong.set(student[i]!, (wrong.get(student[i]!) ?? 0) + 1);
    const confusions = [...wrong].sort((a, b) => b[1] - a[1] || a[0] - b[0]).slice(0, confusionsShown);
    return {
      name: names[target]!,
      images: images.length,
      student: share(student),
      teacher: teacher && share(teacher),
      confusions: confusions.map(([other, count]) => ({ name: names[other]!, share: count / images.length })),
    };
  });
}

function histogram(shares: readonly number[]): number[] {
  const bins = new Array<number>(10).fill(0);
  for (const share of shares) bins[Math.min(9, Math.floor(10 * share))]!++;
  return bins;
}
