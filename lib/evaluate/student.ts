/** Zero-shot evaluation of a student from its file, apart from any run. */
import { dirname, join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { checkOptions, optionTable } from '../arguments.js';
import { BankSource } from '../banks/bank-source.js';
import { TextualSemanticsBank } from '../banks/textual.js';
import { parseConfig, type Config, type ConfigInput } from '../config/config.js';
import { openDataset } from '../data/open-dataset.js';
import { openImages } from '../data/open-images.js';
import { sampleSource } from '../data/sources.js';
import { openDevice, type Device, type DeviceName } from '../device.js';
import { LgdError } from '../errors.js';
import { isFile } from '../files/folders.js';
import { precisionOf, type Precision } from '../models/compiled.js';
import { hasHead } from '../models/student.js';
import { configuredTeacher } from '../runs/configured-teacher.js';
import { reporting, type Phase, type PhaseProgress } from '../runs/phase.js';
import { readStudent, studentOf, type StudentInfo } from '../runs/student-file.js';
import type { EncodeOptions } from '../text/encoder.js';
import { loadTemplates } from '../text/templates.js';
import { makeAnswers, type Answers } from './accuracy.js';
import { emptyClassFolders, knownMapping, matchClasses, readMapping } from './classes.js';
import { embeddedAtOnce } from './embed.js';
import type { ZeroShotScore } from './score.js';
import { ZeroShotEvaluation, type EvaluateOptions } from './zeroshot.js';

/** What {@link evaluateStudent} evaluates, and on what. */
export interface StudentEvaluationOptions {
  /** A run folder, a checkpoint folder, or a student's file, exported or not. */
  student: string;
  /**
   * `evaluate.data` is the folder of class folders. The text bank is `evaluate.bank` or `bank`; or built of `names` by
   * `textEncoder` (or the teacher's text tower); or the student's own, a bank.safetensors beside its file; or built of
   * the names in the student's file, by the text encoder it says where that is a hub id. `evaluate.names` chooses among
   * those of the bank; where it lacks one, or `templates` are others than the student's, they are embedded anew. With
   * `teacher`, the teacher is evaluated too.
   */
  config: ConfigInput;
  /** Looks at so many images at most, spread evenly over the folder (default: all). */
  mostImages?: number | undefined;
  signal?: AbortSignal | undefined;
  /** Called while a phase goes on. */
  onProgress?: ((progress: PhaseProgress) => void) | undefined;
}

const evaluationOptions = optionTable<StudentEvaluationOptions>()('student config mostImages? signal? onProgress?');

/** What {@link evaluateStudent} found. */
export interface StudentEvaluation {
  /** The student's file. */
  file: string;
  info: StudentInfo;
  student: ZeroShotScore;
  /** Where a teacher was given that sees images. */
  teacher: ZeroShotScore | undefined;
  /** What each image was taken for. */
  predictions: Predictions;
  /** The text bank's hash: scores over the same names and bank can be compared. */
  bankHash: string;
  /** What was left out on opening the images and why, a line each. */
  remarks: readonly string[];
}

/** What each image was taken for: indices into `names`, one an image. */
export interface Predictions {
  names: readonly string[];
  /** Ids of the images: those that can be decoded. */
  images: readonly string[];
  targets: Int32Array;
  student: Int32Array;
  teacher: Int32Array | undefined;
  /** How many names come before the right one, 5 (or all names, of fewer) where as many or more do. */
  studentRanks: Int32Array;
  teacherRanks: Int32Array | undefined;
}

const unseen = -1; // what an image that cannot be decoded was taken for

/**
 * Scores a student on a labelled folder.
 * @throws LgdError BAD_CONFIG (nothing to evaluate on, no names), BAD_MODEL, CLASS_MISMATCH, ABORTED, and those of
 *   banks, images and device
 */
export async function evaluateStudent(options: StudentEvaluationOptions): Promise<StudentEvaluation> {
  checkOptions(options, 'evaluateStudent()', evaluationOptions);
  const { student: path, config: input, mostImages = Infinity, signal, onProgress } = options;
  const config = parseConfig(input);
  const report = (phase: Phase) => reporting(onProgress, phase);
  const folder = config.evaluate.data;
  if (folder === undefined)
    throw new LgdError('BAD_CONFIG', 'is needed to evaluate.', {
      option: 'evaluate.data',
      mend: 'Give a folder of class folders',
    });
  const { file, info, weights } = await readStudent(path);
  if (!hasHead(info, weights))
    throw new LgdError('BAD_MODEL', `${file} has no projection head, so its features are not in the text's space.`, {
      mend: 'Export the student with its head',
    });
  const source = sampleSource(await openImages(folder, { labels: 'folders', signal }), mostImages);
  const mapping =
    config.evaluate.mapping === undefined
      ? await knownMapping(source.classNames!)
      : await readMapping(config.evaluate.mapping);

  using device = await openDevice(config.device as DeviceName, { threads: config.threads });
  const bank = await evaluationBank(await withBank(config, file, info), info, {
    signal,
    onProgress: report('text bank'),
  });
  matchClasses(source.classNames!, bank.names, mapping, await emptyClassFolders(source)); // before images are decoded
  await using teacher =
    config.teacher === undefined ? undefined : await configuredTeacher(config.teacher, config, { device, signal });
  if (teacher !== undefined && teacher.embeddingSize !== info.embeddingSize) {
    throw new LgdError(
      'BAD_SHAPE',
      `the teacher's embeddings have ${teacher.embeddingSize} values, the student's ${info.embeddingSize}.`,
      { option: 'teacher', mend: `Give the student's own teacher, ${info.teacher}` },
    );
  }
  using images = await openDataset(source, config.data.cache, {
    device,
    resolution: Math.max(info.resolution, teacher?.resolution ?? 0),
    margin: 1,
    memoryLimitBytes: config.data.cacheMemory * 2 ** 20,
    spillFolder: config.data.spillFolder,
    maxBrokenShare: config.data.maxBrokenShare,
    signal,
    onProgress: ({ done, total }) => report('evaluation images')(done, total),
  });
  const common = { device, images, bank, mapping };
  const [batch, precision] = [images.length, precisionOf(config)]; // so many at once as fit
  const ofStudent = new ZeroShotEvaluation({ ...common, mean: info.mean, std: info.std });
  const [seen, seenByTeacher] = [makeAnswers(images.length), makeAnswers(images.length)];
  const record = ({ predicted, ranks }: Answers) => {
    predicted.fill(unseen);
    return (nearest: Int32Array, topK: number, some: Int32Array) =>
      some.forEach((image, i) => {
        const row = nearest.subarray(i * topK, (i + 1) * topK);
        const place = row.indexOf(ofStudent.targets[image]!);
        predicted[image] = row[0]!;
        ranks[image] = place === -1 ? topK : place;
      });
  };
  const score = await scoreStudent(device, { info, weights }, ofStudent, {
    batch,
    precision,
    signal,
    onProgress: report('student'),
    onNearest: record(seen),
  });
  const teacherScore =
    teacher &&
    (await new ZeroShotEvaluation({ ...common, mean: teacher.mean, std: teacher.std }).evaluateTeacher(teacher, {
      batch,
      precision,
      signal,
      onProgress: report('teacher'),
      onNearest: record(seenByTeacher),
    }));
  const whole = Int32Array.from(images.ids.keys()).filter((image) =>
    [seen, ...(teacherScore ? [seenByTeacher] : [])].every(({ predicted }) => predicted[image] !== unseen),
  );
  const listed = (values: Int32Array) => whole.map((image) => values[image]!);
  return {
    file,
    info,
    student: score,
    teacher: teacherScore,
    bankHash: bank.hash,
    remarks: source.remarks ?? [],
    predictions: {
      names: bank.names,
      images: Array.from(whole, (image) => images.ids[image]!),
      targets: listed(ofStudent.targets),
      student: listed(seen.predicted),
      studentRanks: listed(seen.ranks),
      teacher: teacherScore && listed(seenByTeacher.predicted),
      teacherRanks: teacherScore && listed(seenByTeacher.ranks),
    },
  };
}

async function scoreStudent(
  device: Device,
  content: Pick<Awaited<ReturnType<typeof readStudent>>, 'info' | 'weights'>,
  evaluation: ZeroShotEvaluation,
  { batch: most, precision, ...options }: EvaluateOptions & { batch: number; precision: Precision | undefined },
): Promise<ZeroShotScore> {
  const student = studentOf(content, device);
  const { resolution } = content.info;
  const batch = embeddedAtOnce(most, resolution);
  using encoder = student.compile({ batch, resolution, precision, training: false });
  return await evaluation.evaluateEncoder(encoder, options);
}

/**
 * Where the configuration names no bank and no names of training: the bank the student was trained with, if it lies
 * beside the student's file; else what its names, or those to choose among, are embedded with. That is by the
 * student's templates, unless names are given with templates other than the default.
 * @throws LgdError BAD_CONFIG (no text encoder), BAD_BANK, and as {@link loadTemplates}
 */
async function withBank(config: Config, file: string, info: StudentInfo): Promise<Config> {
  const { bank, names, evaluate } = config;
  if (bank !== undefined || names !== undefined || evaluate.bank !== undefined) return config;
  const hasNames = evaluate.names !== undefined;
  const templates =
    hasNames && config.templates !== 'default' ? await loadTemplates(config.templates) : [...info.templates];
  const known = { ...config, templates: templates.length > 0 ? templates : config.templates };
  const beside = join(dirname(file), 'bank.safetensors');
  if (
    isDeepStrictEqual(templates, [...info.templates]) &&
    (await isFile(beside)) &&
    (await TextualSemanticsBank.load(beside)).hash === info.bankHash
  )
    return { ...known, bank: beside };
  if (info.names.length === 0) return known;
  // a hub id; of a folder only the name is known
  const textEncoder =
    config.textEncoder ?? config.teacher ?? (info.textEncoder.includes('/') ? info.textEncoder : undefined);
  if (textEncoder === undefined) {
    const which = hasNames ? 'names to choose among' : `${info.names.length} names of ${file}`;
    throw new LgdError('BAD_CONFIG', `is needed to embed the ${which}.`, {
      option: 'textEncoder',
      mend: `Give the text encoder (${info.textEncoder}), or the text bank with bank`,
    });
  }
  return { ...known, textEncoder, names: hasNames ? undefined : [...info.names] };
}

/**
 * The text bank of names to choose among: rows of the bank that {@link withBank} finds where they are in it, else
 * embedded by the text encoder; without names that bank itself.
 * @throws LgdError BAD_CONFIG (no names, or no text encoder for them), and as {@link BankSource.training}
 */
export async function bankOfNames(
  config: Config,
  names: Config['names'],
  file: string,
  info: StudentInfo,
  options: EncodeOptions,
): Promise<TextualSemanticsBank> {
  const evaluate = { ...config.evaluate, ...(names !== undefined && { names }) };
  return await evaluationBank(await withBank({ ...config, names: undefined, evaluate }, file, info), info, options);
}

async function evaluationBank(
  config: Config,
  info: StudentInfo,
  options: EncodeOptions,
): Promise<TextualSemanticsBank> {
  await using banks = new BankSource(config, info, options);
  const { bank, names, evaluate } = config;
  // a student trained without names has none, and is judged by those of evaluate alone
  const hasOwn = bank !== undefined || names !== undefined;
  return await banks.evaluation(hasOwn && evaluate.bank === undefined ? await banks.training() : undefined);
}
