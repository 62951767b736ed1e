/** How far the numbers go that options of a configuration and arguments of calls share. */
import { LgdError } from './errors.js';

/** Rates and temperatures: the engine's numbers are float32, in which less is soon 0 and more soon infinite. */
export const [leastPositive, mostPositive] = [1e-9, 1e9];
/** Nearer to 1 it is soon 1 in float32. */
export const mostMomentum = 0.999_999;
/** Of what is added to a root before it divides: less is nothing beside gradients that float32 can square. */
export const leastEpsilon = 1e-15;
/** Threads of a device; more have no cores. */
export const mostThreads = 4096;
/** Pixels of a side that a network is compiled for. */
export const mostSide = 4096;
/** Pixels of a side of a student's input in training. */
export const [leastStudentSide, mostStudentSide] = [32, 1024];
/** Images of a batch: what a GPU numbers on the second side of a grid. */
export const mostImages = 65_535;
/** Rows of a bank or a queue, of which a GPU holds no more at usual sizes. */
export const mostRows = 10_000_000;

/** Which numbers are taken. */
export interface NumberRange {
  /** Whole numbers alone. */
  whole?: boolean | undefined;
  least?: number | undefined;
  above?: number | undefined;
  most?: number | undefined;
  below?: number | undefined;
}

/** `a whole number from 1 to 4096`, `a number above 0`, `a number above 0 and up to 1`. */
export function describeRange({ whole, least, above, most, below }: NumberRange): string {
  const lower = least === undefined ? (above === undefined ? '' : ` above ${above}`) : ` from ${least}`;
  const upper = most === undefined ? (below === undefined ? '' : ` below ${below}`) : ` to ${writeLimit(most)}`;
  const isPlain = lower === '' || upper === '' || (least !== undefined && most !== undefined);
  const joined = isPlain ? lower + upper : `${lower} and${most === undefined ? '' : ' up'}${upper}`;
  return (whole === true ? 'a whole number' : 'a number') + joined;
}

/** A limit as people read it: 1e9 rather than its zeros. */
export function writeLimit(limit: number): string {
  return limit >= 1e9 ? limit.toExponential().replace('+', '') : String(limit);
}

/** Looks whether a number that an option was given is one that it takes. @throws LgdError BAD_OPTION */
export function checkNumber(option: string, found: unknown, range: NumberRange): asserts found is number {
  const { whole = false, least = -Infinity, above = -Infinity, most = Infinity, below = Infinity } = range;
  const isKind = whole ? Number.isSafeInteger(found) : Number.isFinite(found);
  const number = found as number;
  if (isKind && number >= least && number > above && number <= most && number < below) return;
  throw new LgdError('BAD_OPTION', whatIsWrong(found), { option, found, allowed: describeRange(range) });
}

function whatIsWrong(found: unknown): string {
  if (found === undefined) return 'this is missing.';
  if (typeof found !== 'number') return 'this is no number.';
  return Number.isFinite(found) ? 'this number does not fit.' : 'this number is not finite.';
}

/** The same of a whole number from 1. @throws LgdError BAD_OPTION */
export function checkWhole(option: string, found: unknown, most?: number): asserts found is number {
  checkNumber(option, found, { whole: true, least: 1, most });
}

/** @throws LgdError BAD_OPTION */
export function checkSeed(seed: number): number {
  if (Number.isSafeInteger(seed) && seed >= 0) return seed;
  throw new LgdError('BAD_OPTION', 'this is not a seed.', {
    option: 'seed',
    found: seed,
    allowed: 'a whole number from 0 to 2^53 - 1',
  });
}
