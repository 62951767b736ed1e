/** What a run's folder tells without looking at models or images. */
import { stat } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { checkTexts } from '../arguments.js';
import { isDenseFolder } from '../dense/folder.js';
import { LgdError, meansAbsent, readError, systemErrorCode } from '../errors.js';
import { otherProtocols, type OtherScores, type ZeroShotScore } from '../evaluate/score.js';
import { isFolder } from '../files/folders.js';
import { isObject, isWritable, membersOf, parsed } from '../files/json.js';
import { linePaths } from '../files/line-file.js';
import { wholeLines } from '../files/lines.js';
import { openToRead } from '../files/open.js';
import { countParameters } from '../models/index.js';
import { graphOf } from '../models/student.js';
import { runFolders } from '../runs/group-folder.js';
import { configFile, logFile, metricsFile, readRunConfig } from '../runs/run-folder.js';
import { readRunLog, type RunLog } from '../runs/run-log.js';
import { readStudent, type StudentInfo } from '../runs/student-file.js';
import { partMetrics } from '../train/method.js';

/** The numbers of a step, in the order of the columns; `time` is in milliseconds since 1970. */
export const stepFields = [
  'step',
  'epoch',
  'time',
  'loss',
  ...partMetrics,
  'agreement',
  'categoriesHit',
  'categoriesSeen',
  'learningRate',
  'gradientNorm',
  'imagesPerSecond',
  'dataWait',
  'teacherWait',
] as const;
export type StepField = (typeof stepFields)[number];

/** One column a number, all of one length; NaN where a line does not tell. */
export type StepColumns = Record<StepField, Float64Array>;

export interface EvaluationPoint {
  step: number;
  epoch: number;
  /** Milliseconds since 1970. */
  time: number;
  seconds: number;
  /** Of zero-shot; undefined in a run without names. */
  student: ZeroShotScore | undefined;
  teacher: ZeroShotScore | undefined;
  /** Of the protocols that ran besides zero-shot, or in its place. */
  others: OtherScores;
}

export interface RunRecord {
  /** The folder's name; unique within a report ({@link readRuns}). */
  name: string;
  /** Absolute. */
  path: string;
  /** config.json as it stands there: another version may have written it. */
  config: Readonly<Record<string, unknown>>;
  steps: StepColumns;
  evaluations: readonly EvaluationPoint[];
  /** Lines of metrics.jsonl that could not be read: a kill may tear the last. */
  badLines: number;
  log: RunLog;
  /**
   * Of the best checkpoint, or the last; undefined before the first, or where {@link studentProblem} says what is wrong
   * with it.
   */
  student: { info: StudentInfo; parameters: number } | undefined;
  studentProblem: string | undefined;
}

/** Of a run all but the numbers of its steps, which are most of it. */
export type RunFacts = Omit<RunRecord, 'steps'>;

/** Which of several paths are run folders, as they were given. */
export interface ChosenRuns {
  folders: string[];
  /** Names those that were passed over; none where all are run folders. */
  remarks: string[];
}

/** The report of a run, where no other file is named. */
export function reportIn(run: string): string {
  return join(run, 'report.html');
}

/**
 * Of several paths those that are run folders: `runs/*` also finds a folder that a run never wrote to, or a file. A
 * single path, and one that is not there, is kept for {@link readRuns} to refuse.
 * @throws LgdError BAD_OPTION (no paths), FILE_NOT_FOUND (none of them is a run folder)
 */
