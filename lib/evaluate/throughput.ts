/** How fast encoders and the semantic loss run on a device. */
import type { TensorHandle } from '../addon/native.js';
import { checkArgument, checkOptions, optionTable } from '../arguments.js';
import type { Device } from '../device.js';
import { throwIfAborted } from '../errors.js';
import { Made } from '../lifetime.js';
import type { CompiledEncoder } from '../models/compiled.js';

/** How long to measure. */
export interface MeasureOptions {
  /**
   * How long to measure, after a warm-up of a fifth of it, or of as much at most while ways to run a CUDA graph are
   * compared; default 2.
   */
  seconds?: number | undefined;
  signal?: AbortSignal | undefined;
}

export const measureOptions = optionTable<MeasureOptions>()('seconds? signal?');

/** Time of one call on a batch, in milliseconds: the 20th, 50th and 80th percentile. */
export interface Timing {
  batch: number;
  p20: number;
  p50: number;
  p80: number;
  /** At the 50th percentile. */
  imagesPerSecond: number;
}

const sampleSeconds = 0.05; // long enough that waiting for the device counts little

/**
 * Forward passes of an encoder, on images that are on the device already.
 * @throws LgdError BAD_OPTION, ABORTED, and device faults
 */
export async function measureInference(encoder: CompiledEncoder, options: MeasureOptions = {}): Promise<Timing> {
  checkOptions(options, 'measureInference()', measureOptions);
  checkArgument('compiled', encoder, 'encoder');
  const { device, batch } = encoder;
  using made = new Made();
  const images = made.add(encoder.makeImages(), device.addon.release);
  return await sample(device, batch, () => encoder.forwardTensor(images, { training: false }), options);
}

/**
 * Training steps of an encoder compiled for training: forward, backward and the optimiser, without augmentation and
 * loss, each started as a whole (on CUDA as a graph). Its weights move.
 * @throws LgdError BAD_OPTION, ABORTED, and device faults
 */
export async function measureTraining(encoder: CompiledEncoder, options: MeasureOptions = {}): Promise<Timing> {
  checkOptions(options, 'measureTraining()', measureOptions);
  checkArgument('compiled', encoder, 'encoder');
  const { device, batch, info } = encoder;
  const { addon, handle } = device;
  using made = new Made();
  const images = made.add(encoder.makeImages(), addon.release);
  const dOutput = made.add(addon.makeTensor(handle, [batch, info.outputSize]), addon.release);
  addon.writeTensor(dOutput, noise(batch * info.outputSize, 1e-3));
  addon.writeImages(images, noise(batch * 3 * encoder.resolution ** 2, 1));
  const step = made.add(addon.makeStep(handle), addon.release);
  const queue = () => {
    addon.beginStep(step);
    encoder.zeroGradients();
    encoder.forwardTensor(images, { training: true });
    encoder.backwardTensor(dOutput);
    encoder.optimizerStep({ learningRate: 1e-6 });
    addon.endStep(step);
  };
  return await sample(device, batch, queue, options, async () => (await addon.stepInfo(step)).tuning);
}

/** Sizes of the loss that {@link measureSemantic} measures. */
export interface SemanticShape {
  /** B. */
  batch: number;
  /** K. */
  categories: number;
  /** D. */
  dimension: number;
  /** Operands of the similarity products; bfloat16 on CUDA only. */
  bfloat16?: boolean | undefined;
}

const semanticShape = optionTable<SemanticShape>()('batch categories dimension bfloat16?');

/**
 * The loss over both banks with its gradient, and the bank update, on embeddings that are on the device already.
 * @throws LgdError BAD_OPTION, ABORTED, and device faults
 */
export async function measureSemantic(
  device: Device,
  shape: SemanticShape,
  options: MeasureOptions = {},
): Promise<Timing> {
  checkOptions(shape, 'measureSemantic()', semanticShape);
  checkOptions(options, 'measureSemantic()', measureOptions);
  checkArgument('device', device);
  const { batch, categories, dimension, bfloat16 = false } = shape;
  const { addon, handle } = device;
  using made = new Made();
  const head = made.add(addon.makeSemanticHead(handle, { dimension, categories, bfloat16 }), addon.release);
  const [student, teacher, dStudent] = [0, 1, 2].map((seed): TensorHandle => {
    const tensor = made.add(addon.makeTensor(handle, [batch, dimension]), addon.release);
    addon.writeTensor(tensor, noise(batch * dimension, 1, seed));
    return tensor;
  }) as [TensorHandle, TensorHandle, TensorHandle];
  addon.writeSemanticState(head, {
    textual: unitRows(categories, dimension, 3),
    visual: unitRows(categories, dimension, 4),
    seen: new Uint8Array(categories),
  });
  const step = () => {
    addon.headLoss(head, student, teacher, dStudent, 1, 0);
    addon.headUpdate(head, [teacher], 0);
  };
  return await sample(device, batch, step, options);
}

/**
 * Times `queue`, which queues one call's work on the device, in samples of as many calls as fill 50 ms.
 *
 * @param isTuning whether calls do not run yet as they will ({@link StepInfo.tuning})
 * @throws LgdError ABORTED, and device faults
 */
export async function sample(
  device: Device,
  batch: number,
  queue: () => void | Promise<void>,
  { seconds = 2, signal }: MeasureOptions,
  isTuning: () => Promise<boolean> = async () => false,
): Promise<Timing> {
  const time = async (calls: number): Promise<number> => {
    throwIfAborted(signal, 'the measurement');
    const from = performance.now();
    for (let call = 0; call < calls; call++) await queue();
    await device.synchronize();
    return (performance.now() - from) / calls;
  };
  await time(1); // graphs are built and memory is touched for the first time
  const [warmUntil, tunedUntil] = [200, 1000].map((share) => performance.now() + share * seconds) as [number, number];
  let one = await time(1);
  while (performance.now() < warmUntil || (performance.now() < tunedUntil && (await isTuning()))) one = await time(1);
  const calls = Math.max(1, Math.round((1000 * sampleSeconds) / one));
  const samples: number[] = [];
  const until = performance.now() + 1000 * seconds;
  while (samples.length < 3 || performance.now() < until) samples.push(await time(calls));
  samples.sort((a, b) => a - b);
  const at = (share: number) => samples[Math.round(share * (samples.length - 1))]!;
  return { batch, p20: at(0.2), p50: at(0.5), p80: at(0.8), imagesPerSecond: (1000 * batch) / at(0.5) };
}

/** Numbers spread over [-scale, scale], the same at every call. */
function noise(length: number, scale: number, seed = 0): Float32Array {
  let state = 2463534242 + seed;
  return Float32Array.from({ length }, () => {
    // Numerical Recipes' linear congruence: all that timing needs
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return scale * (state / 2 ** 31 - 1);
  });
}

function unitRows(count: number, dimension: number, seed: number): Float32Array {
  const rows = noise(count * dimension, 1, seed);
  for (let row = 0; row < count; row++) {
    const values = rows.subarray(row * dimension, (row + 1) * dimension);
    const norm = Math.hypot(...values);
    values.forEach((value, i) => (values[i] = value / norm));
  }
  return rows;
}
