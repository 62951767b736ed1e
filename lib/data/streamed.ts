import type { PixelStoreHandle } from '../addon/native.js';
import { checkOptions, type OptionTable } from '../arguments.js';
import { LgdError, messageOf } from '../errors.js';
import { Lifetime } from '../lifetime.js';
import { orAborted } from '../turn.js';
import { noneDecoded, tooManyBroken } from './broken-images.js';
import {
  cacheOptions,
  checkCacheOptions,
  checkPackedSize,
  shortSideOf,
  withDefaults,
  type CacheSettings,
  type ImageCacheOptions,
  type PreparedImages,
} from './cache.js';
import { placeImage, type BrokenImage, type StorePlace } from './decode.js';
import { isNotOfTheImage, PatientReader } from './read-patiently.js';
import { decoderThreads, tuneForMany } from './sharp.js';
import { checkSource, type ImageSource } from './sources.js';

/**
 * How {@link StreamedImages} decodes: as an {@link ImageCache}, which keeps what this forgets; what that takes to keep
 * them may be given, and means nothing here. Its signal ends all reading, also where it fires long after they were
 * opened: batches are then refused.
 */
export interface StreamedImagesOptions extends ImageCacheOptions {
  /** Images decoded at once (default: as many as there are decoding threads, and the next ones read meanwhile). */
  threads?: number | undefined;
}

const streamedOptions = { ...cacheOptions, threads: 'optional' } satisfies OptionTable<StreamedImagesOptions>;

/** Images decoded, and the time that took. */
export interface DecodeRate {
  images: number;
  /** Of all decoding threads together. */
  seconds: number;
}

const imagesAhead = 2; // each thread finds its next picture read

/**
 * Images that are decoded when a batch needs them and forgotten after it: for data sets that fit neither memory nor
 * disk decoded. Pixels, and so training, are those of an {@link ImageCache}, bit for bit, as long as all images can be
 * decoded: a broken one is found only when its turn comes, and then the next one stands in for it, as
 * {@link PreparedImages.shown} tells.
 *
 * Memory holds the batches that are prepared and not yet released, and no more.
 */
export class StreamedImages implements Disposable {
  readonly ids: readonly string[];
  readonly labels: Int32Array | undefined;
  readonly classNames: readonly string[] | undefined;
  readonly sourceIndex: Int32Array;
  /** Bytes of each image's file, where the source tells. */
  readonly fileBytes: Float64Array | undefined;
  /** Short side in pixels of decoded images, at most. */
  readonly shortSide: number;
  readonly #source: ImageSource;
  readonly #options: CacheSettings<StreamedImagesOptions>;
  readonly #broken = new Map<number, string>();
  #brokenList: readonly BrokenImage[] = [];
  /** What the last of them threw. */
  #fault: unknown;
  /**
   * Of broken images that were stood in for: what did so. Thousands side by side, such as a folder that is gone, are
   * walked over once.
   */
  readonly #after = new Map<number, number>();
  /**
   * Ends with the attempt that is made to decode an image: who else would have it learns by it whether it is broken.
   */
  readonly #attempts = new Map<number, Promise<void>>();
  readonly #life = new Lifetime('the streamed images', 'Open them again with StreamedImages.open()');
  /** Fires with it: what is still being read, which may never come, is let go. */
  readonly #end = new AbortController();
  /** That, or the signal that was given. */
  readonly #stop: AbortSignal;
  readonly #free: PixelStoreHandle[] = [];
  readonly #reader: PatientReader;
  readonly #decoders: DecoderQueue;
  readonly #restoreSharp: () => void;

