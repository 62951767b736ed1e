/**
 * A linear classifier beside a student in training: it sees the student's embeddings of the training images, and their
 * labels. No gradient of it reaches the student, whose bits stay what they would be without it.
 */
import type { TensorHandle } from '../addon/native.js';
import { checkArgument, checkOptions } from '../arguments.js';
import type { Device } from '../device.js';
import { Made } from '../lifetime.js';
import type { CompiledEncoder } from '../models/compiled.js';
import type { ChannelTriple } from '../models/teachers/types.js';
import type { OnlineState } from '../runs/checkpoint.js';
import { accuracyOf, targetsOf } from './accuracy.js';
import { embedImages, embedOptions, encoderEmbedder, type EmbedOptions } from './embed.js';
import { LinearHeads, readResults } from './feature-set.js';
import type { LabelledSet } from './labelled.js';
import type { ZeroShotScore } from './score.js';

/** The images that online probes are judged on. */
export interface OnlineImages {
  images: LabelledSet;
  /** Of each image, as an index into the training images' classes. */
  labels: Int32Array;
  mean: ChannelTriple;
  std: ChannelTriple;
}

const learningRate = 1; // of unit embeddings

export class OnlineProbe implements Disposable {
  readonly #heads: LinearHeads;

  /** @param dimension D; @throws LgdError BAD_OPTION, OUT_OF_MEMORY */
  constructor(
    readonly device: Device,
    dimension: number,
    readonly classes: number,
  ) {
    checkArgument('device', device);
    this.#heads = new LinearHeads(device, dimension, classes, 1);
  }

  /** Queues a step of SGD on a batch of embeddings [B,D]. */
  learn(embeddings: TensorHandle, labels: Int32Array): void {
    this.queueGradient(embeddings, labels);
    this.takeStep();
  }

  /** Queues the first half of {@link learn}, which leaves the probe as it is, and is the one that may fail. */
  queueGradient(embeddings: TensorHandle, labels: Int32Array): void {
    const { weights, bias, dWeights, dBias } = this.#heads;
    this.device.addon.classifierLoss({
      features: embeddings,
      weights,
      bias,
      dWeights,
      dBias,
      labels,
      unit: true,
      scale: 1 / labels.length,
    });
  }

  /** Queues the second half of {@link learn}. */
  takeStep(): void {
    this.#heads.step([learningRate], { momentum: 0.9, weightDecay: 0 });
  }

  /**
   * Its score on images, by the encoder's embeddings.
   * @throws LgdError BAD_OPTION, NON_FINITE, ABORTED, and device faults
   */
  async evaluate(
    encoder: CompiledEncoder,
    { images, labels, mean, std }: OnlineImages,
    options: EmbedOptions = {},
  ): Promise<ZeroShotScore> {
    checkOptions(options, 'evaluate()', embedOptions);
    const { device, classes } = this;
    const { addon } = device;
    const { weights, bias, dimension } = this.#heads;
    const ranks: number[] = [];
    using embedder = encoderEmbedder(encoder);
    await embedImages(
      embedder,
      { device, images, mean, std, what: 'the evaluation' },
      async (rows, some) => {
        using made = new Made();
        const features = made.add(addon.makeTensor(device.handle, [some.length, dimension]), addon.release);
        const results = made.add(addon.makeTensor(device.handle, [some.length, 3]), addon.release);
        addon.writeTensor(features, rows.slice());
        const wanted = targetsOf({ labels }, some);
        addon.classifierLoss({ features, weights, bias, results, labels: wanted, unit: true });
        ranks.push(...readResults(await addon.readTensor(results), wanted, 1).answers(0).ranks);
      },
      options,
    );
    return accuracyOf({ ranks: Int32Array.from(ranks) }, classes);
  }

  /** Waits for queued steps and reads it. */
  async state(): Promise<OnlineState> {
    return this.#heads.state();
  }

  /** Looks whether {@link restore} would take a state. @throws LgdError BAD_SHAPE */
  check(state: OnlineState): void {
    this.#heads.check(state);
  }

  /** @throws LgdError BAD_SHAPE */
  restore(state: OnlineState): void {
    this.#heads.restore(state);
  }

  /** Frees the classifier. */
  [Symbol.dispose](): void {
    this.#heads[Symbol.dispose]();
  }
}
