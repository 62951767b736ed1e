import { statfs } from 'node:fs/promises';
import { checkOptions, checkWord, type OptionTable } from '../arguments.js';
import { throwIfAborted } from '../errors.js';
import {
  cacheOptions,
  checkCacheValues,
  ImageCache,
  shortSideOf,
  withDefaults,
  type ImageCacheOptions,
} from './cache.js';
import { inOrder } from './in-order.js';
import { importSharp } from './sharp.js';
import { sampleSource, type ImageSource } from './sources.js';
import { StreamedImages } from './streamed.js';

/** When images are decoded: all before training, each when a batch needs it, or whichever fits. */
export type CacheMode = 'auto' | 'all' | 'stream';
const modes: readonly CacheMode[] = ['auto', 'all', 'stream'];

const modeOptions = { ...cacheOptions, device: 'optional' } satisfies OptionTable<Parameters<typeof chooseMode>[2]>;

const [sampledImages, sampledAtOnce] = [64, 8];

/**
 * Images of a source for training or evaluation. Raw pixels of a pack stay in their file whatever the mode. The signal
 * stops the opening; images that are streamed are read on after it, until whoever takes batches of them is stopped.
 * @throws LgdError ABORTED, and as {@link ImageCache.build} and {@link StreamedImages.open}
 */
export async function openDataset(
  source: ImageSource,
  mode: CacheMode,
  options: ImageCacheOptions,
): Promise<ImageCache | StreamedImages> {
  checkOptions(options, 'openDataset()', cacheOptions);
  checkWord(mode, 'mode', modes);
  const chosen = source.pack?.index.recipe.kind === 'raw' ? 'all' : await chooseMode(source, mode, options);
  throwIfAborted(options.signal, 'opening the images');
  return chosen === 'all'
    ? ImageCache.build(source, options)
    : StreamedImages.open(source, { ...options, signal: undefined });
}

/**
 * 'auto' becomes 'all' where the decoded images, of which a few are looked at, fit the memory limit and half of the
 * free space on the spill folder's disk; else 'stream'. A source that can be read in order only is decoded before.
 * @throws LgdError BAD_OPTION, DEPENDENCY_MISSING, ABORTED
 */
export async function chooseMode(
  source: ImageSource,
  mode: CacheMode,
  options: Omit<ImageCacheOptions, 'device'> & Partial<ImageCacheOptions>,
): Promise<'all' | 'stream'> {
  checkOptions(options, 'chooseMode()', modeOptions);
  checkWord(mode, 'mode', modes);
  const settings = withDefaults(options);
  checkCacheValues(settings);
  if (mode !== 'auto') return mode;
  if (source.sequential) return 'all';
  const { memoryLimitBytes, spillFolder, signal } = settings;
  const bytes = await decodedBytes(source, shortSideOf(settings), signal);
  if (bytes <= memoryLimitBytes) return 'all';
  const disk = await statfs(spillFolder).catch(() => undefined);
  const free = disk === undefined ? 0 : disk.bavail * disk.bsize;
  return bytes <= memoryLimitBytes + free / 2 ? 'all' : 'stream';
}

/** About how many bytes the decoded images will have. @throws LgdError DEPENDENCY_MISSING, ABORTED */
export async function decodedBytes(source: ImageSource, shortSide: number, signal?: AbortSignal): Promise<number> {
  const bytesOf = (width: number, height: number) => {
    const scale = Math.min(1, shortSide / Math.min(width, height));
    return 3 * width * height * scale ** 2;
  };
  if (source.pack !== undefined) {
    const { widths, heights } = source.pack.index;
    return widths.reduce((sum, width, i) => sum + bytesOf(width, heights[i]!), 0);
  }
  const sharp = await importSharp();
  const some = sampleSource(source, sampledImages);
  const sizeOf = async (i: number) => {
    const { width, height } = await sharp(await some.read(i)).metadata();
    return bytesOf(width, height);
  };
  const orUnknown = (i: number) => sizeOf(i).catch(() => undefined); // a broken one tells nothing
  const known: number[] = [];
  for await (const size of inOrder(some.ids.keys(), sampledAtOnce, orUnknown, {
    signal,
    what: 'looking at the images',
  }))
    if (size !== undefined) known.push(size);
  return known.length === 0 ? 0 : (source.ids.length * known.reduce((sum, size) => sum + size, 0)) / known.length;
}
