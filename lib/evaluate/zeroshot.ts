import type { TextualSemanticsBank } from '../banks/textual.js';
import type { ImageCache } from '../data/cache.js';
import { sequentialBatches } from '../data/sampler.js';
import type { Device } from '../device.js';
import { LgdError, throwIfAborted } from '../errors.js';
import type { CompiledEncoder, Precision } from '../models/compiled.js';
import type { AnyTeacher } from '../models/index.js';
import type { ChannelTriple } from '../models/teachers/types.js';
import type { NativeAugmentRecipe, TensorHandle } from '../native.js';
import { matchClasses } from './classes.js';
import { makeScore, type ZeroShotScore } from './score.js';

/** Labelled images, and the names to choose among. */
export interface ZeroShotOptions {
  device: Device;
  /** Labelled images, decoded for the largest resolution that will be evaluated. */
  images: Pick<ImageCache, 'length' | 'labels' | 'classNames' | 'store'>;
  /** The names to choose among; every class folder has one, and every name a folder. */
  bank: TextualSemanticsBank;
  /** Class folder -> name, where they are not spelled alike. */
  mapping?: Readonly<Record<string, string>>;
  /** Channel statistics of the encoders' input. */
  mean: ChannelTriple;
  std: ChannelTriple;
}

/** Options of an evaluation. */
export interface EvaluateOptions {
  signal?: AbortSignal;
  /** Called after each batch with the number of images done and to do. */
  onProgress?: (done: number, total: number) => void;
}

/** Queues one batch of images through an encoder; resolves with its embeddings, [B,D]. */
interface Embedder {
  batch: number;
  resolution: number;
  images: TensorHandle;
  embed(): Promise<Float32Array>;
}

/**
 * Zero-shot classification (Radford et al. 2021, section 3.1): an image belongs to the name whose text embedding is nearest by cosine.
 * Views are the centre crops of images resized to the input's side.
 */
export class ZeroShotEvaluation {
  readonly classes: number;
  readonly #options: ZeroShotOptions;
  /** The right row of the bank for each image. */
  readonly #targets: Int32Array;

  /** @throws LgdError BAD_DATASET (no labels), CLASS_MISMATCH */
  constructor(options: ZeroShotOptions) {
    const { images, bank, mapping } = options;
    if (images.labels === undefined || images.classNames === undefined) {
      throw new LgdError('BAD_DATASET', 'these images have no labels.', { option: 'evaluate.data', mend: 'Give a folder of class folders' });
    }
    const places = matchClasses(images.classNames, bank.names, mapping);
    this.#targets = images.labels.map((label) => places[label]!);
    this.#options = options;
    this.classes = bank.size;
  }

  /** The score of an encoder compiled for training or for inference; training statistics are left alone. @throws LgdError NON_FINITE, ABORTED, and device faults */
  async evaluateEncoder(encoder: CompiledEncoder, options: EvaluateOptions = {}): Promise<ZeroShotScore> {
    const { addon } = this.#options.device;
    const images = encoder.makeImages();
    try {
      return await this.#score({
        batch: encoder.batch,
        resolution: encoder.resolution,
        images,
        embed: () => {
          encoder.forwardTensor(images, { training: false });
          return addon.readTensor(encoder.output);
        },
      }, options);
    } finally {
      addon.release(images);
    }
  }

  /**
   * The teacher's score; undefined for precomputed embeddings, which know nothing of these images.
   * @throws as {@link evaluateEncoder}
   */
  async evaluateTeacher(teacher: AnyTeacher, { batch, precision, ...options }: EvaluateOptions & { batch: number; precision?: Precision }): Promise<ZeroShotScore | undefined> {
    if (teacher.kind === 'precomputed') return undefined;
    if (teacher.kind === 'native') {
      const compiled = teacher.compile({ batch, precision });
      try {
        return await this.evaluateEncoder(compiled, options);
      } finally {
        compiled.dispose();
      }
    }
    const { addon, handle } = this.#options.device;
    const { resolution } = teacher;
    const images = addon.makeImages(handle, batch, resolution, resolution, false);
    try {
      return await this.#score({ batch, resolution, images, embed: async () => teacher.embed(await addon.readImages(images), batch, options) }, options);
    } finally {
      addon.release(images);
    }
  }

  async #score(embedder: Embedder, { signal, onProgress }: EvaluateOptions): Promise<ZeroShotScore> {
    const { device, images, bank, mean, std } = this.#options;
    const { addon, handle } = device;
    const recipe: NativeAugmentRecipe = { train: false, resize: embedder.resolution, mean, std };
    const topK = Math.min(5, bank.size);
    const counts = { correct1: 0, correct5: 0 };
    let start = 0;
    let before: Promise<void> = Promise.resolve(); // one batch is judged while the next is on the device
    for (const { indices, valid } of sequentialBatches(images.length, embedder.batch)) {
      throwIfAborted(signal, 'the evaluation');
      addon.augment(images.store, recipe, { images: indices, drawIds: indices, seed: 0, epoch: 0 }, embedder.images);
      const [from, to] = [start, start + valid];
      const judged = embedder.embed().then(async (embeddings) => {
        const nearest = await addon.topSimilar(handle, embeddings.subarray(0, valid * bank.embeddingSize), bank.data, bank.embeddingSize, topK);
        this.#count(nearest.indices, topK, this.#targets.subarray(from, to), counts);
        onProgress?.(to, images.length);
      });
      judged.catch(() => undefined); // awaited below; until then a failure of the batch before must not leave it unhandled
      await before;
      before = judged;
      start = to;
    }
    await before;
    return makeScore({ ...counts, images: images.length, classes: this.classes, topK });
  }

  #count(nearest: Int32Array, topK: number, targets: Int32Array, counts: { correct1: number; correct5: number }): void {
    targets.forEach((target, i) => {
      const row = nearest.subarray(i * topK, (i + 1) * topK);
      if (row[0] === target) counts.correct1++;
      if (row.includes(target)) counts.correct5++;
    });
  }
}
