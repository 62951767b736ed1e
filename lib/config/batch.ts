/**
 * What `auto` is for `train.batchSize` and `train.learningRate`: the one rule. The published recipe's numbers are for a
 * hundred thousand images; a few hundred make one or two of its steps an epoch, which train nothing (docs/tuning.md has
 * the runs). Few images bear a higher rate in many small steps. AdamW, whose steps are as large whatever the gradients
 * are, has one scaled rate in all of them, which is the student's.
 */
import { counted } from '../counted.js';
import { LgdError } from '../errors.js';
import { thoseOfAdamw } from '../models/students/registry.js';
import {
  adamwPeak,
  few,
  leastSteps,
  leastStepsAnEpoch,
  manyImages,
  recipe,
  studentNames,
  type ChosenMethod,
  type Config,
} from './schema.js';

/** A configuration without `auto` for the method, the batch size and the learning rate: that of a run. */
export interface RunConfig extends Config {
  method: ChosenMethod;
  train: Config['train'] & BatchNumbers;
}

/** The numbers that `auto` may stand for. */
export interface BatchNumbers {
  /** B, images a batch. */
  batchSize: number;
  /** Peak, for 256 images a step. */
  learningRate: number;
}

/**
 * Batch size and learning rate of a run, and how they came about. `auto` is the published 256 and 0.03 where there are
 * 100,000 images, or as many as make 16 such steps an epoch and 1,000 in the run, or where nobody tells how many there
 * are. With fewer the batch is the largest power of two from 16 to 64 that makes 3,200 steps (16 where none does, and
 * no more than there are images), and the rate is 0.3. A number that is given stays, and the other is chosen as if it
 * were not, but that the rate for few images is less where a step has more than 128 of them: the scaled rate stays that
 * of 128. Of AdamW the batch is the same, and the rate such that the scaled one is 0.002, of vision transformers 0.0005,
 * whatever a step has.
 */
export interface BatchChoice extends BatchNumbers {
  /** Those that `auto` chose. */
  byAuto: readonly (keyof BatchNumbers)[];
  /** How many images it chose for; undefined: that was not told, and the recipe's numbers were taken. */
  images: number | undefined;
  /** A line that says what was chosen, and why; undefined where both were given. */
  words: string | undefined;
}

type Training = Pick<Config['train'], 'batchSize' | 'learningRate' | 'epochs' | 'accumulate' | 'optimizer'>;

/**
 * Puts numbers in the place of `auto`, as {@link BatchChoice} tells. The rate of SGD is never less than the recipe's.
 * @param images how many there are to train on
 * @param students their names, of which AdamW's rate is the least
 * @throws LgdError BAD_OPTION (not a number of images)
 */
export function chooseBatch(
  train: Training,
  images: number | undefined,
  students: readonly string[] = [],
): BatchChoice {
  if (images !== undefined && !(Number.isSafeInteger(images) && images >= 1)) {
    throw new LgdError('BAD_OPTION', 'not a number of images.', {
      option: 'images',
      found: images,
      allowed: 'a whole number from 1',
      mend: 'Give the length of the data set, or leave it out where nobody knows it',
    });
  }
  const byAuto = (['batchSize', 'learningRate'] as const).filter((option) => train[option] === 'auto');
  const isFew = images !== undefined && !isMany(train, images);
  const batchSize = train.batchSize !== 'auto' ? train.batchSize : isFew ? fewBatch(train, images) : recipe.batchSize;
  const learningRate =
    train.learningRate !== 'auto'
      ? train.learningRate
      : rateOf(train, batchSize * train.accumulate, { isFew, students });
  return {
    batchSize,
    learningRate,
    byAuto,
    images,
    words: byAuto.length === 0 ? undefined : describeChoice({ batchSize, learningRate, byAuto, images }, train, isFew),
  };
}

/**
 * Are images enough for the recipe: a hundred thousand, or as many as make 16 of its steps an epoch and 1,000 in the
 * run?
 */
function isMany(train: Training, images: number): boolean {
  const anEpoch = Math.floor(images / recipe.batchSize);
  return (
    images >= manyImages || (anEpoch >= leastStepsAnEpoch && stepsOf(train, recipe.batchSize, images) >= leastSteps)
  );
}

function stepsOf({ epochs, accumulate }: Training, batchSize: number, images: number): number {
  return Math.floor((Math.floor(images / batchSize) * epochs) / accumulate);
}

function fewBatch({ epochs, accumulate }: Training, images: number): number {
  const wanted = powerOfTwo((images * epochs) / (accumulate * few.steps));
  return Math.min(powerOfTwo(images), few.largestBatch, Math.max(few.smallestBatch, wanted));
}

/** The largest power of two that is not above a number. */
function powerOfTwo(most: number): number {
  return 2 ** Math.floor(Math.log2(most));
}

