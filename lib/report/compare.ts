/**
 * Runs side by side: what each method's student reached, with intervals, and the seeds of one configuration as one row.
 */
import { checkOptions, checkWord, optionTable } from '../arguments.js';
import { counted } from '../counted.js';
import { otherProtocols, wilsonInterval, type OtherProtocol } from '../evaluate/score.js';
import { chooseRuns, readRuns, type RunFacts, type RunRecord } from './read-run.js';
import { bestEvaluation, configDifferences, summarise } from './summary.js';

/** A share of images, 0 to 1, with its Wilson interval of 95 %. */
export interface ShareWithInterval {
  share: number;
  interval: [number, number];
}

/** One run. */
export interface ComparedRun {
  name: string;
  path: string;
  method: string;
  student: string;
  seed: number | undefined;
  /** Steps trained. */
  steps: number;
  /** Step of the evaluation that the accuracies come from; undefined without one. */
  evaluatedAt: number | undefined;
  /** Of zero-shot; undefined without an evaluation, or in a run without names. */
  top1: ShareWithInterval | undefined;
  top5: ShareWithInterval | undefined;
  /** Top-1 of the protocols that the evaluation ran besides zero-shot, or in its place. */
  others: Partial<Record<OtherProtocol, ShareWithInterval>>;
  /** Images and classes of the evaluation: accuracies over others do not compare. */
  images: number | undefined;
  classes: number | undefined;
  /** Mean of the last tenth of the logged losses. Losses of different methods do not compare. */
  loss: number | undefined;
  /** Median while training. */
  imagesPerSecond: number | undefined;
}

/**
 * Mean over seeds, and the standard deviation of a sample (n - 1); NaN of one seed. Runs of the same seed count as
 * their mean.
 */
export interface Spread {
  mean: number;
  deviation: number;
}

/** Runs that differ in nothing but the seed, and where they lie. */
export interface RunGroup {
  method: string;
  student: string;
  runs: readonly ComparedRun[];
  /** How many seeds its runs have. */
  seeds: number;
  steps: number;
  top1: Spread | undefined;
  top5: Spread | undefined;
  /** Of the protocols that all of its runs have. */
  others: Partial<Record<OtherProtocol, Spread>>;
  loss: Spread | undefined;
  imagesPerSecond: Spread | undefined;
  /** Options in which groups differ, by dotted path, as JSON; the method stands apart. */
  differences: Readonly<Record<string, string>>;
}

/** What {@link compareRuns} finds. */
export interface RunComparison {
  runs: readonly ComparedRun[];
  groups: readonly RunGroup[];
  /**
   * What makes rows hard to compare: other evaluation images, unfinished runs, runs of the same seed; and paths that
   * were passed over.
   */
  remarks: readonly string[];
}

/** How {@link compareRuns} reads a run's evaluations. */
export interface CompareOptions {
  /**
   * Which evaluation counts: the run's best by `evaluate.metric`, whose student its `best` checkpoint holds (default),
   * or the last.
   */
  at?: 'best' | 'last' | undefined;
}

const compareOptions = optionTable<CompareOptions>()('at?');

/**
 * Compares runs by what their folders tell. Of several paths those that are no run folders are passed over, with a
 * remark.
 * @throws LgdError BAD_OPTION (no run, no such evaluation), FILE_NOT_FOUND (no run folder; a path that is not there),
 *   BAD_FILE
 */
export async function compareRuns(paths: readonly string[], options: CompareOptions = {}): Promise<RunComparison> {
  checkOptions(options, 'compareRuns()', compareOptions);
  const { at = 'best' } = options;
  checkWord(at, 'at', ['best', 'last']);
  const chosen = await chooseRuns(paths);
  const records: RunFacts[] = [];
  const runs: ComparedRun[] = [];
  for await (const { steps, ...facts } of readRuns(chosen.folders)) {
    records.push(facts);
    runs.push(comparedRun({ steps, ...facts }, at));
  }
  // which method `auto` was, the run itself tells, and its student
  const differing = configDifferences(records).filter(({ path }) => !['seed', 'method', 'student.name'].includes(path));
  const groups = new Map<string, { runs: ComparedRun[]; differences: Record<string, string> }>();
  runs.forEach((run, i) => {
    // Of a single run all options alike make no difference.
    const values =
      runs.length === 1
        ? []
        : differing.flatMap(({ path, values }) => (values[i] === undefined ? [] : [[path, values[i]] as const]));
    const key = JSON.stringify([run.method, run.student, values]);
    const group = groups.get(key) ?? { runs: [], differences: Object.fromEntries(values) };
    group.runs.push(run);
    groups.set(key, group);
  });
  const compared = [...groups.values()].map(({ runs: members, differences }) => grouped(members, differences));
  return {
    runs,
    groups: compared,
    remarks: [...chosen.remarks, ...remarksOn(records, runs), ...compared.flatMap(repeatsIn)],
  };
}

