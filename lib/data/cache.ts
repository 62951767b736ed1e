import { tmpdir } from 'node:os';
import type { NativeAddon, PixelStoreHandle } from '../addon/native.js';
import { checkArgument, checkOptions, optionTable, type OptionTable } from '../arguments.js';
import { parseConfig } from '../config/config.js';
import type { Device } from '../device.js';
import { checkSignal, LgdError } from '../errors.js';
import { held } from '../lifetime.js';
import { checkNumber, checkWhole } from '../number-limits.js';
import { decodeAll, listed, streamed, type CacheProgress, type Decoded, type Undecoded } from './decode-all.js';
import type { BrokenImage } from './decode.js';
import type { PackFile } from './pack/reader.js';
import { checkSource, type ImageBytes, type ImageSource } from './sources.js';

/**
 * Pixels of a batch, ready for {@link NativeAddon.augment} under the data set's own indices until they are released.
 */
export interface PreparedImages {
  store: PixelStoreHandle;
  /**
   * Which image's pixels each one has, where not all have their own: one that cannot be decoded has those of its
   * stand-in.
   */
  shown?: Int32Array | undefined;
  /** Gives the pixels back, once the work on them is done. */
  release(): void;
}

/** How images are decoded and where they are kept. */
export interface ImageCacheOptions {
  /** What will take views of them. */
  device: Device;
  /** Side in pixels of the views that will be taken from the cache. */
  resolution: number;
  /**
   * Images are kept with a short side of ceil(resolution * margin) pixels; smaller ones as they are. 1 or more
   * (default: that of `data.margin`, 1.25).
   */
  margin?: number | undefined;
  /**
   * Decoded bytes kept in memory; the rest goes to a memory-mapped file (default: that of `data.cacheMemory`, 2 GiB).
   */
  memoryLimitBytes?: number | undefined;
  /**
   * Existing folder of that file; it has no name there and goes with the process (default: the system's folder for
   * temporary files).
   */
  spillFolder?: string | undefined;
  /** Share of images, 0 to 1, that may be broken (default: that of `data.maxBrokenShare`, 0.05). */
  maxBrokenShare?: number | undefined;
  /** Colour behind transparent pixels (default white). */
  background?: string | undefined;
  /**
   * Milliseconds between attempts to read an image where the system fails, and not the file (default 100, 300, 1000,
   * 3000).
   */
  readPauses?: readonly number[] | undefined;
  signal?: AbortSignal | undefined;
  /** Called about ten times a second, and at the end. */
  onProgress?: ((progress: CacheProgress) => void) | undefined;
}

export const cacheOptions = optionTable<ImageCacheOptions>()(
  'device resolution margin? memoryLimitBytes? spillFolder? maxBrokenShare? background? readPauses? signal? onProgress?',
);

type Defaulted = 'margin' | 'memoryLimitBytes' | 'spillFolder' | 'maxBrokenShare';

/** Options with none left out that has a default. */
export type CacheSettings<Options extends Partial<ImageCacheOptions> = ImageCacheOptions> = Omit<Options, Defaulted> &
  Required<{ [Name in Defaulted]: NonNullable<ImageCacheOptions[Name]> }>;

/** What {@link ImageCache.fromStream} takes besides. */
export interface StreamOptions extends ImageCacheOptions {
  /** What labels are indices into; all images of a stream have a label, or none has. */
  classNames?: readonly string[] | undefined;
}

const streamOptionTable = { ...cacheOptions, classNames: 'optional' } satisfies OptionTable<StreamOptions>;

/**
 * Images decoded once, in native memory. Index i of the cache is image `sourceIndex[i]` of the source; broken images
 * are left out, the order is the source's whatever order they were decoded in.
 */
export class ImageCache implements Disposable {
  /** Of each image, as the source calls it. */
  readonly ids: readonly string[];
  /** Index into {@link classNames} of each image; undefined for unlabelled images. */
  readonly labels: Int32Array | undefined;
  readonly classNames: readonly string[] | undefined;
  /** Place of each image in the source, by which draws are named. */
  readonly sourceIndex: Int32Array;
  /** Bytes of each image's file. */
  readonly fileBytes: Float64Array;
  readonly broken: readonly BrokenImage[];
  /** Short side in pixels of the images kept, at most. */
  readonly shortSide: number;
  /** Bytes of pixels: in memory, spilled, and in a pack. */
  readonly bytes: number;
  /** Bytes of pixels in the spill file. */
  readonly spilledBytes: number;
  /** Bytes of pixels that lie in a pack. */
  readonly mappedBytes: number;
  readonly #addon: NativeAddon;
  #store: PixelStoreHandle | undefined;

