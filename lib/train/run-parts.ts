/** The parts of a run that a configuration asks for, each opened from what it says. */
import { join } from 'node:path';
import { BankSource } from '../banks/bank-source.js';
import type { TextualSemanticsBank } from '../banks/textual.js';
import { checkSteps, chooseBatch } from '../config/batch.js';
import { studentNames, type Config } from '../config/config.js';
import type { ImageCache } from '../data/cache.js';
import { openDataset, type CacheMode } from '../data/open-dataset.js';
import { openImages } from '../data/open-images.js';
import type { ImageSource } from '../data/sources.js';
import type { StreamedImages } from '../data/streamed.js';
import type { Device } from '../device.js';
import { emptyClassFolders, knownMapping, labelsAmong, matchClasses, readMapping } from '../evaluate/classes.js';
import { FrozenEvaluation } from '../evaluate/during-training.js';
import { openLabelled } from '../evaluate/labelled.js';
import type { OnlineImages } from '../evaluate/online.js';
import { ZeroShotEvaluation } from '../evaluate/zeroshot.js';
import { hasCheckpoint } from '../files/checkpoint-folders.js';
import type { AnyTeacher } from '../models/index.js';
import { createStudent, Student } from '../models/student.js';
import { locateCheckpoint } from '../runs/checkpoint-store.js';
import { bankIn, graphIn } from '../runs/checkpoint.js';
import { configuredTeacher } from '../runs/configured-teacher.js';
import { runFolders } from '../runs/group-folder.js';
import { reporting, type Phase, type PhaseProgress } from '../runs/phase.js';
import type { TextEncoder } from '../text/encoder.js';
import { checkBatch, checkNamed } from './checks.js';
import type { RunOptions } from './course.js';
import type { Distiller } from './distiller.js';
import { placesOf } from './paths.js';
import { checkStart } from './resume/beginning.js';
import { checkStillThere } from './resume/image-list.js';
import { movedIf } from './resume/moved.js';
import { loadStartWeights } from './start-weights.js';

/** How {@link prepareRun} goes about it. */
export interface PrepareOptions {
  signal?: AbortSignal | undefined;
  /** Called while a phase goes on. */
  onProgress?: ((progress: PhaseProgress) => void) | undefined;
  /** Continue the run that is in the run folder; see {@link RunOptions.resume}. */
  resume?: RunOptions['resume'] | undefined;
}

/** What frees the parts of a run, the last one first. */
export type Cleanup = (() => Promise<void> | void)[];

/** What the later parts of a run are made with. */
export interface RunContext {
  config: Config;
  device: Device;
  teacher: AnyTeacher;
  /** Of decoded images: sharp enough for the larger of the two inputs. */
  side: number;
  /** Loaded by now, where it had to be. */
  textEncoder: TextEncoder | undefined;
  options: PrepareOptions;
  cleanup: Cleanup;
}

/** Images to learn from and to be judged on. */
interface Sources {
  source: ImageSource;
  /** What `evaluate.also` learns from, and is judged on. */
  labelled: Awaited<ReturnType<typeof openLabelled>> | undefined;
  evaluationSource: ImageSource | undefined;
}

export async function openSources(
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
  const { batchSize } = chooseBatch(config.train, source.ids.length);
  checkBatch(batchSize, source);
  if (!isResumed) checkSteps(config.train, Math.floor(source.ids.length / batchSize));
  const labelled =
    config.evaluate.also === 'none'
      ? undefined
      : await openLabelled(config, (folder, option) => open(folder, option, 'folders'));
  const evaluationSource =
    labelled?.test ??
    (config.evaluate.data === undefined ? undefined : await open(config.evaluate.data, 'evaluate.data', 'folders'));
  return { source, labelled, evaluationSource };
}