function comparedRun(record: RunRecord, at: 'best' | 'last'): ComparedRun {
  const { name, path, method, student, steps, loss, imagesPerSecond } = summarise(record);
  const point = at === 'last' ? record.evaluations.at(-1) : bestEvaluation(record);
  const scored = point?.student ?? Object.values(point?.others ?? {})[0];
  const seed = record.config['seed'];
  return {
    name,
    path,
    method,
    student,
    steps,
    loss,
    imagesPerSecond,
    seed: typeof seed === 'number' ? seed : undefined,
    evaluatedAt: point?.step,
    top1: point?.student && withInterval(point.student.correct1, point.student.images),
    top5: point?.student && withInterval(point.student.correct5, point.student.images),
    others: Object.fromEntries(
      Object.entries(point?.others ?? {}).map(([protocol, { correct1, images }]) => [
        protocol,
        withInterval(correct1, images),
      ]),
    ),
    images: scored?.images,
    classes: scored?.classes,
  };
}

function withInterval(correct: number, images: number): ShareWithInterval {
  return { share: correct / images, interval: wilsonInterval(correct, images) };
}

function grouped(runs: readonly ComparedRun[], differences: Readonly<Record<string, string>>): RunGroup {
  const bySeed = runsBySeed(runs);
  const over = (value: (run: ComparedRun) => number | undefined) =>
    spreadOf(bySeed.map((same) => spreadOf(same.map(value))?.mean));
  const [{ method, student, steps }] = runs as [ComparedRun];
  return {
    method,
    student,
    runs,
    seeds: bySeed.length,
    steps,
    differences,
    top1: over(({ top1 }) => top1?.share),
    top5: over(({ top5 }) => top5?.share),
    others: Object.fromEntries(
      otherProtocols.flatMap((name) => {
        const spread = over(({ others }) => others[name]?.share);
        return spread === undefined ? [] : [[name, spread] as const];
      }),
    ),
    loss: over(({ loss }) => loss),
    imagesPerSecond: over((run) => run.imagesPerSecond),
  };
}

function runsBySeed(runs: readonly ComparedRun[]): ComparedRun[][] {
  const seeds = new Map<number | undefined, ComparedRun[]>();
  for (const run of runs) seeds.set(run.seed, [...(seeds.get(run.seed) ?? []), run]);
  return [...seeds.values()];
}

/** Repeats of a seed say nothing about other seeds. */
function repeatsIn({ runs }: RunGroup): string[] {
  return runsBySeed(runs)
    .filter((same) => same.length > 1)
    .map(
      (same) =>
        `${same.length} runs of seed ${same[0]!.seed ?? 'unknown'}, which count as one: ${same.map(({ name }) => name).join(', ')}`,
    );
}

/** Over all values, or nothing where one does not tell. */
export function spreadOf(values: readonly (number | undefined)[]): Spread | undefined {
  if (values.length === 0 || values.some((value) => value === undefined)) return undefined;
  const known = values as readonly number[];
  const mean = known.reduce((sum, value) => sum + value, 0) / known.length;
  const squares = known.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return { mean, deviation: known.length > 1 ? Math.sqrt(squares / (known.length - 1)) : NaN };
}

function remarksOn(records: readonly RunFacts[], runs: readonly ComparedRun[]): string[] {
  const unfinished = records
    .filter(({ log }) => log.outcome !== 'done')
    .map(({ name, log }) => `${name} (${log.outcome})`);
  const sizes = new Set(
    runs
      .filter(({ images }) => images !== undefined)
      .map(({ images, classes }) => `${counted(images!, 'image')} of ${counted(classes!, 'class', 'classes')}`),
  );
  return [
    ...(unfinished.length > 0 ? [`not at their end: ${unfinished.join(', ')}`] : []),
    ...(sizes.size > 1 ? [`evaluated on different sets: ${[...sizes].join('; ')}`] : []),
  ];
}
