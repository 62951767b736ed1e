/**
 * Fine-tuning: the student's backbone with a linear classifier on its pooled features, all of it trained on labelled
 * images.
 */
import type { NativeAugmentRecipe } from '../addon/native.js';
import { readAhead } from '../data/read-ahead.js';
import { shuffledOrder } from '../data/sampler.js';
import type { Device } from '../device.js';
import { LgdError, throwIfAborted } from '../errors.js';
import { Made } from '../lifetime.js';
import { compileBatch, CompiledEncoder, type Precision } from '../models/compiled.js';
import { classifierGraph, startWeights } from '../models/features.js';
import type { GraphSpec } from '../models/graph.js';
import type { ChannelTriple } from '../models/teachers/types.js';
import type { WeightRecord } from '../models/weights.js';
import { answerRows, makeAnswers, targetsOf } from './accuracy.js';
import { embedImages, encoderEmbedder, type EmbedOptions } from './embed.js';
import type { Judged } from './frozen.js';
import type { LabelledSet } from './labelled.js';

export interface FinetuneOptions extends EmbedOptions {
  device: Device;
  /** The student's, with its projection head, and its weights. */
  graph: GraphSpec;
  weights: Readonly<WeightRecord>;
  resolution: number;
  precision: Precision | undefined;
  mean: ChannelTriple;
  std: ChannelTriple;
  classes: number;
  epochs: number;
  /** Peak for 256 images a step: linear growth over the first tenth of the steps, then a cosine to zero. */
  learningRate: number;
  /** Images a step; all of them where there are fewer. */
  batch: number;
  seed: number;
}

/** Crops and mirrors, without the colour changes of distillation. */
const crops = {
  train: true,
  scaleMin: 0.2,
  scaleMax: 1,
  ratioMin: 3 / 4,
  ratioMax: 4 / 3,
  flipProbability: 0.5,
  jitterProbability: 0,
  brightness: 0,
  contrast: 0,
  saturation: 0,
  hue: 0,
  greyProbability: 0,
  blurProbability: 0,
  blurSigmaMin: 0.1,
  blurSigmaMax: 0.1,
} as const;

/**
 * Trains on some labelled images by SGD (momentum 0.9, weight decay 1e-4).
 * @param images which of `train`
 * @returns the trained network; its results are logits [B,K]. Dispose of it
 * @throws LgdError BAD_OPTION (one image is too few at this size), NON_FINITE, ABORTED, OUT_OF_MEMORY, and device
 *   faults
 */
export async function finetune(
  train: LabelledSet,
  images: Int32Array,
  options: FinetuneOptions,
): Promise<CompiledEncoder> {
  const {
    device,
    graph,
    weights,
    resolution,
    precision,
    mean,
    std,
    classes,
    epochs,
    learningRate,
    batch: wanted,
    seed,
    signal,
    onProgress,
  } = options;
  const { addon } = device;
  const whole = classifierGraph(graph, classes);
  const batch = Math.min(wanted, images.length);
  const isBatch = wanted === 1 && images.length > 1; // else one image is all there is
  const encoder = compileBatch(
    'evaluate.finetuneBatch',
    batch,
    () =>
      new CompiledEncoder(device, whole, {
        batch,
        resolution,
        precision,
        training: true,
        optimizer: { name: 'sgd', momentum: 0.9 },
      }),
    isBatch ? {} : fewImages,
  );
  using made = new Made();
  try {
    const pixels = made.add(encoder.makeImages(), addon.release);
    const dLogits = made.add(addon.makeTensor(device.handle, [batch, classes]), addon.release);
    const results = made.add(addon.makeTensor(device.handle, [batch, 3]), addon.release);
    encoder.load(await startWeights(whole, weights, seed, signal));
    const recipe: NativeAugmentRecipe = { ...crops, resize: resolution, mean, std };
    const steps = Math.floor(images.length / batch);
    for (let epoch = 0; epoch < epochs; epoch++) {
      const done: (() => void)[] = [];
      const settle = async () => {
        await device.synchronize(); // the queue stays short
        for (const release of done.splice(0)) release();
      };
      for await (const { images: places, shown = places, step, store, release } of readAhead(
        train,
        batchesOf(images, { batch, seed, epoch, steps }),
        batchesAhead,
        signal,
      )) {
        done.push(release);
        addon.augment(
          store,
          recipe,
          { images: places, drawIds: places.map((image) => train.sourceIndex[image]!), seed, epoch },
          pixels,
        );
        encoder.zeroGradients();
        encoder.forwardTensor(pixels, { training: true, seed, step });
        addon.softmaxLoss({
          logits: encoder.output,
          labels: targetsOf(train, shown),
          dLogits,
          results,
          scale: 1 / batch,
        });
        encoder.backwardTensor(dLogits);
        encoder.optimizerStep({
          learningRate: learningRate * (batch / 256) * rateAt(step, epochs * steps),
          weightDecay: 1e-4,
        });
        if (done.length === stepsAtOnce) {
          await settle();
          onProgress?.(step + 1, epochs * steps);
        }
        throwIfAborted(signal, 'fine-tuning');
      }
      await settle();
      const losses = (await addon.readTensor(results)).filter((_, i) => i % 3 === 0);
      if (!losses.every(Number.isFinite))
        throw new LgdError('NON_FINITE', `fine-tuning went wrong in epoch ${epoch + 1}: its loss is not finite.`, {
          option: 'evaluate.finetuneRate',
          found: learningRate,
          mend: 'Lower it',
        });
      onProgress?.((epoch + 1) * steps, epochs * steps);
    }
    return encoder;
  } catch (error) {
    encoder.dispose();
    throw error;
  }
}

