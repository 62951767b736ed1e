/** Trains and evaluates detectors. */
import type { TensorHandle } from '../addon/native.js';
import { checkOptions, checkText, optionTable, type OptionTable } from '../arguments.js';
import { parseConfig, type Config, type ConfigInput } from '../config/config.js';
import { readCoco } from '../data/coco.js';
import { openDevice, type Device, type DeviceName } from '../device.js';
import { LgdError } from '../errors.js';
import { precisionOf } from '../models/compiled.js';
import { detectionGraph } from '../models/heads/detection.js';
import { backboneOf, readDense } from '../runs/network-file.js';
import { orAborted } from '../turn.js';
import { averagePrecision, type Detection, type DetectionScore } from './average-precision.js';
import { boxesInside, drawBoxBatch, readBoxed, type BoxBatch, type Boxes } from './box-samples.js';
import { checkDecode } from './detection-decode.js';
import { levelSides } from './detection-targets.js';
import { Detector, lookOptions, type DetectOptions } from './detector.js';
import { checkListed } from './listed-files.js';
import { infoOf, readStart } from './start.js';
import { checkDense } from './trainer.js';
import { checkLoss, trainDense, trainingOptions, type DenseLoss, type DenseTrainingEvent } from './training.js';

/**
 * Means of the three parts of the loss: classes and centre-ness over the locations with a class, boxes weighted by
 * centre-ness.
 */
export interface DetectionLosses {
  classes: number;
  boxes: number;
  centreness: number;
}

/** What {@link trainDetection} tells while it goes on. */
export type DetectionEvent = DenseTrainingEvent<DetectionScore, DetectionStart, { losses: DetectionLosses }>;

/** What the start event of {@link trainDetection} tells besides. */
export interface DetectionStart {
  /** Boxes that were cut or left out: a line for each kind. Absent where all are as they should be. */
  remarks?: string[];
}

/** What {@link trainDetection} trains, and where to. */
export interface DetectionTraining {
  /**
   * The student whose distilled weights the backbone starts from: a run folder, a checkpoint folder or a student's
   * file.
   */
  student: string;
  /** Folder for the network: model.safetensors (the best), last.safetensors, metrics.jsonl, config.json. */
  output: string;
  /**
   * Group `dense` with `dense.data` (folder of images) and `dense.annotations` (COCO JSON); `device`, `threads`,
   * `seed`, `overwrite`, `train.precision`, `log.everySteps`, `log.stallMinutes`.
   */
  config: ConfigInput;
  signal?: AbortSignal | undefined;
}

/**
 * Trains a detector on a student's backbone: focal loss, GIoU, centre-ness; SGD. Whatever ends it early, the network as
 * it is stays in last.safetensors, unless its numbers are no numbers any more.
 * @throws LgdError FILE_NOT_FOUND, BAD_CONFIG, BAD_OPTION, BAD_DATASET, BAD_IMAGE, BAD_MODEL, NON_FINITE, NOT_WRITABLE,
 *   ABORTED, and those of the device
 */
