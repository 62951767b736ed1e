/**
 * The semantic loss and the bank update in plain TypeScript: the reference that the native backends are held to.
 * Arithmetic is in float64; loops follow the paper's equations line by line. Arguments are taken as checked; ./index.ts
 * checks them.
 */
import { concatenate } from '../concatenate.js';
import { nextTurn } from '../turn.js';
import type {
  BankLossInput,
  BankLossOutput,
  BankUpdateInput,
  BankUpdateOutput,
  FeatureLossInput,
  FeatureLossOutput,
} from './types.js';

/**
 * After how many images timers and other callbacks run, and a signal is looked at: a few milliseconds of work on banks
 * of so many values.
 */
const imagesPerTurn = (...banks: Float32Array[]): number =>
  Math.max(1, Math.min(16, Math.floor(2 ** 20 / banks.reduce((sum, { length }) => sum + length, 0))));

/** One part of the loss for one image: its numbers, and dL/d score of every entry. */
interface Part {
  crossEntropy: number;
  entropy: number;
  /** (q_k - p_k) / t_S: the derivative of the cross-entropy with respect to the student's score k. */
  slope: Float64Array;
}

/**
 * Steps 2 to 6: scores, targets, losses and the gradient.
 * @throws LgdError ABORTED
 */
export async function bankLoss(input: BankLossInput, signal?: AbortSignal): Promise<BankLossOutput> {
  const { student, teacher, dimension, alpha } = input;
  const textual = input.textual ?? new Float32Array(0);
  const anchors = [input.visual, input.queue].filter((bank) => bank !== undefined && bank.length > 0) as Float32Array[];
  const batch = student.length / dimension;
  const gradient = new Float32Array(student.length);
  const total = { lossVisual: 0, lossTextual: 0, klVisual: 0, klTextual: 0 };

  const perTurn = imagesPerTurn(textual, ...anchors);
  for (let i = 0; i < batch; i++) {
    if (i % perTurn === 0 && i > 0) await nextTurn(signal, 'The semantic loss');
    const { unit: z, norm } = normalise(student, i, dimension);
    const { unit: own } = normalise(teacher, i, dimension);
    const slope = new Float64Array(dimension); // dL/dz of this image, before the mean over the batch

    if (textual.length > 0) {
      const part = crossEntropy(scores(z, textual), scores(own, textual), input);
      total.lossTextual += part.crossEntropy;
      total.klTextual += part.crossEntropy - part.entropy;
      addRows(slope, 1 - alpha, part.slope, textual);
    }
    if (anchors.length > 0) {
      // The image's own teacher embedding stands in front; its similarity to itself is 1.
      const studentScores = [Float64Array.of(dot(z, own)), ...anchors.map((bank) => scores(z, bank))];
      const teacherScores = [Float64Array.of(1), ...anchors.map((bank) => scores(own, bank))];
      const part = crossEntropy(
        concatenate(Float64Array, studentScores),
        concatenate(Float64Array, teacherScores),
        input,
      );
      total.lossVisual += part.crossEntropy;
      total.klVisual += part.crossEntropy - part.entropy;
      for (let d = 0; d < dimension; d++) slope[d]! += alpha * part.slope[0]! * own[d]!;
      let first = 1;
      for (const bank of anchors) {
        addRows(slope, alpha, part.slope.subarray(first), bank);
        first += bank.length / dimension;
      }
    }

    // Through z = x / |x|: only the part of the slope across z changes anything.
    const along = dot(slope, z);
    for (let d = 0; d < dimension; d++) gradient[i * dimension + d] = (slope[d]! - along * z[d]!) / norm / batch;
  }

  const lossVisual = total.lossVisual / batch;
  const lossTextual = total.lossTextual / batch;
  const loss = alpha * lossVisual + (1 - alpha) * lossTextual;
  return {
    loss,
    lossVisual,
    lossTextual,
    klVisual: total.klVisual / batch,
    klTextual: total.klTextual / batch,
    gradient,
  };
}

/**
 * Mean of 1 - z . u with z, u the unit rows of student and teacher, and its gradient -(u - (z . u) z) / (B |x|).
 * @throws LgdError ABORTED
 */
export async function featureLoss(
  { student, teacher, dimension }: FeatureLossInput,
  signal?: AbortSignal,
): Promise<FeatureLossOutput> {
  const batch = student.length / dimension;
  const gradient = new Float32Array(student.length);
  let loss = 0;
  const perTurn = Math.ceil(2 ** 16 / dimension);
  for (let i = 0; i < batch; i++) {
    if (i % perTurn === 0 && i > 0) await nextTurn(signal, 'The feature loss');
    const { unit: z, norm } = normalise(student, i, dimension);
    const { unit: u } = normalise(teacher, i, dimension);
    const cosine = dot(z, u);
    loss += (1 - cosine) / batch;
    for (let d = 0; d < dimension; d++) gradient[i * dimension + d] = (cosine * z[d]! - u[d]!) / norm / batch;
  }
  return { loss, gradient };
}

