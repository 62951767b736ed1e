/** Trains and evaluates segmentation networks. */
import type { TensorHandle } from '../addon/native.js';
import { checkOptions, checkText, optionTable, type OptionTable } from '../arguments.js';
import { parseConfig, type Config, type ConfigInput } from '../config/config.js';
import { openMaskFolder, type MaskedImages, type MaskFolderOptions } from '../data/mask-folders.js';
import { openDevice, type Device, type DeviceName } from '../device.js';
import { LgdError } from '../errors.js';
import { precisionOf } from '../models/compiled.js';
import { segmentationGraph } from '../models/heads/segmentation.js';
import { backboneOf, readDense } from '../runs/network-file.js';
import { orAborted } from '../turn.js';
import { ConfusionCounts, type SegmentationScore } from './intersection.js';
import { checkListed } from './listed-files.js';
import { checkLabelled, drawMaskBatch, readPair, type MaskBatch } from './mask-samples.js';
import { checkLook, lookOptions, Segmenter, type SegmentOptions } from './segmenter.js';
import { infoOf, readStart } from './start.js';
import { checkDense } from './trainer.js';
import { checkLoss, trainDense, trainingOptions, type DenseLoss, type DenseTrainingEvent } from './training.js';

/** What {@link trainSegmentation} tells while it goes on. The loss is the mean over the pixels that count. */
export type SegmentationEvent = DenseTrainingEvent<SegmentationScore, { layout: string }>;

/** What {@link trainSegmentation} trains, and where to. */
export interface SegmentationTraining {
  /**
   * The student whose distilled weights the backbone starts from: a run folder, a checkpoint folder or a student's
   * file.
   */
  student: string;
  /** Folder for the network: model.safetensors (the best), last.safetensors, metrics.jsonl, config.json. */
  output: string;
  /**
   * Group `dense`, `device`, `threads`, `seed`, `names`, `overwrite`, `train.precision`, `log.everySteps`,
   * `log.stallMinutes`.
   */
  config: ConfigInput;
  signal?: AbortSignal | undefined;
}

interface Sets {
  train: MaskedImages;
  /** undefined: there is nothing apart to evaluate on. */
  evaluation: MaskedImages | undefined;
}

/**
 * Trains a segmentation network on a student's backbone: cross entropy over the pixels, SGD. Whatever ends it early,
 * the network as it is stays in last.safetensors, unless its numbers are no numbers any more.
 * @throws LgdError FILE_NOT_FOUND, BAD_CONFIG, BAD_OPTION, BAD_DATASET, BAD_IMAGE, BAD_MODEL, NON_FINITE, NOT_WRITABLE,
 *   ABORTED, and those of the device
 */
export async function* trainSegmentation(options: SegmentationTraining): AsyncGenerator<SegmentationEvent, void> {
  checkOptions(options, 'trainSegmentation()', trainingOptions);
  checkText(options.output, 'output', 'a folder to write to');
  const { student: path, output, config: input, signal } = options;
  const config = parseConfig(input);
  const { dense, seed } = config;
  checkDense(dense);
  const student = await readStart(path);
  const { train, evaluation } = await openSets(config, signal);
  const info = infoOf('segmentation', student, dense, train.names);
  const { mean, std } = info;
  const graph = segmentationGraph(backboneOf(info), { ...info, classes: train.names.length, enlarge: true });
  yield* trainDense(
    {
      info,
      graph,
      student,
      images: train.pairs.length,
      evaluationImages: evaluation?.pairs.length ?? 0,
      start: { layout: train.layout },
      draw: (places, first) => drawMaskBatch(train, places, { dense, seed, first, mean, std }),
      openLoss: (device) => new PixelLoss(device, dense.batchSize * dense.resolution ** 2),
      score:
        evaluation &&
        (async (state, device, options) => {
          using segmenter = Segmenter.fromWeights(info, state, { device, precision: precisionOf(config) });
          return await scoreSegmenter(segmenter, evaluation, { inference: dense.inference, ...options });
        }),
      rank: ({ meanIou }) => meanIou ?? 0,
    },
    output,
    config,
    signal,
  );
}

async function openSets(config: Config, signal: AbortSignal | undefined): Promise<Sets> {
  const { data, layout, split, evaluationData, evaluationSplit } = config.dense;
  if (data === undefined)
    throw new LgdError('BAD_CONFIG', 'is needed to train on.', {
      option: 'dense.data',
      mend: 'Give a folder of images and masks',
    });
  const train = await openMasks(data, {
    layout,
    split,
    names: config.names,
    signal,
    option: 'dense.data',
    splitOption: 'dense.split',
  });
  await checkLabelled(train, 'dense.data', signal);
  if (evaluationData === undefined && !train.divided && evaluationSplit === 'val')
    return { train, evaluation: undefined };
  const evaluation = await openEvaluation(config, { signal });
  if (evaluation.names.join('\n') !== train.names.join('\n')) {
    throw new LgdError('CLASS_MISMATCH', 'the folder to evaluate on has other classes than the one to train on.', {
      option: 'dense.evaluationData',
      found: evaluation.names.slice(0, 5),
      mend: 'Give both the same classes.txt',
    });
  }
  await checkLabelled(evaluation, evaluationPlaces(config).option, signal);
  return { train, evaluation };
}

/** Cross entropy over the pixels of a batch. */
class PixelLoss implements DenseLoss<MaskBatch, object> {
  readonly #results: TensorHandle;

  constructor(
    readonly device: Device,
    pixels: number,
  ) {
    this.#results = device.addon.makeTensor(device.handle, [pixels, 3]);
  }