/** @param step images an optimiser step */
function rateOf(
  { optimizer }: Training,
  step: number,
  { isFew, students }: { isFew: boolean; students: readonly string[] },
): number {
  if (optimizer === 'adamw') {
    const peak = Math.min(adamwPeak, ...thoseOfAdamw(students).map((one) => one.adamwPeak));
    return Number(((256 * peak) / step).toPrecision(3)); // makeSchedule() scales it by the step
  }
  return isFew ? fewRate(step) : recipe.learningRate;
}

function fewRate(step: number): number {
  const samePeak = (few.learningRate * few.largestStep) / step;
  return Math.max(recipe.learningRate, Math.min(few.learningRate, Number(samePeak.toPrecision(3))));
}

function describeChoice(
  { batchSize, learningRate, byAuto, images }: Omit<BatchChoice, 'words'>,
  train: Training,
  isFew: boolean,
): string {
  const parts = {
    batchSize: `batches of ${batchSize}`,
    learningRate: `a learning rate of ${learningRate}${train.optimizer === 'adamw' ? ' for AdamW' : ''}`,
  };
  const what = byAuto.map((option) => parts[option]).join(' at ');
  const asPublished =
    train.optimizer === 'sgd' ? ' as published' : byAuto.includes('batchSize') ? ' with the published batches' : '';
  if (images === undefined) return `${what}, by auto${asPublished}: how many images there are was not told`;
  const whom = `${what}, by auto for ${counted(images, 'image')} and ${counted(train.epochs, 'epoch')}`;
  if (!isFew) return asPublished === '' ? whom : `${whom}:${asPublished}`;
  const anEpoch = Math.floor(images / recipe.batchSize) / train.accumulate;
  const some = `${counted(Number(anEpoch.toPrecision(3)), 'step')} an epoch, ${stepsOf(train, recipe.batchSize, images)} in all`;
  return `${whom}: the published ${recipe.batchSize} would make ${anEpoch === 0 ? 'no step' : some}`;
}

/**
 * Said where a batch of the published size was taken for want of a number of images, and there are fewer.
 * @param images how many there are
 * @throws LgdError BAD_OPTION
 */
export function checkFilled({ byAuto, batchSize, images: told }: BatchChoice, images: number): void {
  if (told !== undefined || !byAuto.includes('batchSize') || batchSize <= images) return;
  throw new LgdError('BAD_OPTION', 'a batch cannot be filled.', {
    option: 'train.batchSize',
    found: batchSize,
    allowed: `1 to ${images}`,
    mend: `Tell new Distiller() how many images there are (images: ${images}), or give a smaller batch`,
  });
}

/**
 * @param batches of an epoch
 * @throws LgdError BAD_CONFIG: they make no step
 */
export function checkSteps(
  { epochs, accumulate }: Pick<Config['train'], 'epochs' | 'accumulate'>,
  batches: number,
): void {
  const all = batches * epochs;
  if (all >= accumulate) return;
  throw new LgdError('BAD_CONFIG', `the run has ${counted(all, 'batch', 'batches')}, fewer than one step takes.`, {
    option: 'train.accumulate',
    found: accumulate,
    mend: 'Lower it, or train for more epochs',
  });
}

/**
 * What to say of a run when it begins, where its numbers were chosen without the number of images and would be others
 * with it, or where its steps are few; undefined where all is well.
 * @param config with its numbers
 * @param choice how they came about
 * @param images how many there are
 * @param steps of the whole schedule
 */
export function adviseBatch(
  { train, student }: Pick<RunConfig, 'train' | 'student'>,
  { byAuto, images: told }: BatchChoice,
  images: number,
  steps: number,
): string | undefined {
  const students = studentNames(student.name);
  const left = Object.fromEntries(byAuto.map((option) => [option, 'auto']));
  const known = chooseBatch({ ...train, ...left }, images, students);
  if (told === undefined && byAuto.some((option) => known[option] !== train[option]))
    return `with images: ${images} in the options of Distiller it would be ${known.words}`;
  if (steps >= leastSteps) return undefined;
  const best = chooseBatch({ ...train, batchSize: 'auto', learningRate: 'auto' }, images, students);
  const more = stepsOf(train, best.batchSize, images);
  const flags = [
    ...(byAuto.includes('batchSize') ? [] : ['--batch-size auto']),
    ...(byAuto.includes('learningRate') ? [] : ['--learning-rate auto']),
  ];
  const help =
    more > steps && flags.length > 0
      ? `${flags.join(' ')} would make ${more}, of ${best.batchSize} images at ${best.learningRate}`
      : 'more --epochs give more';
  return `${counted(steps, 'step is', 'steps are')} few to train a network: ${help} (docs/tuning.md, Few images)`;
}