  private constructor(
    store: PixelStoreHandle,
    options: CacheSettings,
    { ids, places, labels, fileBytes, broken }: Decoded,
    classNames: readonly string[] | undefined,
  ) {
    const { addon } = options.device;
    this.#addon = addon;
    this.#store = store;
    this.sourceIndex = Int32Array.from(places);
    this.fileBytes = Float64Array.from(fileBytes);
    this.ids = ids;
    this.labels = labels && Int32Array.from(labels);
    this.classNames = labels && classNames;
    this.broken = broken;
    this.shortSide = shortSideOf(options);
    const { bytes, spilledBytes, mappedBytes } = addon.pixelStoreInfo(store);
    this.bytes = bytes + mappedBytes;
    this.spilledBytes = spilledBytes;
    this.mappedBytes = mappedBytes;
  }

  get length(): number {
    return this.sourceIndex.length;
  }

  /** The native pixel store, for {@link NativeAddon.augment}. @throws LgdError DISPOSED */
  get store(): PixelStoreHandle {
    return held(this.#store, `the image cache (${this.length} images)`, 'Build it again with ImageCache.build()');
  }

  /** Tells of images that a batch will need soon, so that those of a mapped file are read by then. */
  prepare(images: Int32Array): PreparedImages {
    this.#addon.readAhead(this.store, images);
    return { store: this.store, release: () => undefined };
  }

  /** Frees the pixels, once the work queued on them is done. */
  dispose(): void {
    if (this.#store !== undefined) this.#addon.release(this.#store);
    this.#store = undefined;
  }

  /** For `using`: {@link dispose}. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  /**
   * Decodes a source. Images that cannot be read or decoded are skipped and listed in {@link broken}.
   * @throws LgdError BAD_DATASET (no image could be decoded), TOO_MANY_BROKEN_IMAGES, BAD_FILE (the system fails to
   *   read), NOT_WRITABLE (the spill file cannot grow), OUT_OF_MEMORY, BAD_OPTION, DEPENDENCY_MISSING, ABORTED
   */
  static async build(source: ImageSource, given: ImageCacheOptions): Promise<ImageCache> {
    checkOptions(given, 'ImageCache.build()', cacheOptions);
    const options = withDefaults(given);
    checkCacheOptions(options);
    checkSource(source);
    const { root, ids, classNames, pack, places } = source;
    if (pack !== undefined) checkPackedSize(pack, options);
    if (pack?.index.recipe.kind === 'raw') return ImageCache.#map(source, pack, options);
    return ImageCache.#fill(listed(source), options, { root, total: ids.length, classNames, places });
  }

  /**
   * Decodes images that come one after the other, such as from an archive, a database or a network:
   * `{ id, bytes, label? }`, in any format that a file may have. The stream is read once, in order, and never further
   * ahead than the decoder needs (four images a decoding thread); what is kept is pixels, in memory up to the limit and
   * in the spill file past it. So a stream of any length trains for many epochs, and needs to be read only once.
   *
   * Places of images are their numbers in the stream: the same stream gives the same augmentations, and a run can be
   * resumed with it. As its length is not known, `total` of the progress is what has come so far, and the share of
   * broken images is judged over that, from the 50th broken one on and at the end.
   * @throws LgdError as {@link build}; BAD_DATASET also where the stream fails (its error is the cause) or its labels
   *   do not fit
   */
  static async fromStream(
    images: AsyncIterable<ImageBytes> | Iterable<ImageBytes>,
    streamOptions: StreamOptions,
  ): Promise<ImageCache> {
    checkOptions(streamOptions, 'ImageCache.fromStream()', streamOptionTable);
    const { classNames, ...options } = withDefaults(streamOptions);
    checkCacheOptions(options);
    if (
      typeof images !== 'object' ||
      images === null ||
      !(Symbol.asyncIterator in images || Symbol.iterator in images)
    ) {
      throw new LgdError('BAD_DATASET', 'this is no stream of images.', {
        found: images,
        allowed: 'an iterable or async iterable of { id, bytes, label? }',
        mend: 'Call a generator function, and give what it returns',
      });
    }
    return ImageCache.#fill(streamed(images, classNames, options.signal), options, {
      root: '(stream)',
      total: undefined,
      classNames,
    });
  }

