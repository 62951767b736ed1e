/** The classification protocols: what a student is good for, on labelled images. */
import { dirname, join } from 'node:path';
import { checkOptions, optionTable } from '../arguments.js';
import { parseConfig, type Config, type ConfigInput } from '../config/config.js';
import { openImages } from '../data/open-images.js';
import { openDevice, type Device, type DeviceName } from '../device.js';
import { LgdError } from '../errors.js';
import { isFolder } from '../files/folders.js';
import { tryFolder } from '../files/make-folder.js';
import { precisionOf } from '../models/compiled.js';
import type { AnyTeacher } from '../models/index.js';
import type { StudentInfo } from '../models/student-info.js';
import { graphOf } from '../models/student.js';
import type { WeightRecord } from '../models/weights.js';
import { configuredTeacher } from '../runs/configured-teacher.js';
import { reporting, type Phase, type PhaseProgress } from '../runs/phase.js';
import { findStudentFile, readStudent } from '../runs/student-file.js';
import { accuracyByClass, accuracyOf, targetsOf, type Answers } from './accuracy.js';
import { ImageFeatures } from './features.js';
import { finetune, judgeByLogits } from './finetune.js';
import { judgeByNeighbours, judgeByProbes, type Judged } from './frozen.js';
import { decodableOf, decodeLabelled, openLabelled, type LabelledImages } from './labelled.js';
import { writeProtocol } from './protocol-files.js';
import {
  protocols,
  type ImageLists,
  type Protocol,
  type ProtocolEvaluation,
  type ProtocolResult,
} from './protocol-result.js';
import { balancedShare } from './split.js';
import { evaluateStudent, type Predictions } from './student.js';

/** What {@link evaluateProtocol} evaluates, and on what. */
export interface ProtocolOptions {
  /** A run folder, a checkpoint folder, or a student's file, exported or not. */
  student: string;
  protocol: Protocol;
  /**
   * `evaluate.data` is judged on; all but zeroshot learn from `evaluate.train`. The group `evaluate` has the protocols'
   * settings; zeroshot takes what {@link evaluateStudent} does. With `teacher`, zeroshot and knn judge it, too, unless
   * it is a file of embeddings.
   */
  config: ConfigInput;
  signal?: AbortSignal | undefined;
  /** Called while a phase goes on. */
  onProgress?: ((progress: PhaseProgress) => void) | undefined;
}

const protocolOptions = optionTable<ProtocolOptions>()('student protocol config signal? onProgress?');

/**
 * Runs a protocol, and writes its results to `evaluate.output`: `<protocol>.json`, a table of predictions for each
 * result, and for semi the lists of images whose labels were used.
 * @throws LgdError BAD_CONFIG (a folder is missing), CLASS_MISMATCH, BAD_MODEL, NON_FINITE, ABORTED, NOT_WRITABLE, and
 *   those of images and device
 */
export async function evaluateProtocol(options: ProtocolOptions): Promise<ProtocolEvaluation> {
  checkOptions(options, 'evaluateProtocol()', protocolOptions);
  const { student, protocol, config: input, signal, onProgress } = options;
  const started = performance.now();
  const config = parseConfig(input);
  checkProtocol(protocol);
  await findStudentFile(student); // or there is no folder beside it
  const folder = config.evaluate.output ?? (await defaultFolder(student));
  await (
    await tryFolder(folder)
  )();
  const { spillFolder, cache } = config.data;
  const removeEmpty =
    spillFolder === undefined || cache === 'stream'
      ? undefined
      : await tryFolder(spillFolder, { hold: true, option: 'data.spillFolder' });
  const found = await (
    protocol === 'zeroshot'
      ? zeroshot(student, config, signal, onProgress)
      : learnt(student, protocol, config, signal, onProgress)
  ).finally(removeEmpty);
  const { lists, ...rest } = found;
  const evaluation = { ...rest, protocol, seconds: (performance.now() - started) / 1000, files: [] };
  return {
    ...evaluation,
    files: await writeProtocol(folder, evaluation, lists),
  };
}

/** In a folder that was given, or beside a file. */
async function defaultFolder(student: string): Promise<string> {
  return join((await isFolder(student)) ? student : dirname(student), 'evaluation');
}

type Found = Pick<ProtocolEvaluation, 'file' | 'info' | 'bankHash' | 'names' | 'images' | 'results' | 'remarks'> & {
  lists: ImageLists;
};

async function zeroshot(
  student: string,
  config: Config,
  signal: AbortSignal | undefined,
  onProgress: ProtocolOptions['onProgress'],
): Promise<Found> {
  const { file, info, bankHash, predictions, remarks } = await evaluateStudent({ student, config, signal, onProgress });
  const { names, images, targets } = predictions;
  const of = (setting: string, seen: Predictions['student'] | undefined, ranks: Int32Array | undefined) =>
    seen === undefined || ranks === undefined
      ? []
      : [resultOf({ setting, answers: { targets, predicted: seen, ranks }, learntFrom: 0 }, names)];
  return {
    file,
    info,
    bankHash,
    names,
    images,
    remarks,
    lists: new Map(),
    results: [
      ...of('student', predictions.student, predictions.studentRanks),
      ...of('teacher', predictions.teacher, predictions.teacherRanks),
    ],
  };
}

function resultOf(
  { setting, answers, sweep, learntFrom }: Omit<Judged, 'images'>,
  names: readonly string[],
): ProtocolResult {
  return {
    setting,
    score: accuracyOf(answers, names.length),
    classes: accuracyByClass(answers, names),
    ...(sweep && { sweep }),
    learntFrom,
    answers,
  };
}

