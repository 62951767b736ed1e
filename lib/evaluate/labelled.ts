/** Two labelled folders of the same classes: one to learn from, one to be judged on. */
import { realpath } from 'node:fs/promises';
import { resolve } from 'node:path';
import type { Config } from '../config/config.js';
import type { ImageCache } from '../data/cache.js';
import { openDataset } from '../data/open-dataset.js';
import { readAhead, type PreparableImages } from '../data/read-ahead.js';
import type { ImageSource } from '../data/sources.js';
import type { StreamedImages } from '../data/streamed.js';
import type { Device } from '../device.js';
import { LgdError, throwIfAborted } from '../errors.js';
import { emptyClassFolders, labelsAmong } from './classes.js';

/** What is read of labelled images: an {@link ImageCache}, or images that are decoded as batches need them. */
export type LabelledSet = Pick<ImageCache, 'length' | 'ids' | 'labels' | 'classNames' | 'sourceIndex'> &
  Partial<Pick<StreamedImages, 'decoded'>> &
  PreparableImages;

export interface LabelledImages {
  train: LabelledSet;
  test: LabelledSet;
  /** In the order of the images to learn from; labels of both are indices into them. */
  classNames: readonly string[];
}

export interface LabelledOptions {
  device: Device;
  /** Side of the views. */
  resolution: number;
  /** Of the images to learn from, which may be cropped. */
  margin: number;
  signal: AbortSignal | undefined;
  onProgress: (done: number, total: number) => void;
}

/**
 * `evaluate.train` and `evaluate.data`, listed; labels of both are indices into the class names of `evaluate.train`.
 * @param open lists the images of a folder that this option names
 * @throws LgdError BAD_CONFIG, BAD_DATASET, CLASS_MISMATCH
 */
export async function openLabelled(
  { evaluate: { train, data } }: Config,
  open: (folder: string, option: string) => Promise<ImageSource>,
): Promise<{ train: ImageSource; test: ImageSource }> {
  const openGiven = (folder: string | undefined, option: string, mend: string) => {
    if (folder === undefined) throw new LgdError('BAD_CONFIG', 'is needed for this protocol.', { option, mend });
    return open(folder, option);
  };
  const found = {
    train: await openGiven(
      train,
      'evaluate.train',
      'Give a folder of class folders with labelled images to learn from',
    ),
    test: await openGiven(data, 'evaluate.data', 'Give a folder of class folders to evaluate on'),
  };
  const [learnt, judged] = [found.train.classNames!, found.test.classNames!];
  const without = (names: readonly string[], others: ReadonlySet<string>) => names.filter((name) => !others.has(name));
  const differing = [...without(learnt, new Set(judged)), ...without(judged, new Set(learnt))];
  const [option, mend] = ['evaluate.train', 'Give two folders with the same class folders'];
  if (differing.length === 0) {
    const remarks = [
      ...(found.test.remarks ?? []),
      ...(await remarkIfSame({ option, learnt: found.train, judged: found.test })),
    ];
    return {
      train: found.train,
      test: {
        ...found.test,
        labels: labelsAmong(found.test, learnt, { option, mend }),
        classNames: learnt,
        ...(remarks.length > 0 && { remarks }),
      },
    };
  }
  const list = (names: readonly string[]) =>
    `${names
      .slice(0, 10)
      .map((name) => JSON.stringify(name))
      .join(', ')}${names.length > 10 ? ', ...' : ''}`;
  const empty = await Promise.all(
    [found.train, found.test].map(async (source) => {
      const names = (await emptyClassFolders(source)).filter((name) => differing.includes(name));
      return names.length === 0 ? [] : [`; in ${source.root} there are folders without images: ${list(names)}`];
    }),
  );
  throw new LgdError(
    'CLASS_MISMATCH',
    `the classes of ${found.train.root} and ${found.test.root} differ; in one of them alone: ${list(differing)}${empty.flat().join('')}.`,
    {
      option,
      mend: empty.flat().length === 0 ? mend : 'Put images into these folders, or take the classes out of both',
      found: `${learnt.length} classes`,
      allowed: `the ${judged.length} classes of evaluate.data`,
    },
  );
}

/** Where images lie, links followed; as it was given where no single file or folder is named so. */
async function placeOf({ root }: ImageSource): Promise<string> {
  return realpath(root).catch(() => resolve(root));
}

/** Said where what is judged was learnt by heart: the images that an option names are those of `evaluate.data`. */
export async function remarkIfSame({
  option,
  learnt,
  judged,
}: {
  option: string;
  learnt: ImageSource;
  judged: ImageSource;
}): Promise<string[]> {
  if ((await placeOf(learnt)) !== (await placeOf(judged))) return [];
  return [
    `${option} and evaluate.data are the same images, ${judged.root}: each is judged by its own label, so these scores say nothing of other images`,
  ];
}

/** Decodes both. @throws LgdError TOO_MANY_BROKEN_IMAGES, BAD_DATASET, ABORTED */
export async function decodeLabelled(
  sources: { train: ImageSource; test: ImageSource },
  { data }: Config,
  { device, resolution, margin, signal, onProgress }: LabelledOptions,
): Promise<LabelledImages & Disposable> {
  const total = sources.train.ids.length + sources.test.ids.length;
  const build = (source: ImageSource, more: { margin: number; before: number }) =>
    openDataset(source, data.cache, {
      device,
      resolution,
      margin: more.margin,
      memoryLimitBytes: data.cacheMemory * 2 ** 20,
      spillFolder: data.spillFolder,
      maxBrokenShare: data.maxBrokenShare,
      signal,
      onProgress: ({ done }) => onProgress(more.before + done, total),
    });
  const train = await build(sources.train, { margin, before: 0 });
  try {
    const test = await build(sources.test, { margin: 1, before: sources.train.ids.length });
    return {
      train,
      test,
      classNames: train.classNames!,
      [Symbol.dispose]: () => {
        train.dispose();
        test.dispose();
      },
    };
  } catch (error) {
    train.dispose();
    throw error;
  }
}

const imagesAtOnce = 256;
const batchesAhead = 2;

/**
 * Indices of the images that can be decoded. Where images are decoded as batches need them, each is decoded here once
 * to know.
 * @throws LgdError TOO_MANY_BROKEN_IMAGES, BAD_DATASET, ABORTED
 */
export async function decodableOf(
  set: LabelledSet,
  { signal, onProgress }: Pick<LabelledOptions, 'signal' | 'onProgress'>,
): Promise<Int32Array> {
  const all = Int32Array.from({ length: set.length }, (_, index) => index);
  if (set.decoded === undefined) return all;
  const kept: number[] = [];
  function* batches(): Generator<{ images: Int32Array }, void, undefined> {
    for (let from = 0; from < all.length; from += imagesAtOnce)
      yield { images: all.subarray(from, from + imagesAtOnce) };
  }
  for await (const { images, shown = images, release } of readAhead(set, batches(), batchesAhead, signal)) {
    release();
    throwIfAborted(signal, 'decoding the images');
    kept.push(...images.filter((image, i) => shown[i] === image));
    onProgress(images.at(-1)! + 1, all.length);
  }
  return Int32Array.from(kept);
}