export async function* trainDetection(options: DetectionTraining): AsyncGenerator<DetectionEvent, void> {
  checkOptions(options, 'trainDetection()', trainingOptions);
  checkText(options.output, 'output', 'a folder to write to');
  const { student: path, output, config: input, signal } = options;
  const config = parseConfig(input);
  const { dense, seed } = config;
  checkDense(dense);
  if (dense.evaluationData !== undefined && dense.evaluationAnnotations === undefined)
    throw new LgdError('BAD_CONFIG', 'is needed: the boxes of the images to evaluate on.', {
      option: 'dense.evaluationAnnotations',
      mend: 'Give a COCO file like instances_val2017.json, or leave dense.evaluationData out',
    });
  const student = await readStart(path);
  const train = await openBoxes(dense.data, dense.annotations, {
    options: { folder: 'dense.data', annotations: 'dense.annotations' },
    signal,
  });
  const evaluation =
    dense.evaluationAnnotations === undefined
      ? undefined
      : await openBoxes(dense.evaluationData ?? dense.data, dense.evaluationAnnotations, {
          options: evaluationPlaces,
          signal,
        });
  if (evaluation !== undefined) sameClasses(train.set.names, evaluation.set.names);
  const { inside, remarks } = boxesInside(train);
  if (evaluation !== undefined) boxesInside(evaluation); // scored on as they are, as COCO does
  const info = infoOf('detection', student, { ...dense, outputStride: 32 }, train.set.names);
  const { mean, std } = info;
  const classes = info.names.length;
  yield* trainDense(
    {
      info,
      graph: detectionGraph(backboneOf(info), { classes }),
      student,
      images: train.set.images.length,
      evaluationImages: evaluation?.set.images.length ?? 0,
      start: { ...(remarks.length > 0 && { remarks }) },
      draw: (places, first) => drawBoxBatch(inside, places, { dense, seed, first, mean, std }),
      openLoss: (device) => new BoxLoss(device, { batch: dense.batchSize, resolution: dense.resolution, classes }),
      score:
        evaluation &&
        (async (state, device, options) => {
          using detector = Detector.fromWeights(info, state, { device, precision: precisionOf(config) });
          return await scoreDetector(detector, evaluation, options);
        }),
      rank: ({ ap }) => ap ?? 0,
    },
    output,
    config,
    signal,
  );
}

const evaluationPlaces = { folder: 'dense.evaluationData', annotations: 'dense.evaluationAnnotations' };

async function openBoxes(
  folder: string | undefined,
  annotations: string | undefined,
  { options, signal }: Pick<Boxes, 'options'> & { signal: AbortSignal | undefined },
): Promise<Boxes> {
  if (folder === undefined)
    throw new LgdError('BAD_CONFIG', 'is needed: the folder of the images.', {
      option: 'dense.data',
      mend: 'Give the folder that the file names of the annotations start from',
    });
  if (annotations === undefined)
    throw new LgdError('BAD_CONFIG', 'is needed: the boxes.', {
      option: options.annotations,
      mend: 'Give a COCO file like instances_train2017.json',
    });
  const set = await readCoco(annotations, options.annotations);
  if (set.images.length === 0)
    throw new LgdError('BAD_DATASET', `${annotations} lists no images.`, {
      option: options.annotations,
      mend: 'Give a file with images',
    });
  await checkListed(
    folder,
    set.images.map(({ file }) => file),
    { list: annotations, option: options.folder, signal },
  );
  return { folder, set, options };
}

function sameClasses(known: readonly string[], found: readonly string[]): void {
  if (known.join('\n') === found.join('\n')) return;
  throw new LgdError('CLASS_MISMATCH', 'the annotations to evaluate on have other categories than the network.', {
    option: 'dense.evaluationAnnotations',
    found: found.slice(0, 5),
    allowed: known.slice(0, 5).join(', '),
    mend: 'Give annotations of the same categories',
  });
}

/** The loss over the locations of a batch. */
class BoxLoss implements DenseLoss<BoxBatch, { losses: DetectionLosses }> {
  readonly #results: TensorHandle;
  readonly #levels: number[];
  readonly #classes: number;

  constructor(
    readonly device: Device,
    { batch, resolution, classes }: { batch: number; resolution: number; classes: number },
  ) {
    this.#classes = classes;
    this.#levels = levelSides(resolution).map((side) => batch * side * side);
    this.#results = device.addon.makeTensor(device.handle, [this.#levels.reduce((a, b) => a + b, 0), 3]);
  }

  queue(
    output: TensorHandle,
    dOutput: TensorHandle,
    { targets: { labels, boxes, positive, centred } }: BoxBatch,
  ): void {
    const scale = 1 / Math.max(1, positive);
    this.device.addon.detectionLoss({
      output,
      dOutput,
      results: this.#results,
      levels: this.#levels,
      classes: this.#classes,
      labels,
      boxes,
      classScale: scale,
      boxScale: 1 / Math.max(1e-6, centred),
      centreScale: scale,
    });
  }

