import { types } from 'node:util';
import { LgdError } from '../errors.js';
import { leastPositive, mostMomentum, mostPositive, writeLimit } from '../number-limits.js';
import type { BankLossInput, BankUpdateInput, FeatureLossInput } from './types.js';

/**
 * Checks the arguments of bankLoss before anything is computed, all but the embeddings' values: see
 * {@link checkLossValues}.
 * @throws LgdError BAD_SHAPE, BAD_OPTION; `option` names the argument
 */
export function checkBankLoss(input: BankLossInput): void {
  const { dimension, alpha } = input;
  checkFeatureLoss(input);
  const categories = rowsOf('textual', input.textual, dimension);
  const anchors = rowsOf('visual', input.visual, dimension);
  const queued = rowsOf('queue', input.queue, dimension);
  if (categories > 0 && anchors > 0 && anchors !== categories)
    throw wrongRows('visual', anchors, categories, 'textual');
  checkTemperature('studentTemperature', input.studentTemperature);
  checkTemperature('teacherTemperature', input.teacherTemperature);
  if (typeof alpha !== 'number' || !(alpha >= 0 && alpha <= 1))
    throw new LgdError('BAD_OPTION', 'not a weight.', { option: 'alpha', found: alpha, allowed: '0 to 1' });
  if (categories === 0 && alpha !== 1) throw needless('the textual bank is left out', alpha, 'textual', 1);
  if (anchors + queued === 0 && alpha !== 0)
    throw needless('the visual bank and the queue are left out', alpha, 'visual or queue', 0);
}

/**
 * Checks student and teacher, all but their values: see {@link checkFeatureValues}.
 * @throws LgdError BAD_SHAPE, BAD_OPTION; `option` names the argument
 */
export function checkFeatureLoss({ student, teacher, dimension }: FeatureLossInput): void {
  checkDimension(dimension);
  const batch = rowsOf('student', student, dimension);
  const teachers = rowsOf('teacher', teacher, dimension);
  if (batch === 0) throw noRows('student', 'image');
  if (teachers !== batch) throw wrongRows('teacher', teachers, batch, 'student');
}

/**
 * Checks the arguments of bankUpdate before anything is computed, all but the embeddings' values: see
 * {@link checkUpdateValues}.
 * @throws LgdError BAD_SHAPE, BAD_OPTION; `option` names the argument
 */
export function checkBankUpdate(input: BankUpdateInput): void {
  const { dimension, momentum, seen } = input;
  checkDimension(dimension);
  const batch = rowsOf('teacher', input.teacher, dimension);
  const categories = rowsOf('textual', input.textual, dimension);
  const anchors = rowsOf('visual', input.visual, dimension);
  if (batch === 0) throw noRows('teacher', 'image');
  if (categories === 0) throw noRows('textual', 'category');
  if (anchors !== categories) throw wrongRows('visual', anchors, categories, 'textual');
  if (!types.isUint8Array(seen))
    throw new LgdError('BAD_OPTION', 'not flags.', { option: 'seen', found: typeName(seen), allowed: 'a Uint8Array' });
  if (seen.length !== categories) {
    throw new LgdError('BAD_SHAPE', `${seen.length} flags for ${categories} categories.`, {
      option: 'seen',
      found: seen.length,
      allowed: `${categories} flags`,
    });
  }
  if (typeof momentum !== 'number' || !(momentum >= 0 && momentum <= mostMomentum)) {
    throw new LgdError('BAD_OPTION', 'not a momentum.', {
      option: 'momentum',
      found: momentum,
      allowed: `0 to ${mostMomentum}`,
    });
  }
}

/**
 * Looks at every value of bankLoss's embeddings, whose shapes are right.
 * @throws LgdError NON_FINITE, ZERO_EMBEDDING; `option` names the argument, the message the row
 */
export function checkLossValues({ student, teacher, textual, visual, queue, dimension }: BankLossInput): void {
  checkFeatureValues({ student, teacher, dimension });
  checkValues('textual', textual, dimension, true);
  checkValues('visual', visual, dimension, false);
  checkValues('queue', queue, dimension, true);
}

/** The same for featureLoss's. */
export function checkFeatureValues({ student, teacher, dimension }: FeatureLossInput): void {
  checkValues('student', student, dimension, true);
  checkValues('teacher', teacher, dimension, true);
}

