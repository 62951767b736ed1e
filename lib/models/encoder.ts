import { types } from 'node:util';
import type { EncoderInfo, TensorHandle } from '../addon/native.js';
import { checkArgument, checkOptions, optionTable } from '../arguments.js';
import type { Device } from '../device.js';
import { hasCode, LgdError, messageOf, throwIfAborted } from '../errors.js';
import { Made } from '../lifetime.js';
import { checkNumber, checkSeed } from '../number-limits.js';
import { CompiledEncoder, type Precision } from './compiled.js';
import type { GraphSpec } from './graph.js';
import { initialWeightsInTurns } from './initialise.js';
import type { Optimizer, OptimizerState, OptimizerStep } from './optimizer.js';
import { graphOptions, studentGraph, type GraphOptions } from './student.js';
import type { WeightRecord } from './weights.js';

/** What {@link createEncoder} makes. */
export interface EncoderOptions extends GraphOptions {
  device: Device;
  /** B, images a call: exactly so many in training, at most so many otherwise; default 1. */
  batch?: number | undefined;
  /** Default float32. */
  precision?: Precision | undefined;
  /** Of the start values; default 0. */
  seed?: number | undefined;
  /** Dropout and stochastic depth in training; default false, so that a pass is a function of its input alone. */
  dropping?: boolean | undefined;
  /** false: a forward-only encoder, faster and smaller. Default true. */
  training?: boolean | undefined;
  /** What {@link Encoder.optimizerStep} takes steps of; default: SGD with a momentum of 0.9. */
  optimizer?: Optimizer | undefined;
}

const encoderOptions = optionTable<EncoderOptions>()(
  'device batch? precision? seed? training? optimizer?',
  graphOptions,
);

/** Options of {@link Encoder.forward}. */
export interface ForwardOptions {
  /** Batch statistics, which also move the running ones, and dropping; default false. */
  training?: boolean | undefined;
  /** With the step, key of the random numbers of dropout and stochastic depth; default 0. */
  seed?: number | undefined;
  /** Number of the step from 0; default 0, which drops the same in each. */
  step?: number | undefined;
  signal?: AbortSignal | undefined;
}

const forwardOptions = optionTable<ForwardOptions>()('training? seed? step? signal?');

/** A student outside the distiller, for callers with arrays of their own. Release it with {@link Encoder.dispose}. */
export class Encoder implements Disposable {
  readonly graph: GraphSpec;
  /** B, images a call at most. */
  readonly batch: number;
  /** R, the side of an image in pixels. */
  readonly resolution: number;
  /** W: R too, unless the graph was compiled for images that are no squares. */
  readonly width: number;
  /** Values an image that {@link forward} gives: classes, or the embedding size. */
  readonly outputs: number;
  /** The same encoder for callers whose tensors stay on the device. */
  readonly compiled: CompiledEncoder;
  readonly #device: Device;
  readonly #made = new Made();
  readonly #images: TensorHandle;
  readonly #dOutput: TensorHandle | undefined;
  /** Why its numbers may have moved in part. */
  #failure: unknown;

  /** Use {@link createEncoder}, or give a compiled graph of your own; the encoder then owns it. */
  constructor(compiled: CompiledEncoder) {
    checkArgument('compiled', compiled);
    this.compiled = compiled;
    ({
      device: this.#device,
      graph: this.graph,
      batch: this.batch,
      resolution: this.resolution,
      width: this.width,
    } = compiled);
    this.outputs = compiled.info.outputSize;
    this.#made.use(compiled);
    const { addon, handle } = this.#device;
    try {
      this.#images = this.#made.add(compiled.makeImages(), addon.release);
      if (compiled.training)
        this.#dOutput = this.#made.add(addon.makeTensor(handle, [this.batch, this.outputs]), addon.release);
    } catch (error) {
      this.#made.free();
      throw error;
    }
  }

  /** Sizes, multiply-adds an image, parameters, bytes. */
  get info(): EncoderInfo {
    return this.compiled.info;
  }

  /**
   * Sets parameters and buffers by the graph's names.
   * @throws LgdError BAD_MODEL naming what is missing, unknown or misshapen
   */
  load(record: Readonly<WeightRecord>): void {
    this.compiled.load(record);
  }

  /** Parameters and buffers by the graph's names, as {@link load} takes them. */
  async state(): Promise<WeightRecord> {
    this.#requireWhole();
    return this.compiled.state();
  }

  /** What the optimiser keeps of the parameters, and of how many steps; zeros before the first. */
  async optimizerState(): Promise<OptimizerState> {
    this.#requireWhole();
    return this.compiled.optimizerState();
  }

