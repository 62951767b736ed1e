/** A student and the names it tells apart, kept ready for one image after the other: what a server holds. */
import type { PixelStoreHandle } from '../addon/native.js';
import { checkArgument, checkOptions, optionTable } from '../arguments.js';
import type { TextualSemanticsBank } from '../banks/textual.js';
import { parseConfig } from '../config/config.js';
import { placeImage } from '../data/decode.js';
import type { Device } from '../device.js';
import { hasCode, LgdError, throwIfAborted } from '../errors.js';
import type { Embedder } from '../evaluate/embed.js';
import { bankOfNames } from '../evaluate/student.js';
import { Lifetime } from '../lifetime.js';
import type { Precision } from '../models/compiled.js';
import type { StudentInfo } from '../runs/student-file.js';
import { topOf } from './classify.js';
import { readWithHead, studentEmbedder } from './looking.js';

/** Where a classifier runs, and what it tells apart. */
export interface ClassifierOptions {
  device: Device;
  /** Names to choose among, embedded by the text tower of the student's teacher (default: the student's own). */
  bank?: TextualSemanticsBank | undefined;
  precision?: Precision | undefined;
}

const classifierOptions = optionTable<ClassifierOptions>()('device bank? precision?');

/** How one image is looked at. */
export interface LookOptions {
  /** Names the image in errors. */
  path?: string | undefined;
  signal?: AbortSignal | undefined;
}

const lookOptions = optionTable<LookOptions>()('path? signal?');

/** A name that an image was taken for. */
export interface NamedCosine {
  name: string;
  /** Its place among the names. */
  index: number;
  /** Of the image's embedding and the name's, -1 to 1. */
  cosine: number;
}

/**
 * Classifies images in memory, one at a time; calls may overlap. Of many images, {@link classifyImages} is several times
 * faster. Release it with {@link Classifier.dispose}.
 */
export class Classifier implements Disposable {
  readonly #life = new Lifetime('the classifier', 'Load it again');

  private constructor(
    readonly device: Device,
    readonly info: StudentInfo,
    private readonly bank: TextualSemanticsBank,
    private readonly embedder: Embedder,
  ) {}

  /**
   * @param path a run folder, a checkpoint folder, or a student's file, exported or not; without a bank of its own
   *   beside it, `bank` is needed
   * @throws LgdError BAD_OPTION, FILE_NOT_FOUND, BAD_FILE, BAD_MODEL, BAD_CONFIG (no bank), BAD_BANK, OUT_OF_MEMORY
   */
  static async load(path: string, options: ClassifierOptions): Promise<Classifier> {
    checkOptions(options, 'Classifier.load()', classifierOptions);
    const { device, bank: given, precision } = options;
    checkArgument('device', device);
    if (given !== undefined) checkArgument('tsb', given, 'bank');
    const content = await readWithHead(path);
    const { file, info } = content;
    const bank = given ?? (await bankOfNames(parseConfig({}), undefined, file, info, {}));
    if (bank.embeddingSize !== info.embeddingSize)
      throw new LgdError(
        'BAD_BANK',
        `the bank's embeddings have ${bank.embeddingSize} values, the student's ${info.embeddingSize}.`,
        { option: 'bank', mend: "Give one of the text tower of the student's teacher" },
      );
    return new Classifier(device, info, bank, studentEmbedder(content, device, { most: 1, precision }));
  }

  /** K names. */
  get names(): readonly string[] {
    return this.bank.names;
  }

  /**
   * The nearest names, the nearest first.
   * @param bytes an image in any format that is read from a folder
   * @param options top: how many names, 1 to K; default 5, or all of fewer
   * @throws LgdError BAD_OPTION, BAD_IMAGE, NON_FINITE, DISPOSED, ABORTED
   */
  async classify(
    bytes: Uint8Array,
    { top: wanted, ...options }: LookOptions & { top?: number | undefined } = {},
  ): Promise<NamedCosine[]> {
    const { bank, device } = this;
    const top = topOf(wanted, bank.size);
    const embedding = await this.embed(bytes, options);
    const { indices, scores } = await device.addon.topSimilar(
      device.handle,
      embedding,
      bank.data,
      bank.embeddingSize,
      top,
    );
    return Array.from(indices, (index, i) => ({ name: bank.names[index]!, index, cosine: scores[i]! }));
  }

  /**
   * The embedding [D] of an image's centre crop, not normalised.
   * @throws as {@link classify}
   */
  async embed(bytes: Uint8Array, options: LookOptions = {}): Promise<Float32Array> {
    checkOptions(options, 'Classifier.embed()', lookOptions);
    const { path = 'the image', signal } = options;
    this.#life.check();
    throwIfAborted(signal, 'the classification');
    const { addon } = this.device;
    const { resolution, mean, std } = this.info;
    const store = addon.makePixelStore({ memoryLimitBytes: Number.MAX_VALUE, spillFolder: '' });
    try {
      await this.#decode(bytes, store, path);
      this.#life.check();
      throwIfAborted(signal, 'the classification');
      const first = new Int32Array(1);
      const drawn = { images: first, drawIds: first, seed: 0, epoch: 0 };
      addon.augment(store, { train: false, resize: resolution, mean, std }, drawn, this.embedder.images);
      return await this.embedder.embed();
    } finally {
      addon.release(store);
    }
  }

  async #decode(bytes: Uint8Array, store: PixelStoreHandle, path: string): Promise<void> {
    const place = { addon: this.device.addon, store, index: 0 };
    await placeImage(bytes, place, { shortSide: this.info.resolution }).catch((error: unknown) => {
      if (!hasCode(error, 'BAD_IMAGE')) throw error;
      throw new LgdError('BAD_IMAGE', `${path}: ${error.message}`, { cause: error });
    });
  }

  /** Frees the device memory; later calls throw DISPOSED. */
  dispose(): void {
    if (this.#life.end()) this.embedder[Symbol.dispose]();
  }

  /** For `using`: {@link dispose}. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}
