/** Options that follow `train.optimizer`: each optimiser has numbers of its own, and only those. */
import { counted } from '../counted.js';
import { LgdError } from '../errors.js';
import { thoseOfAdamw } from '../models/students/registry.js';
import { chooseBatch, type RunConfig } from './batch.js';
import { optimizerDefaults, studentNames, type Config } from './schema.js';

const ownOptions = { sgd: ['sgdMomentum'], adamw: ['adamwBeta1', 'adamwBeta2', 'adamwEpsilon'] } as const;

/**
 * Chooses an optimiser if none is given, nor a number of SGD: AdamW where one of the students was published with it.
 * Fills in its numbers, and leaves out those of the other.
 * @param isGiven whether an option of `train` was given, or has its default
 * @throws LgdError BAD_CONFIG (numbers of the other)
 */
export function settleOptimizer({ student, train }: Config, isGiven: (option: string) => boolean): void {
  const isChosen = ['optimizer', ...ownOptions.sgd].some(isGiven);
  if (!isChosen && thoseOfAdamw(studentNames(student.name)).length > 0) train.optimizer = 'adamw';
  const { optimizer } = train;
  const other = optimizer === 'sgd' ? 'adamw' : 'sgd';
  const wrong = ownOptions[other].filter(isGiven);
  if (wrong.length > 0)
    throw new LgdError('BAD_CONFIG', `is a number of another optimiser than ${optimizer}.`, {
      option: `train.${wrong[0]!}`,
      found: train[wrong[0]!],
      mend: mendOf(wrong, other, train, isGiven),
    });
  for (const option of ownOptions[other]) delete train[option];
  const { sgd, adamw } = optimizerDefaults;
  if (optimizer === 'adamw') {
    train.adamwBeta1 ??= adamw.beta1;
    train.adamwBeta2 ??= adamw.beta2;
    train.adamwEpsilon ??= adamw.epsilon;
  }
  if (!isGiven('weightDecay')) train.weightDecay = (optimizer === 'adamw' ? adamw : sgd).weightDecay;
}

/** Rates of SGD are nine times AdamW's and more; four times AdamW's was seen to learn less, not to fail. */
const mostTimes = 5;

/**
 * What to say of a student that was published with AdamW and is to train by SGD, and of a rate for AdamW that is far
 * above what it has with this student: most likely it was meant for SGD, before the student chose the optimiser.
 */
export function remarksOnOptimizer(student: string, train: RunConfig['train']): string[] {
  const { optimizer, learningRate, batchSize, accumulate } = train;
  if (optimizer === 'sgd')
    return thoseOfAdamw([student]).length === 0
      ? []
      : [
          `${student} was published with AdamW, and here it trains by SGD: --optimizer adamw changes that (docs/tuning.md, Optimiser)`,
        ];
  const { learningRate: usual } = chooseBatch({ ...train, learningRate: 'auto' }, undefined, [student]);
  const times = learningRate / usual;
  if (times <= mostTimes) return [];
  return [
    `a learning rate of ${learningRate} is ${Number(times.toPrecision(2))} times what AdamW has with ${student} and steps of ${counted(batchSize * accumulate, 'image')}, ${usual}, and may undo the training: --learning-rate auto takes that; one that is meant for SGD wants --optimizer sgd (docs/tuning.md, Optimiser)`,
  ];
}

/** A run's config.json has the rate and the decay, too, which are no error with another optimiser. */
function mendOf(
  wrong: readonly string[],
  other: string,
  { learningRate }: Config['train'],
  isGiven: (option: string) => boolean,
): string {
  const chosen = [...(learningRate === 'auto' ? [] : ['learningRate']), 'weightDecay'].filter(isGiven);
  const were = chosen.length === 1 ? 'it was' : 'they were';
  return chosen.length === 0
    ? `Leave ${listed(wrong)} out, or set train.optimizer to ${other}`
    : `Leave ${listed(wrong)} out, and ${listed(chosen)} where ${were} chosen for ${other}; or set train.optimizer to ${other}`;
}

const listed = (options: readonly string[]): string =>
  new Intl.ListFormat('en-GB').format(options.map((option) => `train.${option}`));
