/**
 * The one schema of every option: name, type, range, default and help. Command-line flags, help texts and the table in the documentation come from
 * {@link configOptions}; no default stands anywhere else.
 */
import { z } from 'zod';
import { checkGiven, checkText, isPromise } from './arguments.js';
import { few, leastSteps, leastStepsAnEpoch, manyImages, recipe } from './config-batch.js';
import { mendOfKey, mendOfValue, nearestOption, seeHelp } from './config-mend.js';
import { LgdError, systemErrorCode } from './errors.js';
import { withoutMark } from './files/byte-order-mark.js';
import { readFile } from './files/open.js';
import { leastPositive, mostImages, mostMomentum, mostPositive, mostRows, mostThreads, writeLimit } from './number-limits.js';

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

/** With fewer names than this the method `auto` is `seed`: few names are few anchors to tell images by, and a queue has thousands (docs/tuning.md has the runs). */
export const fewNames = 50;

/** A group of options; one that is left out takes its defaults. */
function group<Shape extends z.ZodRawShape>(shape: Shape) {
  return z.strictObject(shape).prefault({} as never);
}

const schema = z.strictObject({
  device: z.string().regex(/^(auto|cpu|cuda(:\d+|-emulated)?)$/u).default('auto').meta({ description: 'Where to compute; auto takes a CUDA device if there is one', allowed: 'auto, cpu, cuda, cuda:N or cuda-emulated' }),
  threads: count().max(mostThreads).optional().describe('Threads for work on the CPU (default: all cores)'),
  seed: z.int().min(0).default(0).describe('Seed of every random number: weights, shuffling, augmentation, dropout, visual anchors'),
  output: text().default('runs/distill').describe('Run folder: configuration, metrics, checkpoints, report'),
  overwrite: z.boolean().default(false).describe('Empty the run folder first when it holds an earlier run'),
  offline: z.boolean().default(false).describe('Take models from local folders and the cache only, never from the network'),
  names: textOrList().optional().describe('Category names: a .txt, .json, .csv or .tsv file, a folder of class folders, a built-in list, or a JSON list of the names themselves'),
  templates: textOrList().default('default').describe('Prompt templates: a built-in set, a file with one a line, or the templates'),
  allowDuplicates: z.boolean().default(false).describe('Keep names that are given more than once'),
  textEncoder: text().optional().describe("Text tower of CLIP or SigLIP: a folder or a hub id (default: the teacher's)"),
  bank: text().optional().describe('Text bank built before (lgdistill bank), in the place of names, templates and text encoder'),
  teacher: text().optional().describe('Teacher: a CLIP folder or hub id, an .onnx image tower, an earlier student, or a .safetensors file of embeddings'),
  method: z.enum(['auto', 'lgd', 'text', 'visual', 'seed', 'hybrid', 'combined', 'feature']).default('auto')
    .describe(`auto: seed with fewer than ${fewNames} names, else lgd; lgd: both banks; text or visual: that bank alone; seed: a queue of past teacher embeddings; hybrid: visual bank and queue; combined: both banks and the queue; feature: cosine regression to the teacher`),
  data: group({
    train: text().optional().describe('Training images: a folder, any depth, a pack (lgdistill pack), tar shards, CIFAR or parquet files; labels are not needed'),
    resolution: z.int().min(32).max(1024).optional().describe("Side of the student's input in pixels (default: the teacher's)"),
    margin: z.number().min(1).max(4).default(1.25).describe('Images are kept with their short side at margin times the larger input (student or teacher), so that crops stay sharp'),
    cacheMemory: z.number().min(0).default(2048).describe('Decoded images kept in memory, in MiB; the rest goes to a file'),
    cache: z.enum(['auto', 'all', 'stream']).default('auto').describe('When images are decoded: all before training, each when a batch needs it, or (auto) all if they fit cacheMemory and half of the free disk'),
    readAhead: count().max(64).default(4).describe('Batches decoded, or read from a pack, ahead of training'),
    spillFolder: text().optional().describe('Folder of the file of decoded images that cacheMemory does not hold (default: the run folder)'),
    maxBrokenShare: share().default(0.05).describe('Share of images that may fail to decode before the run stops'),
  }),
  teacherCache: group({
    views: z.int().min(0).max(1000).default(0).describe('Views of each image that come back, whose teacher embeddings are kept in a file: epoch e shows view e modulo this number; 0: new views in every epoch'),
    file: text().optional().describe('File of those teacher embeddings, which later runs may share (default: teacher-views.lgd in the run folder)'),
  }),
  student: group({
    name: text().default('mobilenet_v2').describe('Architecture of the student, by its name in torchvision, else in timm; several with commas are trained side by side, each in a folder of its own below the run folder'),
    widthMultiplier: z.number().min(0.1).max(4).default(1).describe('Scales the channels of students that have such a multiplier'),
    dropping: z.boolean().default(true).describe('Stochastic depth and dropout, where the architecture has them'),
    weights: text().optional().describe("Weights to start from: a .safetensors file with the names of torchvision, timm or what else export writes (default: seeded initialisation)"),
  }),
  loss: group({
    alpha: share().default(0.5).describe('Weight of the visual part of the loss; the textual part has 1 - alpha (methods lgd and combined)'),
    studentTemperature: positive().default(0.2).describe("Temperature of the student's softmax"),
    teacherTemperature: positive().default(0.01).describe("Temperature of the teacher's softmax"),
    momentum: momentum().default(0.99).describe('Momentum of the visual anchors; 0.999 is published for ImageNet'),
    queueSize: count().max(mostRows).default(4096).describe('Past teacher embeddings kept in the queue (methods seed, hybrid and combined)'),
  }),
  train: group({
    epochs: count().default(200).describe('Passes over the training images'),
    batchSize: orAuto(batch()).default('auto')
      .describe(`Images a batch; auto: ${recipe.batchSize}, as published, with ${manyImages} images, or where that makes ${leastStepsAnEpoch} steps an epoch and ${leastSteps} in all; with fewer ${few.smallestBatch} to ${few.largestBatch}, the most that make ${few.steps} steps`),
    accumulate: z.int().min(1).max(16).default(1).describe('Batches whose gradients are averaged for one optimiser step'),
    learningRate: orAuto(positive()).default('auto')
      .describe(`Peak learning rate for 256 images a step; it grows in proportion; auto: ${recipe.learningRate}, as published, or ${few.learningRate} with few images (see train.batchSize), less for steps of more than ${few.largestStep} of them`),
    warmupEpochs: z.number().min(0).default(5).describe('Epochs in which the learning rate rises linearly, before the cosine to zero (not given: a tenth of the epochs where that is less than 5)'),
    sgdMomentum: momentum().default(0.9).describe('Momentum of SGD'),
    weightDecay: share().default(1e-4).describe('Weight decay of SGD'),
    decayNormAndBias: z.boolean().default(true).describe('Apply weight decay to norm scales and biases too, as published'),
    precision: z.enum(['auto', 'float32', 'bfloat16']).default('auto').describe('Storage of activations; auto is bfloat16 on CUDA and float32 on the CPU, which can only simulate the roundings of bfloat16'),
    maxSteps: count().optional().describe('Stop after this many optimiser steps; the schedule still follows the epochs'),
    outlierFactor: z.number().min(0).default(10).describe('Stop when a loss exceeds this many times the running median; 0 turns it off'),
  }),
  augment: group({
    scaleMin: z.number().min(leastPositive).max(1).default(0.2).describe('Smallest share of the image that a crop may have'),
    scaleMax: z.number().min(leastPositive).max(1).default(1).describe('Largest share of the image that a crop may have'),
    ratioMin: factor().default(3 / 4).describe('Smallest width / height of a crop'),
    ratioMax: factor().default(4 / 3).describe('Largest width / height of a crop'),
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
    data: text().optional().describe('Labelled images to evaluate on: a folder of class folders, or a pack, tar shards, CIFAR or parquet files that have labels'),
    names: textOrList().optional().describe("Names to choose among, given as names are, if not all of the text bank's (default: the bank's)"),
    bank: text().optional().describe('Text bank to evaluate with, where the evaluation images are of another set than the names trained on'),
    mapping: text().optional().describe('JSON file, an object from class folder to category name, where they are not spelled alike'),
    train: text().optional().describe('Labelled images to learn from, of the kinds and the classes of evaluate.data (knn, linear, semi, finetune)'),
    everyEpochs: z.int().min(0).default(1).describe('Epochs between evaluations; 0 evaluates at the end only'),
    everySteps: z.int().min(0).default(0).describe('Steps between evaluations, besides those after epochs; 0 turns this off'),
    also: z.enum(['none', 'knn', 'linear', 'both']).default('none').describe('Protocols that an evaluation while training runs besides zero-shot; they learn from evaluate.train'),
    online: z.boolean().default(false).describe('Train a linear classifier beside the student, on its embeddings and the class folders of data.train; the student does not notice'),
    metric: z.enum(['auto', 'top1', 'top5', 'loss', 'knn', 'linear', 'online']).default('auto').describe('What makes a checkpoint the best; auto is top1 with an evaluation folder, loss without; knn, linear and online are top-1 of those'),
    output: text().optional().describe("Folder for an evaluation's results, predictions and lists (default: evaluation, in the run folder or beside the student's file)"),
    neighbours: count().default(200).describe('Nearest labelled images that vote (knn)'),
    neighbourTemperature: positive().default(0.1).describe('Votes weigh exp(cosine / this) (knn)'),
    heldOut: z.number().gt(0).lt(1).default(0.1).describe('Share of evaluate.train on which settings are chosen (linear)'),
    solver: z.enum(['both', 'sgd', 'lbfgs']).default('both').describe('How linear classifiers are fitted: SGD over learning rates, L-BFGS over C, or both (linear)'),
    probeEpochs: count().default(100).describe('Passes over the features with SGD (linear)'),
    labelShare: z.number().gt(0).max(1).optional().describe('Share of each class whose labels are used (semi; default: 0.01, then 0.1)'),
    finetuneEpochs: count().default(30).describe('Passes over the labelled images (semi, finetune)'),
    finetuneRate: positive().default(0.03).describe('Peak learning rate for 256 images a step (semi, finetune)'),
    finetuneBatch: batch().default(64).describe('Images a batch (semi, finetune)'),
  }),
  dense: group({
    data: text().optional().describe('Segmentation: folder of images and masks (pairs, Cityscapes, ADE20K or VOC layout). Detection: folder of images'),
    annotations: text().optional().describe('Detection: COCO JSON file of the boxes to train on'),
    evaluationData: text().optional().describe('Folder to evaluate on (default: dense.data)'),
    evaluationAnnotations: text().optional().describe('Detection: COCO JSON file of the boxes to evaluate on'),
    layout: z.enum(['auto', 'pairs', 'cityscapes', 'ade20k', 'voc']).default('auto').describe('How images and masks lie in dense.data; auto looks'),
    split: text().default('train').describe('Part of the data set to train on'),
    evaluationSplit: text().default('val').describe('Part of the data set to evaluate on'),
    head: z.enum(['lraspp', 'fcn']).default('lraspp').describe('Segmentation head: the light LR-ASPP with a finer map added, or a fully convolutional one'),
    outputStride: z.int().min(8).max(32).default(16).meta({ description: "Image pixels a position of the student's last map; below 32 its last strides become dilations", allowed: '8, 16 or 32' }),
    resolution: z.int().min(32).max(4096).default(512).meta({ description: 'Side of the square input in pixels', allowed: 'a multiple of 32 from 32 to 4096' }),
    batchSize: batch().default(16).describe('Images a step'),
    epochs: count().default(40).describe('Passes over the training images'),
    maxSteps: count().optional().describe('Steps of the whole schedule, in the place of epochs'),
    learningRate: positive().default(0.02).describe('Peak learning rate of SGD; it rises over the first twentieth of the steps and falls by a power of 0.9'),
    momentum: momentum().default(0.9).describe('Momentum of SGD'),
    weightDecay: share().default(1e-4).describe('Weight decay of SGD, not of norm scales and biases'),
    scaleMin: factor().default(0.5).describe("Smallest random scale of a training image; at 1 its short side is as long as the input's"),
    scaleMax: factor().default(2).describe('Largest random scale of a training image'),
    flipProbability: share().default(0.5).describe('How often a training image is mirrored'),
    inference: z.enum(['whole', 'sliding']).default('whole').describe('Segmentation: see the whole image at once, or windows of the input size along an image whose short side is that long'),
    everyEpochs: z.int().min(0).default(5).describe('Epochs between evaluations; 0 evaluates at the end only'),
  }),
  checkpoint: group({
    everyEpochs: z.int().min(0).default(1).describe('Epochs between checkpoints; 0 turns this off'),
    everySteps: z.int().min(0).default(0).describe('Steps between checkpoints; 0 turns this off'),
    everyMinutes: z.number().min(0).default(0).describe('Minutes between checkpoints; 0 turns this off'),
    keep: count().default(2).describe('How many of the latest checkpoints are kept, besides the best one'),
  }),
  log: group({
    everySteps: count().default(10).describe('Steps between lines of metrics'),
    stallMinutes: z.number().min(0).default(5).describe('Minutes that a step waits for its images, a teacher outside the device or the device, or that nothing moves in an evaluation or before the first step, before the run says so; again when they have doubled; 0: never'),
    maxFileSize: z.number().min(0).default(64).describe('Size in MiB past which metrics.jsonl and log.txt go on in a new part; 0: never'),
  }),
});