  queue(logits: TensorHandle, dLogits: TensorHandle, { labels, counted }: MaskBatch): void {
    this.device.addon.softmaxLoss({ logits, labels, dLogits, results: this.#results, scale: 1 / Math.max(1, counted) });
  }

  /** Mean over the pixels that count. @throws LgdError NON_FINITE */
  async read({ counted }: MaskBatch, step: number): Promise<{ loss: number }> {
    const results = await this.device.addon.readTensor(this.#results);
    let sum = 0;
    for (let i = 0; i < results.length; i += 3) sum += results[i]!;
    checkLoss([sum], step);
    return { loss: sum / Math.max(1, counted) };
  }

  [Symbol.dispose](): void {
    this.device.addon.release(this.#results);
  }
}

/** How {@link evaluateSegmentation} looks at images. */
export interface ScoreOptions extends Omit<SegmentOptions, 'path'> {
  /** Called after each image. */
  onProgress?: ((done: number, total: number) => void) | undefined;
}

export const scoreOptions = { ...lookOptions, onProgress: 'optional' } satisfies OptionTable<ScoreOptions>;

/**
 * Scores a segmenter on images with masks, at the size of each image.
 * @throws LgdError BAD_IMAGE, BAD_DATASET, NON_FINITE, ABORTED
 */
export async function scoreSegmenter(
  segmenter: Segmenter,
  set: MaskedImages,
  { onProgress, ...options }: ScoreOptions = {},
): Promise<SegmentationScore> {
  const confusion = new ConfusionCounts(set.names);
  const total = set.pairs.length;
  let ahead = readPair(set, 0);
  for (let i = 0; i < total; i++) {
    const { image, path, classes } = await orAborted(ahead, 'the evaluation', options.signal);
    if (i + 1 < total) {
      ahead = readPair(set, i + 1);
      ahead.catch(() => undefined); // reported when its turn comes
    }
    const { labels } = await segmenter.segment(image, { ...options, path });
    confusion.add(classes, labels);
    onProgress?.(i + 1, total);
  }
  return confusion.score();
}

/** What {@link evaluateSegmentation} evaluates. */
export interface SegmentationEvaluationOptions extends ScoreOptions {
  /** The folder or file that training wrote. */
  model: string;
  /**
   * `dense.evaluationData` or `dense.data`, `dense.evaluationSplit`, `dense.layout`, `dense.inference`, `names`,
   * `device`, `threads`, `train.precision`.
   */
  config: ConfigInput;
}

const evaluationOptions = optionTable<SegmentationEvaluationOptions>()('model config', scoreOptions);

/**
 * Scores a trained network on images with masks.
 * @throws LgdError BAD_OPTION, CLASS_MISMATCH (the folder has other classes than the network), BAD_CONFIG,
 *   FILE_NOT_FOUND, BAD_DATASET, BAD_IMAGE, BAD_MODEL, NON_FINITE, ABORTED, and those of the device
 */
export async function evaluateSegmentation(given: SegmentationEvaluationOptions): Promise<SegmentationScore> {
  checkOptions(given, 'evaluateSegmentation()', evaluationOptions);
  checkLook(given);
  const { model, config: input, ...options } = given;
  const config = parseConfig(input);
  const { info } = await readDense(model, 'segmentation');
  const set = await openEvaluation(config, { fallbackNames: info.names, signal: options.signal });
  if (set.names.join('\n') !== info.names.join('\n')) {
    throw new LgdError('CLASS_MISMATCH', `the network knows ${info.names.length} classes, and the folder has others.`, {
      option: 'dense.evaluationData',
      found: set.names.slice(0, 5),
      allowed: info.names.slice(0, 5).join(', '),
      mend: 'Evaluate on a folder of the same classes',
    });
  }
  using device = await openDevice(config.device as DeviceName, { threads: config.threads });
  using segmenter = await Segmenter.load(model, { device, precision: precisionOf(config) });
  return await scoreSegmenter(segmenter, set, { ...options, inference: options.inference ?? config.dense.inference });
}

/** The images with masks that a configuration evaluates on. @throws LgdError BAD_CONFIG, and as openMaskFolder */
export async function openEvaluation(
  config: Config,
  options: Pick<MaskFolderOptions, 'fallbackNames' | 'signal'>,
): Promise<MaskedImages> {
  const { dense, names } = config;
  const data = dense.evaluationData ?? dense.data;
  if (data === undefined)
    throw new LgdError('BAD_CONFIG', 'is needed to evaluate on.', {
      option: 'dense.data',
      mend: 'Give a folder of images and masks',
    });
  return openMasks(data, {
    layout: dense.layout,
    split: dense.evaluationSplit,
    names,
    ...evaluationPlaces(config),
    ...options,
  });
}

/** The options that say what is evaluated on. */
function evaluationPlaces({ dense }: Config): Pick<MaskFolderOptions, 'option' | 'splitOption'> {
  return {
    option: dense.evaluationData === undefined ? 'dense.data' : 'dense.evaluationData',
    splitOption: 'dense.evaluationSplit',
  };
}

/** As openMaskFolder; of VOC, whose folders hold more than a split, a list names the files. */
async function openMasks(root: string, options: MaskFolderOptions): Promise<MaskedImages> {
  const set = await openMaskFolder(root, options);
  const files = set.layout === 'voc' ? set.pairs.flatMap(({ image, mask }) => [image, mask]) : [];
  await checkListed(root, files, {
    list: `ImageSets/Segmentation/${options.split}.txt`,
    option: options.option,
    signal: options.signal,
  });
  return set;
}