/**
 * Step 7, Language-Guided Knowledge Aggregation.
 * @throws LgdError ABORTED
 */
export async function bankUpdate(input: BankUpdateInput, signal?: AbortSignal): Promise<BankUpdateOutput> {
  const { teacher, textual, dimension, momentum } = input;
  const batch = teacher.length / dimension;
  const categories = textual.length / dimension;
  const assignment = new Int32Array(batch);
  const sums = new Map<number, { sum: Float64Array; count: number }>();
  const perTurn = imagesPerTurn(textual);
  for (let i = 0; i < batch; i++) {
    if (i % perTurn === 0 && i > 0) await nextTurn(signal, 'The bank update');
    const { unit } = normalise(teacher, i, dimension);
    const category = indexOfLargest(scores(unit, textual));
    assignment[i] = category;
    const members = sums.get(category) ?? { sum: new Float64Array(dimension), count: 0 };
    sums.set(category, members);
    for (let d = 0; d < dimension; d++) members.sum[d]! += unit[d]!;
    members.count++;
  }

  const visual = Float32Array.from(input.visual);
  const seen = new Uint8Array(categories);
  for (let k = 0; k < categories; k++) seen[k] = input.seen[k] ? 1 : 0;
  for (const [k, { sum, count }] of sums) {
    const keep = seen[k] ? momentum : 0; // the first mean replaces the random start
    for (let d = 0; d < dimension; d++) {
      const at = k * dimension + d;
      visual[at] = keep * visual[at]! + (1 - keep) * (sum[d]! / count);
    }
    seen[k] = 1;
  }
  return { assignment, visual, seen };
}

/** Softmax of both score rows at their temperatures, and the cross-entropy between them. */
function crossEntropy(
  studentScores: Float64Array,
  teacherScores: Float64Array,
  { studentTemperature, teacherTemperature }: BankLossInput,
): Part {
  const logQ = logSoftmax(studentScores, studentTemperature);
  const logP = logSoftmax(teacherScores, teacherTemperature);
  const slope = new Float64Array(logQ.length);
  let cross = 0;
  let entropy = 0;
  for (let k = 0; k < slope.length; k++) {
    const p = Math.exp(logP[k]!);
    cross -= p * logQ[k]!;
    entropy -= p * logP[k]!;
    slope[k] = (Math.exp(logQ[k]!) - p) / studentTemperature;
  }
  return { crossEntropy: cross, entropy, slope };
}

function logSoftmax(row: Float64Array, temperature: number): Float64Array {
  const peak = row.reduce((a, b) => Math.max(a, b));
  let rest = 0; // the sum of exponentials less the peak's own 1, which keeps the digits of a nearly one-hot softmax
  let peaks = 0;
  for (const score of row) {
    if (score === peak) peaks++;
    else rest += Math.exp((score - peak) / temperature);
  }
  const logSum = Math.log1p(rest + peaks - 1);
  return row.map((score) => (score - peak) / temperature - logSum);
}

function normalise(rows: Float32Array, index: number, dimension: number): { unit: Float64Array; norm: number } {
  const row = Float64Array.from(rows.subarray(index * dimension, (index + 1) * dimension));
  const norm = Math.sqrt(dot(row, row));
  return { unit: row.map((value) => value / norm), norm };
}

/** The similarity of a unit row to every row of a bank. */
function scores(unit: Float64Array, bank: Float32Array): Float64Array {
  const dimension = unit.length;
  const out = new Float64Array(bank.length / dimension);
  for (let k = 0; k < out.length; k++) {
    let sum = 0;
    for (let d = 0, at = k * dimension; d < dimension; d++) sum += unit[d]! * bank[at + d]!;
    out[k] = sum;
  }
  return out;
}

/** sum += weight * sum_k slope_k bank_k. */
function addRows(sum: Float64Array, weight: number, slope: Float64Array, bank: Float32Array): void {
  const dimension = sum.length;
  for (let k = 0; k < bank.length / dimension; k++) {
    const factor = weight * slope[k]!;
    for (let d = 0, at = k * dimension; d < dimension; d++) sum[d]! += factor * bank[at + d]!;
  }
}

function dot(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let d = 0; d < a.length; d++) sum += a[d]! * b[d]!;
  return sum;
}

function indexOfLargest(row: Float64Array): number {
  let best = 0;
  for (let k = 1; k < row.length; k++) if (row[k]! > row[best]!) best = k;
  return best;
}
