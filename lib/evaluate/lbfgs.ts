/**
 * L-BFGS (Nocedal and Wright 2006, algorithm 7.4) with a line search for the weak Wolfe conditions (Lewis and Overton
 * 2013).
 */
import { nextTurn } from '../turn.js';

/** Value and gradient at a point. */
export type Objective = (point: Float64Array) => Promise<{ value: number; gradient: Float64Array }>;

export interface MinimiseOptions {
  /** Ends when no component of the gradient is larger; default 1e-5. */
  tolerance?: number;
  /** Default 1000. */
  maxIterations?: number;
  /** Differences of the value below this share of it are rounding; default 1e-7, for objectives in float32. */
  rounding?: number;
  signal?: AbortSignal | undefined;
}

export interface Minimum {
  point: Float64Array;
  value: number;
  /** Largest component of the gradient. */
  gradientNorm: number;
  iterations: number;
  /** Whether the gradient became small enough; if not, iterations or digits ran out. */
  converged: boolean;
}

const sufficientDecrease = 1e-4;
const curvature = 0.9;
const mostTrials = 30;
const mostPairs = 10; // of steps and gradient changes

/** Minimises a smooth function from a start. @throws LgdError ABORTED, and what the objective throws */
export async function minimise(
  objective: Objective,
  start: Float64Array,
  { tolerance = 1e-5, maxIterations = 1000, rounding = 1e-7, signal }: MinimiseOptions,
): Promise<Minimum> {
  let point: Float64Array = start.slice();
  let { value, gradient } = await objective(point);
  const pairs: { step: Float64Array; change: Float64Array; product: number }[] = [];
  let iterations = 0;
  for (; iterations < maxIterations && largest(gradient) > tolerance; iterations++) {
    await nextTurn(signal, 'the logistic regression');
    const direction = await descent(gradient, pairs, signal);
    let slope = dot(direction, gradient);
    if (!(slope < 0)) {
      // the pairs have become useless
      pairs.length = 0;
      gradient.forEach((g, i) => (direction[i] = -g));
      slope = -dot(gradient, gradient);
    }
    const first = pairs.length === 0 ? Math.min(1, 1 / Math.sqrt(-slope)) : 1;
    const next = await search(objective, { point, value, slope, direction, first, slack: rounding * Math.abs(value) });
    if (next === undefined) {
      if (pairs.length === 0) break;
      pairs.length = 0; // once more, along the gradient
      continue;
    }
    const step = next.point.map((x, i) => x - point[i]!);
    const change = next.gradient.map((g, i) => g - gradient[i]!);
    const product = dot(step, change);
    if (product > 1e-12 * dot(change, change)) {
      pairs.push({ step, change, product });
      if (pairs.length > mostPairs) pairs.shift();
    }
    ({ point, value, gradient } = next);
  }
  return { point, value, gradientNorm: largest(gradient), iterations, converged: largest(gradient) <= tolerance };
}

/** Minus the inverse Hessian's estimate times the gradient: the two loops. */
async function descent(
  gradient: Float64Array,
  pairs: readonly { step: Float64Array; change: Float64Array; product: number }[],
  signal: AbortSignal | undefined,
): Promise<Float64Array> {
  const direction = gradient.map((g) => -g);
  const isLong = gradient.length > 100_000; // each pair takes some milliseconds then
  const factors: number[] = [];
  for (const { step, change, product } of [...pairs].reverse()) {
    if (isLong) await nextTurn(signal, 'the logistic regression');
    const factor = dot(step, direction) / product;
    factors.push(factor);
    for (let i = 0; i < direction.length; i++) direction[i]! -= factor * change[i]!;
  }
  const last = pairs.at(-1);
  if (last !== undefined) {
    const scale = last.product / dot(last.change, last.change);
    for (let i = 0; i < direction.length; i++) direction[i]! *= scale;
  }
  for (const { step, change, product } of pairs) {
    if (isLong) await nextTurn(signal, 'the logistic regression');
    const factor = factors.pop()! - dot(change, direction) / product;
    for (let i = 0; i < direction.length; i++) direction[i]! += factor * step[i]!;
  }
  return direction;
}

interface Ray {
  point: Float64Array;
  value: number;
  /** Derivative along the direction. */
  slope: number;
  direction: Float64Array;
  /** Length of the first trial. */
  first: number;
  slack: number;
}

/**
 * A point on the ray that is low enough and where it has become flat enough; the best one found where digits run out;
 * undefined where nothing is lower.
 */
async function search(
  objective: Objective,
  { point, value, slope, direction, first, slack }: Ray,
): Promise<{ point: Float64Array; value: number; gradient: Float64Array } | undefined> {
  let [low, high, length] = [0, Infinity, first];
  let lower: { point: Float64Array; value: number; gradient: Float64Array } | undefined;
  for (let trial = 0; trial < mostTrials; trial++) {
    const at = point.map((x, i) => x + length * direction[i]!);
    const found = await objective(at);
    if (!(found.value <= value + sufficientDecrease * length * slope + slack)) high = length;
    else {
      lower = { point: at, ...found };
      if (dot(found.gradient, direction) >= curvature * slope) return lower;
      low = length;
    }
    length = high < Infinity ? (low + high) / 2 : 2 * low;
  }
  return lower;
}

function dot(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!;
  return sum;
}

function largest(values: Float64Array): number {
  let most = 0;
  for (const value of values) most = Math.max(most, Math.abs(value));
  return most;
}
