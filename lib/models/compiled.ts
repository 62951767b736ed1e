import type { EncoderHandle, EncoderInfo, ParameterSlot, StepHandle, TensorHandle } from '../addon/native.js';
import { checkArgument, checkGiven, checkOptions, optionTable } from '../arguments.js';
import type { Device } from '../device.js';
import { hasCode, LgdError } from '../errors.js';
import { Lifetime } from '../lifetime.js';
import { checkNumber, checkWhole, mostImages, mostSide } from '../number-limits.js';
import type { GraphSpec } from './graph.js';
import {
  checkOptimizerState,
  metricSlots,
  stepOptions,
  wholeOptimizer,
  type Optimizer,
  type OptimizerState,
  type OptimizerStep,
  type WholeOptimizer,
} from './optimizer.js';
import { checkWeights, type WeightRecord } from './weights.js';

/**
 * How activations are stored; weights, statistics and results are float32 either way. The CPU only rounds to bfloat16,
 * where CUDA stores it: it saves nothing there.
 */
export type Precision = 'float32' | 'bfloat16';

/** `train.precision` of a configuration as networks are compiled with it; undefined: the device's own choice. */
export function precisionOf({
  train: { precision },
}: {
  train: { precision: Precision | 'auto' };
}): Precision | undefined {
  return precision === 'auto' ? undefined : precision;
}

/** What a graph is compiled for. */
export interface CompileOptions {
  /** B, images a call. */
  batch: number;
  /** Side of the square input, in pixels. */
  resolution: number;
  /** Of an input that is no square: a sequence is `resolution` long and 1 wide. Default: resolution. */
  width?: number | undefined;
  /** Default: bfloat16 on CUDA, float32 on the CPU. */
  precision?: Precision | undefined;
  /** false: forward only, with folded norms and less memory. Default: true. */
  training?: boolean | undefined;
  /** What trains it; default: SGD with a momentum of 0.9. */
  optimizer?: Optimizer | undefined;
}

export const compileOptions = optionTable<CompileOptions>()('batch resolution width? precision? training? optimizer?');

/**
 * A graph compiled for a device, batch size and resolution, working on tensors that stay there. Its calls queue work
 * and return at once; a fault in queued work reaches the next call that waits ({@link state}, a tensor read,
 * `device.synchronize()`).
 */
export class CompiledEncoder implements Disposable {
  readonly batch: number;
  readonly resolution: number;
  readonly width: number;
  readonly precision: Precision;
  readonly training: boolean;
  /** What trains it, where it is compiled for training. */
  readonly optimizer: WholeOptimizer;
  #steps = 0;
  readonly #life: Lifetime;
  readonly #owned: EncoderHandle;
  readonly #output: TensorHandle;

