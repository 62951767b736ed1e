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
/** Images of a batch: what a GPU numbers on the second side of a grid. */
export const mostImages = 65_535;
/** Rows of a bank or a queue, of which a GPU holds no more at usual sizes. */
export const mostRows = 10_000_000;

/** A limit as people read it: 1e9 rather than its zeros. */
export function writeLimit(limit: number): string {
  return limit >= 1e9 ? limit.toExponential().replace('+', '') : String(limit);
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