  private constructor(source: ImageSource, options: CacheSettings<StreamedImagesOptions>, restoreSharp: () => void) {
    this.#source = source;
    this.#options = options;
    this.#restoreSharp = restoreSharp;
    const { threads, readPauses, signal } = options;
    this.#stop = signal ? AbortSignal.any([this.#end.signal, signal]) : this.#end.signal;
    this.#reader = new PatientReader({ root: source.root, readPauses, signal: this.#stop });
    this.#decoders = new DecoderQueue(threads ?? decoderThreads(), threads ?? imagesAhead * decoderThreads());
    this.ids = source.ids;
    this.labels = source.labels;
    this.classNames = source.labels && source.classNames;
    this.sourceIndex = source.places ?? Int32Array.from(source.ids, (_, index) => index);
    this.shortSide = shortSideOf(options);
    this.fileBytes = source.pack && Float64Array.from(source.pack.index.bytes);
  }

  /**
   * Nothing is decoded yet.
   * @throws LgdError BAD_OPTION, BAD_DATASET (a source that can be read in order only), DEPENDENCY_MISSING
   */
  static async open(source: ImageSource, given: StreamedImagesOptions): Promise<StreamedImages> {
    checkOptions(given, 'StreamedImages.open()', streamedOptions);
    const options = withDefaults(given);
    checkCacheOptions(options);
    checkSource(source);
    if (source.pack !== undefined) checkPackedSize(source.pack, options);
    if (source.sequential)
      throw new LgdError(
        'BAD_DATASET',
        `the images of ${source.root} can be read in their order only, not as batches need them.`,
        {
          option: 'data.cache',
          found: 'stream',
          mend: 'Pack them first (lgdistill pack), or decode them all before training',
        },
      );
    return new StreamedImages(source, options, await tuneForMany(options.background));
  }

  get length(): number {
    return this.ids.length;
  }

  /** What was decoded since the start. */
  get decoded(): DecodeRate {
    return this.#decoders.done;
  }