  /**
   * @throws LgdError BAD_OPTION, BAD_MODEL, BAD_SHAPE (images too small for the graph, or more pixels than kernels
   *   number), OUT_OF_MEMORY
   */
  constructor(
    readonly device: Device,
    readonly graph: GraphSpec,
    options: CompileOptions,
  ) {
    checkArgument('device', device);
    checkOptions(options, 'compile()', compileOptions);
    const { batch, resolution, width = resolution, precision, training = true } = options;
    this.optimizer = wholeOptimizer(options.optimizer);
    checkWhole('batch', batch, mostImages);
    checkWhole('resolution', resolution, mostSide);
    checkWhole('width', width, mostSide);
    const { precisions } = device.info;
    this.precision = precision ?? precisions[0]!;
    if (!precisions.includes(this.precision)) {
      throw new LgdError('BAD_OPTION', `this device (${device.info.name}) does not store it.`, {
        option: 'precision',
        found: precision,
        allowed: precisions.join(', '),
      });
    }
    [this.batch, this.resolution, this.width, this.training] = [batch, resolution, width, training];
    this.#life = new Lifetime(`the encoder ${graph.name}`, 'Create or compile it again');
    this.#owned = device.addon.makeEncoder(device.handle, graph, {
      batch,
      height: resolution,
      width,
      bfloat16: this.precision === 'bfloat16',
      training,
      optimizer: this.optimizer.name,
    });
    this.#output = device.addon.encoderOutput(this.#owned);
  }

  get #handle(): EncoderHandle {
    this.#life.check();
    return this.#owned;
  }

  /** Sizes, multiply-adds an image, parameters, bytes, kernels a call. */
  get info(): EncoderInfo {
    return this.device.addon.encoderInfo(this.#handle);
  }

  /** The result of the last forward, [B, outputs] float32. */
  get output(): TensorHandle {
    this.#life.check();
    return this.#output;
  }

  /** A batch of images that {@link forwardTensor} takes, [B,3,resolution,width] to its writer; zero at first. */
  makeImages(): TensorHandle {
    return this.device.addon.makeImages(
      this.device.handle,
      this.batch,
      this.resolution,
      this.width,
      this.precision === 'bfloat16',
    );
  }

  /**
   * Queues a forward pass; seed and step key the random numbers of dropout and stochastic depth.
   * @throws LgdError BAD_OPTION, DISPOSED
   */
  forwardTensor(
    images: TensorHandle,
    options: { training?: boolean | undefined; seed?: number | undefined; step?: number | undefined } = {},
  ): void {
    checkOptions(options, 'forwardTensor()', { training: 'optional', seed: 'optional', step: 'optional' });
    const { training = false, seed = 0, step = 0 } = options;
    this.device.addon.forward(this.#handle, images, { training, seed, step });
  }

  /**
   * Queues the backward pass of the last training forward, whose images must still be there; adds to the gradients, or,
   * `afresh`, sets them. `dOutput`: dL/d output, [B, outputs].
   * @throws LgdError BAD_SHAPE, BAD_OPTION (no training forward right before), DISPOSED; the gradients stay then
   */
  backwardTensor(dOutput: TensorHandle, { afresh = false }: { afresh?: boolean | undefined } = {}): void {
    this.device.addon.backward(this.#handle, dOutput, afresh);
  }

  /**
   * Queues that a step, which has begun, leaves the statistics of batch norms as they are if it is given up: on the CPU.
   * Steps of a GPU start when they are whole.
   */
  keepStatistics(step: StepHandle): void {
    this.device.addon.keepStatistics(this.#handle, step);
  }

  /** Queues setting all gradients to zero. */
  zeroGradients(): void {
    this.device.addon.zeroGradients(this.#handle);
  }

  /**
   * Queues a step of its {@link optimizer} with the gradients, which stay as they are, also where it clips them.
   * @param slot from 0 to 63: what {@link gradientNorm} asks for a step with `clipNorm` by
   * @throws LgdError BAD_OPTION, DISPOSED, OUT_OF_MEMORY
   */
  optimizerStep(options: OptimizerStep, slot = 0): void {
    checkOptions(options, 'optimizerStep()', stepOptions);
    const { learningRate, weightDecay = 0, decayNormAndBias = true, gradientScale = 1, clipNorm = 0 } = options;
    checkRate(learningRate);
    checkNumber('weightDecay', weightDecay, { least: 0 });
    checkNumber('gradientScale', gradientScale, {});
    checkNumber('clipNorm', clipNorm, { least: 0 });
    checkNumber('slot', slot, { whole: true, least: 0, below: metricSlots });
    this.device.addon.optimizerStep(this.#handle, {
      learningRate,
      weightDecay,
      decayNormAndBias,
      gradientScale,
      ...this.optimizer,
      count: this.#steps + 1,
      clipNorm,
      slot,
    });
    this.#steps++;
  }

  /**
   * The norm of the gradients, all parameters together and times the step's `gradientScale`, before the last step with
   * `clipNorm` and this slot clipped them. Waits for that step, not for what was queued after it.
   * @throws LgdError BAD_OPTION (no step had `clipNorm`), NON_FINITE (a gradient is not finite: that step did not clip),
   *   DISPOSED
   */
  async gradientNorm(slot = 0): Promise<number> {
    checkNumber('slot', slot, { whole: true, least: 0, below: metricSlots });
    return this.device.addon.readGradientNorm(this.#handle, slot);
  }

  /** Optimiser steps behind the weights. */
  get steps(): number {
    return this.#steps;
  }

  /** Sets parameters and buffers, all of them. @throws LgdError BAD_MODEL */
  load(record: Readonly<WeightRecord>): void {
    checkWeights(this.graph, record);
    for (const { name } of this.graph.parameters)
      this.device.addon.writeParameter(this.#handle, name, 'value', record[name]!.data);
  }

  /** Parameters and buffers, as {@link load} takes them. */
  async state(): Promise<WeightRecord> {
    return this.#read('value');
  }

  /** Gradients of the parameters, summed since {@link zeroGradients}. */
  async gradients(): Promise<WeightRecord> {
    return this.#read('gradient');
  }

  /** What the optimiser keeps of the parameters; zeros before the first step. */
  async optimizerState(): Promise<OptimizerState> {
    const steps = this.#steps;
    const [momentum, secondMoment] = await Promise.all([
      this.#read('momentum'),
      this.optimizer.name === 'adamw' ? this.#read('secondMoment') : undefined,
    ]);
    return { momentum, ...(secondMoment && { secondMoment }), steps };
  }

  /**
   * Goes on from what {@link optimizerState} gave.
   * @throws LgdError BAD_MODEL, BAD_OPTION (that of another optimiser)
   */
  loadOptimizerState(state: Readonly<OptimizerState>): void {
    checkGiven(state, 'loadOptimizerState()', 'momentum, steps');
    checkOptimizerState(this.graph, this.optimizer, state);
    for (const slot of ['momentum', 'secondMoment'] as const) {
      const record = state[slot];
      if (record === undefined) continue;
      for (const { name, trainable } of this.graph.parameters)
        if (trainable) this.device.addon.writeParameter(this.#handle, name, slot, record[name]!.data);
    }
    this.#steps = state.steps;
  }

  /** Frees the device memory once queued work is done; later calls throw DISPOSED. */
  dispose(): void {
    if (!this.#life.end()) return;
    this.device.addon.release(this.#output);
    this.device.addon.release(this.#owned);
  }

  /** For `using`: {@link dispose}. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  async #read(slot: ParameterSlot): Promise<WeightRecord> {
    const wanted = this.graph.parameters.filter(({ trainable }) => trainable || slot === 'value');
    const read = wanted.map(({ name }) => this.device.addon.readParameter(this.#handle, name, slot));
    const values = await Promise.all(read);
    return Object.fromEntries(wanted.map(({ name, shape }, i) => [name, { shape: [...shape], data: values[i]! }]));
  }
}

/**
 * Compiles for training with a batch that an option says, and tells of that option where the batch is too large, or one
 * image too few.
 * @param one what to say instead where one image is too few
 * @throws LgdError BAD_OPTION, and as `compile`
 */
export function compileBatch(
  option: string,
  batch: number,
  compile: () => CompiledEncoder,
  one: { option?: string; allowed?: string; mend?: string } = {},
): CompiledEncoder {
  try {
    return compile();
  } catch (cause) {
    if (batch > 1 || !hasCode(cause, 'BAD_SHAPE')) throw ofBatch(cause, option, batch);
    throw new LgdError(
      'BAD_OPTION',
      'a single image of this size leaves a layer one value a channel, which has no variance to train with.',
      {
        option,
        found: batch,
        allowed: 'a whole number from 2',
        mend: 'Take a larger batch, or larger images',
        ...one,
        cause,
      },
    );
  }
}

/**
 * The error to throw for one of work on so many: where they are too many for the memory, or a batch for what kernels
 * number, one that names the option; else the error itself.
 */
export function ofBatch(
  cause: unknown,
  option: string,
  count: number,
  mend = count === 1 ? 'Take smaller images' : `Take a smaller ${option}, or smaller images`,
): unknown {
  const isTooLarge =
    hasCode(cause, 'OUT_OF_MEMORY') ||
    (hasCode(cause, 'BAD_SHAPE') && cause.message.includes(` a batch of ${count} images `));
  if (!isTooLarge || cause.option !== undefined) return cause;
  return new LgdError(cause.code, `too large: ${cause.message}.`, { option, found: count, mend, cause });
}

/** One that is no number would make all weights NaN, without a word. @throws LgdError BAD_OPTION */
export function checkRate(learningRate: unknown): void {
  checkNumber('learningRate', learningRate, { least: 0 });
}
