import { checkArgument, checkGiven, checkOptions, optionTable, type OptionTable } from '../arguments.js';
import type { TextualSemanticsBank } from '../banks/textual.js';
import type { ImageCache } from '../data/cache.js';
import { hashImages, plainId } from '../data/image-id.js';
import type { PreparableImages } from '../data/read-ahead.js';
import type { Device } from '../device.js';
import { LgdError } from '../errors.js';
import type { CompiledEncoder, Precision } from '../models/compiled.js';
import type { AnyTeacher } from '../models/index.js';
import type { ChannelTriple } from '../models/teachers/types.js';
import { targetsOf } from './accuracy.js';
import { matchClasses } from './classes.js';
import { embedOptions, encoderEmbedder, teacherEmbedder, type EmbedOptions, type Embedder } from './embed.js';
import { findNearestNames } from './nearest-names.js';
import { makeScore, type ZeroShotScore } from './score.js';

/** Labelled images, and the names to choose among. */
export interface ZeroShotOptions {
  device: Device;
  /** Labelled images, decoded for the largest resolution that will be evaluated. */
  images: Pick<ImageCache, 'length' | 'labels' | 'classNames'> & Partial<Pick<ImageCache, 'ids'>> & PreparableImages;
  /** The names to choose among; every class folder has one, and every name a folder. */
  bank: TextualSemanticsBank;
  /** Class folder -> name, where they are not spelled alike. */
  mapping?: Readonly<Record<string, string>> | undefined;
  /** Channel statistics of the encoders' input. */
  mean: ChannelTriple;
  std: ChannelTriple;
}

const zeroShotOptions = optionTable<ZeroShotOptions>()('device images bank mapping? mean std');

/** Options of an evaluation. */
export interface EvaluateOptions extends EmbedOptions {
  /**
   * Told of some batches at a time: the nearest names of these n images, [n,topK] indices into the bank, the best
   * first. Images that cannot be decoded are none of them, and are not scored.
   */
  onNearest?: ((nearest: Int32Array, topK: number, images: Int32Array) => void) | undefined;
}

const evaluateOptions = { onNearest: 'optional', ...embedOptions } satisfies OptionTable<EvaluateOptions>;
const teacherOptions = { batch: 'needed', precision: 'optional', ...evaluateOptions } satisfies OptionTable<
  Parameters<ZeroShotEvaluation['evaluateTeacher']>[1]
>;

/**
 * Zero-shot classification (Radford et al. 2021, section 3.1): an image belongs to the name whose text embedding is
 * nearest by cosine. Views are the centre crops of images resized to the input's side.
 */
export class ZeroShotEvaluation {
  readonly classes: number;
  readonly #options: ZeroShotOptions;
  /** The right row of the bank for each image. */
  readonly #targets: Int32Array;

  /** @throws LgdError BAD_OPTION, BAD_DATASET (no labels), CLASS_MISMATCH */
  constructor(options: ZeroShotOptions) {
    checkOptions(options, 'new ZeroShotEvaluation()', zeroShotOptions);
    const { images, bank, mapping } = options;
    checkArgument('device', options.device);
    checkArgument('tsb', bank, 'bank');
    checkGiven(images, 'new ZeroShotEvaluation()', 'images');
    if (mapping !== undefined) checkGiven(mapping, 'new ZeroShotEvaluation()', 'mapping');
    if (images.labels === undefined || images.classNames === undefined) {
      throw new LgdError('BAD_DATASET', 'these images have no labels.', {
        option: 'evaluate.data',
        mend: 'Give a folder of class folders',
      });
    }
    const places = matchClasses(images.classNames, bank.names, mapping);
    this.#targets = images.labels.map((label) => places[label]!);
    this.#options = options;
    this.classes = bank.size;
  }

  /** The right row of the bank for each image. */
  get targets(): Int32Array {
    return this.#targets;
  }

  /**
   * Tells what is scored: the images, where they have ids, what each is to be taken for, and the names.
   * @throws LgdError ABORTED
   */
  async mark(signal?: AbortSignal): Promise<string> {
    const { bank, images } = this.#options;
    const plain = Array.from(this.#targets, (_, image) => plainId(images.ids?.[image] ?? ''));
    return `${bank.hash} ${await hashImages(plain, this.#targets, signal)}`;
  }

  /**
   * The score of an encoder compiled for training or for inference; training statistics are left alone.
   * @throws LgdError BAD_OPTION, NON_FINITE, ABORTED, and device faults
   */
  async evaluateEncoder(encoder: CompiledEncoder, options: EvaluateOptions = {}): Promise<ZeroShotScore> {
    checkOptions(options, 'evaluateEncoder()', evaluateOptions);
    using embedder = encoderEmbedder(encoder);
    return await this.#score(embedder, options);
  }

  /**
   * The teacher's score; undefined for precomputed embeddings, which know nothing of these images.
   * @param teacherRun `batch`: images at once at most; large ones are fewer at once
   * @throws as {@link evaluateEncoder}
   */
  async evaluateTeacher(
    teacher: AnyTeacher,
    teacherRun: EvaluateOptions & { batch: number; precision?: Precision | undefined },
  ): Promise<ZeroShotScore | undefined> {
    checkOptions(teacherRun, 'evaluateTeacher()', teacherOptions);
    const { batch, precision, ...options } = teacherRun;
    if (teacher.kind === 'precomputed') return undefined;
    using embedder = teacherEmbedder(this.#options.device, teacher, { batch, precision, signal: options.signal });
    return await this.#score(embedder, options);
  }

  async #score(embedder: Embedder, { onNearest, ...options }: EvaluateOptions): Promise<ZeroShotScore> {
    const { device, images, bank, mean, std } = this.#options;
    const topK = Math.min(5, bank.size);
    const counts = { images: 0, correct1: 0, correct5: 0 };
    await findNearestNames(
      embedder,
      { device, images, mean, std, what: 'the evaluation' },
      bank,
      topK,
      ({ indices }, some) => {
        this.#count(indices, topK, targetsOf({ labels: this.#targets }, some), counts);
        onNearest?.(indices, topK, some);
      },
      options,
    );
    return makeScore({ ...counts, classes: this.classes, topK });
  }

  #count(
    nearest: Int32Array,
    topK: number,
    targets: Int32Array,
    counts: { images: number; correct1: number; correct5: number },
  ): void {
    targets.forEach((target, i) => {
      const row = nearest.subarray(i * topK, (i + 1) * topK);
      counts.images++;
      if (row[0] === target) counts.correct1++;
      if (row.includes(target)) counts.correct5++;
    });
  }
}
