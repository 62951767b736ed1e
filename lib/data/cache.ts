import { availableParallelism } from 'node:os';
import { LgdError, throwIfAborted } from '../errors.js';
import type { NativeAddon, PixelStoreHandle } from '../native.js';
import { decodeImage, type DecodedImage } from './decode.js';
import { importSharp } from './sharp.js';
import type { ImageSource } from './sources.js';

/** An image that could not be read or decoded. */
export interface BrokenImage {
  id: string;
  reason: string;
}

export interface CacheProgress {
  /** Images looked at so far, broken ones included. */
  done: number;
  total: number;
  broken: number;
}

export interface ImageCacheOptions {
  addon: NativeAddon;
  /** Side in pixels of the views that will be taken from the cache. */
  resolution: number;
  /** Images are kept with a short side of ceil(resolution * margin) pixels; smaller ones as they are. 1 or more. */
  margin: number;
  /** Decoded bytes kept in memory; the rest goes to a memory-mapped file. */
  memoryLimitBytes: number;
  /** Existing folder of that file; it has no name there and goes with the process. */
  spillFolder: string;
  /** Share of images, 0 to 1, that may be broken. */
  maxBrokenShare: number;
  /** Colour behind transparent pixels (default white). */
  background?: string;
  signal?: AbortSignal;
  /** Called about ten times a second, and at the end. */
  onProgress?: (progress: CacheProgress) => void;
}

/** Below this many, broken images alone do not stop the decoding before one good image was seen. */
const fewBroken = 50;
const progressMilliseconds = 100;

type Outcome = { image: DecodedImage } | { reason: string };

/**
 * Images decoded once, in native memory. Index i of the cache is image `sourceIndex[i]` of the source; broken images are left out, the order is
 * the source's whatever order they were decoded in.
 */
export class ImageCache implements Disposable {
  readonly ids: readonly string[];
  readonly labels: Int32Array | undefined;
  readonly classNames: readonly string[] | undefined;
  readonly sourceIndex: Int32Array;
  readonly broken: readonly BrokenImage[];
  /** Short side in pixels of the images kept, at most. */
  readonly shortSide: number;
  readonly bytes: number;
  readonly spilledBytes: number;
  readonly #addon: NativeAddon;
  #store: PixelStoreHandle | undefined;

  private constructor(source: ImageSource, store: PixelStoreHandle, options: ImageCacheOptions, kept: Int32Array, broken: BrokenImage[]) {
    this.#addon = options.addon;
    this.#store = store;
    this.sourceIndex = kept;
    this.ids = Array.from(kept, (index) => source.ids[index]!);
    this.labels = source.labels && kept.map((index) => source.labels![index]!);
    this.classNames = source.classNames;
    this.broken = broken;
    this.shortSide = shortSideOf(options);
    const { bytes, spilledBytes } = options.addon.pixelStoreInfo(store);
    this.bytes = bytes;
    this.spilledBytes = spilledBytes;
  }

  get length(): number {
    return this.sourceIndex.length;
  }