interface Learning {
  device: Device;
  /** To be judged beside the student. */
  teacher: AnyTeacher | undefined;
  images: LabelledImages;
  config: Config;
  info: StudentInfo;
  weights: WeightRecord;
  signal: AbortSignal | undefined;
  report: (phase: Phase) => (done: number, total: number) => void;
}

async function learnt(
  student: string,
  protocol: Exclude<Protocol, 'zeroshot'>,
  config: Config,
  signal: AbortSignal | undefined,
  onProgress: ProtocolOptions['onProgress'],
): Promise<Found> {
  const report = (phase: Phase) => reporting(onProgress, phase);
  const { file, info, weights } = await readStudent(student);
  const sources = await openLabelled(config, (folder) => openImages(folder, { labels: 'folders', signal }));
  using device = await openDevice(config.device as DeviceName, { threads: config.threads });
  await using teacher =
    protocol === 'knn' && config.teacher !== undefined
      ? await configuredTeacher(config.teacher, config, { device, signal })
      : undefined;
  const margin = protocol === 'semi' || protocol === 'finetune' ? config.data.margin : 1;
  using images = await decodeLabelled(sources, config, {
    device,
    resolution: Math.max(
      info.resolution,
      teacher === undefined || teacher.kind === 'precomputed' ? 0 : teacher.resolution,
    ),
    margin,
    signal,
    onProgress: report('evaluation images'),
  });
  const learning: Learning = { device, teacher, images, config, info, weights, signal, report };
  const { judged, lists } = await (protocol === 'knn' || protocol === 'linear'
    ? frozen(protocol, learning)
    : tuned(protocol, learning));
  const kept = judged.at(-1)!.images; // what could not be decoded once is not tried again
  return {
    file,
    info,
    names: images.classNames,
    images: Array.from(kept, (image) => images.test.ids[image]!),
    lists,
    remarks: [sources.train, sources.test].flatMap((source) => source.remarks ?? []),
    results: judged.map((one) => resultOf({ ...one, answers: answersAbout(kept, one) }, images.classNames)),
  };
}

/** The answers about images that the last of several passes found, too: one may have vanished between them. */
function answersAbout(kept: Int32Array, { images, answers }: Judged): Answers {
  if (images.length === kept.length) return answers;
  const wanted = new Set(kept);
  const among = (values: Int32Array) => values.filter((_, i) => wanted.has(images[i]!));
  return { targets: among(answers.targets), predicted: among(answers.predicted), ranks: among(answers.ranks) };
}

interface Outcome {
  judged: Judged[];
  lists: ImageLists;
}

async function frozen(
  protocol: 'knn' | 'linear',
  { device, teacher, images, config, info, weights, signal, report }: Learning,
): Promise<Outcome> {
  const { resolution, mean, std } = info;
  const graph = graphOf(info);
  const compiled = { batch: images.train.length, precision: precisionOf(config) };
  using features = ImageFeatures.ofStudent({ device, graph, weights, resolution, mean, std, ...compiled });
  const options = { signal, onProgress: report('features'), onFit: report('linear probes') };
  const lists = new Map<string, string[]>();
  if (protocol === 'linear') return { judged: await judgeByProbes(features, images, config, options), lists };
  const judged = [await judgeByNeighbours(features, images, config, options)];
  if (teacher !== undefined && teacher.kind !== 'precomputed') {
    using embeddings = ImageFeatures.ofTeacher(device, teacher, { ...compiled, signal });
    const found = await judgeByNeighbours(embeddings, images, config, { signal, onProgress: report('teacher') });
    judged.push({ ...found, setting: `teacher, ${found.setting}` });
  }
  return { judged, lists };
}

async function tuned(
  protocol: 'semi' | 'finetune',
  { device, images, config, info, weights, signal, report }: Learning,
): Promise<Outcome> {
  const { evaluate, seed } = config;
  const { resolution, mean, std } = info;
  const shares =
    protocol === 'finetune' ? [1] : evaluate.labelShare === undefined ? [0.01, 0.1] : [evaluate.labelShare];
  const classes = images.classNames.length;
  const graph = graphOf(info);
  const [judged, lists] = [[] as Judged[], new Map<string, string[]>()];
  // a stand-in would have another's label
  const whole = await decodableOf(images.train, { signal, onProgress: report('evaluation images') });
  const labels = targetsOf(images.train, whole);
  for (const share of shares) {
    const picked = balancedShare(labels, classes, share, seed).map((place) => whole[place]!);
    const percent = `${Number((100 * share).toPrecision(4))}`;
    if (protocol === 'semi')
      lists.set(
        `labels-${percent}`,
        Array.from(picked, (index) => images.train.ids[index]!),
      );
    using network = await finetune(images.train, picked, {
      device,
      graph,
      weights,
      resolution,
      precision: precisionOf(config),
      mean,
      std,
      classes,
      epochs: evaluate.finetuneEpochs,
      learningRate: evaluate.finetuneRate,
      batch: evaluate.finetuneBatch,
      seed,
      signal,
      onProgress: report('fine-tuning'),
    });
    judged.push({
      setting: `${percent} % of the labels`,
      ...(await judgeByLogits(network, images.test, {
        device,
        mean,
        std,
        classes,
        signal,
        onProgress: report('student'),
      })),
      learntFrom: picked.length,
    });
  }
  return { judged, lists };
}

function checkProtocol(name: string): void {
  if (protocols.some((known) => known === name)) return;
  throw new LgdError('BAD_OPTION', 'there is no protocol of this name.', {
    option: 'protocol',
    found: name,
    allowed: protocols.join(', '),
  });
}