/** Every option, resolved; options without a default may be absent, and `auto` stays until it is known what it is for. */
export type Config = z.output<typeof schema>;
export type { ConfigInput } from './config-input.js';
/** What zod takes. `ConfigInput` is the same with words; a type test holds one to the other. */
export type SchemaInput = z.input<typeof schema>;
/** A value of the option `method`, whose help says what each does. */
export type Method = Config['method'];

/** Whether a method has a loss without category names. */
export function worksWithoutNames(method: Method): boolean {
  return method === 'seed' || method === 'feature';
}

/** The students that `student.name` names: one, or several with commas. */
export function studentNames(name: string): string[] {
  return name.split(',').map((part) => part.trim()).filter((part) => part !== '');
}

/** How an option is written. */
export type OptionType = 'string' | 'number' | 'integer' | 'boolean' | 'list';

/** One row of the option table. */
export interface ConfigOption {
  /** Dotted path, as in a configuration file: `train.batchSize`. */
  path: string;
  /** 'list' takes a string or an array of strings. */
  type: OptionType;
  /** undefined: none. */
  default: unknown;
  help: string;
  /** What values are accepted, in words. */
  allowed: string;
  /** All values that are accepted, where they are few. */
  choices: readonly string[] | undefined;
  /** Words that a number may be given by: `auto`. */
  words: readonly string[] | undefined;
  /** Command-line flag: `--train.batch-size`. */
  flag: string;
  /** The short form, where it is unique: `--batch-size`. */
  alias: string | undefined;
}

