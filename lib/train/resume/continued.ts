/**
 * A run that goes on from a checkpoint: what that keeps of the loop, what the run is held to, and what it says of
 * things that are not as they were.
 */
import { configOptions, type Config } from '../../config/config.js';
import { isAmong, optionOf } from '../../config/option-paths.js';
import type { JpegDecoder } from '../../data/jpeg-decoder.js';
import type { BatchPlanState } from '../../data/loader.js';
import { LgdError, type ErrorDetails } from '../../errors.js';
import type { ZeroShotScore } from '../../evaluate/score.js';
import { hashIfReadable } from '../../files/hash-file.js';
import type { Manifest } from '../../files/manifest.js';
import type { AnyTeacher } from '../../models/index.js';
import type { StudentInfo } from '../../runs/student-file.js';
import type { MonitorState } from '../monitor.js';
import { checkTeacher, type TeacherMark } from './teacher-mark.js';

/**
 * Options, by their dotted paths, that a run may go on with otherwise than before, `log.*` for all of a group:
 * `lgdistill resume` takes these alone.
 */
export const changeableOptions: readonly string[] = [
  'device',
  'threads',
  'offline',
  'names',
  'templates',
  'textEncoder',
  'bank',
  'teacher',
  'data.train',
  ...['data', 'train', 'names', 'bank', 'mapping', 'everyEpochs', 'everySteps'].map((name) => `evaluate.${name}`),
  'data.cacheMemory',
  'data.spillFolder',
  'train.maxSteps',
  'checkpoint.*',
  'log.*',
];

/**
 * Others that leave the weights as they are; that are checked by what comes of them ({@link heldTo}: `auto` may be
 * spelled out, say); or whose change is told in other words.
 */
const ofNoWeight = [
  'output',
  'overwrite',
  'allowDuplicates',
  'method',
  'data.cache',
  'data.readAhead',
  'data.maxBrokenShare',
  'teacherCache.*',
  'student.name',
  'student.weights',
  'train.outlierFactor',
  'evaluate.*',
  'dense.*',
];

/** What a run is made with, besides its student and the options that are not for changing. */
export interface Circumstances {
  /** Hash of the images. */
  dataset: string;
  /** Views of each image that come back. */
  views: number;
  /** `train.accumulate`, which steps and epochs are counted by. */
  accumulate: number;
  /** What decodes plain JPEG files. */
  jpegDecoder: JpegDecoder['name'];
  /** What computes: the CPU, or a GPU by one kind of dense products. */
  computed: string;
  teacher: TeacherMark;
  /** Absent where nothing is evaluated. */
  scoredOn?: ScoredOn | undefined;
}

/** What a checkpoint keeps of the loop. */
export interface Progress extends Circumstances {
  plan: BatchPlanState;
  /** SHA-256 of the file of `student.weights` that the run was started from; absent where it had none. */
  startWeights?: string | undefined;
  monitor: MonitorState;
  best: Manifest['best'];
  /** Step of the last evaluation; 0 before the first. */
  evaluated: number;
  teacherScore: ZeroShotScore | null;
}

/**
 * What scores are measured on: marks of the images with their names, and of those that protocols of `evaluate.also`
 * learn from.
 */
export interface ScoredOn {
  judged: string;
  learnt?: string | undefined;
}

/** What is at hand. */
export interface Present {
  info: StudentInfo;
  config: Config;
  teacher: AnyTeacher;
  circumstances: Circumstances;
}

const heldTo = [
  ['architecture', 'student.name'],
  ['widthMultiplier', 'student.widthMultiplier'],
  ['embeddingSize', 'teacher'],
  ['resolution', 'data.resolution'],
  ['method', 'method'],
] as const satisfies readonly (readonly [keyof StudentInfo, string])[];

/**
 * Refuses to go on with another student, teacher, bank, method or optimiser, other batches a step, or other images.
 * @throws LgdError BAD_CHECKPOINT
 */
export function checkContinued(
  { info, folder, optimizer }: { info: StudentInfo; folder: string; optimizer: Config['train']['optimizer'] },
  progress: Progress,
  { info: here, config, teacher, circumstances }: Present,
): void {
  const refuse = (what: string, { mend = 'Resume with the configuration of that run', ...details }: ErrorDetails) => {
    throw new LgdError('BAD_CHECKPOINT', `${folder} was made with ${what}.`, { ...details, mend });
  };
  for (const [field, option] of heldTo)
    if (here[field] !== info[field])
      refuse(`another ${field}`, { option, found: here[field], allowed: String(info[field]) });
  if (JSON.stringify(here.graph) !== JSON.stringify(info.graph))
    refuse(`another graph by the name of ${info.architecture}`, {
      option: 'student',
      mend: 'Resume with the network of that run',
    });
  if (here.bankHash !== info.bankHash)
    refuse(`another text bank: ${whatDiffers(info, here)}`, {
      option: 'bank',
      mend: 'Bring names, templates and text encoder back as they were; of names and templates whose files are gone the checkpoint has a copy. Or begin a new run',
    });
  if (config.train.optimizer !== optimizer)
    refuse('another optimiser, which keeps other numbers', {
      option: 'train.optimizer',
      found: config.train.optimizer,
      allowed: optimizer,
      mend: `Resume with train.optimizer: ${optimizer}, or begin a new run, with the weights of this one (student.weights) if you like`,
    });
  const { accumulate, views } = progress;
  if (circumstances.accumulate !== accumulate)
    refuse('another number of batches a step, by which steps and learning rate are counted', {
      option: 'train.accumulate',
      found: circumstances.accumulate,
      allowed: String(accumulate),
      mend: `Resume with train.accumulate: ${accumulate}, or begin a new run`,
    });
  checkTeacher(folder, progress.teacher, circumstances.teacher, teacher);
  if (circumstances.dataset !== progress.dataset)
    refuse('other images', {
      option: 'data.train',
      mend: 'Resume with the images of that run, none added, removed or broken since',
    });
  if (circumstances.views !== views)
    refuse('another number of views that come back', {
      option: 'teacherCache.views',
      found: circumstances.views,
      allowed: String(views),
    });
}