  static async #fill(
    images: AsyncIterable<Undecoded>,
    options: CacheSettings,
    {
      root,
      total,
      classNames,
      places,
    }: { root: string; total: number | undefined; classNames?: readonly string[]; places?: Int32Array },
  ): Promise<ImageCache> {
    const { addon } = options.device;
    const { memoryLimitBytes, spillFolder, background } = options;
    const store = addon.makePixelStore({ memoryLimitBytes, spillFolder });
    try {
      const decoded = await decodeAll(images, {
        ...options,
        root,
        total,
        decode: { shortSide: shortSideOf(options), background },
        keep: ({ width, height, pixels }) => addon.appendPixels(store, width, height, pixels),
      });
      if (places !== undefined) decoded.places = decoded.places.map((index) => places[index]!);
      return new ImageCache(store, options, decoded, classNames);
    } catch (error) {
      addon.release(store);
      throw error;
    }
  }

  /** Raw pixels of a pack stay where they are. */
  static #map({ ids, labels, classNames }: ImageSource, pack: PackFile, options: CacheSettings): ImageCache {
    const { addon } = options.device;
    const store = addon.makePixelStore({ memoryLimitBytes: 0, spillFolder: '' });
    try {
      pack.mapInto(store, addon);
      const { places, recipe, fileBytes, bytes } = pack.index;
      // Of the very pixels that decoding the files gives, a run may take one for the other.
      const sizes = recipe.shortSide === shortSideOf(options) ? fileBytes : bytes;
      const cache = new ImageCache(
        store,
        options,
        { ids: [...ids], places: [...places], labels: labels && [...labels], fileBytes: [...sizes], broken: [] },
        classNames,
      );
      options.onProgress?.({ done: ids.length, total: ids.length, broken: 0 });
      return cache;
    } catch (error) {
      addon.release(store);
      throw error;
    }
  }
}

export function shortSideOf({ resolution, margin }: Pick<CacheSettings, 'resolution' | 'margin'>): number {
  return Math.ceil(resolution * margin - 1e-9); // 224 * (256 / 224) is 256
}

/** Fewer pixels than the input has make every view a blur. @throws LgdError BAD_DATASET */
export function checkPackedSize(
  { path, index }: PackFile,
  { resolution }: Pick<ImageCacheOptions, 'resolution'>,
): void {
  const { kind, shortSide } = index.recipe;
  if (kind === 'original' || shortSide >= resolution) return;
  throw new LgdError(
    'BAD_DATASET',
    `the images of ${path} were packed at a short side of ${shortSide} pixels, fewer than the input's ${resolution}.`,
    {
      option: 'data.resolution',
      found: resolution,
      allowed: `to ${shortSide}`,
      mend: 'Pack them at a larger --short-side, or lower data.resolution',
    },
  );
}

/** Takes the configuration's defaults for what is left out, and the system's folder for temporary files. */
export function withDefaults<Options extends Partial<ImageCacheOptions>>(options: Options): CacheSettings<Options> {
  const { margin, cacheMemory, maxBrokenShare } = parseConfig({}).data;
  const given = Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as Options;
  return { margin, memoryLimitBytes: cacheMemory * 2 ** 20, spillFolder: tmpdir(), maxBrokenShare, ...given };
}

/** Looks at the values, and whether there is a device. @throws LgdError BAD_OPTION */
export function checkCacheOptions(options: CacheSettings): void {
  checkArgument('device', options.device);
  checkCacheValues(options);
}

/** @throws LgdError BAD_OPTION */
export function checkCacheValues({
  resolution,
  margin,
  memoryLimitBytes,
  spillFolder,
  maxBrokenShare,
  signal,
}: CacheSettings<Omit<ImageCacheOptions, 'device'>>): void {
  checkSignal(signal);
  checkWhole('resolution', resolution);
  checkNumber('margin', margin, { least: 1 });
  if (memoryLimitBytes !== Infinity) checkNumber('memoryLimitBytes', memoryLimitBytes, { least: 0 });
  if (typeof spillFolder !== 'string')
    throw new LgdError('BAD_OPTION', 'not a path.', {
      option: 'spillFolder',
      found: spillFolder,
      allowed: 'a folder that is there',
    });
  checkNumber('maxBrokenShare', maxBrokenShare, { least: 0, most: 1 });
}