/** The part of JSON Schema that zod writes for this schema. */
interface JsonSchema {
  type?: string;
  properties?: Record<string, JsonSchema>;
  anyOf?: JsonSchema[];
  enum?: string[];
  const?: string;
  default?: unknown;
  description?: string;
  allowed?: string;
  minimum?: number;
  maximum?: number;
  exclusiveMinimum?: number;
  exclusiveMaximum?: number;
}

let table: readonly ConfigOption[] | undefined;

/** Every option in the schema's order. */
export function configOptions(): readonly ConfigOption[] {
  table ??= buildTable();
  return table;
}

/** These groups belong to commands of their own; their options are always written in full (`--dense.batch-size`), and take no short form from others. */
const writtenInFull: ReadonlySet<string> = new Set(['dense']);

/** Whether an option belongs to a group that only commands of its own take. */
export function isOfOwnCommand({ path }: Pick<ConfigOption, 'path'>): boolean {
  return writtenInFull.has(path.split('.')[0]!);
}

/** These options go by the name of their group: `--data photos`. */
const mainOptions: Readonly<Record<string, string>> = { 'data.train': 'data', 'student.name': 'student', 'evaluate.data': 'evaluate' };

function buildTable(): ConfigOption[] {
  const root = z.toJSONSchema(schema, { io: 'input' }) as JsonSchema;
  const leaves: [string, JsonSchema][] = [];
  const groups = new Set<string>();
  for (const [name, entry] of Object.entries(root.properties!)) {
    if (entry.properties === undefined) leaves.push([name, entry]);
    else {
      groups.add(name);
      for (const [inner, leaf] of Object.entries(entry.properties)) leaves.push([`${name}.${inner}`, leaf]);
    }
  }
  const last = (path: string) => path.slice(path.lastIndexOf('.') + 1);
  return leaves.map(([path, leaf]) => {
    const short = last(path);
    const unique = path.includes('.') && !isOfOwnCommand({ path }) && !groups.has(short) && leaves.filter(([other]) => last(other) === short && !isOfOwnCommand({ path: other })).length === 1;
    const alias = mainOptions[path] ?? (unique ? short : undefined);
    return {
      path,
      type: numberOf(leaf)?.type ?? (leaf.anyOf !== undefined ? 'list' : (leaf.type as OptionType)),
      default: leaf.default,
      help: leaf.description ?? '',
      allowed: leaf.allowed ?? allowedValues(leaf),
      choices: leaf.enum ?? (leaf.type === 'boolean' ? ['true', 'false'] : undefined),
      words: numberOf(leaf)?.words,
      flag: `--${kebab(path)}`,
      alias: alias === undefined ? undefined : `--${kebab(alias)}`,
    };
  });
}