  /** The native pixel store, for {@link NativeAddon.augment}. @throws LgdError DISPOSED */
  get store(): PixelStoreHandle {
    if (this.#store === undefined) throw new LgdError('DISPOSED', `the image cache (${this.length} images) was disposed of.`, { mend: 'Build it again with ImageCache.build()' });
    return this.#store;
  }

  /** Frees the pixels, once the work queued on them is done. */
  dispose(): void {
    if (this.#store !== undefined) this.#addon.release(this.#store);
    this.#store = undefined;
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /**
   * Decodes a source. Images that cannot be read or decoded are skipped and listed in {@link broken}.
   * @throws LgdError BAD_DATASET (no image could be decoded), TOO_MANY_BROKEN_IMAGES, NOT_WRITABLE (the spill file cannot grow), OUT_OF_MEMORY,
   *   BAD_OPTION, DEPENDENCY_MISSING, ABORTED
   */
  static async build(source: ImageSource, options: ImageCacheOptions): Promise<ImageCache> {
    checkOptions(options);
    const store = options.addon.makePixelStore({ memoryLimitBytes: options.memoryLimitBytes, spillFolder: options.spillFolder });
    try {
      const { kept, broken } = await decodeAll(source, store, options);
      return new ImageCache(source, store, options, kept, broken);
    } catch (error) {
      options.addon.release(store);
      throw error;
    }
  }
}

function shortSideOf({ resolution, margin }: ImageCacheOptions): number {
  return Math.ceil(resolution * margin - 1e-9); // 224 * (256 / 224) is 256
}

function checkOptions({ resolution, margin, memoryLimitBytes, maxBrokenShare }: ImageCacheOptions): void {
  const check = (good: boolean, option: string, found: number, allowed: string): void => {
    if (!good) throw new LgdError('BAD_OPTION', 'out of range.', { option, found, allowed });
  };
  check(Number.isInteger(resolution) && resolution >= 1, 'resolution', resolution, 'a whole number from 1');
  check(margin >= 1 && Number.isFinite(margin), 'margin', margin, '1 or more');
  check(memoryLimitBytes >= 0, 'memoryLimitBytes', memoryLimitBytes, '0 or more');
  check(maxBrokenShare >= 0 && maxBrokenShare <= 1, 'maxBrokenShare', maxBrokenShare, '0 to 1');
}

/** Pictures in the decoder at once: sharp works on libuv's threads, of which there are four unless the environment says otherwise. */
function decoderThreads(): number {
  const threads = Number(process.env['UV_THREADPOOL_SIZE'] ?? 4);
  return Math.max(1, Math.min(availableParallelism(), Number.isInteger(threads) && threads > 0 ? threads : 4));
}

async function decodeAll(source: ImageSource, store: PixelStoreHandle, options: ImageCacheOptions): Promise<{ kept: Int32Array; broken: BrokenImage[] }> {
  const total = source.ids.length;
  const parallel = decoderThreads();
  const kept: number[] = [];
  const broken: BrokenImage[] = [];
  const running: Promise<Outcome>[] = [];
  let started = 0;
  let reported = 0;
  const sharp = await importSharp();
  const previous = sharp.concurrency();
  sharp.concurrency(Math.max(1, Math.floor(availableParallelism() / parallel))); // many pictures at once beat many threads on one
  try {
    for (let done = 0; done < total; ++done) {
      throwIfAborted(options.signal, 'decoding the images');
      // A few more than the decoder takes: results are stored in the source's order, and one slow picture must not starve it.
      while (started < total && started < done + 4 * parallel) running.push(decodeOne(source, started++, options));
      const outcome = await running.shift()!;
      if ('image' in outcome) {
        options.addon.appendPixels(store, outcome.image.width, outcome.image.height, outcome.image.pixels);
        kept.push(done);
      } else {
        broken.push({ id: source.ids[done]!, reason: outcome.reason });
        if (broken.length > options.maxBrokenShare * total && (kept.length > 0 || broken.length >= fewBroken)) {
          throw tooManyBroken(broken, done + 1, total, options.maxBrokenShare);
        }
      }
      const last = done + 1 === total;
      if (last || performance.now() - reported >= progressMilliseconds) {
        reported = performance.now();
        options.onProgress?.({ done: done + 1, total, broken: broken.length });
      }
    }
  } finally {
    await Promise.all(running); // they never reject
    sharp.concurrency(previous);
  }
  if (kept.length === 0) throw noneDecoded(source, broken);
  if (broken.length > options.maxBrokenShare * total) throw tooManyBroken(broken, total, total, options.maxBrokenShare);
  return { kept: Int32Array.from(kept), broken };
}

async function decodeOne(source: ImageSource, index: number, options: ImageCacheOptions): Promise<Outcome> {
  try {
    const bytes = await source.read(index);
    return { image: await decodeImage(bytes, { shortSide: shortSideOf(options), background: options.background }) };
  } catch (error) {
    return { reason: error instanceof Error ? error.message : String(error) };
  }
}

function examples(broken: readonly BrokenImage[]): string {
  return broken.slice(0, 3).map(({ id, reason }) => `${id} (${reason.replace(/\.$/, '')})`).join(', ');
}

function tooManyBroken(broken: readonly BrokenImage[], seen: number, total: number, share: number): LgdError {
  return new LgdError('TOO_MANY_BROKEN_IMAGES', `${broken.length} of the first ${seen} images (${total} in all) cannot be decoded, such as ${examples(broken)}.`, {
    option: 'data.maxBrokenShare',
    allowed: `a share of at most ${share}`,
    mend: 'Mend or remove those files, or allow a larger share',
  });
}

function noneDecoded(source: ImageSource, broken: readonly BrokenImage[]): LgdError {
  return new LgdError('BAD_DATASET', `none of the ${source.ids.length} images of ${source.root} can be decoded, such as ${examples(broken)}.`, {
    mend: 'Check that these files are images',
  });
}
