/** The points of a report's curves. */
import { otherProtocols, type OtherProtocol } from '../evaluate/score.js';
import { trainingTime } from '../runs/run-log.js';
import { partMetrics } from '../train/method.js';
import { chartSpecs, type ChartSpec, type EvaluationField } from './chart-specs.js';
import type { EvaluationPoint, RunFacts, RunRecord, StepColumns } from './read-run.js';

/** One curve's points: x by step, epoch and hours of training; y in the order of the lines' keys. */
export interface RunPoints {
  x: { step: number[]; epoch: number[]; hours: (number | null)[] };
  y: Partial<Record<string, (number | null)[]>>;
}

export interface RunCurves {
  name: string;
  /** Are the steps' points means of several lines of metrics? */
  thinned: boolean;
  steps: RunPoints;
  evaluations: RunPoints;
}

export interface Charts {
  charts: ChartSpec[];
  runs: readonly RunCurves[];
}

const mostPoints = 1500;

export function curvesOf({ name, steps, evaluations, log }: RunRecord): RunCurves {
  const trained = trainingTime(log, steps.time[0] ?? NaN);
  const hours = (time: number) => trained(time) / 3_600_000;
  return {
    name,
    thinned: steps.step.length > mostPoints,
    steps: stepPoints(steps, hours),
    evaluations: evaluationPoints(evaluations, hours),
  };
}

/**
 * The charts that have something to show; a line that is zero or absent in every run (of a part that the method has
 * not) is left out.
 * @param curves of each run
 */
export function makeCharts(runs: readonly RunFacts[], curves: readonly RunCurves[]): Charts {
  const hasData = (source: ChartSpec['source'], key: string) =>
    curves.some((run) => run[source].y[key]!.some((value) => value !== null && value !== 0));
  const charts = chartSpecs(runs)
    .map((spec) => ({ ...spec, lines: spec.lines.filter(({ key }) => hasData(spec.source, key)) }))
    .filter(({ lines }) => lines.length > 0);
  return { charts, runs: curves };
}

function stepPoints(columns: StepColumns, hours: (time: number) => number): RunPoints {
  const { step, epoch, time, ...values } = columns;
  return {
    x: { step: thin(step).map(numeric), epoch: thin(epoch).map(numeric), hours: thin(time.map(hours)).map(short) },
    y: Object.fromEntries(
      Object.entries(values).map(([key, column]) => [
        key,
        thin(isNoPart(key, column) ? column.map(() => NaN) : column).map(short),
      ]),
    ),
  };
}

const ofParts: ReadonlySet<string> = new Set(partMetrics);

/** Is it zero throughout, as the number of a part is that the run's method has not? */
function isNoPart(key: string, column: Float64Array): boolean {
  return ofParts.has(key) && column.every((value) => value === 0);
}

function evaluationPoints(evaluations: readonly EvaluationPoint[], hours: (time: number) => number): RunPoints {
  const y: Record<Exclude<EvaluationField, OtherProtocol>, (number | null)[]> = {
    studentTop1: evaluations.map(({ student }) => short(student?.top1 ?? NaN)),
    teacherTop1: evaluations.map(({ teacher }) => short(teacher?.top1 ?? NaN)),
    studentTop5: evaluations.map(({ student }) => short(student?.top5 ?? NaN)),
    teacherTop5: evaluations.map(({ teacher }) => short(teacher?.top5 ?? NaN)),
  };
  const others = Object.fromEntries(
    otherProtocols.map((name) => [name, evaluations.map((point) => short(point.others[name]?.top1 ?? NaN))]),
  );
  return {
    x: {
      step: evaluations.map(({ step }) => step),
      epoch: evaluations.map(({ epoch }) => numeric(epoch)),
      hours: evaluations.map(({ time }) => short(hours(time))),
    },
    y: { ...y, ...others },
  };
}

/** Means over equal stretches, where there are more values than a screen has pixels. */
export function thin(values: Float64Array): number[] {
  if (values.length <= mostPoints) return [...values];
  return Array.from({ length: mostPoints }, (_, i) => {
    const stretch = values.subarray(
      Math.floor((i * values.length) / mostPoints),
      Math.floor(((i + 1) * values.length) / mostPoints),
    );
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