  /**
   * Images that could not be decoded so far: the same list until there is another one. A run asks at every line of its
   * metrics, and there may be tens of thousands.
   */
  get broken(): readonly BrokenImage[] {
    if (this.#brokenList.length !== this.#broken.size)
      this.#brokenList = [...this.#broken].map(([index, reason]) => ({ id: this.ids[index]!, reason }));
    return this.#brokenList;
  }

  /** There is no store of all images. @throws LgdError BAD_OPTION, always */
  get store(): PixelStoreHandle {
    throw new LgdError('BAD_OPTION', 'images that are streamed are in no one store.', {
      option: 'data.cache',
      found: 'stream',
      mend: 'Take batches from readAhead(), or decode all images with ImageCache.build()',
    });
  }

  /**
   * Decodes the images of a batch, on all decoding threads, behind those of batches that were asked for before. Call
   * release() when the work on them is done; the memory is then used again.
   * @throws LgdError BAD_OPTION (no such image), TOO_MANY_BROKEN_IMAGES, BAD_DATASET (none can be decoded), BAD_FILE
   *   (the system fails to read), ABORTED, OUT_OF_MEMORY, DISPOSED
   */
  async prepare(images: Int32Array): Promise<PreparedImages> {
    this.#life.check();
    const outside = images.find((index) => !(index >= 0 && index < this.length));
    if (outside !== undefined)
      throw new LgdError('BAD_OPTION', 'there is no such image.', {
        option: 'images',
        found: outside,
        allowed: `indices from 0 to ${this.length - 1}`,
      });
    const asked = images.slice(); // the caller's may change meanwhile
    const { addon } = this.#options.device;
    const store = this.#free.pop() ?? addon.makePixelStore({ memoryLimitBytes: Number.MAX_VALUE, spillFolder: '' });
    const different = [...new Set(asked)]; // a batch that is filled up repeats its last
    const standIns = new Map<number, number>();
    const decoded = different.map(async (index) => {
      const shown = await this.#decode(index, { addon, store, index });
      if (shown !== index) standIns.set(index, shown);
    });
    try {
      // the first failure ends it: another read may hang for ever
      await orAborted(Promise.all(decoded), 'reading the images', this.#stop);
      this.#life.check();
    } catch (error) {
      void Promise.allSettled(decoded).then(() => addon.release(store)); // what is being decoded is written there
      this.#life.check();
      throw error;
    }
    let isBack = false;
    return {
      store,
      ...(standIns.size > 0 && { shown: asked.map((index) => standIns.get(index) ?? index) }),
      release: () => {
        if (!isBack) this.#giveBack(store);
        isBack = true; // by now another batch may have it
      },
    };
  }

  /** Frees the memory of batches that are released; those on their way are refused. */
  dispose(): void {
    if (!this.#life.end()) return;
    this.#end.abort();
    this.#restoreSharp();
    for (const store of this.#free.splice(0)) this.#options.device.addon.release(store);
  }

  /** For `using`: {@link dispose}. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  #giveBack(store: PixelStoreHandle): void {
    const { addon } = this.#options.device;
    if (this.#life.ended) return addon.release(store);
    addon.clearPixels(store);
    this.#free.push(store);
  }

  /**
   * Decodes the image, or the first after it (past the last comes the first) that can be decoded: the one that is
   * returned.
   */
  async #decode(index: number, to: StorePlace): Promise<number> {
    const passed: number[] = [];
    for (let place = index; this.#broken.size < this.length;) {
      if (this.#broken.has(place)) {
        passed.push(place);
        place = this.#after.get(place) ?? (place + 1) % this.length;
        continue;
      }
      const other = this.#attempts.get(place);
      if (other !== undefined) {
        await other; // a batch of images that are gone, such as a folder's, looks for one stand-in
        if (this.#broken.has(place)) continue;
      }
      const attempt = this.#decodeOne(place, to);
      if (other === undefined) this.#tell(place, attempt);
      if (!(await attempt)) continue;
      for (const broken of passed) this.#after.set(broken, place);
      return place;
    }
    throw noneDecoded(this.broken, this.#source.root, this.#fault);
  }

  /** Was it decoded? Else it is a broken one. */
  async #decodeOne(place: number, to: StorePlace): Promise<boolean> {
    try {
      await this.#decoders.run(async () => {
        const bytes = await this.#reader.read(this.ids[place]!, () => this.#source.read(place));
        await placeImage(bytes, to, { shortSide: this.shortSide, background: this.#options.background });
      });
      return true;
    } catch (error) {
      if (isNotOfTheImage(error)) throw error;
      this.#broken.set(place, messageOf(error));
      this.#fault = error;
      this.#checkBroken();
      return false;
    }
  }

  #tell(place: number, attempt: Promise<unknown>): void {
    const end = (): void => void this.#attempts.delete(place);
    this.#attempts.set(place, attempt.then(end, end));
  }

  #checkBroken(): void {
    const { maxBrokenShare } = this.#options;
    if (this.#broken.size > maxBrokenShare * this.length)
      throw tooManyBroken(this.broken, `the ${this.length} images`, { maxBrokenShare, cause: this.#fault });
  }
}

/** Keeps the decoding threads busy and no more: the others wait, in their order, without their files being read. */
class DecoderQueue {
  readonly done: DecodeRate = { images: 0, seconds: 0 };
  readonly #waiting: (() => void)[] = [];
  #running = 0;
  #since = 0;

  constructor(
    readonly threads: number,
    readonly most: number,
  ) {}

  async run<Result>(work: () => Promise<Result>): Promise<Result> {
    if (this.#running >= this.most) await new Promise<void>((resolve) => this.#waiting.push(resolve));
    this.#count(1);
    try {
      return await work();
    } finally {
      this.#count(-1);
      this.done.images++;
      this.#waiting.shift()?.();
    }
  }

  #count(change: number): void {
    const now = performance.now();
    this.done.seconds += (Math.min(this.#running, this.threads) * (now - this.#since)) / 1000;
    this.#since = now;
    this.#running += change;
  }
}