  async read(
    { targets: { positive, centred } }: BoxBatch,
    step: number,
  ): Promise<{ loss: number; losses: DetectionLosses }> {
    const results = await this.device.addon.readTensor(this.#results);
    const sums: [number, number, number] = [0, 0, 0];
    for (let i = 0; i < results.length; i++) sums[i % 3]! += results[i]!;
    checkLoss(sums, step);
    const losses = {
      classes: sums[0] / Math.max(1, positive),
      boxes: sums[1] / Math.max(1e-6, centred),
      centreness: sums[2] / Math.max(1, positive),
    };
    return { loss: losses.classes + losses.boxes + losses.centreness, losses };
  }

  [Symbol.dispose](): void {
    this.device.addon.release(this.#results);
  }
}

/** How {@link evaluateDetection} looks at images. */
export interface DetectionScoreOptions extends Omit<DetectOptions, 'path'> {
  /** Called after each image. */
  onProgress?: ((done: number, total: number) => void) | undefined;
  /** Called with the boxes of each image, in the file's order. */
  onDetections?: ((imageId: number | string, detections: readonly Detection[]) => void) | undefined;
}

const scoreOptions = {
  ...lookOptions,
  onProgress: 'optional',
  onDetections: 'optional',
} satisfies OptionTable<DetectionScoreOptions>;

/** Scores a detector. @throws LgdError BAD_IMAGE, BAD_DATASET, FILE_NOT_FOUND, NON_FINITE, ABORTED */
async function scoreDetector(
  detector: Detector,
  boxes: Boxes,
  { onProgress, onDetections, ...options }: DetectionScoreOptions,
): Promise<DetectionScore> {
  const { set } = boxes;
  const found: Detection[][] = [];
  for (const entry of set.images) {
    const { image, path } = await orAborted(readBoxed(boxes, entry), 'the evaluation', options.signal);
    const detections = await detector.detect(image, { ...options, path });
    found.push(detections);
    onDetections?.(entry.id, detections);
    onProgress?.(found.length, set.images.length);
  }
  return await averagePrecision(set, found, options.signal);
}

/** What {@link evaluateDetection} evaluates. */
export interface DetectionEvaluationOptions extends DetectionScoreOptions {
  /** The folder or file that training wrote. */
  model: string;
  /**
   * `dense.evaluationData` or `dense.data`, `dense.evaluationAnnotations` or `dense.annotations`, `device`, `threads`,
   * `train.precision`.
   */
  config: ConfigInput;
}

const evaluationOptions = optionTable<DetectionEvaluationOptions>()('model config', scoreOptions);

/**
 * Scores a trained detector on images with boxes, as COCO does.
 * @throws LgdError BAD_OPTION, CLASS_MISMATCH (other categories than the network's), BAD_CONFIG, FILE_NOT_FOUND,
 *   BAD_DATASET, BAD_IMAGE, BAD_MODEL, NON_FINITE, ABORTED, and those of the device
 */
export async function evaluateDetection(given: DetectionEvaluationOptions): Promise<DetectionScore> {
  checkOptions(given, 'evaluateDetection()', evaluationOptions);
  checkDecode(given);
  const { model, config: input, ...options } = given;
  const config: Config = parseConfig(input);
  const { data, evaluationData, annotations, evaluationAnnotations } = config.dense;
  const { info } = await readDense(model, 'detection');
  const boxes = await openBoxes(evaluationData ?? data, evaluationAnnotations ?? annotations, {
    options: {
      folder:
        evaluationData === undefined && evaluationAnnotations === undefined ? 'dense.data' : 'dense.evaluationData',
      annotations: evaluationAnnotations === undefined ? 'dense.annotations' : 'dense.evaluationAnnotations',
    },
    signal: options.signal,
  });
  sameClasses(info.names, boxes.set.names);
  using device = await openDevice(config.device as DeviceName, { threads: config.threads });
  using detector = await Detector.load(model, { device, precision: precisionOf(config) });
  return await scoreDetector(detector, boxes, options);
}
