/** The one schema of every option: name, type, range, default and help. No default stands anywhere else. */
import { z } from 'zod';
import {
  leastEpsilon,
  leastPositive,
  leastStudentSide,
  mostImages,
  mostMomentum,
  mostPositive,
  mostRows,
  mostStudentSide,
  mostThreads,
} from '../number-limits.js';

const fromZero = () => z.number().min(0);
const share = () => z.number().min(0).max(1);
const positive = () => z.number().min(leastPositive).max(mostPositive);
const factor = () => z.number().min(0.01).max(100);
const strength = () => z.number().min(0).max(100);
const sigma = () => z.number().min(0.01).max(1000);
const momentum = () => z.number().min(0).max(mostMomentum);
const count = () => z.int().min(1);
const batch = () => count().max(mostImages);
const text = () => z.string().min(1);
const textOrList = () => z.union([text(), z.array(z.string()).min(1)]);
const orAuto = <Number extends z.ZodType<number>>(number: Number) => z.union([z.literal('auto'), number]);

/**
 * With fewer names than this the method `auto` is `seed`: few names are few anchors to tell images by, and a queue has
 * thousands (docs/tuning.md has the runs).
 */
export const fewNames = 50;

// What `auto` is for the batch size and the learning rate: chooseBatch() of batch.ts has the rule.

/** The published recipe's (Li et al. 2024: 0.03 for 256 images). */
export const recipe = { batchSize: 256, learningRate: 0.03 };

/** Images that are enough for the recipe, however few the epochs are. */
export const manyImages = 100_000;

/** Where the recipe makes fewer steps an epoch, or in the whole run, images are few. */
export const leastStepsAnEpoch = 16;
export const leastSteps = 1000;

/**
 * For few images: the batch is the largest power of two in these bounds that makes `steps` steps of the run; the rate
 * is one that was tried up to `largestStep` images a step, beyond which the scaled rate stays.
 */
export const few = { smallestBatch: 16, largestBatch: 64, steps: 3200, learningRate: 0.3, largestStep: 128 };

/**
 * Numbers of the optimisers. SGD's are the published recipe's; AdamW's are PyTorch's, but for the weight decay:
 * docs/tuning.md has the runs.
 */
export const optimizerDefaults = {
  sgd: { momentum: 0.9, weightDecay: 1e-4 },
  adamw: { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0.05 },
} as const;

/** AdamW's scaled rate at the end of the warm-up, whatever a step has. */
export const adamwPeak = 0.002;

/** A group of options; one that is left out takes its defaults. */
function group<Shape extends z.ZodRawShape>(shape: Shape) {
  return z.strictObject(shape).prefault({} as never);
}

