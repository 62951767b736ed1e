/** A dense network in training: one step, and the schedule of its learning rate. */
import type { StepHandle, TensorHandle } from '../addon/native.js';
import type { Config } from '../config/config.js';
import { counted } from '../counted.js';
import type { Device } from '../device.js';
import { LgdError } from '../errors.js';
import { Made } from '../lifetime.js';
import { compileBatch, CompiledEncoder, type Precision } from '../models/compiled.js';
import type { GraphSpec } from '../models/graph.js';
import type { WeightRecord } from '../models/weights.js';

/** Options of a configuration's group `dense`. */
export type DenseConfig = Config['dense'];

const warmupShare = 0.05;
const power = 0.9;

/** Linear from zero over the first twentieth of the steps, then down by (1 - t)^0.9. @param step from 0 */
export function denseRate(step: number, steps: number, peak: number): number {
  const warmup = Math.max(1, Math.floor(warmupShare * steps));
  return peak * Math.min(1, (step + 1) / warmup) * (1 - step / steps) ** power;
}

/**
 * Steps of a schedule: whole epochs, or dense.maxSteps.
 * @throws LgdError BAD_DATASET where the images do not make a batch
 */
export function denseSteps(
  { epochs, maxSteps, batchSize }: DenseConfig,
  images: number,
): { steps: number; perEpoch: number } {
  const perEpoch = Math.floor(images / batchSize);
  if (perEpoch === 0)
    throw new LgdError(
      'BAD_DATASET',
      `${counted(images, 'image does', 'images do')} not make a batch of ${batchSize}.`,
      {
        option: 'dense.batchSize',
        found: batchSize,
        allowed: `1 to ${images}`,
        mend: 'Lower dense.batchSize',
      },
    );
  return { steps: maxSteps ?? epochs * perEpoch, perEpoch };
}

/** @throws LgdError BAD_OPTION unless the input's side and the output stride fit each other, and the scales */
export function checkDense(dense: DenseConfig): void {
  checkInput(dense, 'dense.');
  const { scaleMin, scaleMax } = dense;
  if (scaleMin > scaleMax)
    throw new LgdError('BAD_CONFIG', 'is greater than dense.scaleMax.', {
      option: 'dense.scaleMin',
      found: scaleMin,
      allowed: `a number to ${scaleMax}`,
      mend: 'Lower dense.scaleMin or raise dense.scaleMax',
    });
}

/** @param group what stands before the names of the options @throws LgdError BAD_OPTION */
export function checkInput(
  { resolution, outputStride }: Pick<DenseConfig, 'resolution' | 'outputStride'>,
  group = '',
): void {
  if (!(resolution > 0 && resolution % 32 === 0))
    throw new LgdError('BAD_OPTION', 'the input must be a whole number of positions wide.', {
      option: `${group}resolution`,
      found: resolution,
      allowed: 'a multiple of 32',
      mend: `Take ${32 * Math.max(1, Math.round(resolution / 32) || 1)}`,
    });
  if (![8, 16, 32].includes(outputStride))
    throw new LgdError('BAD_OPTION', 'no such output stride.', {
      option: `${group}outputStride`,
      found: outputStride,
      allowed: '8, 16 or 32',
    });
}

/** A compiled network with its input and its gradient. */
export class DenseTrainer implements Disposable {
  readonly network: CompiledEncoder;
  readonly dOutput: TensorHandle;
  readonly #made = new Made();
  readonly #images: TensorHandle;
  readonly #step: StepHandle;

  /** @throws LgdError BAD_MODEL, BAD_SHAPE, OUT_OF_MEMORY */
  constructor(
    readonly device: Device,
    graph: GraphSpec,
    weights: Readonly<WeightRecord>,
    {
      batch,
      resolution,
      precision,
      momentum,
    }: { batch: number; resolution: number; precision: Precision | undefined; momentum: number },
  ) {
    const { addon, handle } = device;
    const made = this.#made;
    const optimizer = { name: 'sgd', momentum } as const;
    this.network = made.use(
      compileBatch(
        'dense.batchSize',
        batch,
        () => new CompiledEncoder(device, graph, { batch, resolution, precision, optimizer }),
      ),
    );
    try {
      this.network.load(weights);
      this.#images = made.add(this.network.makeImages(), addon.release);
      const { outputs } = this.network.info;
      const [rows, columns] =
        outputs.length === 1
          ? [batch * outputs[0]![0]! * outputs[0]![1]!, outputs[0]![2]!]
          : [1, batch * this.network.info.outputSize];
      this.dOutput = made.add(addon.makeTensor(handle, [rows, columns]), addon.release);
      this.#step = made.add(addon.makeStep(handle), addon.release);
    } catch (error) {
      made.free();
      throw error;
    }
  }

  /**
   * Queues a step.
   * @param pixels [B,3,R,R], normalised
   * @param queueLoss queues what writes dOutput from the network's output
   */
  queueStep(
    pixels: Float32Array,
    queueLoss: (output: TensorHandle, dOutput: TensorHandle) => void,
    {
      step,
      seed,
      learningRate,
      weightDecay,
    }: { step: number; seed: number; learningRate: number; weightDecay: number },
  ): void {
    const { addon } = this.device;
    addon.writeImages(this.#images, pixels);
    addon.beginStep(this.#step);
    let queued = false;
    try {
      this.network.keepStatistics(this.#step);
      this.network.forwardTensor(this.#images, { training: true, seed, step });
      queueLoss(this.network.output, this.dOutput);
      this.network.backwardTensor(this.dOutput, { afresh: true });
      this.network.optimizerStep({ learningRate, weightDecay, decayNormAndBias: false });
      queued = true;
    } finally {
      addon.endStep(this.#step, !queued);
    }
  }

  [Symbol.dispose](): void {
    this.#made.free();
  }
}