const fewImages = {
  option: 'evaluate.train',
  allowed: 'two images or more to learn from',
  mend: 'Give more images, or a larger evaluate.labelShare',
};
const batchesAhead = 2;
const stepsAtOnce = 8;

/** The full batches of an epoch. */
function* batchesOf(
  images: Int32Array,
  { batch, seed, epoch, steps }: { batch: number; seed: number; epoch: number; steps: number },
): Generator<{ images: Int32Array; step: number }, void, undefined> {
  const order = shuffledOrder(images.length, seed, epoch);
  for (let place = 0; place < steps; place++) {
    yield {
      images: order.slice(place * batch, (place + 1) * batch).map((index) => images[index]!),
      step: epoch * steps + place,
    };
  }
}

/** Of the peak rate, at a step. */
function rateAt(step: number, total: number): number {
  const warmup = Math.floor(total / 10);
  if (step < warmup) return (step + 1) / warmup;
  return 0.5 * (1 + Math.cos((Math.PI * (step - warmup)) / (total - warmup)));
}

/**
 * What a network whose results are logits says of labelled images.
 * @throws LgdError NON_FINITE, ABORTED, and device faults
 */
export async function judgeByLogits(
  encoder: CompiledEncoder,
  test: LabelledSet,
  {
    device,
    mean,
    std,
    classes,
    ...options
  }: Pick<FinetuneOptions, 'device' | 'mean' | 'std' | 'classes' | keyof EmbedOptions>,
): Promise<Pick<Judged, 'images' | 'answers'>> {
  const answers = makeAnswers(test.length);
  const seen: number[] = [];
  using embedder = encoderEmbedder(encoder);
  await embedImages(
    embedder,
    { device, images: test, mean, std, what: 'the evaluation' },
    (logits, images, from) => {
      const wrong = logits.findIndex((value) => !Number.isFinite(value));
      if (wrong !== -1)
        throw new LgdError(
          'NON_FINITE',
          `the logits of ${test.ids[images[Math.floor(wrong / classes)]!]} are not finite.`,
          { mend: 'Lower evaluate.finetuneRate, or look at that image' },
        );
      answers.targets.set(targetsOf(test, images), from);
      answerRows(answers, logits, classes, from);
      seen.push(...images);
    },
    options,
  );
  const judged = (values: Int32Array) => values.subarray(0, seen.length);
  return {
    images: Int32Array.from(seen),
    answers: { targets: judged(answers.targets), predicted: judged(answers.predicted), ranks: judged(answers.ranks) },
  };
}
