/** How fast images come: from a source to augmented views, on a number of cores. */
import { availableParallelism } from 'node:os';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { checkOptions, checkTexts, optionTable } from '../arguments.js';
import { parseConfig, type Config, type ConfigInput } from '../config/config.js';
import { openDevice, type Device } from '../device.js';
import { LgdError, throwIfAborted } from '../errors.js';
import { Made } from '../lifetime.js';
import { clipMean, clipStd } from '../models/teachers/preprocessor.js';
import { ImageCache } from './cache.js';
import { BatchPlan } from './loader.js';
import { openImages } from './open-images.js';
import { readAhead } from './read-ahead.js';
import { decoderThreads } from './sharp.js';
import { StreamedImages } from './streamed.js';

/** How {@link measureData} goes about it. */
export interface MeasureDataOptions {
  /** Seconds for each measurement (default 2). */
  seconds?: number | undefined;
  signal?: AbortSignal | undefined;
}

const measureOptions = optionTable<MeasureDataOptions>()('seconds? signal?');

/** One measurement. */
export interface DataRow {
  source: string;
  /** 'files' that are decoded, or 'raw' pixels of a pack. */
  from: 'files' | 'raw';
  cores: number;
  images: number;
  /** By the clock: what else runs on the machine slows it down. */
  imagesPerSecond: number;
  /** By processor time of the whole process: images for each second that one core worked. */
  imagesPerCoreSecond: number;
  /** Milliseconds of processor time an image: decoding (or reading), and augmentation to the final view. */
  decodeMilliseconds: number;
  augmentMilliseconds: number;
  /** Milliseconds by which callbacks of the main thread were late, 99 of 100 times at most. */
  delayP99: number;
  /** What was left out on opening the images and why, a line each. */
  remarks: readonly string[];
}

const batchSize = 64;

/**
 * Measures sources on 1, 2, 4 ... and all cores: images in a random order, decoded as training decodes them, augmented
 * by the configuration's recipe to views of `data.resolution` (default 224) on the CPU. Decoding and augmentation take
 * turns, so that no more than the given number of cores works at a time.
 * @param paths anything that {@link openImages} opens
 * @throws LgdError of the sources; BAD_CONFIG, BAD_OPTION; BAD_DATASET (one that can be read in order only); ABORTED
 */
export async function* measureData(
  paths: readonly string[],
  input: ConfigInput,
  options: MeasureDataOptions = {},
): AsyncGenerator<DataRow, void, undefined> {
  checkOptions(options, 'measureData()', measureOptions);
  checkTexts(paths, 'paths', 'images to measure');
  const config = parseConfig(input);
  const { seconds = 2, signal } = options;
  for (const path of paths) {
    for (let cores = 1; ; cores = Math.min(2 * cores, availableParallelism())) {
      yield await measure(path, config, { cores, seconds, signal });
      if (cores === availableParallelism()) break;
    }
  }
}

async function measure(
  path: string,
  config: Config,
  { cores, seconds, signal }: { cores: number; seconds: number; signal: AbortSignal | undefined },
): Promise<DataRow> {
  if (cores > decoderThreads())
    throw new LgdError('BAD_OPTION', `images are decoded by ${decoderThreads()} threads.`, {
      option: 'UV_THREADPOOL_SIZE',
      found: decoderThreads(),
      allowed: `from ${cores}`,
      mend: `Set UV_THREADPOOL_SIZE=${availableParallelism()}`,
    });
  const source = await openImages(path, { signal });
  if (source.sequential)
    throw new LgdError(
      'BAD_DATASET',
      `the images of ${path} can be read in their order only, and are measured in a random one.`,
      { mend: 'Pack them (lgdistill pack), and measure the pack' },
    );
  using device = await openDevice('cpu', { threads: cores });
  const resolution = config.data.resolution ?? 224;
  const options = { device, resolution, margin: config.data.margin, maxBrokenShare: config.data.maxBrokenShare };
  const isRaw = source.pack?.index.recipe.kind === 'raw';
  using images = isRaw
    ? await ImageCache.build(source, options)
    : await StreamedImages.open(source, { ...options, threads: cores < decoderThreads() ? cores : undefined });
  // Its timer wakes the thread at every multiple of the resolution; what it reports includes that.
  const delay = monitorEventLoopDelay({ resolution: 10 });
  const timed = await timeBatches(images, config, {
    device,
    resolution,
    seconds,
    signal,
    onWarm: () => delay.enable(),
  });
  delay.disable();
  return {
    source: path,
    from: isRaw ? 'raw' : 'files',
    cores,
    images: timed.images,
    imagesPerSecond: (1000 * timed.images) / timed.elapsed,
    imagesPerCoreSecond: (1000 * timed.images) / (timed.decode + timed.augment),
    decodeMilliseconds: timed.decode / timed.images,
    augmentMilliseconds: timed.augment / timed.images,
    delayP99: Math.max(0, delay.percentile(99) / 1e6 - 10),
    remarks: source.remarks ?? [],
  };
}

interface TimeOptions {
  device: Device;
  resolution: number;
  seconds: number;
  signal: AbortSignal | undefined;
  onWarm: () => void;
}

async function timeBatches(
  images: ImageCache | StreamedImages,
  config: Config,
  { device, resolution, seconds, signal, onWarm }: TimeOptions,
): Promise<{ images: number; elapsed: number; decode: number; augment: number }> {
  const { addon, handle } = device;
  const count = Math.min(batchSize, images.length);
  using made = new Made();
  const views = made.add(addon.makeImages(handle, count, resolution, resolution, false), addon.release);
  const recipe = { ...config.augment, train: true, mean: clipMean, std: clipStd };
  const total = { images: 0, elapsed: 0, decode: 0, augment: 0 };
  const read = () => {
    const { user, system } = process.cpuUsage();
    return { clock: performance.now(), cpu: (user + system) / 1000 };
  };
  let isWarm = false;
  let from = read();
  // Nothing ahead: what comes next is decoded when this batch is done, and so never beside its augmentation.
  for await (const batch of readAhead(
    images,
    new BatchPlan(images, { batchSize: count, seed: config.seed }),
    0,
    signal,
  )) {
    const decoded = read();
    throwIfAborted(signal, 'the measurement');
    addon.augment(batch.store, recipe, batch, views);
    await device.synchronize();
    batch.release();
    const augmented = read();
    if (isWarm) {
      total.images += count;
      total.elapsed += augmented.clock - from.clock;
      total.decode += decoded.cpu - from.cpu;
      total.augment += augmented.cpu - decoded.cpu;
      if (total.elapsed >= 1000 * seconds) break;
    } else onWarm();
    isWarm = true;
    from = read();
  }
  return total;
}