export async function openTeacher(
  source: string,
  device: Device,
  config: Config,
  options: PrepareOptions,
): Promise<AnyTeacher> {
  const report = reporting(options.onProgress, 'teacher');
  report(0, 1);
  const teacher = await configuredTeacher(source, config, { device, signal: options.signal }).catch(
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

export async function openBanks(
  evaluationSource: ImageSource | undefined,
  { config, device, teacher, textEncoder: encoder, options }: RunContext,
): Promise<Banks> {
  const { signal, resume } = options;
  const isResumed = resume !== undefined;
  const kept = isResumed ? await keptBank(config.output, resume) : undefined;
  await using banks = new BankSource(
    config,
    teacher,
    { device, encoder, signal, onProgress: reporting(options.onProgress, 'text bank') },
    kept,
  );
  const { names, bank, templates, textEncoder, evaluate } = config;
  const tsb = await banks.training().catch(movedIf(isResumed, { names, bank, templates, textEncoder }));
  const hasNames = banks.hasEvaluationNames(tsb);
  if (evaluationSource) checkNamed(hasNames, config);
  const evaluationBank =
    evaluationSource && hasNames
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
  return { tsb, evaluationBank, mapping, remarks: [...banks.remarks] };
}

const outputOf = ({ output }: Config, names: readonly string[], student: string): string =>
  names.length === 1 ? output : join(output, student);

/** Names of the students that the package is to build: a checkpoint may have another network by the name of one. */
export async function knownStudents(config: Config, resume: string | undefined): Promise<string[]> {
  const names = studentNames(config.student.name);
  if (resume === undefined) return names;
  const own = await Promise.all(names.map(async (one) => keptIn(outputOf(config, names, one), resume, graphIn)));
  return names.filter((_, i) => own[i] === undefined);
}

/** The students with the weights that they begin with, and what is to be said about these. */
export async function makeStudents({
  config,
  device,
  teacher: { embeddingSize },
  options: { resume, signal },
}: RunContext): Promise<{ students: Student[]; remarks: string[] }> {
  const { name, widthMultiplier, dropping, weights } = config.student;
  const { seed } = config;
  const names = studentNames(name);
  const students = await Promise.all(
    names.map(async (one) => {
      const own = resume === undefined ? undefined : await keptIn(outputOf(config, names, one), resume, graphIn);
      // of a graph that its checkpoint alone knows
      if (own !== undefined) return new Student(one, device, embeddingSize, widthMultiplier, own, seed);
      return createStudent(one, {
        device,
        embeddingSize,
        widthMultiplier,
        dropping,
        seed,
        resolution: config.data.resolution,
      });
    }),
  );
  const begins = resume === undefined || (resume === 'last' && !(await hasCheckpoint(config.output)));
  // a checkpoint has all weights
  const remarks = weights !== undefined && begins ? await loadStartWeights(students[0]!, weights) : [];
  for (const one of students) {
    await one.drawWeights(signal);
    if (resume === 'last') await checkStart(outputOf(config, names, one.name), one, signal); // before images are decoded
  }
  return { students, remarks };
}

interface Evaluations {
  evaluation: ZeroShotEvaluation | undefined;
  frozen: FrozenEvaluation | undefined;
  online: OnlineImages | undefined;
}

/** What the student is evaluated by while it trains. */
export async function openEvaluations(
  {
    source,
    evaluationSource,
    labelled,
    evaluationBank,
    mapping,
    mode,
    distiller,
  }: Sources & Banks & { mode: Config['data']['cache']; distiller: Distiller },
  context: RunContext,
): Promise<Evaluations> {
  if (!evaluationSource) return { evaluation: undefined, frozen: undefined, online: undefined };
  const { config, device, side } = context;
  const { mean, std } = context.teacher;
  const images = await decode(evaluationSource, 'evaluation images', { mode, side, margin: 1 }, context);
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
  const train = await decode(labelled.train, 'evaluation images', { mode, side: resolution, margin: 1 }, context);
  const frozen = new FrozenEvaluation({
    device,
    batch: distiller.config.train.batchSize,
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

export async function decode(
  source: ImageSource,
  phase: Phase,
  { mode, side, margin }: { mode: CacheMode; side: number; margin: number },
  { config, device, options, cleanup }: RunContext,
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
