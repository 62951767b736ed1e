/**
 * From a configuration to a run that can start: everything is checked within seconds, before images are decoded and the
 * first step is made.
 */
import { existsSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { checkOptions, checkText, type OptionTable } from '../arguments.js';
import { BankSource } from '../banks/bank-source.js';
import type { TextualSemanticsBank } from '../banks/textual.js';
import { drawStartBank } from '../banks/visual.js';
import { chooseBatch, type RunConfig } from '../config-batch.js';
import { mergeConfig, parseConfig, studentNames, type Config, type ConfigInput } from '../config.js';
import type { ImageCache } from '../data/cache.js';
import { checkDistinctIds, eachId } from '../data/image-id.js';
import { chooseMode, openDataset, type CacheMode } from '../data/open-dataset.js';
import { openImages } from '../data/open-images.js';
import type { ImageSource } from '../data/sources.js';
import type { StreamedImages } from '../data/streamed.js';
import { openDevice, type Device, type DeviceName } from '../device.js';
import { LgdError, throwIfAborted } from '../errors.js';
import { emptyClassFolders, knownMapping, labelsAmong, matchClasses, readMapping } from '../evaluate/classes.js';
import { FrozenEvaluation } from '../evaluate/during-training.js';
import { openLabelled } from '../evaluate/labelled.js';
import type { OnlineImages } from '../evaluate/online.js';
import { ZeroShotEvaluation } from '../evaluate/zeroshot.js';
import { loadTeacher, type AnyTeacher } from '../models/index.js';
import { createStudent, Student } from '../models/student.js';
import { CheckpointStore } from '../runs/checkpoint.js';
import { runFolders } from '../runs/group-folder.js';
import type { Phase, PhaseProgress } from '../runs/phase.js';
import { checkRunFolder, readBatchNumbers, readRunConfig } from '../runs/run-folder.js';
import { checkStart } from './beginning.js';
import type { RunOptions } from './course.js';
import { Distiller } from './distiller.js';
import type { RunEvent } from './events.js';
import { checkStillThere } from './image-list.js';
import { movedIf, withNamesMoved } from './moved.js';
import { loadStartWeights } from './start-weights.js';

/** How {@link prepareRun} goes about it. */
export interface PrepareOptions {
  signal?: AbortSignal | undefined;
  /** Called while a phase goes on. */
  onProgress?: ((progress: PhaseProgress) => void) | undefined;
  /** Continue the run that is in the run folder; see {@link RunOptions.resume}. */
  resume?: RunOptions['resume'] | undefined;
}

const prepareOptions = {
  signal: 'optional',
  onProgress: 'optional',
  resume: 'optional',
} satisfies OptionTable<PrepareOptions>;

/** A run that is ready. Dispose of it when it is over (`await using run = await prepareRun(...)` does). */
export interface PreparedRun extends AsyncDisposable {
  /** Resolved: paths absolute; the resolution, the batch size and the learning rate known. */
  config: RunConfig;
  device: Device;
  teacher: AnyTeacher;
  /** The student; of several the first (`distiller.students` has all). */
  student: Student;
  tsb: TextualSemanticsBank | undefined;
  dataset: ImageCache | StreamedImages;
  /** Zero-shot; undefined without evaluation images, or without names to choose among. */
  evaluation: ZeroShotEvaluation | undefined;
  /** The protocols of `evaluate.also`. */
  frozen: FrozenEvaluation | undefined;
  /** What the online probe of `evaluate.online` is judged on. */
  online: OnlineImages | undefined;
  distiller: Distiller;
  /** Starts it, or continues it as {@link PrepareOptions.resume} said. */
  run(options?: { signal?: AbortSignal | undefined }): AsyncGenerator<RunEvent, void, undefined>;
  /** Frees all of it, once; work that is queued is done first. */
  dispose(): Promise<void>;
}

/**
 * Builds everything a run needs from a configuration: device, teacher, text bank, student, images and evaluation. Where
 * `train.batchSize` and `train.learningRate` are `auto` they follow the number of images in `data.train`
 * ({@link BatchChoice}); in a run that goes on they stay what they were.
 * @throws LgdError for whatever is wrong with it; ABORTED
 */
export async function prepareRun(input: ConfigInput | Config, options: PrepareOptions = {}): Promise<PreparedRun> {
  checkOptions(options, 'prepareRun()', prepareOptions);
  const config = absolutePaths(parseConfig(input));
  const cleanup: (() => Promise<void> | void)[] = [];
  const dispose = async () => {
    for (const action of cleanup.splice(0).reverse()) await action();
  };
  try {
    const { remarks, ...parts } = await build(config, options, cleanup);
    const { distiller, dataset, evaluation, frozen, online } = parts;
    const run: PreparedRun['run'] = (runOptions = {}) => {
      checkOptions(runOptions, 'run()', { signal: 'optional' });
      return distiller.run(dataset, { ...runOptions, evaluation, frozen, online, resume: options.resume, remarks });
    };
    return { ...parts, dispose, [Symbol.asyncDispose]: dispose, run };
  } catch (error) {
    await dispose();
    throw error;
  }
}

/**
 * The configuration to continue a run with: the one in its folder, with overrides by dotted path on top
 * ({@link mergeConfig}). {@link RunOptions.resume} says what may be overridden.
 * @throws LgdError FILE_NOT_FOUND (not a run folder), BAD_FILE, BAD_CONFIG, BAD_OPTION
 */
export async function resumeConfig(
  runFolder: string,
  overrides: Readonly<Record<string, unknown>> = {},
): Promise<Config> {
  checkText(runFolder, 'output', 'a run folder');
  return mergeConfig(await readRunConfig(runFolder), { ...overrides, output: resolve(runFolder) });
}

type Parts = Omit<PreparedRun, 'run' | 'dispose' | typeof Symbol.asyncDispose> & { remarks: readonly string[] };

/** What frees the parts of a run, the last one first. */
type Cleanup = (() => Promise<void> | void)[];

/** What the later parts of a run are made with. */
interface Workshop {
  config: RunConfig;
  device: Device;
  teacher: AnyTeacher;
  /** Of decoded images: sharp enough for the larger of the two inputs. */
  side: number;
  options: PrepareOptions;
  cleanup: Cleanup;
}

async function build(wanted: Config, options: PrepareOptions, cleanup: Cleanup): Promise<Parts> {
  const { signal, resume } = options;
  if (resume === undefined) checkUsed(wanted);
  const { config: given, remarks } = resume === undefined ? { config: wanted, remarks: [] } : await asBegun(wanted);
  const trainingImages = required(given.data.train, 'data.train', 'Give the folder of training images');
  const teacherSource = required(given.teacher, 'teacher', 'Give a CLIP folder or hub id');
  cleanup.push(await checkRunFolder(given.output, { overwrite: given.overwrite, resume: resume !== undefined }));
  const sources = await openSources(given, trainingImages, options);
  const { source, evaluationSource, labelled, batchSize, learningRate } = sources;

  const device = await openDevice(given.device as DeviceName, { threads: given.threads });
  cleanup.push(() => device.dispose());
  const teacher = await openTeacher(teacherSource, device, given, options);
  cleanup.push(() => teacher.dispose());
  await checkEmbeddings(teacher, source, signal);
  const resolution = given.data.resolution ?? teacher.resolution;
  const side = Math.max(resolution, teacher.kind === 'precomputed' ? 0 : teacher.resolution);
  const cache = await chooseMode(source, given.data.cache, {
    resolution: side,
    margin: given.data.margin,
    ...placesOf(given),
  });
  const config: RunConfig = {
    ...given,
    train: { ...given.train, batchSize, learningRate },
    data: { ...given.data, resolution, cache },
  };
  const workshop: Workshop = { config, device, teacher, side, options, cleanup };

  const banks = await openBanks(evaluationSource, workshop);
  const { tsb } = banks;
  const students = await makeStudents(workshop);
  if (tsb) await drawStartBank(tsb, config.seed, signal);
  // With what was given, not what was chosen: the run says which is which.
  const distiller = new Distiller({
    device,
    teacher,
    student: students,
    tsb,
    config: { ...config, train: given.train },
    images: source.ids.length,
    onlineClasses: config.evaluate.online ? source.classNames!.length : undefined,
  });
  cleanup.push(() => distiller.dispose());
  throwIfAborted(signal, 'preparing the run');

  const dataset = await decode(source, 'training images', { mode: cache, side, margin: config.data.margin }, workshop);
  const judges = await openJudges({ ...sources, ...banks, mode: given.data.cache, distiller }, workshop);
  return {
    config,
    device,
    teacher,
    student: students[0]!,
    tsb,
    dataset,
    ...judges,
    distiller,
    remarks: [
      ...remarks,
      ...banks.remarks,
      ...pairRemark(teacher, tsb),
      ...[source, evaluationSource, labelled?.train].flatMap((images) => images?.remarks ?? []),
    ],
  };
}

const reporter =
  ({ onProgress }: PrepareOptions, phase: Phase) =>
  (done: number, total: number) =>
    onProgress?.({ phase, done, total });

/** Images to learn from and to be judged on. */
interface Sources {
  source: ImageSource;
  /** What `evaluate.also` learns from, and is judged on. */
  labelled: Awaited<ReturnType<typeof openLabelled>> | undefined;
  evaluationSource: ImageSource | undefined;
  /** As many as are trained with, for so many images. */
  batchSize: number;
  learningRate: number;
}

async function openSources(
  config: Config,
  trainingImages: string,
  { signal, resume }: PrepareOptions,
): Promise<Sources> {
  const isResumed = resume !== undefined;
  const open = (folder: string, option: string, labels: 'folders' | 'none') =>
    openImages(folder, { labels, signal }).catch(movedIf(isResumed, { [option]: folder }));
  const source = await open(trainingImages, 'data.train', config.evaluate.online ? 'folders' : 'none');
  if (isResumed)
    for (const output of await runFolders(config.output))
      await checkStillThere({ ...config, output }, source.ids, signal);
  const { batchSize, learningRate } = chooseBatch(config.train, source.ids.length);
  checkBatch(batchSize, source);
  const labelled =
    config.evaluate.also === 'none'
      ? undefined
      : await openLabelled(config, (folder, option) => open(folder, option, 'folders'));
  const evaluationSource =
    labelled?.test ??
    (config.evaluate.data === undefined ? undefined : await open(config.evaluate.data, 'evaluate.data', 'folders'));
  return { source, labelled, evaluationSource, batchSize, learningRate };
}

async function openTeacher(
  source: string,
  device: Device,
  { offline }: Config,
  options: PrepareOptions,
): Promise<AnyTeacher> {
  const report = reporter(options, 'teacher');
  report(0, 1);
  const teacher = await loadTeacher(source, { device, localFilesOnly: offline, signal: options.signal }).catch(
    movedIf(options.resume !== undefined, { teacher: source }),
  );
  report(1, 1);
  return teacher;
}

/** Text banks to learn from and to be judged by. */
interface Banks {
  tsb: TextualSemanticsBank | undefined;
  evaluationBank: TextualSemanticsBank | undefined;
  /** From class folders to names. */
  mapping: Record<string, string>;
  remarks: readonly string[];
}

async function openBanks(
  evaluationSource: ImageSource | undefined,
  { config, device, teacher, options, cleanup }: Workshop,
): Promise<Banks> {
  const { signal, resume } = options;
  const isResumed = resume !== undefined;
  const kept = isResumed ? await keptBank(config.output, resume) : undefined;
  const banks = new BankSource(config, teacher, { device, signal, onProgress: reporter(options, 'text bank') }, kept);
  cleanup.push(() => banks.dispose());
  const { names, bank, templates, textEncoder, evaluate } = config;
  const tsb = await banks.training().catch(movedIf(isResumed, { names, bank, templates, textEncoder }));
  const evaluationBank =
    evaluationSource && hasNames(banks, tsb, config)
      ? await banks.evaluation(tsb).catch(
          movedIf(isResumed, {
            'evaluate.names': evaluate.names,
            'evaluate.bank': evaluate.bank,
            templates,
            textEncoder,
          }),
        )
      : undefined;
  const mapping =
    evaluate.mapping === undefined
      ? await knownMapping(evaluationSource?.classNames ?? [])
      : await readMapping(evaluate.mapping).catch(movedIf(isResumed, { 'evaluate.mapping': evaluate.mapping }));
  if (evaluationSource && evaluationBank)
    matchClasses(
      evaluationSource.classNames!,
      evaluationBank.names,
      mapping,
      await emptyClassFolders(evaluationSource),
    );
  await banks.dispose();
  return { tsb, evaluationBank, mapping, remarks: [...banks.remarks] };
}

/** Are there names for zero-shot? A run without needs another protocol to evaluate by. @throws LgdError BAD_CONFIG */
function hasNames(
  banks: BankSource,
  tsb: TextualSemanticsBank | undefined,
  { evaluate: { also, online, metric, mapping } }: Config,
): boolean {
  if (banks.hasEvaluationNames(tsb)) return true;
  const names = 'names, evaluate.names or evaluate.bank';
  if (also === 'none' && !online) {
    throw new LgdError(
      'BAD_CONFIG',
      'without category names an evaluation needs labelled images to learn from, or an online probe.',
      {
        option: 'evaluate.also',
        found: also,
        allowed: 'knn, linear or both',
        mend: `Give evaluate.also with evaluate.train, or evaluate.online, or names for zero-shot: ${names}`,
      },
    );
  }
  if (metric === 'top1' || metric === 'top5') {
    throw new LgdError('BAD_CONFIG', 'is of zero-shot classification, which needs category names.', {
      option: 'evaluate.metric',
      found: metric,
      mend: `Choose knn, linear, online or loss, or give ${names}`,
    });
  }
  if (mapping !== undefined) {
    throw new LgdError('BAD_CONFIG', 'there are no category names to map class folders to.', {
      option: 'evaluate.mapping',
      found: mapping,
      mend: `Leave it out, or give ${names}`,
    });
  }
  return false;
}

/** The students with the weights that they begin with. */
async function makeStudents({
  config,
  device,
  teacher: { embeddingSize },
  options: { resume, signal },
}: Workshop): Promise<Student[]> {
  const {
    student: { name, widthMultiplier, dropping, weights },
    seed,
  } = config;
  const names = studentNames(name);
  const outputOf = (student: string) => (names.length === 1 ? config.output : join(config.output, student));
  const students = await Promise.all(
    names.map(async (one) => {
      const own = resume === undefined ? undefined : await CheckpointStore.graphOf(outputOf(one), resume);
      // of a graph that its checkpoint alone knows
      if (own !== undefined) return new Student(one, device, embeddingSize, widthMultiplier, own, seed);
      return createStudent(one, { device, embeddingSize, widthMultiplier, dropping, seed });
    }),
  );
  const begins = resume === undefined || (resume === 'last' && !(await CheckpointStore.isBegun(config.output)));
  if (weights !== undefined && begins) await loadStartWeights(students[0]!, weights); // a checkpoint has all weights
  for (const one of students) {
    await one.drawWeights(signal);
    if (resume === 'last') await checkStart(outputOf(one.name), one, signal); // before images are decoded
  }
  return students;
}

/** What judges the student while it is trained. */
async function openJudges(
  {
    source,
    evaluationSource,
    labelled,
    evaluationBank,
    mapping,
    mode,
    distiller,
  }: Sources & Banks & { mode: Config['data']['cache']; distiller: Distiller },
  workshop: Workshop,
): Promise<Pick<PreparedRun, 'evaluation' | 'frozen' | 'online'>> {
  if (!evaluationSource) return { evaluation: undefined, frozen: undefined, online: undefined };
  const {
    config,
    device,
    teacher: { mean, std },
    side,
  } = workshop;
  const images = await decode(evaluationSource, 'evaluation images', { mode, side, margin: 1 }, workshop);
  const evaluation =
    evaluationBank && new ZeroShotEvaluation({ device, images, bank: evaluationBank, mapping, mean, std });
  let online: OnlineImages | undefined;
  if (config.evaluate.online)
    online = {
      images,
      labels: labelsAmong(images, source.classNames!, {
        option: 'evaluate.online',
        mend: nameAlike,
        empty: await emptyClassFolders(source),
      }),
      mean,
      std,
    };
  if (labelled === undefined) return { evaluation, frozen: undefined, online };
  const { resolution, precision } = distiller.encoder;
  const train = await decode(labelled.train, 'evaluation images', { mode, side: resolution, margin: 1 }, workshop);
  const frozen = new FrozenEvaluation({
    device,
    batch: config.train.batchSize,
    resolution,
    precision,
    mean,
    std,
    config,
    train,
    test: images,
  });
  return { evaluation, frozen, online };
}

/**
 * Embeddings of two models may be equally long, and nothing but the models' names tells that they are of two spaces;
 * `openai/clip` and a folder `clip` are taken for one.
 */
function pairRemark({ kind, id }: AnyTeacher, bank: TextualSemanticsBank | undefined): string[] {
  const isModel = kind === 'native' || kind === 'onnx';
  if (!isModel || bank === undefined || basename(bank.encoderId) === basename(id)) return [];
  return [
    `names are embedded by ${bank.encoderId} and images by ${id}: that is right only where both are towers of one model, or were trained to agree`,
  ];
}

/**
 * Of a run that goes on, the batch size and the learning rate that it was begun with, where the configuration leaves
 * them to `auto`: images may be gone meanwhile. Evaluation names move with their images.
 */
async function asBegun(config: Config): Promise<ReturnType<typeof withNamesMoved>> {
  const begun = await readBatchNumbers(config.output);
  const train = { ...config.train };
  for (const option of ['batchSize', 'learningRate'] as const)
    if (train[option] === 'auto') train[option] = begun[option] ?? 'auto';
  return withNamesMoved(
    { ...config, train },
    (await readRunConfig(config.output).catch(() => undefined)) as Partial<Config> | null | undefined,
  );
}

/** The text bank in the checkpoint that a run goes on from; of several students the first that has one. */
async function keptBank(output: string, resume: string): Promise<TextualSemanticsBank | undefined> {
  for (const folder of await runFolders(output)) {
    const bank = await CheckpointStore.bankOf(folder, resume);
    if (bank !== undefined) return bank;
  }
  return undefined;
}

const nameAlike = 'Name class folders of training and evaluation images alike, or turn evaluate.online off';

async function decode(
  source: ImageSource,
  phase: Phase,
  { mode, side, margin }: { mode: CacheMode; side: number; margin: number },
  { config, device, options, cleanup }: Workshop,
): Promise<ImageCache | StreamedImages> {
  const report = reporter(options, phase);
  const images = await openDataset(source, mode, {
    device,
    resolution: side,
    margin,
    ...placesOf(config),
    maxBrokenShare: config.data.maxBrokenShare,
    signal: options.signal,
    onProgress: ({ done, total }) => report(done, total),
  });
  cleanup.push(() => images.dispose());
  return images;
}

/** Where decoded images are kept. */
function placesOf({ data, output }: Config): { memoryLimitBytes: number; spillFolder: string } {
  return { memoryLimitBytes: data.cacheMemory * 2 ** 20, spillFolder: data.spillFolder ?? output };
}

/**
 * Refuses options of a new run that without another would be for nothing: nobody would miss what they ask for. @throws
 * LgdError BAD_CONFIG
 */
function checkUsed({ teacherCache, evaluate }: Config): void {
  if (teacherCache.file !== undefined && teacherCache.views === 0) {
    throw new LgdError('BAD_CONFIG', 'holds nothing where no views come back.', {
      option: 'teacherCache.file',
      found: teacherCache.file,
      mend: 'Give teacherCache.views, how many views of each image come back, or leave the file out',
    });
  }
  for (const option of ['names', 'bank', 'mapping'] as const) {
    if (evaluate.data !== undefined || evaluate[option] === undefined) continue;
    throw new LgdError('BAD_CONFIG', 'needs a folder to evaluate on.', {
      option: `evaluate.${option}`,
      found: evaluate[option],
      mend: `Give evaluate.data, or leave evaluate.${option} out`,
    });
  }
}

function required(value: string | undefined, option: string, mend: string): string {
  if (value === undefined) throw new LgdError('BAD_CONFIG', 'is needed for training.', { option, mend });
  return value;
}

/**
 * Said before anything is decoded; broken images may still lower the number of images below a batch, which training
 * then refuses.
 */
function checkBatch(batchSize: number, { ids, root }: ImageSource): void {
  if (ids.length >= batchSize) return;
  throw new LgdError('BAD_CONFIG', `a batch cannot be filled from the ${ids.length} images in ${root}.`, {
    option: 'train.batchSize',
    found: batchSize,
    allowed: `auto, or a whole number to ${ids.length}`,
    mend: 'Take a smaller batch (auto does) or more images',
  });
}

/** A teacher of precomputed embeddings must know every image, and tell it from the others. */
async function checkEmbeddings(
  teacher: AnyTeacher,
  { ids }: ImageSource,
  signal: AbortSignal | undefined,
): Promise<void> {
  if (teacher.kind !== 'precomputed') return;
  await checkDistinctIds(ids, signal);
  let known = 0;
  await eachId(
    ids,
    (id) => {
      known += Number(teacher.has(id));
    },
    signal,
    'looking for the embeddings of the images',
  );
  if (known < ids.length) teacher.lookup(ids); // says how many, which, and what its ids look like
}

/** The same configuration with absolute paths, so that a run can be continued from another folder. */
function absolutePaths(config: Config): Config {
  const path = (value: string) => resolve(value);
  // else an id, or the name of a built-in list
  const ifThere = <Value>(value: Value) => (typeof value === 'string' && existsSync(value) ? resolve(value) : value);
  const optional = (value: string | undefined) => (value === undefined ? undefined : path(value));
  const { data, evaluate, student, teacherCache } = config;
  return {
    ...config,
    output: path(config.output),
    bank: optional(config.bank),
    names: ifThere(config.names),
    templates: ifThere(config.templates),
    textEncoder: ifThere(config.textEncoder),
    teacher: ifThere(config.teacher),
    data: { ...data, train: optional(data.train), spillFolder: optional(data.spillFolder) },
    teacherCache: { ...teacherCache, file: optional(teacherCache.file) },
    student: { ...student, weights: optional(student.weights) },
    evaluate: {
      ...evaluate,
      data: optional(evaluate.data),
      train: optional(evaluate.train),
      output: optional(evaluate.output),
      names: ifThere(evaluate.names),
      bank: optional(evaluate.bank),
      mapping: optional(evaluate.mapping),
    },
  };
}
