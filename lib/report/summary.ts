/** The numbers of a run in one row, and what sets its configuration apart. */
import { median } from '../averages.js';
import { configOptions, type Config } from '../config/config.js';
import { optionOf } from '../config/option-paths.js';
import type { OtherProtocol } from '../evaluate/score.js';
import { isObject } from '../files/json.js';
import { nameWithWidth } from '../models/students/definition.js';
import { metricOf, valueOf } from '../train/best.js';
import type { EvaluationPoint, RunRecord } from './read-run.js';

/** Where a run's seconds went. */
export interface TimeShare {
  label: string;
  seconds: number;
}

export interface RunSummary {
  name: string;
  path: string;
  outcome: string;
  method: string;
  student: string;
  teacher: string;
  parameters: number | undefined;
  /** Training images. */
  images: number | undefined;
  /** K; undefined before the first checkpoint. */
  categories: number | undefined;
  categoriesSeen: number | undefined;
  steps: number;
  epochs: number;
  seconds: number;
  /** Median over the lines of metrics that tell it. */
  imagesPerSecond: number | undefined;
  /** Mean of the last tenth of the lines. */
  loss: number | undefined;
  klVisual: number | undefined;
  klTextual: number | undefined;
  agreement: number | undefined;
  /** Zero-shot of the best evaluation by `evaluate.metric`, with the teacher's beside it; undefined without names. */
  top1: number | undefined;
  top5: number | undefined;
  /** How many nearest names {@link top5} and {@link teacherTop5} count: 5, or all of fewer classes. */
  topK: number | undefined;
  teacherTop1: number | undefined;
  teacherTop5: number | undefined;
  /** Top-1 of the protocols that this evaluation ran besides, or in its place. */
  others: Partial<Record<OtherProtocol, number>>;
  device: string | undefined;
  version: string | undefined;
  badLines: number;
  time: TimeShare[];
}

export function summarise(run: RunRecord): RunSummary {
  const { name, path, config, steps, log, student, badLines } = run;
  const best = bestEvaluation(run);
  const recent = (column: Float64Array) =>
    finite(meanOf(column.subarray(-Math.max(1, Math.round(column.length / 10)))));
  const text = (option: string) => String(optionOf(config, option) ?? '');
  const width = student?.info.widthMultiplier ?? optionOf(config, 'student.widthMultiplier');
  return {
    name,
    path,
    outcome: log.outcome,
    method: methodOf(run),
    student: nameWithWidth(student?.info.architecture ?? text('student.name'), typeof width === 'number' ? width : 1),
    teacher: student?.info.teacher ?? text('teacher'),
    parameters: student?.parameters,
    images: log.images,
    categories: student === undefined || student.info.names.length === 0 ? undefined : student.info.names.length,
    categoriesSeen: finite(steps.categoriesSeen.at(-1) ?? NaN),
    steps: steps.step.at(-1) ?? 0,
    epochs: steps.epoch.at(-1) ?? 0,
    seconds: log.seconds,
    imagesPerSecond: finite(median(steps.imagesPerSecond)),
    // exactly zero where the method has no such bank
    loss: recent(steps.loss),
    klVisual: recent(steps.klVisual) || undefined,
    klTextual: recent(steps.klTextual) || undefined,
    // without names there is none to agree on
    agreement: steps.categoriesSeen.at(-1) === 0 ? undefined : recent(steps.agreement),
    top1: best?.student?.top1,
    top5: best?.student?.top5,
    topK: best?.student?.topK,
    teacherTop1: best?.teacher?.top1,
    teacherTop5: best?.teacher?.top5,
    others: Object.fromEntries(Object.entries(best?.others ?? {}).map(([protocol, { top1 }]) => [protocol, top1])),
    device: log.device,
    version: log.version,
    badLines,
    time: timeShares(run),
  };
}

/**
 * The best by `evaluate.metric`, whose student the run's `best` checkpoint holds; by `loss`, the best by what `auto`
 * would have been.
 */
