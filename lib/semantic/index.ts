/**
 * The distillation loss and the bank update for callers with embeddings of their own: on a device, or in plain
 * TypeScript.
 */
import { checkArgument, checkGiven, checkOptions, optionTable, type OptionTable } from '../arguments.js';
import type { Device } from '../device.js';
import { isOfTheNumbers, LgdError, throwIfAborted } from '../errors.js';
import {
  checkBankLoss,
  checkBankUpdate,
  checkFeatureLoss,
  checkFeatureValues,
  checkLossValues,
  checkUpdateValues,
} from './check.js';
import * as js from './js.js';
import type {
  BankLossInput,
  BankLossOutput,
  BankUpdateInput,
  BankUpdateOutput,
  FeatureLossInput,
  FeatureLossOutput,
} from './types.js';

/** Where to compute. */
export interface SemanticCallOptions {
  /** Where to compute: an open device, or 'js' for the pure-TypeScript reference (float64 arithmetic). */
  device: Device | 'js';
  signal?: AbortSignal | undefined;
}

const callOptions = optionTable<SemanticCallOptions>()('device signal?');

/** Where and how to compute {@link bankLoss}. */
export interface BankLossOptions extends SemanticCallOptions {
  /**
   * Operands of the products. 'bfloat16' (CUDA only), the mode of networks that store bfloat16, multiplies unit rows on
   * tensor cores: as float16, which keeps three bits more of them at the same speed, and as the sum of two where small
   * embeddings or a cold temperature need it. Bank values must then be below 65,504. Sums and scores are float32 either
   * way. Default 'float32'.
   */
  precision?: 'float32' | 'bfloat16' | undefined;
}

const bankLossOptions = { precision: 'optional', ...callOptions } satisfies OptionTable<BankLossOptions>;

/**
 * The loss of language-guided distillation (Li et al. 2024, arXiv 2406.11689) and its gradient. With unit rows s, t of
 * student and teacher, over the rows b_k of a bank: q = softmax(s . b_k / t_S), p = softmax(t . b_k / t_T), a part of
 * the loss is the mean over the batch of -sum_k p_k log q_k; t itself stands in front of the visual bank (derivation in
 * native/semantic/bank_loss.h of the repository). With `textual` alone (alpha 0) it is the text-only baseline, with
 * `visual` alone (alpha 1) the visual one, with `queue` alone (alpha 1) SEED; with `visual` and `queue` one softmax
 * runs over both. A native device reads the arrays where they lie: do not change or transfer them before the promise
 * settles. A transfer is refused then (BAD_OPTION), but the thread that has the memory now may have freed it, and
 * reading it may have ended the process. Arrays whose buffer is resizable are copied.
 * @throws LgdError BAD_SHAPE, BAD_OPTION, NON_FINITE, ZERO_EMBEDDING (`option` names the argument, the message the
 *   row), ABORTED, OUT_OF_MEMORY
 */
export async function bankLoss(input: BankLossInput, options: BankLossOptions): Promise<BankLossOutput> {
  checkCall(
    'bankLoss()',
    'student, teacher, dimension, studentTemperature, teacherTemperature, alpha, and textual, visual or queue',
    input,
    options,
    bankLossOptions,
  );
  const { device, signal, precision = 'float32' } = options;
  throwIfAborted(signal, 'The semantic loss');
  checkBankLoss(input);
  if (precision !== 'float32' && precision !== 'bfloat16')
    throw new LgdError('BAD_OPTION', 'there is no such precision.', {
      option: 'precision',
      found: precision,
      allowed: "'float32' or 'bfloat16'",
    });
  if (precision === 'bfloat16' && (device === 'js' || device.kind === 'cpu')) {
    throw new LgdError('BAD_OPTION', 'bfloat16 operands need a CUDA device.', {
      option: 'precision',
      found: precision,
      allowed: "'float32' on this device",
    });
  }
  const { student, teacher, textual, visual, queue, dimension, studentTemperature, teacherTemperature, alpha } = input;
  const args = {
    student,
    teacher,
    textual,
    visual,
    queue,
    dimension,
    studentTemperature,
    teacherTemperature,
    alpha,
  };
  return compute('The semantic loss', args, options, {
    checkValues: () => checkLossValues(args),
    inJs: () => js.bankLoss(withOwnArrays(args), signal),
    on: ({ addon, handle }) => addon.bankLoss(handle, { ...args, bfloat16: precision === 'bfloat16' }),
  });
}