function kebab(path: string): string {
  return path.replace(/[A-Z]/gu, (letter) => `-${letter.toLowerCase()}`);
}

/** Of an option that takes a number, or a word for one: the number's part, and the words. */
function numberOf({ anyOf = [] }: JsonSchema): { type: 'number' | 'integer'; leaf: JsonSchema; words: string[] } | undefined {
  const leaf = anyOf.find(({ type }) => type === 'number' || type === 'integer');
  return leaf && { type: leaf.type as 'number' | 'integer', leaf, words: anyOf.flatMap((other) => other.const ?? []) };
}

function allowedValues(leaf: JsonSchema): string {
  const number = numberOf(leaf);
  if (number !== undefined) return [...number.words, allowedValues(number.leaf)].join(', or ');
  if (leaf.anyOf !== undefined) return 'text, or a list of texts';
  if (leaf.enum !== undefined) return leaf.enum.join(', ');
  if (leaf.type === 'boolean') return 'true or false';
  if (leaf.type === 'string') return 'text';
  const bounds: string[] = [];
  if (leaf.minimum !== undefined) bounds.push(`from ${leaf.minimum}`);
  if (leaf.exclusiveMinimum !== undefined) bounds.push(`above ${leaf.exclusiveMinimum}`);
  if (leaf.maximum !== undefined && leaf.maximum !== Number.MAX_SAFE_INTEGER) bounds.push(`to ${writeLimit(leaf.maximum)}`);
  if (leaf.exclusiveMaximum !== undefined) bounds.push(`below ${leaf.exclusiveMaximum}`);
  return [leaf.type === 'integer' ? 'a whole number' : 'a number', ...bounds].join(' ');
}