/** Checks every option, and fills in its default. */
export const schema = z.strictObject({
  device: z
    .string()
    .regex(/^(auto|cpu|cuda(:\d+|-emulated)?)$/u)
    .default('auto')
    .meta({
      description: 'Where to compute; auto takes a CUDA device if there is one',
      allowed: 'auto, cpu, cuda, cuda:N or cuda-emulated',
    }),
  threads: count().max(mostThreads).optional().describe('Threads for work on the CPU (default: all cores)'),
  seed: z
    .int()
    .min(0)
    .default(0)
    .describe('Seed of every random number: weights, shuffling, augmentation, dropout, visual anchors'),
  output: text().default('runs/distill').describe('Run folder: configuration, metrics, checkpoints, report'),
  overwrite: z.boolean().default(false).describe('Empty the run folder first when it holds an earlier run'),
  offline: z
    .boolean()
    .default(false)
    .describe('Take models from local folders and the cache only, never from the network'),
  names: textOrList()
    .optional()
    .describe(
      'Category names: a .txt, .json, .csv or .tsv file, a folder of class folders, a built-in list, or a JSON list of the names themselves',
    ),
  templates: textOrList()
    .default('default')
    .describe('Prompt templates: a built-in set, a file with one a line, or the templates'),
  allowDuplicates: z.boolean().default(false).describe('Keep names that are given more than once'),
  textEncoder: text()
    .optional()
    .describe("Text tower of CLIP or SigLIP: a folder or a hub id (default: the teacher's)"),
  bank: text()
    .optional()
    .describe('Text bank built before (lgdistill bank), in the place of names, templates and text encoder'),
  teacher: text()
    .optional()
    .describe(
      'Teacher: a folder or hub id of CLIP, SigLIP, PE-Core, DINO, DINOv2, DINOv3 or a ViT, an .onnx image tower, an earlier student, or a .safetensors file of embeddings',
    ),
  teacherResolution: z
    .int()
    .min(8)
    .max(1024)
    .optional()
    .describe(
      "Side of the teacher's input in pixels, of a teacher that works at more than one, such as DINOv2 (default: as the model's files say)",
    ),
  method: z
    .enum(['auto', 'lgd', 'text', 'visual', 'seed', 'hybrid', 'combined', 'feature'])
    .default('auto')
    .describe(
      `auto: seed with fewer than ${fewNames} names, else lgd; lgd: both banks; text or visual: that bank alone; seed: a queue of past teacher embeddings; hybrid: visual bank and queue; combined: both banks and the queue; feature: cosine regression to the teacher`,
    ),
  data: group({
    train: text()
      .optional()
      .describe(
        'Training images: a folder, any depth, a pack (lgdistill pack), tar shards, CIFAR or parquet files; labels are not needed',
      ),
    resolution: z
      .int()
      .min(leastStudentSide)
      .max(mostStudentSide)
      .optional()
      .describe("Side of the student's input in pixels (default: the teacher's)"),
    margin: z
      .number()
      .min(1)
      .max(4)
      .default(1.25)
      .describe(
        'Images are kept with their short side at margin times the larger input (student or teacher), so that crops stay sharp',
      ),
    cacheMemory: fromZero().default(2048).describe('Decoded images kept in memory, in MiB; the rest goes to a file'),
    cache: z
      .enum(['auto', 'all', 'stream'])
      .default('auto')
      .describe(
        'When images are decoded: all before training, each when a batch needs it, or (auto) all if they fit cacheMemory and half of the free disk',
      ),
    readAhead: count().max(64).default(4).describe('Batches decoded, or read from a pack, ahead of training'),
    spillFolder: text()
      .optional()
      .describe('Folder of the file of decoded images that cacheMemory does not hold (default: the run folder)'),
    maxBrokenShare: share().default(0.05).describe('Share of images that may fail to decode before the run stops'),
  }),
  teacherCache: group({
    views: z
      .int()
      .min(0)
      .max(1000)
      .default(0)
      .describe(
        'Views of each image that come back, whose teacher embeddings are kept in a file: epoch e shows view e modulo this number; 0: new views in every epoch',
      ),
    file: text()
      .optional()
      .describe(
        'File of those teacher embeddings, which later runs may share (default: teacher-views.lgd in the run folder)',
      ),
  }),
  student: group({
    name: text()
      .default('mobilenet_v2')
      .describe(
        'Architecture of the student, by its name in torchvision, else in timm; several with commas are trained side by side, each in a folder of its own below the run folder',
      ),
    widthMultiplier: z
      .number()
      .min(0.1)
      .max(4)
      .default(1)
      .describe('Scales the channels of students that have such a multiplier'),
    dropping: z
      .boolean()
      .default(true)
      .describe('Stochastic depth, where the architecture has it: EfficientNets, ConvNeXts'),
    weights: text()
      .optional()
      .describe(
        'Weights to start from: a .safetensors file with the names of torchvision, timm or what else export writes (default: seeded initialisation)',
      ),
  }),
  loss: group({
    alpha: share()
      .default(0.5)
      .describe('Weight of the visual part of the loss; the textual part has 1 - alpha (methods lgd and combined)'),
    studentTemperature: positive().default(0.2).describe("Temperature of the student's softmax"),
    teacherTemperature: positive().default(0.01).describe("Temperature of the teacher's softmax"),
    momentum: momentum().default(0.99).describe('Momentum of the visual anchors; 0.999 is published for ImageNet'),
    queueSize: count()
      .max(mostRows)
      .default(4096)
      .describe('Past teacher embeddings kept in the queue (methods seed, hybrid and combined)'),
  }),
  train: group({
    epochs: count().default(200).describe('Passes over the training images'),
    batchSize: orAuto(batch())
      .default('auto')
      .describe(
        `Images a batch; auto: ${recipe.batchSize}, as published, with ${manyImages} images, or where that makes ${leastStepsAnEpoch} steps an epoch and ${leastSteps} in all; with fewer ${few.smallestBatch} to ${few.largestBatch}, the most that make ${few.steps} steps`,
      ),
    accumulate: z
      .int()
      .min(1)
      .max(16)
      .default(1)
      .describe('Batches whose gradients are averaged for one optimiser step'),
    learningRate: orAuto(positive())
      .default('auto')
      .describe(
        `Peak learning rate for 256 images a step; it grows in proportion; auto: ${recipe.learningRate}, as published, or ${few.learningRate} with few images (see train.batchSize), less for steps of more than ${few.largestStep} of them; with adamw what makes steps of ${adamwPeak}, of a vision transformer 0.0005`,
      ),
    warmupEpochs: fromZero()
      .default(5)
      .describe(
        'Epochs in which the learning rate rises linearly, before the cosine to zero (not given: a tenth of the epochs where that is less than 5)',
      ),
    optimizer: z
      .enum(['sgd', 'adamw'])
      .default('sgd')
      .describe(
        'What moves the weights: sgd with momentum, as published, or adamw (not given, with ConvNeXts and vision transformers: adamw)',
      ),
    sgdMomentum: momentum().optional().prefault(optimizerDefaults.sgd.momentum).describe('Momentum of SGD'),
    adamwBeta1: momentum()
      .optional()
      .describe(`Of the first moment of AdamW (default with it: ${optimizerDefaults.adamw.beta1})`),
    adamwBeta2: momentum()
      .optional()
      .describe(`Of the second moment of AdamW (default with it: ${optimizerDefaults.adamw.beta2})`),
    adamwEpsilon: z
      .number()
      .min(leastEpsilon)
      .max(1)
      .optional()
      .describe(`Added to the root that AdamW divides by (default with it: ${optimizerDefaults.adamw.epsilon})`),
    weightDecay: share()
      .default(optimizerDefaults.sgd.weightDecay)
      .describe(
        `Weight decay (not given with adamw, whose decay is decoupled from the gradient: ${optimizerDefaults.adamw.weightDecay})`,
      ),
    decayNormAndBias: z
      .boolean()
      .default(true)
      .describe(
        'Apply weight decay to all parameters, as published; false: to the weights of convolutions and linear layers alone, not to norms, biases, layer scales, class tokens and positions',
      ),
    clipNorm: fromZero()
      .max(mostPositive)
      .default(0)
      .describe(
        "Norm that the gradients of all parameters together are clipped to, as PyTorch's clip_grad_norm_ does (1 is usual for vision transformers); 0 turns it off",
      ),
    precision: z
      .enum(['auto', 'float32', 'bfloat16'])
      .default('auto')
      .describe(
        'Storage of activations; auto is bfloat16 on CUDA and float32 on the CPU, which can only simulate the roundings of bfloat16',
      ),
    maxSteps: count()
      .optional()
      .describe('Stop after this many optimiser steps; the schedule still follows the epochs'),
    outlierFactor: fromZero()
      .default(10)
      .describe('Stop when a loss exceeds this many times the running median; 0 turns it off'),
  }),
  augment: group({
    scaleMin: z
      .number()
      .min(leastPositive)
      .max(1)
      .default(0.2)
      .describe('Smallest share of the image that a crop may have'),
    scaleMax: z
      .number()
      .min(leastPositive)
      .max(1)
      .default(1)
      .describe('Largest share of the image that a crop may have'),
    ratioMin: factor()
      .default(3 / 4)
      .describe('Smallest width / height of a crop'),
    ratioMax: factor()
      .default(4 / 3)
      .describe('Largest width / height of a crop'),
    flipProbability: share().default(0.5).describe('How often the view is mirrored'),
    jitterProbability: share().default(0.8).describe('How often colours are jittered'),
    brightness: strength().default(0.4).describe('Strength of the brightness jitter'),
    contrast: strength().default(0.4).describe('Strength of the contrast jitter'),
    saturation: strength().default(0.4).describe('Strength of the saturation jitter'),
    hue: z.number().min(0).max(0.5).default(0.1).describe('Strength of the hue jitter, in turns'),
    greyProbability: share().default(0.2).describe('How often the view loses its colours'),
    blurProbability: share().default(0.5).describe('How often the view is blurred'),
    blurSigmaMin: sigma().default(0.1).describe('Smallest sigma of the blur, in pixels of the view'),
    blurSigmaMax: sigma().default(2).describe('Largest sigma of the blur'),
  }),
  evaluate: group({
    data: text()
      .optional()
      .describe(
        'Labelled images to evaluate on: a folder of class folders, or a pack, tar shards, CIFAR or parquet files that have labels',
      ),
    names: textOrList()
      .optional()
      .describe("Names to choose among, given as names are, if not all of the text bank's (default: the bank's)"),
    bank: text()
      .optional()
      .describe('Text bank to evaluate with, where the evaluation images are of another set than the names trained on'),
    mapping: text()
      .optional()
      .describe('JSON file, an object from class folder to category name, where they are not spelled alike'),
    train: text()
      .optional()
      .describe(
        'Labelled images to learn from, of the kinds and the classes of evaluate.data (knn, linear, semi, finetune)',
      ),
    everyEpochs: z.int().min(0).default(1).describe('Epochs between evaluations; 0 evaluates at the end only'),
    everySteps: z
      .int()
      .min(0)
      .default(0)
      .describe('Steps between evaluations, besides those after epochs; 0 turns this off'),
    also: z
      .enum(['none', 'knn', 'linear', 'both'])
      .default('none')
      .describe(
        'Protocols that an evaluation while training runs besides zero-shot, or without names in its place; they learn from evaluate.train',
      ),
    online: z
      .boolean()
      .default(false)
      .describe(
        'Train a linear classifier beside the student, on its embeddings and the class folders of data.train; the student does not notice',
      ),
    metric: z
      .enum(['auto', 'top1', 'top5', 'loss', 'knn', 'linear', 'online'])
      .default('auto')
      .describe(
        'What makes a checkpoint the best; auto is top1 with an evaluation folder, without names knn, linear or online, and without a folder loss; knn, linear and online are top-1 of those',
      ),
    output: text()
      .optional()
      .describe(
        "Folder for an evaluation's results, predictions and lists (default: evaluation, in the run folder or beside the student's file)",
      ),
    neighbours: count().default(200).describe('Nearest labelled images that vote (knn)'),
    neighbourTemperature: positive().default(0.1).describe('Votes weigh exp(cosine / this) (knn)'),
    heldOut: z
      .number()
      .gt(0)
      .lt(1)
      .default(0.1)
      .describe('Share of evaluate.train on which settings are chosen (linear)'),
    solver: z
      .enum(['both', 'sgd', 'lbfgs'])
      .default('both')
      .describe('How linear classifiers are fitted: SGD over learning rates, L-BFGS over C, or both (linear)'),
    probeEpochs: count().default(100).describe('Passes over the features with SGD (linear)'),
    labelShare: z
      .number()
      .gt(0)
      .max(1)
      .optional()
      .describe('Share of each class whose labels are used (semi; default: 0.01, then 0.1)'),
    finetuneEpochs: count().default(30).describe('Passes over the labelled images (semi, finetune)'),
    finetuneRate: positive().default(0.03).describe('Peak learning rate for 256 images a step (semi, finetune)'),
    finetuneBatch: batch().default(64).describe('Images a batch (semi, finetune)'),
  }),
  dense: group({
    data: text()
      .optional()
      .describe(
        'Segmentation: folder of images and masks (pairs, Cityscapes, ADE20K or VOC layout). Detection: folder of images',
      ),
    annotations: text().optional().describe('Detection: COCO JSON file of the boxes to train on'),
    evaluationData: text().optional().describe('Folder to evaluate on (default: dense.data)'),
    evaluationAnnotations: text().optional().describe('Detection: COCO JSON file of the boxes to evaluate on'),
    layout: z
      .enum(['auto', 'pairs', 'cityscapes', 'ade20k', 'voc'])
      .default('auto')
      .describe('How images and masks lie in dense.data; auto looks'),
    split: text().default('train').describe('Part of the data set to train on'),
    evaluationSplit: text().default('val').describe('Part of the data set to evaluate on'),
    head: z
      .enum(['lraspp', 'fcn'])
      .default('lraspp')
      .describe('Segmentation head: the light LR-ASPP with a finer map added, or a fully convolutional one'),
    outputStride: z.int().min(8).max(32).default(16).meta({
      description: "Image pixels a position of the student's last map; below 32 its last strides become dilations",
      allowed: '8, 16 or 32',
    }),
    resolution: z
      .int()
      .min(32)
      .max(4096)
      .default(512)
      .meta({ description: 'Side of the square input in pixels', allowed: 'a multiple of 32 from 32 to 4096' }),
    batchSize: batch().default(16).describe('Images a step'),
    epochs: count().default(40).describe('Passes over the training images'),
    maxSteps: count().optional().describe('Steps of the whole schedule, in the place of epochs'),
    learningRate: positive()
      .default(0.02)
      .describe(
        'Peak learning rate of SGD; it rises over the first twentieth of the steps and falls by a power of 0.9',
      ),
    momentum: momentum().default(0.9).describe('Momentum of SGD'),
    weightDecay: share().default(1e-4).describe('Weight decay of SGD, not of norm scales and biases'),
    scaleMin: factor()
      .default(0.5)
      .describe("Smallest random scale of a training image; at 1 its short side is as long as the input's"),
    scaleMax: factor().default(2).describe('Largest random scale of a training image'),
    flipProbability: share().default(0.5).describe('How often a training image is mirrored'),
    inference: z
      .enum(['whole', 'sliding'])
      .default('whole')
      .describe(
        'Segmentation: see the whole image at once, or windows of the input size along an image whose short side is that long',
      ),
    everyEpochs: z.int().min(0).default(5).describe('Epochs between evaluations; 0 evaluates at the end only'),
  }),
  checkpoint: group({
    everyEpochs: z.int().min(0).default(1).describe('Epochs between checkpoints; 0 turns this off'),
    everySteps: z.int().min(0).default(0).describe('Steps between checkpoints; 0 turns this off'),
    everyMinutes: fromZero()
      .default(30)
      .describe('Minutes after which there is a checkpoint in any case, where an epoch takes longer; 0 turns this off'),
    keep: count().default(2).describe('How many of the latest checkpoints are kept, besides the best one'),
  }),
  log: group({
    everySteps: count().default(10).describe('Steps between lines of metrics'),
    stallMinutes: fromZero()
      .default(5)
      .describe(
        'Minutes that a step waits for its images, a teacher outside the device or the device, or that nothing moves in an evaluation or before the first step, before the run says so; again when they have doubled; 0: never',
      ),
    maxFileSize: fromZero()
      .default(64)
      .describe('Size in MiB past which metrics.jsonl and log.txt go on in a new part; 0: never'),
  }),
});

/**
 * Every option, resolved; options without a default may be absent, and `auto` stays until it is known what it is for.
 */
export type Config = z.output<typeof schema>;
/** What zod takes. `ConfigInput` is the same with words; a type test holds one to the other. */
export type SchemaInput = z.input<typeof schema>;
/** A value of the option `method`, whose help says what each does. */
export type Method = Config['method'];
/** A method that has been chosen. */
export type ChosenMethod = Exclude<Method, 'auto'>;

/** Whether a method has a loss without category names. */
export function worksWithoutNames(method: Method): boolean {
  return method === 'seed' || method === 'feature';
}

/** The students that `student.name` names: one, or several with commas. */
export function studentNames(name: string): string[] {
  return name
    .split(',')
    .map((part) => part.trim())
    .filter((part) => part !== '');
}
