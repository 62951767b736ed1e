/** The distillation loss and the bank update for callers with embeddings of their own: on a device, or in plain TypeScript. */
import { checkArgument, checkGiven, checkOptions, type OptionTable } from '../arguments.js';
import type { Device } from '../device.js';
import { isOfTheNumbers, LgdError, throwIfAborted } from '../errors.js';
import { checkBankLoss, checkBankUpdate, checkFeatureLoss, checkFeatureValues, checkLossValues, checkUpdateValues } from './check.js';
import * as js from './js.js';
import type { BankLossInput, BankLossOutput, BankUpdateInput, BankUpdateOutput, FeatureLossInput, FeatureLossOutput } from './types.js';

export type { BankLossInput, BankLossOutput, BankUpdateInput, BankUpdateOutput, FeatureLossInput, FeatureLossOutput } from './types.js';

/** Where to compute. */
export interface SemanticCallOptions {
  /** Where to compute: an open device, or 'js' for the pure-TypeScript reference (float64 arithmetic). */
  device: Device | 'js';
  signal?: AbortSignal | undefined;
}

const callOptions = { device: 'needed', signal: 'optional' } satisfies OptionTable<SemanticCallOptions>;

/** Where and how to compute {@link bankLoss}. */
export interface BankLossOptions extends SemanticCallOptions {
  /**
   * Operands of the products. 'bfloat16' (CUDA only), the mode of networks that store bfloat16, multiplies unit rows on tensor cores: as float16,
   * which keeps three bits more of them at the same speed, and as the sum of two where small embeddings or a cold temperature need it.
   * Bank values must then be below 65,504. Sums and scores are float32 either way. Default 'float32'.
   */
  precision?: 'float32' | 'bfloat16';
}

const bankLossOptions = { precision: 'optional', ...callOptions } satisfies OptionTable<BankLossOptions>;

/**
 * The loss of language-guided distillation and its gradient (method.md steps 1 to 6; derivation in native/semantic/bank_loss.h).
 * With `textual` alone (alpha 0) it is the text-only baseline, with `visual` alone (alpha 1) the visual one, with `queue` alone (alpha 1) SEED; with
 * `visual` and `queue` one softmax runs over both. A native device reads the arrays where they lie: do not change or transfer them before the promise settles.
 * @throws LgdError BAD_SHAPE, BAD_OPTION, NON_FINITE, ZERO_EMBEDDING (`option` names the argument, the message the row), ABORTED, OUT_OF_MEMORY
 */
export async function bankLoss(input: BankLossInput, options: BankLossOptions): Promise<BankLossOutput> {
  checkCall('bankLoss()', 'student, teacher, dimension, studentTemperature, teacherTemperature, alpha, and textual, visual or queue', input, options, bankLossOptions);
  const { device, signal, precision = 'float32' } = options;
  throwIfAborted(signal, 'The semantic loss');
  checkBankLoss(input);
  if (precision === 'bfloat16' && (device === 'js' || device.kind === 'cpu')) {
    throw new LgdError('BAD_OPTION', 'bfloat16 operands need a CUDA device.', { option: 'precision', found: precision, allowed: "'float32' on this device" });
  }
  if (device === 'js') {
    checkLossValues(input);
    return await js.bankLoss(input, signal);
  }
  const { student, teacher, textual, visual, queue, dimension, studentTemperature, teacherTemperature, alpha } = input;
  const args = { student, teacher, textual, visual, queue, dimension, studentTemperature, teacherTemperature, alpha, bfloat16: precision === 'bfloat16' };
  const output = await device.addon.bankLoss(device.handle, args).catch((error: unknown) => {
    if (isOfTheNumbers(error)) checkLossValues(input); // the addon looks at values as fast as memory goes; which they are is looked up here
    throw error;
  });
  throwIfAborted(signal, 'The semantic loss');
  return output;
}

/**
 * Feature regression, the plainest baseline: the mean of 1 - cosine(student, teacher), and its gradient (native/semantic/feature_loss.h).
 * A native device reads the arrays where they lie: do not change or transfer them before the promise settles.
 * @throws LgdError BAD_SHAPE, BAD_OPTION, NON_FINITE, ZERO_EMBEDDING (`option` names the argument, the message the row), ABORTED, OUT_OF_MEMORY
 */
export async function featureLoss(input: FeatureLossInput, options: SemanticCallOptions): Promise<FeatureLossOutput> {
  checkCall('featureLoss()', 'student, teacher, dimension', input, options);
  const { device, signal } = options;
  throwIfAborted(signal, 'The feature loss');
  checkFeatureLoss(input);
  if (device === 'js') {
    checkFeatureValues(input);
    return js.featureLoss(input);
  }
  const { student, teacher, dimension } = input;
  const output = await device.addon.featureLoss(device.handle, { student, teacher, dimension }).catch((error: unknown) => {
    if (isOfTheNumbers(error)) checkFeatureValues(input);
    throw error;
  });
  throwIfAborted(signal, 'The feature loss');
  return output;
}

/**
 * Language-Guided Knowledge Aggregation (method.md step 7): assigns each teacher embedding to its nearest category name and moves that category's
 * visual anchor to, or towards, the mean of its embeddings. The arguments are not changed;
 * a native device reads them where they lie: do not change or transfer them before the promise settles.
 * @throws LgdError BAD_SHAPE, BAD_OPTION, NON_FINITE, ZERO_EMBEDDING (`option` names the argument, the message the row), ABORTED, OUT_OF_MEMORY
 */
export async function bankUpdate(input: BankUpdateInput, options: SemanticCallOptions): Promise<BankUpdateOutput> {
  checkCall('bankUpdate()', 'teacher, textual, visual, seen, dimension, momentum', input, options);
  const { device, signal } = options;
  throwIfAborted(signal, 'The bank update');
  checkBankUpdate(input);
  if (device === 'js') {
    checkUpdateValues(input);
    return await js.bankUpdate(input, signal);
  }
  const { teacher, textual, visual, seen, dimension, momentum } = input;
  const output = await device.addon.bankUpdate(device.handle, { teacher, textual, visual, seen, dimension, momentum }).catch((error: unknown) => {
    if (isOfTheNumbers(error)) checkUpdateValues(input);
    throw error;
  });
  throwIfAborted(signal, 'The bank update');
  return output;
}

/** @throws LgdError BAD_OPTION where arguments are missing, or not of their kind, or an option is not known */
function checkCall(call: string, needed: string, input: unknown, options: SemanticCallOptions, known: OptionTable<SemanticCallOptions> = callOptions): void {
  checkGiven(input, call, needed);
  checkOptions(options, call, known);
  if (options.device !== 'js') checkArgument('device', options.device);
}