/**
 * Checks a configuration and fills in the defaults. Parsing a {@link Config} again changes nothing.
 * @throws LgdError BAD_CONFIG (not an object, unknown option, options that do not go together), BAD_OPTION (a value outside its type or range)
 */
export function parseConfig(raw: unknown): Config {
  checkGroups(raw);
  const result = schema.safeParse(raw);
  if (!result.success) throw configError(raw, result.error.issues);
  const config = result.data;
  if (!isWarmupGiven(raw)) config.train.warmupEpochs = Math.min(config.train.warmupEpochs, config.train.epochs / 10);
  checkTogether(config);
  return config;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isWarmupGiven(raw: unknown): boolean {
  return isObject(raw) && isObject(raw['train']) && raw['train']['warmupEpochs'] !== undefined;
}

function configError(raw: unknown, issues: readonly z.core.$ZodIssue[]): LgdError {
  // Unknown names first: a slip in a name often causes the rest.
  const issue = issues.find(({ code }) => code === 'unrecognized_keys') ?? issues[0]!;
  const path = issue.path.join('.');
  if (issue.code === 'unrecognized_keys') {
    const key = issue.keys[0]!;
    if (path !== '') return unknownOption(`${path}.${key}`, 'BAD_CONFIG');
    const what = configOptions().some((option) => option.path === key) ? 'the dots of a name are nesting in a configuration.' : 'there is no such option.';
    return new LgdError('BAD_CONFIG', what, { option: key, mend: mendOfKey(key, (raw as Record<string, unknown>)[key], configOptions()) });
  }
  const others = [...new Set(issues.map((other) => other.path.join('.')))].filter((other) => other !== path);
  const also = others.length === 0 ? '' : ` (also wrong: ${others.join(', ')})`;
  let found: unknown = raw;
  for (const part of issue.path) found = (found as Record<PropertyKey, unknown>)[part];
  const option = configOptions().find((entry) => path === entry.path || path.startsWith(`${entry.path}.`));
  if (option !== undefined) return new LgdError('BAD_OPTION', `not a value this option takes${also}.`, { option: option.path, found: found ?? null, allowed: option.allowed, mend: mendOfValue(option, found) });
  return noGroup(path, found, also);
}

/** Objects whose content is not in members, such as a promise or a Map, would be as good as {}. */
function checkGroups(raw: unknown): void {
  if (!isObject(raw)) return;
  for (const [path, value] of [['', raw] as const, ...Object.entries(raw)]) {
    const isEmpty = isObject(value) && Object.keys(value).length === 0 && !/^\[object (?:Object|Module)\]$/u.test(Object.prototype.toString.call(value));
    if (!isEmpty || configOptions().some((option) => option.path === path)) continue;
    if (!isPromise(value)) throw noGroup(path, value);
    throw new LgdError('BAD_CONFIG', 'this is a promise.', { ...(path !== '' && { option: path }), mend: 'Put await before the call that gave it' });
  }
}

function noGroup(path: string, found: unknown, also = ''): LgdError {
  return new LgdError('BAD_CONFIG', `a group of options is expected here${also}.`, { ...(path !== '' && { option: path }), found: found ?? null, allowed: 'an object of options', mend: 'Write it as { "option": value }' });
}

/** Refuses an option that does not exist, with the nearest one that does. */
function unknownOption(path: string, code: 'BAD_CONFIG' | 'BAD_OPTION'): LgdError {
  const near = nearestOption(path, configOptions());
  return new LgdError(code, 'there is no such option.', { option: path, mend: near === undefined ? seeHelp : `Did you mean ${near}?` });
}

function checkTogether({ augment, train, names, bank, evaluate, student }: Config): void {
  const ordered: [string, number, string, number][] = [
    ['augment.scaleMin', augment.scaleMin, 'augment.scaleMax', augment.scaleMax],
    ['augment.ratioMin', augment.ratioMin, 'augment.ratioMax', augment.ratioMax],
    ['augment.blurSigmaMin', augment.blurSigmaMin, 'augment.blurSigmaMax', augment.blurSigmaMax],
    ['train.warmupEpochs', train.warmupEpochs, 'train.epochs', train.epochs],
  ];
  for (const [option, low, other, high] of ordered) {
    if (low > high) throw new LgdError('BAD_CONFIG', `is greater than ${other}.`, { option, found: low, allowed: `a number to ${high}`, mend: `Lower ${option} or raise ${other}` });
  }
  const students = studentNames(student.name);
  if (students.length === 0 || new Set(students).size < students.length) {
    throw new LgdError('BAD_CONFIG', 'each student is named once.', { option: 'student.name', found: student.name, mend: 'Give one name, or several different ones with commas' });
  }
  if (students.length > 1 && student.weights !== undefined) {
    throw new LgdError('BAD_CONFIG', 'a file of weights starts one student.', { option: 'student.weights', found: student.weights, mend: 'Train that student by itself, or leave the weights out' });
  }
  if (bank !== undefined && names !== undefined) {
    throw new LgdError('BAD_CONFIG', 'a text bank has its own names.', { option: 'names', found: names, mend: 'Give either names or bank' });
  }
  const { metric, also } = evaluate;
  if (evaluate.data === undefined && metric !== 'auto' && metric !== 'loss') {
    throw new LgdError('BAD_CONFIG', 'needs a folder to evaluate on.', { option: 'evaluate.metric', found: metric, mend: 'Give evaluate.data, or choose loss' });
  }
  if ((metric === 'knn' || metric === 'linear') && also !== metric && also !== 'both') {
    throw new LgdError('BAD_CONFIG', 'is not among the protocols that run while training.', { option: 'evaluate.metric', found: metric, mend: `Set evaluate.also to ${metric} or both` });
  }
  if (metric === 'online' && !evaluate.online) throw new LgdError('BAD_CONFIG', 'there is no online probe.', { option: 'evaluate.metric', found: metric, mend: 'Set evaluate.online' });
  if (evaluate.online && evaluate.data === undefined) throw new LgdError('BAD_CONFIG', 'needs a folder to evaluate on.', { option: 'evaluate.online', found: true, mend: 'Give evaluate.data' });
  if (also !== 'none' && (evaluate.data === undefined || evaluate.train === undefined)) {
    throw new LgdError('BAD_CONFIG', 'needs labelled images to learn from and to evaluate on.', { option: 'evaluate.also', found: also, mend: 'Give evaluate.train and evaluate.data' });
  }
}

/**
 * Reads a configuration file in JSON, unchecked ({@link parseConfig} and {@link mergeConfig} check it).
 * @throws LgdError FILE_NOT_FOUND, BAD_CONFIG
 */
export async function loadConfigFile(path: string): Promise<unknown> {
  checkText(path, 'config', 'a JSON file');
  let content: string;
  try {
    content = await readFile(path, 'utf8');
  } catch (cause) {
    if (systemErrorCode(cause) === 'ENOENT') throw new LgdError('FILE_NOT_FOUND', 'there is no configuration file of this name.', { option: 'config', found: path, mend: 'Check the path', cause });
    throw new LgdError('BAD_CONFIG', `cannot read ${path}: ${(cause as Error).message}.`, { option: 'config', mend: 'Check its permissions', cause });
  }
  try {
    return JSON.parse(withoutMark(content)) as unknown;
  } catch (cause) {
    throw new LgdError('BAD_CONFIG', `${path} is not JSON: ${(cause as Error).message}.`, { option: 'config', mend: 'Correct the file', cause });
  }
}

/**
 * A configuration file's content with overrides on top, checked.
 * @param file what {@link loadConfigFile} gave, or undefined
 * @param overrides by dotted path (`train.batchSize`); a string stands for a number, a boolean or a JSON list where the option is one, as on a command line; undefined overrides nothing
 * @throws LgdError BAD_CONFIG, BAD_OPTION
 */
export function mergeConfig(file: unknown, overrides: Readonly<Record<string, unknown>>): Config {
  checkGiven(overrides, 'mergeConfig(file, ...)', 'options by their paths');
  checkGroups(file);
  const merged: unknown = file === undefined ? {} : structuredClone(file);
  if (!isObject(merged)) return parseConfig(merged); // says what is wrong with it
  for (const [path, value] of Object.entries(overrides)) {
    if (value === undefined) continue;
    const option = configOptions().find((entry) => entry.path === path);
    if (option === undefined) throw unknownOption(path, 'BAD_OPTION');
    const [first, second] = path.split('.') as [string, string?];
    const converted = typeof value === 'string' ? fromText(option, value) : value;
    if (second === undefined) merged[first] = converted;
    else {
      merged[first] ??= {};
      const inner = merged[first];
      if (!isObject(inner)) return parseConfig(merged);
      inner[second] = converted;
    }
  }
  return parseConfig(merged);
}

/** A command-line text as the option's type; a text that does not fit stays, for {@link parseConfig} to refuse. */
function fromText({ type }: ConfigOption, value: string): unknown {
  switch (type) {
    case 'number':
    case 'integer': return value.trim() === '' || Number.isNaN(Number(value)) ? value : Number(value);
    case 'boolean': return value === 'true' ? true : value === 'false' ? false : value;
    case 'list':
      if (!value.startsWith('[')) return value;
      try {
        return JSON.parse(value) as unknown;
      } catch {
        return value;
      }
    case 'string': return value;
  }
}