export async function chooseRuns(paths: readonly string[]): Promise<ChosenRuns> {
  checkTexts(paths, 'runs', 'a run folder');
  if (paths.length < 2) return { folders: [...paths], remarks: [] };
  const isThere = async (path: string) =>
    stat(path).then(
      () => true,
      (error: unknown) => !meansAbsent(error),
    );
  const kinds = await Promise.all(
    paths.map(async (path) => {
      if (!(await isThere(path))) return 'run';
      if (!(await isThere(join(path, configFile)))) return 'other';
      return (await isDenseFolder(path)) ? 'dense' : 'run';
    }),
  );
  const of = (kind: 'run' | 'other' | 'dense') => paths.filter((_, i) => kinds[i] === kind);
  const [folders, others, dense] = [of('run'), of('other'), of('dense')];
  if (folders.length === 0) {
    const listed = (some: string[]) => `${some.slice(0, 3).join(', ')}${some.length > 3 ? ' ...' : ''}`;
    const reasons = [
      ...(others.length > 0 ? [`no ${configFile} is in ${listed(others)}`] : []),
      ...(dense.length > 0 ? [`segmentation networks or detectors were trained into ${listed(dense)}`] : []),
    ];
    throw new LgdError('FILE_NOT_FOUND', `none of the ${paths.length} paths is a run folder: ${reasons.join('; ')}.`, {
      mend: 'Check the paths; a run folder is what distill was given as output',
    });
  }
  const passedOver = (some: string[], why: string) =>
    some.length === 0
      ? []
      : [
          `passed over, as ${some.length === 1 ? 'it is no run folder' : 'they are no run folders'} (${why}): ${some.join(', ')}`,
        ];
  return {
    folders,
    remarks: [
      ...passedOver(others, `no ${configFile}`),
      ...passedOver(dense, 'a segmentation network or a detector was trained there'),
    ],
  };
}

/**
 * Reads the folders of several runs, one after the other (a million lines of metrics take 150 MB), and gives each a
 * name of its own. A folder of several students is a run of each.
 * @throws LgdError BAD_OPTION (none), FILE_NOT_FOUND (not a run folder), BAD_FILE
 */
export async function* readRuns(paths: readonly string[]): AsyncGenerator<RunRecord, void, undefined> {
  if (paths.length === 0)
    throw new LgdError('BAD_OPTION', 'a report needs a run folder.', {
      option: 'runs',
      mend: 'Give one or more run folders',
    });
  const folders = [...new Set((await Promise.all(paths.map((path) => runFolders(resolve(path))))).flat())];
  // all before the first is read, which takes seconds: a wrong path is told of at once
  const configs = await Promise.all(folders.map(configOf));
  const names = namesOf(folders);
  for (const [i, folder] of folders.entries()) yield { ...(await readRun(folder, configs[i]!)), name: names[i]! };
}

/**
 * The folders' own names; with that of the folder above where several have one, and numbered where that is not enough.
 */
function namesOf(folders: readonly string[]): string[] {
  const own = folders.map((folder) => basename(folder));
  const taken = new Map<string, number>();
  return folders.map((folder, i) => {
    const name = own.indexOf(own[i]!) === own.lastIndexOf(own[i]!) ? own[i]! : join(basename(dirname(folder)), own[i]!);
    const count = (taken.get(name) ?? 0) + 1;
    taken.set(name, count);
    return count > 1 ? `${name} (${count})` : name;
  });
}

async function configOf(path: string): Promise<Record<string, unknown>> {
  if (!(await isFolder(path))) {
    throw new LgdError('FILE_NOT_FOUND', `there is no run folder ${path}.`, {
      mend: 'Check the path; a run folder is what distill was given as output',
    });
  }
  const config = await readRunConfig(path);
  if (!isObject(config) || !isWritable(config))
    throw new LgdError('BAD_FILE', `${join(path, 'config.json')} holds no configuration.`, {
      mend: 'Check the path; a run folder is what distill was given as output',
    });
  return config;
}

async function readRun(path: string, config: Record<string, unknown>): Promise<Omit<RunRecord, 'name'>> {
  const metrics = new Metrics();
  for await (const { lines } of wholeLines(chunksOf(path, metricsFile))) for (const line of lines) metrics.add(line);
  return {
    path,
    config,
    ...metrics.columns(),
    log: readRunLog(await text(Readable.from(chunksOf(path, logFile)))),
    ...(await readStudentFacts(path)),
  };
}

