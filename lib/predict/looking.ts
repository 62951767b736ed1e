/** Images that are looked at once, in their order, without labels: what classifying and embedding them have in common. */
import { checkArgument } from '../arguments.js';
import type { Config } from '../config/config.js';
import type { BrokenImage } from '../data/decode.js';
import { isImageName, openImageFiles } from '../data/image-files.js';
import { openDataset } from '../data/open-dataset.js';
import { openImages } from '../data/open-images.js';
import type { ImageSource } from '../data/sources.js';
import type { Device } from '../device.js';
import { LgdError } from '../errors.js';
import { embeddedAtOnce, ownedEmbedder, type Embedder } from '../evaluate/embed.js';
import { tryFolder } from '../files/make-folder.js';
import type { Precision } from '../models/compiled.js';
import { hasHead } from '../models/student.js';
import { readStudent, studentOf } from '../runs/student-file.js';

/**
 * What to look at: a folder of images at any depth, a pack, tar shards, CIFAR or parquet files; an image file, or an
 * array of these; or a source as {@link openImages} and {@link imagesFromBuffers} give it.
 */
export type ImagesGiven = string | readonly string[] | ImageSource;

/** Where the images were looked at, and which of them could not be. */
export interface Looked {
  /** Ids of the N images that could be decoded, in order; of a folder's their paths below it. */
  ids: readonly string[];
  /** Those that could not. */
  broken: readonly BrokenImage[];
  /** What was left out on opening the images and why, a line each. */
  remarks: readonly string[];
}

/** @throws LgdError as {@link openImages} and {@link openImageFiles} */
export async function openGiven(images: ImagesGiven, signal: AbortSignal | undefined): Promise<ImageSource> {
  if (typeof images === 'string') return await openGiven([images], signal);
  if (!Array.isArray(images)) {
    checkArgument('source', images, 'images');
    return images as ImageSource;
  }
  const [first, ...others] = images as readonly string[];
  const isPlace = typeof first === 'string' && others.length === 0 && !isImageName(first);
  return isPlace ? await openImages(first, { signal }) : await openImageFiles(images as readonly string[]);
}

/** A student's file. @throws LgdError as {@link readStudent}; BAD_MODEL for one without its projection head */
export async function readWithHead(path: string): ReturnType<typeof readStudent> {
  const content = await readStudent(path);
  if (hasHead(content.info, content.weights)) return content;
  throw new LgdError('BAD_MODEL', `${content.file} has no projection head, so it gives no embeddings.`, {
    mend: 'Export the student with its head',
  });
}

/** A student that embeds `most` images, or as many as fit, at once. @throws LgdError OUT_OF_MEMORY */
export function studentEmbedder(
  content: Awaited<ReturnType<typeof readStudent>>,
  device: Device,
  { most, precision }: { most: number; precision: Precision | undefined },
): Embedder {
  const { resolution } = content.info;
  const batch = embeddedAtOnce(most, resolution);
  return ownedEmbedder(studentOf(content, device).compile({ batch, resolution, precision, training: false }));
}

/**
 * Looks at all images of a source. They are decoded when their turn comes and forgotten; what can be read in its order
 * only, such as tar shards, is decoded before.
 * @param each is given them, and tells of each that it has seen with `seen`
 * @throws LgdError as {@link openDataset}
 */
export async function lookAtAll(
  source: ImageSource,
  {
    device,
    resolution,
    config: { data },
    signal,
    onDecoded,
  }: {
    device: Device;
    resolution: number;
    config: Config;
    signal: AbortSignal | undefined;
    onDecoded: (done: number, total: number) => void;
  },
  each: (images: Awaited<ReturnType<typeof openDataset>>, seen: (some: Int32Array) => void) => Promise<void>,
): Promise<Looked> {
  const mode = source.sequential ? 'all' : 'stream';
  const removeEmpty =
    mode === 'all' && data.spillFolder !== undefined
      ? await tryFolder(data.spillFolder, { hold: true, option: 'data.spillFolder' })
      : undefined;
  try {
    using images = await openDataset(source, mode, {
      device,
      resolution,
      margin: 1,
      memoryLimitBytes: data.cacheMemory * 2 ** 20,
      spillFolder: data.spillFolder,
      maxBrokenShare: 1, // the others are wanted all the same
      signal,
      onProgress: ({ done, total }) => onDecoded(done, total),
    });
    const ids: string[] = [];
    await each(images, (some) => {
      for (const image of some) ids.push(images.ids[image]!);
    });
    return { ids, broken: images.broken, remarks: source.remarks ?? [] };
  } finally {
    await removeEmpty?.();
  }
}