/**
 * Feature regression, the plainest baseline: the mean of 1 - cosine(student, teacher), and its gradient.
 * A native device reads the arrays where they lie, as of {@link bankLoss}: do not change or transfer them before the
 * promise settles.
 * @throws LgdError BAD_SHAPE, BAD_OPTION, NON_FINITE, ZERO_EMBEDDING (`option` names the argument, the message the
 *   row), ABORTED, OUT_OF_MEMORY
 */
export async function featureLoss(input: FeatureLossInput, options: SemanticCallOptions): Promise<FeatureLossOutput> {
  checkCall('featureLoss()', 'student, teacher, dimension', input, options);
  const { signal } = options;
  throwIfAborted(signal, 'The feature loss');
  checkFeatureLoss(input);
  const { student, teacher, dimension } = input;
  const args = { student, teacher, dimension };
  return compute('The feature loss', args, options, {
    checkValues: () => checkFeatureValues(args),
    inJs: () => js.featureLoss(withOwnArrays(args), signal),
    on: ({ addon, handle }) => addon.featureLoss(handle, args),
  });
}

/**
 * Language-Guided Knowledge Aggregation (Li et al. 2024): assigns each teacher embedding, brought to length 1, to the
 * name whose text is nearest, and moves that category's visual anchor: to the mean of its embeddings the first time,
 * then V <- m V + (1 - m) mean. Anchors of categories without an image stay. The arguments are not changed; a native
 * device reads them where they lie, as those of {@link bankLoss}: do not change or transfer them before the promise
 * settles.
 * @throws LgdError BAD_SHAPE, BAD_OPTION, NON_FINITE, ZERO_EMBEDDING (`option` names the argument, the message the
 *   row), ABORTED, OUT_OF_MEMORY
 */
export async function bankUpdate(input: BankUpdateInput, options: SemanticCallOptions): Promise<BankUpdateOutput> {
  checkCall('bankUpdate()', 'teacher, textual, visual, seen, dimension, momentum', input, options);
  const { signal } = options;
  throwIfAborted(signal, 'The bank update');
  checkBankUpdate(input);
  const { teacher, textual, visual, seen, dimension, momentum } = input;
  const args = { teacher, textual, visual, seen, dimension, momentum };
  return compute('The bank update', args, options, {
    checkValues: () => checkUpdateValues(args),
    inJs: () => js.bankUpdate(withOwnArrays(args), signal),
    on: ({ addon, handle }) => addon.bankUpdate(handle, args),
  });
}

/** Both ways to compute a call, and what says which values are wrong. */
interface Ways<Output> {
  checkValues: () => void;
  inJs: () => Promise<Output>;
  on: (device: Device) => Promise<Output>;
}

async function compute<Output>(
  what: string,
  args: object,
  { device, signal }: SemanticCallOptions,
  { checkValues, inJs, on }: Ways<Output>,
): Promise<Output> {
  if (device === 'js') {
    checkValues();
    return await inJs();
  }
  const sizes = sizesOf(args);
  const output = await on(device).catch((error: unknown) => {
    // the addon looks at values as fast as memory goes; which they are is looked up here
    if (isOfTheNumbers(error)) checkValues();
    checkThere(sizes, sizesOf(args));
    throw error;
  });
  throwIfAborted(signal, what);
  return output;
}

/** Bytes of each array. */
function sizesOf(args: object): [string, number][] {
  return Object.entries(args).flatMap(([name, value]) =>
    ArrayBuffer.isView(value) ? [[name, value.byteLength] satisfies [string, number]] : [],
  );
}

/** @throws LgdError BAD_OPTION: an array that a call was given is gone, or a part of it */
function checkThere(before: [string, number][], now: [string, number][]): void {
  const gone = before.find(([, bytes], i) => now[i]![1] < bytes);
  if (gone !== undefined)
    throw new LgdError('BAD_OPTION', 'it was transferred or made smaller while it was read.', {
      option: gone[0],
      mend: 'Do so once the promise has settled',
    });
}

/** What is read over several turns, in which the caller may change or transfer the arrays, is read from copies. */
function withOwnArrays<Input extends object>(input: Input): Input {
  const own = (value: unknown): unknown => {
    if (value instanceof Float32Array) return new Float32Array(value);
    return value instanceof Uint8Array ? new Uint8Array(value) : value; // a Buffer's slice() would be of its memory
  };
  return Object.fromEntries(Object.entries(input).map(([name, value]) => [name, own(value)])) as Input;
}

/** @throws LgdError BAD_OPTION where arguments are missing, or not of their kind, or an option is not known */
function checkCall(
  call: string,
  needed: string,
  input: unknown,
  options: SemanticCallOptions,
  known: OptionTable<SemanticCallOptions> = callOptions,
): void {
  checkGiven(input, call, needed);
  checkOptions(options, call, known);
  if (options.device !== 'js') checkArgument('device', options.device);
}