/** A run without a checkpoint, or with a damaged one, has curves that are worth showing all the same. */
async function readStudentFacts(path: string): Promise<Pick<RunRecord, 'student' | 'studentProblem'>> {
  try {
    const { info } = await readStudent(path);
    return { student: { info, parameters: countParameters(graphOf(info)) }, studentProblem: undefined };
  } catch (error) {
    if (!(error instanceof LgdError)) throw error;
    return {
      student: undefined,
      studentProblem: error.code === 'FILE_NOT_FOUND' ? 'it has no checkpoint yet' : error.message,
    };
  }
}

/** The bytes of a file's parts, the oldest first, each ended by a line end. */
async function* chunksOf(path: string, name: string): AsyncGenerator<Uint8Array, void, undefined> {
  const parts = await linePaths(path, name).catch((cause: unknown) => {
    throw readError(path, cause, { kind: 'the folder ' });
  });
  for (const part of parts) {
    try {
      yield* (await openToRead(part)).createReadStream({ highWaterMark: 2 ** 18 }) as AsyncIterable<Uint8Array>;
    } catch (cause) {
      if (systemErrorCode(cause) === 'ENOENT') continue;
      throw readError(part, cause);
    }
    yield lineEnd;
  }
}

const lineEnd = Buffer.from('\n');

/** A column of numbers of unknown length: in blocks, which need no copy to grow. */
class Column {
  readonly #blocks: Float64Array[] = [];
  #length = 0;

  push(value: number): void {
    const at = this.#length % blockLength;
    if (at === 0) this.#blocks.push(new Float64Array(blockLength));
    this.#blocks.at(-1)![at] = value;
    this.#length += 1;
  }

  /** All of it in one piece; the column is empty then. */
  take(): Float64Array {
    const whole = new Float64Array(this.#length);
    for (let at = 0; at < whole.length; at += blockLength)
      whole.set(this.#blocks.shift()!.subarray(0, whole.length - at), at);
    this.#length = 0;
    return whole;
  }
}

const blockLength = 2 ** 14;

/**
 * Takes the lines of metrics.jsonl, which may be millions. Those of other kinds are passed over; those that are no
 * JSON, or lack their step, are counted.
 */
export class Metrics {
  readonly #steps = stepFields.map(() => new Column());
  readonly #evaluations: EvaluationPoint[] = [];
  #badLines = 0;

  add(line: string): void {
    if (line.trim() === '') return;
    const value = membersOf(parsed(line));
    if (typeof value['step'] !== 'number') this.#badLines++;
    else if (value['type'] === 'step') stepFields.forEach((field, i) => this.#steps[i]!.push(numberOr(value[field])));
    else if (value['type'] === 'evaluation') {
      const point = evaluationOf(value);
      if (point === undefined) this.#badLines++;
      else this.#evaluations.push(point);
    }
  }

  /** What was taken in, once. */
  columns(): Pick<RunRecord, 'steps' | 'evaluations' | 'badLines'> {
    const steps = Object.fromEntries(stepFields.map((field, i) => [field, this.#steps[i]!.take()])) as StepColumns;
    return { steps, evaluations: this.#evaluations, badLines: this.#badLines };
  }
}

function evaluationOf(line: Record<string, unknown>): EvaluationPoint | undefined {
  const score = (value: unknown) =>
    Number.isFinite((value as ZeroShotScore | undefined)?.top1) ? (value as ZeroShotScore) : undefined;
  const student = score(line['student']);
  const others = Object.fromEntries(
    otherProtocols.flatMap((name) => (score(line[name]) === undefined ? [] : [[name, score(line[name])!] as const])),
  );
  if (student === undefined && Object.keys(others).length === 0) return undefined;
  return {
    step: line['step'] as number,
    epoch: numberOr(line['epoch']),
    time: numberOr(line['time']),
    seconds: numberOr(line['seconds']),
    student,
    teacher: score(line['teacher']),
    others,
  };
}

function numberOr(value: unknown): number {
  return typeof value === 'number' ? value : NaN;
}
