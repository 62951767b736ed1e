/** Frozen features of images, extracted once: a student's pooled ones, a teacher's embeddings. */
import type { Device } from '../device.js';
import { CompiledEncoder, type Precision } from '../models/compiled.js';
import { featureGraph, featureSize, weightsOf } from '../models/features.js';
import type { GraphSpec } from '../models/graph.js';
import type { AnyTeacher } from '../models/index.js';
import type { ChannelTriple } from '../models/teachers/types.js';
import type { WeightRecord } from '../models/weights.js';
import {
  embedImages,
  encoderEmbedder,
  teacherEmbedder,
  type Embedder,
  type EmbedOptions,
  type TakeRows,
} from './embed.js';
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

/** What gives features [N,H] of centre crops. */
export abstract class ImageFeatures {
  abstract readonly device: Device;
  /** H. */
  abstract readonly dimension: number;

  /**
   * Of all images that can be decoded, in order, batch by batch.
   * @throws LgdError NON_FINITE, ABORTED, and device faults
   */
  abstract each(images: LabelledSet, take: TakeRows, options?: EmbedOptions): Promise<void>;

  /** The same at once. @throws as {@link each} */
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
}

/** The student up to its pooled features, forward only. */
export class FeatureExtractor extends ImageFeatures implements Disposable {
  readonly dimension: number;
  readonly #encoder: CompiledEncoder;

  /** @throws LgdError BAD_MODEL, BAD_OPTION, OUT_OF_MEMORY */
  constructor(private readonly options: FeatureExtractorOptions) {
    super();
    const { device, graph, batch, resolution, precision } = options;
    this.#encoder = new CompiledEncoder(device, featureGraph(graph), { batch, resolution, precision, training: false });
    this.dimension = featureSize(graph);
  }

  get device(): Device {
    return this.options.device;
  }

  /** Takes the weights of the student; the head's are passed over. @throws LgdError BAD_MODEL */
  load(weights: Readonly<WeightRecord>): void {
    this.#encoder.load(weightsOf(this.#encoder.graph, weights));
  }

  override async each(images: LabelledSet, take: TakeRows, options: EmbedOptions = {}): Promise<void> {
    const { device, mean, std } = this.options;
    using embedder = encoderEmbedder(this.#encoder);
    await embedImages(embedder, { device, images, mean, std, what: 'the evaluation' }, take, options);
  }

  [Symbol.dispose](): void {
    this.#encoder.dispose();
  }
}

/** A teacher's embeddings. */
export class TeacherFeatures extends ImageFeatures implements Disposable {
  readonly #embedder: Embedder;

  /** @throws LgdError OUT_OF_MEMORY, BAD_MODEL */
  constructor(
    readonly device: Device,
    private readonly teacher: Exclude<AnyTeacher, { kind: 'precomputed' }>,
    options: { batch: number; precision: Precision | undefined; signal: AbortSignal | undefined },
  ) {
    super();
    this.#embedder = teacherEmbedder(device, teacher, options);
  }

  get dimension(): number {
    return this.teacher.embeddingSize;
  }

  override async each(images: LabelledSet, take: TakeRows, options: EmbedOptions = {}): Promise<void> {
    const { mean, std } = this.teacher;
    await embedImages(
      this.#embedder,
      { device: this.device, images, mean, std, what: 'the evaluation' },
      take,
      options,
    );
  }

  [Symbol.dispose](): void {
    this.#embedder[Symbol.dispose]();
  }
}