  /**
   * @param images [N,3,R,W], NCHW, normalised; N = batch in training and for graphs with several results, 1 to batch
   *   otherwise
   * @returns [N, outputs]; of a graph with several results, each [B, ...] behind the one before
   * @throws LgdError BAD_SHAPE, BAD_OPTION (training on a forward-only encoder), DISPOSED, ABORTED, OUT_OF_MEMORY, and
   *   DEVICE_ERROR from every later call where a training pass failed
   */
  async forward(images: Float32Array, options: ForwardOptions = {}): Promise<Float32Array> {
    checkOptions(options, 'forward()', forwardOptions);
    const { training = false, seed, step, signal } = options;
    throwIfAborted(signal, 'the forward pass');
    this.#requireWhole();
    const { output: tensor } = this.compiled; // refuses a disposed encoder before its images are touched
    const { addon } = this.#device;
    const shape = [3, this.resolution, this.width];
    const size = 3 * this.resolution * this.width;
    if (!types.isFloat32Array(images))
      throw new LgdError('BAD_SHAPE', 'these are no pixels.', {
        option: 'images',
        found: images,
        allowed: `a Float32Array [N,${shape.join()}]`,
      });
    const count = images.length / size;
    if (
      !Number.isInteger(count) ||
      count < 1 ||
      count > this.batch ||
      ((training || this.graph.further !== undefined) && count !== this.batch)
    ) {
      throw new LgdError('BAD_SHAPE', `${images.length} values are ${count} images of [${shape.join()}].`, {
        option: 'images',
        allowed: training || this.graph.further !== undefined ? `${this.batch} images` : `1 to ${this.batch} images`,
      });
    }
    // all that may be refused comes before the images, which a backward pass may still need, are written over
    if (training) this.#requireTraining();
    if (seed !== undefined) checkSeed(seed);
    if (step !== undefined) checkNumber('step', step, { whole: true, least: 0 });
    let whole = images;
    if (count < this.batch) {
      whole = new Float32Array(this.batch * size);
      whole.set(images);
    }
    addon.writeImages(this.#images, whole);
    this.compiled.forwardTensor(this.#images, { training, seed, step });
    const result = addon.readTensor(tensor);
    const output = await (training ? this.#moving(result) : result);
    return count < this.batch ? output.slice(0, count * this.outputs) : output;
  }

  /**
   * Backward of the last training forward.
   * @param dOutput dL/d output, [B, outputs]
   * @returns the gradient of every parameter, in torchvision's layout (OIHW)
   * @throws LgdError BAD_SHAPE, BAD_OPTION (no training forward right before), DISPOSED
   */
  async backward(dOutput: Float32Array): Promise<Record<string, Float32Array>> {
    const tensor = this.#dOutput;
    this.#requireTraining();
    this.#requireWhole();
    this.#device.addon.writeTensor(tensor!, dOutput);
    this.compiled.backwardTensor(tensor!, { afresh: true }); // one that is refused leaves the gradients
    const gradients = await this.compiled.gradients();
    return Object.fromEntries(Object.entries(gradients).map(([name, { data }]) => [name, data]));
  }

  /**
   * One step of the optimiser with the gradients of the last {@link backward}; resolves when it is done.
   * @throws as {@link forward}
   */
  async optimizerStep(options: OptimizerStep): Promise<void> {
    this.#requireWhole();
    const { addon, handle } = this.#device; // refuses a device that is disposed of before anything moves
    this.compiled.optimizerStep(options);
    await this.#moving(addon.synchronize(handle));
  }

  /**
   * The norm of the gradients that the last step with `clipNorm` had before it clipped them, times its `gradientScale`.
   * @throws LgdError BAD_OPTION (no step had `clipNorm`), NON_FINITE (a gradient is not finite: that step did not clip),
   *   DISPOSED
   */
  async gradientNorm(): Promise<number> {
    this.#requireWhole();
    return this.compiled.gradientNorm();
  }

  /** Frees the device memory; later calls throw DISPOSED. */
  dispose(): void {
    this.#made.free();
  }

  /** For `using`: {@link dispose}. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  /** @throws LgdError BAD_OPTION */
  #requireTraining(): void {
    if (this.compiled.training) return;
    throw new LgdError('BAD_OPTION', 'this encoder is forward only.', {
      option: 'training',
      mend: 'Create it with training: true',
    });
  }

  /** Waits for what moves statistics or weights: where it fails, it may have moved some. */
  async #moving<T>(work: Promise<T>): Promise<T> {
    try {
      return await work;
    } catch (error) {
      this.#failure ??= error;
      throw error;
    }
  }

  /** @throws LgdError DEVICE_ERROR, DEVICE_LOST */
  #requireWhole(): void {
    if (this.#failure === undefined) return;
    throw new LgdError(
      hasCode(this.#failure, 'DEVICE_LOST') ? 'DEVICE_LOST' : 'DEVICE_ERROR',
      `a training pass or a step of ${this.graph.name} failed before (${messageOf(this.#failure)}), and may have moved a part of its statistics or weights.`,
      {
        mend: 'Dispose of it, create it again, and load the state of before',
        cause: this.#failure,
      },
    );
  }
}

/**
 * Builds a student by name (see listStudents) with start values drawn from the seed, and compiles it.
 * @throws LgdError BAD_OPTION, BAD_SHAPE, OUT_OF_MEMORY, DISPOSED
 */
export async function createEncoder(name: string, options: EncoderOptions): Promise<Encoder> {
  checkOptions(options, 'createEncoder()', encoderOptions);
  checkArgument('device', options.device);
  const {
    device,
    resolution = 224,
    batch = 1,
    precision = 'float32',
    seed = 0,
    training = true,
    dropping = false,
    optimizer,
  } = options;
  const { outputs, embeddingSize, widthMultiplier } = options;
  checkSeed(seed);
  const graph = studentGraph(name, { outputs, embeddingSize, widthMultiplier, dropping, resolution });
  const compiled = new CompiledEncoder(device, graph, { batch, resolution, precision, training, optimizer });
  try {
    compiled.load(await initialWeightsInTurns(graph, seed));
    await device.synchronize(); // a fault in it is told here, and not to whoever waits next
    return new Encoder(compiled);
  } catch (error) {
    compiled.dispose();
    throw error;
  }
}
