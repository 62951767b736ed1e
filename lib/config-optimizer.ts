/** Options that follow `train.optimizer`: each optimiser has numbers of its own, and only those. */
import { optimizerDefaults, type Config } from './config-schema.js';
import { LgdError } from './errors.js';

const ownOptions = { sgd: ['sgdMomentum'], adamw: ['adamwBeta1', 'adamwBeta2', 'adamwEpsilon'] } as const;

/**
 * Fills in the numbers of the optimiser, and leaves out those of the other.
 * @param isGiven whether an option of `train` was given, or has its default
 * @throws LgdError BAD_CONFIG (numbers of the other)
 */
export function settleOptimizer(train: Config['train'], isGiven: (option: string) => boolean): void {
  const { optimizer } = train;
  const other = optimizer === 'sgd' ? 'adamw' : 'sgd';
  for (const option of ownOptions[other]) {
    if (isGiven(option))
      throw new LgdError('BAD_CONFIG', `is a number of another optimiser than ${optimizer}.`, {
        option: `train.${option}`,
        found: train[option],
        mend: `Leave train.${option} out, or set train.optimizer to ${other}`,
      });
    delete train[option];
  }
  const { sgd, adamw } = optimizerDefaults;
  if (optimizer === 'adamw') {
    train.adamwBeta1 ??= adamw.beta1;
    train.adamwBeta2 ??= adamw.beta2;
    train.adamwEpsilon ??= adamw.epsilon;
  }
  if (!isGiven('weightDecay')) train.weightDecay = (optimizer === 'adamw' ? adamw : sgd).weightDecay;
}