export function bestEvaluation({
  evaluations,
  config,
}: Pick<RunRecord, 'evaluations' | 'config'>): EvaluationPoint | undefined {
  const wanted = (config['evaluate'] as Partial<Config['evaluate']> | undefined)?.metric;
  const has = (name: OtherProtocol) => evaluations.some(({ others }) => others[name] !== undefined);
  const metric = metricOf(wanted === undefined || wanted === 'loss' ? 'auto' : wanted, {
    student: evaluations.some(({ student }) => student !== undefined),
    knn: has('knn'),
    linear: has('linear'),
    online: has('online'),
  });
  const value = ({ student, others }: EvaluationPoint) => valueOf(metric, { student, ...others }) ?? -1;
  return evaluations.reduce<EvaluationPoint | undefined>(
    (best, one) => (best === undefined || value(one) > value(best) ? one : best),
    undefined,
  );
}

/** The method that the run's checkpoint tells; before the first its configuration. */
export function methodOf({ student, config }: Pick<RunRecord, 'student' | 'config'>): string {
  return student?.info.method ?? String(optionOf(config, 'method') ?? '');
}

/** Training by its parts, evaluation, and the rest; nothing where the log or the rates are missing. */
function timeShares({ steps, evaluations, log, config }: RunRecord): TimeShare[] {
  const batch = Number(optionOf(config, 'train.batchSize')) * Number(optionOf(config, 'train.accumulate'));
  const parts = { device: 0, batches: 0, teacher: 0 };
  let from = 0;
  steps.step.forEach((step, i) => {
    const seconds = ((step - from) * batch) / steps.imagesPerSecond[i]!;
    const [wait, teacher] = [steps.dataWait[i]!, Number.isNaN(steps.teacherWait[i]!) ? 0 : steps.teacherWait[i]!];
    parts.device += seconds * (1 - wait);
    parts.teacher += seconds * teacher;
    parts.batches += seconds * Math.max(0, wait - teacher);
    from = step;
  });
  const training = parts.device + parts.batches + parts.teacher;
  const evaluation = evaluations.reduce((sum, { seconds }) => sum + (Number.isFinite(seconds) ? seconds : 0), 0);
  if (!Number.isFinite(training) || training === 0 || log.seconds === 0) return [];
  return [
    { label: 'training on the device', seconds: parts.device },
    { label: 'preparing batches', seconds: parts.batches },
    { label: 'teacher outside the device', seconds: parts.teacher },
    { label: 'evaluation', seconds: evaluation },
    { label: 'checkpoints and the rest', seconds: Math.max(0, log.seconds - training - evaluation) },
  ].filter(({ seconds }) => seconds > 0);
}

export interface OptionRow {
  path: string;
  help: string;
  /** One a run, as JSON; undefined where it is not set. */
  values: (string | undefined)[];
}

const placeOptions: ReadonlySet<string> = new Set([
  'output',
  'overwrite',
  'threads',
  'data.spillFolder',
  'data.cacheMemory',
]);

/**
 * Options that differ between runs; of a single run, those that differ from the defaults. Options that say where, not
 * what, are left out.
 */
export function configDifferences(runs: readonly Pick<RunRecord, 'config'>[]): OptionRow[] {
  const known = new Map(configOptions().map((option) => [option.path, option]));
  const paths = new Set([...known.keys(), ...runs.flatMap(({ config }) => leavesOf(config))]);
  return [...paths]
    .filter((path) => !placeOptions.has(path))
    .flatMap((path) => {
      const values = runs.map(({ config }) => JSON.stringify(optionOf(config, path)));
      const compared = runs.length === 1 ? [...values, JSON.stringify(known.get(path)?.default)] : values;
      return new Set(compared).size === 1
        ? []
        : [{ path, help: known.get(path)?.help ?? 'an option of another version', values }];
    });
}

function leavesOf(config: Readonly<Record<string, unknown>>): string[] {
  return Object.entries(config).flatMap(([key, value]) =>
    isObject(value) ? Object.keys(value).map((inner) => `${key}.${inner}`) : [key],
  );
}

function meanOf(values: Float64Array): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

function finite(value: number): number | undefined {
  return Number.isFinite(value) ? value : undefined;
}