/** The same for bankUpdate's. */
export function checkUpdateValues({ teacher, textual, visual, dimension }: BankUpdateInput): void {
  checkValues('teacher', teacher, dimension, true);
  checkValues('textual', textual, dimension, true);
  checkValues('visual', visual, dimension, false);
}

function checkDimension(dimension: number): void {
  if (!Number.isInteger(dimension) || dimension < 1) {
    throw new LgdError('BAD_SHAPE', 'not an embedding size.', {
      option: 'dimension',
      found: dimension,
      allowed: 'a whole number from 1',
    });
  }
}

function checkTemperature(option: string, value: number): void {
  if (typeof value !== 'number' || !(value >= leastPositive && value <= mostPositive)) {
    throw new LgdError('BAD_OPTION', 'not a temperature.', {
      option,
      found: value,
      allowed: `a number from ${leastPositive} to ${writeLimit(mostPositive)}`,
    });
  }
}

/** How many rows an array holds. */
function rowsOf(option: string, values: Float32Array | undefined, dimension: number): number {
  if (values === undefined && option !== 'student' && option !== 'teacher') return 0;
  if (!types.isFloat32Array(values))
    throw new LgdError('BAD_OPTION', 'not an array of embeddings.', {
      option,
      found: typeName(values),
      allowed: 'a Float32Array',
    });
  const rows = values.length / dimension;
  if (!Number.isInteger(rows)) {
    throw new LgdError('BAD_SHAPE', 'its values do not make whole rows.', {
      option,
      found: `${values.length} values`,
      allowed: `a multiple of ${dimension}`,
    });
  }
  return rows;
}

/**
 * A zero row has no direction and is refused where one is needed: everywhere but in the visual bank, whose anchors
 * enter as they are.
 */
function checkValues(
  option: string,
  values: Float32Array | undefined,
  dimension: number,
  needsDirection: boolean,
): void {
  if (values === undefined) return;
  // of a transferred array Node 20 may still tell the length, in optimised code that has seen resizable ones
  const rows = values.byteLength / (4 * dimension);
  for (let row = 0; row < rows; row++) {
    const [begin, end] = [row * dimension, (row + 1) * dimension];
    const sum = sumOfMagnitudes(values, begin, end);
    if (!(sum < Infinity)) {
      const at = values.findIndex((value) => !Number.isFinite(value)); // rows before are finite
      throw new LgdError('NON_FINITE', `row ${row} has a value that is not finite.`, {
        option,
        found: `${String(values[at])} in column ${at - begin}`,
      });
    }
    if (needsDirection && sum > mostFloat && !Number.isFinite(Math.fround(lengthOf(values, begin, end))))
      throw new LgdError('NON_FINITE', `row ${row} is longer than float32 can hold.`, {
        option,
        allowed: 'a length below 3.4e38',
        mend: 'Divide the row by a number: its direction alone counts',
      });
    if (needsDirection && sum === 0)
      throw new LgdError('ZERO_EMBEDDING', `row ${row} is zero; it has no direction.`, { option });
  }
}

const mostFloat = 2 ** 128 - 2 ** 104;

function lengthOf(values: Float32Array, begin: number, end: number): number {
  let sum = 0;
  for (let at = begin; at < end; at++) sum += values[at]! ** 2;
  return Math.sqrt(sum);
}

/** Sum of |value|: infinite or NaN if one value is (in float64 no sum of finite float32 values is), zero if all are. */
function sumOfMagnitudes(values: Float32Array, begin: number, end: number): number {
  let sum = 0;
  for (let at = begin; at < end; at++) sum += Math.abs(values[at]!);
  return sum;
}

function noRows(option: string, what: string): LgdError {
  return new LgdError('BAD_SHAPE', `there is no ${what}.`, { option, found: '0 rows', allowed: 'at least one row' });
}

function wrongRows(option: string, found: number, expected: number, other: string): LgdError {
  return new LgdError('BAD_SHAPE', `it must have as many rows as ${other}.`, {
    option,
    found: `${found} rows`,
    allowed: `${expected} rows`,
  });
}

function needless(what: string, alpha: number, argument: string, needed: number): LgdError {
  return new LgdError('BAD_OPTION', `${what}, and still has a weight.`, {
    option: 'alpha',
    found: alpha,
    allowed: String(needed),
    mend: `Give ${argument}, or set alpha to ${needed}`,
  });
}

function typeName(value: unknown): string {
  if (value === null || typeof value !== 'object') return String(value);
  return value.constructor.name;
}