/** Of two text banks that differ. */
function whatDiffers(before: StudentInfo, here: StudentInfo): string {
  const [were, are] = [new Set(before.names), new Set(here.names)];
  const list = (names: readonly string[]) =>
    `${names
      .slice(0, 3)
      .map((name) => JSON.stringify(name))
      .join(', ')}${names.length > 3 ? `, ... (${names.length})` : ''}`;
  const [missing, added] = [
    before.names.filter((name) => !are.has(name)),
    here.names.filter((name) => !were.has(name)),
  ];
  const faults = [
    ...(missing.length > 0 ? [`the names lack ${list(missing)}`] : []),
    ...(added.length > 0 ? [`${list(added)} ${added.length > 1 ? 'are' : 'is'} new among the names`] : []),
  ];
  if (faults.length > 0) return faults.join(', and ');
  if (JSON.stringify(before.names) !== JSON.stringify(here.names)) return 'the names come in another order';
  if (JSON.stringify(before.templates) !== JSON.stringify(here.templates))
    return `the templates are ${list(here.templates)} and were ${list(before.templates)}`;
  return `the same names have other embeddings, now by ${here.textEncoder} and before by ${before.textEncoder}`;
}

/** Are scores from here on of other images or names than those before, so that they cannot be compared? */
export function areOthersScored(
  { scoredOn: before }: Pick<Progress, 'scoredOn'>,
  { scoredOn: here }: Pick<Circumstances, 'scoredOn'>,
): boolean {
  if (before === undefined || here === undefined) return false;
  return (
    before.judged !== here.judged ||
    (before.learnt !== undefined && here.learnt !== undefined && before.learnt !== here.learnt)
  );
}

/**
 * What is not as it was, a line each: nothing that keeps a run from going on, but some of it changes its bits.
 * @param before the configuration in the run folder, as far as there is one
 */
export async function remarksOn(
  progress: Progress,
  before: Partial<Config> | null | undefined,
  { config, circumstances }: Pick<Present, 'config' | 'circumstances'>,
): Promise<string[]> {
  const { jpegDecoder, computed } = circumstances;
  const remarks: string[] = [];
  for (const option of ['teacher', 'textEncoder'] as const) {
    const [was, is] = [before?.[option], config[option]];
    const told = option === 'teacher' ? 'the same one' : 'it must be the same model, which its name alone tells';
    if (was !== undefined && was !== is) remarks.push(`${option} is ${is} from here on and was ${was}: ${told}`);
  }
  const start = await remarkOnStart(config.student.weights, progress.startWeights);
  if (start !== undefined) remarks.push(start);
  remarks.push(...remarksOnOptions(before, config));
  if (areOthersScored(progress, circumstances))
    remarks.push(
      'evaluation images or names are others than before: scores from here on cannot be compared with those, so the teacher is scored again and the best checkpoint chosen anew',
    );
  const { jpegDecoder: decoded, computed: ran } = progress;
  if (decoded !== jpegDecoder)
    remarks.push(
      `JPEG files were decoded by ${decoded} so far and are by ${jpegDecoder} from here on: pixels that are not kept already differ by about a level, and so will the bits`,
    );
  if (ran !== computed)
    remarks.push(
      `steps were computed on ${ran} so far and are on ${computed} from here on: sums are added in another order, and so the bits will differ`,
    );
  return remarks;
}

/**
 * Options by which the weights change, and which neither {@link changeableOptions} nor a check has: their new values
 * stand in config.json as if the whole run had had them.
 */
function remarksOnOptions(before: Partial<Config> | null | undefined, config: Config): string[] {
  return configOptions()
    .filter(({ path }) => !isAmong(path, changeableOptions) && !isAmong(path, ofNoWeight))
    .flatMap(({ path }) => {
      const [was, is] = [optionOf(before ?? {}, path), optionOf(config, path)];
      return was === undefined || was === is
        ? []
        : [`${path} is ${String(is)} from here on and was ${String(was)}: config.json has the new value alone`];
    });
}

/** The file that a run was started from is not needed any more, but whoever looks for it should know. */
async function remarkOnStart(file: string | undefined, before: string | undefined): Promise<string | undefined> {
  if (file === undefined) return undefined;
  const mark = await hashIfReadable(file);
  if (mark === undefined)
    return `student.weights ${file} cannot be read any more: the run goes on with the weights of its checkpoint, and needs no others`;
  if (before === undefined || before === mark) return undefined;
  return `student.weights ${file} is not the file that the run was started from: the run goes on with the weights of its checkpoint`;
}
