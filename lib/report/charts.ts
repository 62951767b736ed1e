/** The curves of a report: which there are, and their points. */
import type { EvaluationPoint, RunRecord, StepColumns, StepField } from './read-run.js';

type EvaluationField = 'studentTop1' | 'teacherTop1' | 'studentTop5' | 'teacherTop5';

export interface ChartLine {
  key: StepField | EvaluationField;
  label: string;
}

export interface ChartSpec {
  id: string;
  title: string;
  /** One sentence on how to read it. */
  hint: string;
  /** How values are written: a number, a share as per cent, or a count. */
  unit: 'number' | 'share' | 'count';
  /** Which points: those of training steps, or of evaluations. */
  source: 'steps' | 'evaluations';
  /** Told apart by their dashes, where runs have the colours. */
  lines: readonly ChartLine[];
}

const specs: readonly ChartSpec[] = [
  {
    id: 'loss', title: 'Loss', unit: 'number', source: 'steps', hint: 'Cross-entropy in nats; the total is the weighted sum of both banks’ parts. It falls to the target entropy, not to zero.',
    lines: [{ key: 'loss', label: 'total' }, { key: 'lossVisual', label: 'visual bank' }, { key: 'lossTextual', label: 'textual bank' }],
  },
  {
    id: 'kl', title: 'KL divergence from the teacher', unit: 'number', source: 'steps', hint: 'What of the loss can still be learnt: the loss less the target entropy, in nats.',
    lines: [{ key: 'klVisual', label: 'visual bank' }, { key: 'klTextual', label: 'textual bank' }],
  },
  {
    id: 'top1', title: 'Zero-shot top-1', unit: 'share', source: 'evaluations', hint: 'Share of the evaluation images whose nearest name is right.',
    lines: [{ key: 'studentTop1', label: 'student' }, { key: 'teacherTop1', label: 'teacher' }],
  },
  {
    id: 'top5', title: 'Zero-shot top-5', unit: 'share', source: 'evaluations', hint: 'Share of the evaluation images whose right name is among the five nearest.',
    lines: [{ key: 'studentTop5', label: 'student' }, { key: 'teacherTop5', label: 'teacher' }],
  },
  {
    id: 'agreement', title: 'Agreement with the teacher', unit: 'share', source: 'steps', hint: 'Share of the training views that student and teacher give the same nearest name; no labels are involved.',
    lines: [{ key: 'agreement', label: 'agreement' }],
  },
  {
    id: 'entropy', title: 'Entropy of the targets', unit: 'number', source: 'steps', hint: 'Of the teacher’s softmax, in nats. Near zero the targets are one name each, and the others teach nothing.',
    lines: [{ key: 'entropyVisual', label: 'visual bank' }, { key: 'entropyTextual', label: 'textual bank' }],
  },
  {
    id: 'own', title: 'Own-embedding mass', unit: 'share', source: 'steps', hint: 'Share of the visual target that lies on the teacher’s embedding of the same view. At 100 % the visual bank adds nothing to it.',
    lines: [{ key: 'ownMass', label: 'own mass' }],
  },
  {
    id: 'coverage', title: 'Bank coverage', unit: 'count', source: 'steps', hint: 'Categories that any image was assigned to so far, and those hit by the batch.',
    lines: [{ key: 'categoriesSeen', label: 'seen' }, { key: 'categoriesHit', label: 'hit in the batch' }],
  },
  { id: 'rate', title: 'Learning rate', unit: 'number', source: 'steps', hint: 'As the schedule had it at each step.', lines: [{ key: 'learningRate', label: 'learning rate' }] },
  { id: 'speed', title: 'Throughput', unit: 'count', source: 'steps', hint: 'Training images a second over the last steps, pauses left out.', lines: [{ key: 'imagesPerSecond', label: 'images/s' }] },
  {
    id: 'wait', title: 'Time away from the device', unit: 'share', source: 'steps', hint: 'Share of the training time in which the loop prepared batches, or waited for a teacher outside the device, instead of waiting for the device.',
    lines: [{ key: 'dataWait', label: 'batches and teacher' }, { key: 'teacherWait', label: 'teacher alone' }],
  },
];

/** One curve's points: x by step, epoch and hours since the run began; y in the order of the lines' keys. */
export interface RunPoints {
  x: { step: number[]; epoch: number[]; hours: (number | null)[] };
  y: Partial<Record<string, (number | null)[]>>;
}

export interface RunCurves {
  name: string;
  steps: RunPoints;
  evaluations: RunPoints;
}

export interface Charts {
  charts: ChartSpec[];
  runs: RunCurves[];
  /** Whether points are means of several lines of metrics. */
  thinned: boolean;
}

const mostPoints = 1500;

/** The charts that have something to show; a line that is zero or absent in every run (of a bank that the method has not) is left out. */
export function makeCharts(runs: readonly RunRecord[]): Charts {
  const curves = runs.map(({ name, steps, evaluations }) => ({ name, steps: stepPoints(steps), evaluations: evaluationPoints(evaluations, steps.time[0]) }));
  const hasData = (source: ChartSpec['source'], key: string) => curves.some((run) => run[source].y[key]!.some((value) => value !== null && value !== 0));
  const charts = specs.map((spec) => ({ ...spec, lines: spec.lines.filter(({ key }) => hasData(spec.source, key)) })).filter(({ lines }) => lines.length > 0);
  return { charts, runs: curves, thinned: runs.some(({ steps }) => steps.step.length > mostPoints) };
}

function stepPoints(columns: StepColumns): RunPoints {
  const { step, epoch, time, ...values } = columns;
  const start = time[0] ?? NaN;
  return {
    x: { step: thin(step).map(numeric), epoch: thin(epoch).map(numeric), hours: thin(time.map((at) => (at - start) / 3_600_000)).map(short) },
    y: Object.fromEntries(Object.entries(values).map(([key, column]) => [key, thin(column).map(short)])),
  };
}

function evaluationPoints(evaluations: readonly EvaluationPoint[], start = NaN): RunPoints {
  const y: Record<EvaluationField, (number | null)[]> = {
    studentTop1: evaluations.map(({ student }) => short(student.top1)),
    teacherTop1: evaluations.map(({ teacher }) => short(teacher?.top1 ?? NaN)),
    studentTop5: evaluations.map(({ student }) => short(student.top5)),
    teacherTop5: evaluations.map(({ teacher }) => short(teacher?.top5 ?? NaN)),
  };
  return { x: { step: evaluations.map(({ step }) => step), epoch: evaluations.map(({ epoch }) => numeric(epoch)), hours: evaluations.map(({ time }) => short((time - start) / 3_600_000)) }, y };
}

/** Means over equal stretches, where there are more values than a screen has pixels. */
export function thin(values: Float64Array): number[] {
  if (values.length <= mostPoints) return [...values];
  return Array.from({ length: mostPoints }, (_, i) => {
    const stretch = values.subarray(Math.floor((i * values.length) / mostPoints), Math.floor(((i + 1) * values.length) / mostPoints));
    return stretch.reduce((sum, value) => sum + value, 0) / stretch.length;
  });
}

function short(value: number): number | null {
  return Number.isFinite(value) ? numeric(value) : null;
}

/** Six digits tell all that a curve shows. */
function numeric(value: number): number {
  return Number(value.toPrecision(6));
}
