/**
 * From a configuration to a run that can start: everything is checked within seconds, before images are decoded and the
 * first step is made.
 */
import { basename, join, resolve } from 'node:path';
import { checkOptions, checkText, type OptionTable } from '../arguments.js';
import { BankSource } from '../banks/bank-source.js';
import type { TextualSemanticsBank } from '../banks/textual.js';
import { drawStartBank } from '../banks/visual.js';
import { chooseBatch, type RunConfig } from '../config-batch.js';
import { mergeConfig, parseConfig, studentNames, type Config, type ConfigInput } from '../config.js';
import type { ImageCache } from '../data/cache.js';
import { chooseMode, openDataset, type CacheMode } from '../data/open-dataset.js';
import { openImages } from '../data/open-images.js';
import type { ImageSource } from '../data/sources.js';
import type { StreamedImages } from '../data/streamed.js';
import { openDevice, type Device, type DeviceName } from '../device.js';
import { throwIfAborted } from '../errors.js';
import { emptyClassFolders, knownMapping, labelsAmong, matchClasses, readMapping } from '../evaluate/classes.js';
import { FrozenEvaluation } from '../evaluate/during-training.js';
import { openLabelled, remarkIfSame } from '../evaluate/labelled.js';
import type { OnlineImages } from '../evaluate/online.js';
import { ZeroShotEvaluation } from '../evaluate/zeroshot.js';
import { hasCheckpoint } from '../files/checkpoint-folders.js';
import { loadTeacher, type AnyTeacher } from '../models/index.js';
import { createStudent, Student } from '../models/student.js';
import { bankIn, graphIn } from '../runs/checkpoint.js';
import { locateCheckpoint } from '../runs/checkpoint-store.js';
import { runFolders } from '../runs/group-folder.js';
import { reporting, type Phase, type PhaseProgress } from '../runs/phase.js';
import { checkRunFolder, readBatchNumbers, readRunConfig } from '../runs/run-folder.js';
import { checkStart } from './beginning.js';
import { checkBatch, checkEmbeddings, checkUsed, hasNames, required } from './checks.js';
import type { RunOptions } from './course.js';
import { Distiller } from './distiller.js';
import type { RunEvent } from './events.js';
import { checkStillThere } from './image-list.js';
import { movedIf, withNamesMoved } from './moved.js';
import { absolutePaths, placesOf } from './paths.js';
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
      ...(config.evaluate.online && evaluationSource !== undefined
        ? await remarkIfSame({ option: 'data.train', learnt: source, judged: evaluationSource })
        : []),
    ],
  };
}

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
  const report = reporting(options.onProgress, 'teacher');
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
  const banks = new BankSource(
    config,
    teacher,
    { device, signal, onProgress: reporting(options.onProgress, 'text bank') },
    kept,
  );
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
      const own = resume === undefined ? undefined : await keptIn(outputOf(one), resume, graphIn);
      // of a graph that its checkpoint alone knows
      if (own !== undefined) return new Student(one, device, embeddingSize, widthMultiplier, own, seed);
      return createStudent(one, { device, embeddingSize, widthMultiplier, dropping, seed });
    }),
  );
  const begins = resume === undefined || (resume === 'last' && !(await hasCheckpoint(config.output)));
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

/** What the checkpoint holds that a run goes on from; undefined where there is none. */
async function keptIn<Kept>(
  output: string,
  resume: string,
  read: (folder: string) => Promise<Kept | undefined>,
): Promise<Kept | undefined> {
  return locateCheckpoint(output, resume).then(read, () => undefined);
}

/** The text bank in the checkpoint that a run goes on from; of several students the first that has one. */
async function keptBank(output: string, resume: string): Promise<TextualSemanticsBank | undefined> {
  for (const folder of await runFolders(output)) {
    const bank = await keptIn(folder, resume, bankIn);
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
  const report = reporting(options.onProgress, phase);
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
