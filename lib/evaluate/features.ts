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
  embeddedAtOnce,
  ownedEmbedder,
  teacherEmbedder,
  type Embedder,
  type EmbedOptions,
  type TakeRows,
} from './embed.js';
import type { LabelledSet } from './labelled.js';

export interface StudentFeaturesOptions {
  device: Device;
  /** The student's, with its projection head, and its weights; the head's are passed over. */
  graph: GraphSpec;
  weights: Readonly<WeightRecord>;
  /** Images at once at most; large ones are fewer at once. */
  batch: number;
  resolution: number;
  precision: Precision | undefined;
  /** The statistics that the student was trained with. */
  mean: ChannelTriple;
  std: ChannelTriple;
}

/** What gives features [N,H] of centre crops. */
export class ImageFeatures implements Disposable {
  private constructor(
    readonly device: Device,
    /** H. */
    readonly dimension: number,
    private readonly embedder: Embedder,
    /** Channel statistics of the input. */
    private readonly input: { mean: ChannelTriple; std: ChannelTriple },
  ) {}

  /** The student up to its pooled features, forward only. @throws LgdError BAD_MODEL, BAD_OPTION, OUT_OF_MEMORY */
  static ofStudent({
    device,
    graph,
    weights,
    mean,
    std,
    batch: most,
    resolution,
    precision,
  }: StudentFeaturesOptions): ImageFeatures {
    const batch = embeddedAtOnce(most, resolution);
    const encoder = new CompiledEncoder(device, featureGraph(graph), { batch, resolution, precision, training: false });
    const embedder = ownedEmbedder(encoder);
    try {
      encoder.load(weightsOf(encoder.graph, weights));
      return new ImageFeatures(device, featureSize(graph), embedder, { mean, std });
    } catch (error) {
      embedder[Symbol.dispose]();
      throw error;
    }
  }

  /** A teacher's embeddings. @throws LgdError OUT_OF_MEMORY, BAD_MODEL */
  static ofTeacher(
    device: Device,
    teacher: Exclude<AnyTeacher, { kind: 'precomputed' }>,
    options: { batch: number; precision: Precision | undefined; signal: AbortSignal | undefined },
  ): ImageFeatures {
    return new ImageFeatures(device, teacher.embeddingSize, teacherEmbedder(device, teacher, options), teacher);
  }

  /**
   * Of all images that can be decoded, in order, batch by batch.
   * @throws LgdError NON_FINITE, ABORTED, and device faults
   */
  async each(images: LabelledSet, take: TakeRows, options: EmbedOptions): Promise<void> {
    const { device, embedder } = this;
    const { mean, std } = this.input;
    await embedImages(embedder, { device, images, mean, std, what: 'the evaluation' }, take, options);
  }

  /** The same at once: rows [N,H], and which images these are of. @throws as {@link each} */
  async all(images: LabelledSet, options: EmbedOptions): Promise<{ rows: Float32Array; images: Int32Array }> {
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

  [Symbol.dispose](): void {
    this.embedder[Symbol.dispose]();
  }
}
