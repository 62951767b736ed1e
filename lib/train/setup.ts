/**
 * From a configuration to a run that can start: everything is checked within seconds, before images are decoded and the
 * first step is made.
 */
import { basename, resolve } from 'node:path';
import { checkOptions, checkText, optionTable } from '../arguments.js';
import type { TextualSemanticsBank } from '../banks/textual.js';
import { drawStartBank } from '../banks/visual.js';
import type { RunConfig } from '../config/batch.js';
import { mergeConfig, parseConfig, type Config, type ConfigInput } from '../config/config.js';
import { checkKnownStudents } from '../config/students.js';
import type { ImageCache } from '../data/cache.js';
import { chooseMode } from '../data/open-dataset.js';
import type { StreamedImages } from '../data/streamed.js';
import { openDevice, type Device, type DeviceName } from '../device.js';
import { throwIfAborted } from '../errors.js';
import type { FrozenEvaluation } from '../evaluate/during-training.js';
import { remarkIfSame } from '../evaluate/labelled.js';
import type { OnlineImages } from '../evaluate/online.js';
import type { ZeroShotEvaluation } from '../evaluate/zeroshot.js';
import { tryFolder } from '../files/make-folder.js';
import type { AnyTeacher } from '../models/index.js';
import type { Student } from '../models/student.js';
import { locateCheckpoint } from '../runs/checkpoint-store.js';
import { runFolders } from '../runs/group-folder.js';
import { checkRunFolder, readBatchNumbers, readRunConfig } from '../runs/run-folder.js';
import { checkEmbeddings, checkUsed, required, sideOf } from './checks.js';
import { Distiller } from './distiller.js';
import type { RunEvent } from './events.js';
import { absolutePaths, placesOf } from './paths.js';
import { checkInputs } from './input-checks.js';
import { withNamesMoved } from './resume/moved.js';
import {
  decode,
  knownStudents,
  makeStudents,
  openBanks,
  openEvaluations,
  openSources,
  openTeacher,
  type Cleanup,
  type PrepareOptions,
  type RunContext,
} from './run-parts.js';
import { checkViewCache, checkViewRoom } from './view-cache.js';

export type { PrepareOptions } from './run-parts.js';

const prepareOptions = optionTable<PrepareOptions>()('signal? onProgress? resume?');

/** A run that is ready. Dispose of it when it is over (`await using run = await prepareRun(...)` does). */
export interface PreparedRun extends AsyncDisposable {
  /** Resolved: paths absolute; the resolution, the method, the batch size and the learning rate known. */
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
  /** Frees all of it, once, however often it is called; work that is queued is done first. */
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
  const free = async () => {
    const failures: unknown[] = [];
    for (const action of cleanup.splice(0).reverse()) {
      try {
        await action();
      } catch (error) {
        failures.push(error); // the others hold memory, too
      }
    }
    if (failures.length > 0) throw failures[0];
  };
  let freed: Promise<void> | undefined;
  const dispose = () => (freed ??= free());
  try {
    const { remarks, ...parts } = await build(config, options, cleanup);
    const { distiller, dataset, evaluation, frozen, online } = parts;
    const run: PreparedRun['run'] = (runOptions = {}) => {
      checkOptions(runOptions, 'run()', { signal: 'optional' });
      return distiller.run(dataset, { ...runOptions, evaluation, frozen, online, resume: options.resume, remarks });
    };
    return { ...parts, dispose, [Symbol.asyncDispose]: dispose, run };
  } catch (error) {
    await dispose().catch(() => undefined);
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

async function build(wanted: Config, options: PrepareOptions, cleanup: Cleanup): Promise<Parts> {
  const { signal, resume } = options;
  const known = await knownStudents(wanted, resume);
  checkKnownStudents(wanted, known);
  if (resume === undefined) checkUsed(wanted);
  // one that is named is there; without a last one a run begins anew
  else if (resume !== 'last')
    for (const output of await runFolders(wanted.output)) await locateCheckpoint(output, resume);
  const { config: given, remarks } = resume === undefined ? { config: wanted, remarks: [] } : await asBegun(wanted);
  const trainingImages = required(given.data.train, 'data.train', 'Give the folder of training images');
  const teacherSource = required(given.teacher, 'teacher', 'Give a CLIP folder or hub id');
  const textEncoder = resume === undefined ? await checkInputs(given, teacherSource, known, signal) : undefined;
  cleanup.push(() => textEncoder?.dispose());
  const { output, overwrite, data } = given;
  const { spillFolder, cache: mode } = data;
  // else images are streamed for want of it
  if (spillFolder !== undefined && mode !== 'stream')
    cleanup.push(await tryFolder(spillFolder, { hold: true, option: 'data.spillFolder' }));
  cleanup.push(await checkRunFolder(output, { overwrite, resume: resume !== undefined, spillFolder }));
  const sources = await openSources(given, trainingImages, options);
  const { source, evaluationSource, labelled } = sources;

  const device = await openDevice(given.device as DeviceName, { threads: given.threads });
  cleanup.push(() => device.dispose());
  const teacher = await openTeacher(teacherSource, device, given, options);
  cleanup.push(() => teacher.dispose());
  const resolution = sideOf(teacher, given, known);
  await checkEmbeddings(teacher, source, signal);
  await checkViewRoom(teacher, given, source.ids.length);
  const side = Math.max(resolution, teacher.kind === 'precomputed' ? 0 : teacher.resolution);
  const cache = await chooseMode(source, given.data.cache, {
    resolution: side,
    margin: given.data.margin,
    ...placesOf(given),
    signal,
  });
  const config: Config = { ...given, data: { ...given.data, resolution, cache } };
  const context: RunContext = { config, device, teacher, side, textEncoder, options, cleanup };

  const banks = await openBanks(evaluationSource, context);
  const { tsb } = banks;
  const { students, remarks: startRemarks } = await makeStudents(context);
  if (tsb) await drawStartBank(tsb, config.seed, signal);
  const distiller = new Distiller({
    device,
    teacher,
    student: students,
    tsb,
    config,
    images: source.ids.length,
    onlineClasses: config.evaluate.online ? source.classNames!.length : undefined,
  });
  cleanup.push(() => distiller.dispose());
  throwIfAborted(signal, 'preparing the run');

  const dataset = await decode(source, 'training images', { mode: cache, side, margin: config.data.margin }, context);
  if (resume === undefined)
    await checkViewCache({
      teacher,
      config: distiller.config,
      precision: distiller.encoder.precision,
      dataset,
      signal,
    });
  const evaluations = await openEvaluations({ ...sources, ...banks, mode: given.data.cache, distiller }, context);
  return {
    config: distiller.config,
    device,
    teacher,
    student: students[0]!,
    tsb,
    dataset,
    ...evaluations,
    distiller,
    remarks: [
      ...remarks,
      ...banks.remarks,
      ...startRemarks,
      ...pairRemark(teacher, tsb),
      ...[source, evaluationSource, labelled?.train].flatMap((images) => images?.remarks ?? []),
      ...(config.evaluate.online && evaluationSource !== undefined
        ? await remarkIfSame({ option: 'data.train', learnt: source, judged: evaluationSource })
        : []),
    ],
  };
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
