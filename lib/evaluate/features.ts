/** A student's frozen pooled features of images, extracted once. */
import type { Device } from '../device.js';
import { CompiledEncoder, type Precision } from '../models/compiled.js';
import { featureGraph, featureSize, weightsOf } from '../models/features.js';
import type { GraphSpec } from '../models/graph.js';
import type { ChannelTriple } from '../models/teachers/types.js';
import type { WeightRecord } from '../models/weights.js';
import { embedImages, encoderEmbedder, type EmbedOptions, type TakeRows } from './embed.js';
import type { LabelledSet } from './labelled.js';

export interface FeatureExtractorOptions {
  device: Device;
  /** The student's, with its projection head. */
  graph: GraphSpec;
  batch: number;
  resolution: number;
  precision: Precision | undefined;
  /** The statistics that the student was trained with. */
  mean: ChannelTriple;
  std: ChannelTriple;
}

/** Features of the images of a set that can be decoded. */
export interface Features {
  /** [N,H]. */
  rows: Float32Array;
  /** Which images these are of. */
  images: Int32Array;
}

/** The student up to its pooled features, forward only. */
export class FeatureExtractor implements Disposable {
  /** H, size of the pooled features. */
  readonly dimension: number;
  readonly #encoder: CompiledEncoder;

  /** @throws LgdError BAD_MODEL, BAD_OPTION, OUT_OF_MEMORY */
  constructor(readonly options: FeatureExtractorOptions) {
    const { device, graph, batch, resolution, precision } = options;
    this.#encoder = new CompiledEncoder(device, featureGraph(graph), { batch, resolution, precision, training: false });
    this.dimension = featureSize(graph);
  }

  /** Takes the weights of the student; the head's are passed over. @throws LgdError BAD_MODEL */
  load(weights: Readonly<WeightRecord>): void {
    this.#encoder.load(weightsOf(this.#encoder.graph, weights));
  }

  /**
   * Features of all images that can be decoded, in order. Centre crops.
   * @throws LgdError NON_FINITE, ABORTED, and device faults
   */
  async all(images: LabelledSet, options: EmbedOptions = {}): Promise<Features> {
    const features = new Float32Array(images.length * this.dimension);
    const seen: number[] = [];
    await this.each(
      images,
      (rows, some, from) => {
        features.set(rows, from * this.dimension);
        seen.push(...some);
      },
      options,
    );
    return { rows: features.subarray(0, seen.length * this.dimension), images: Int32Array.from(seen) };
  }

  /** The same, batch by batch. @throws as {@link all} */
  async each(images: LabelledSet, take: TakeRows, options: EmbedOptions = {}): Promise<void> {
    const { device, mean, std } = this.options;
    using embedder = encoderEmbedder(this.#encoder);
    await embedImages(embedder, { device, images, mean, std, what: 'the evaluation' }, take, options);
  }

  [Symbol.dispose](): void {
    this.#encoder.dispose();
  }
}
