/** Training batches of images and masks: views drawn alike of both. */
import { join } from 'node:path';
import { classesOf, type MaskedImages } from '../data/mask-folders.js';
import { pngMaskSize, readPngMask } from '../data/png-mask.js';
import { LgdError, throwIfAborted } from '../errors.js';
import { imageSize, readListedFile, turnedFrom, type View } from './pixels.js';
import { type Drawing, drawViews } from './views.js';

/** A batch of views. */
export interface MaskBatch {
  /** [B,3,R,R], normalised. */
  pixels: Float32Array;
  /** Class of each pixel [B,R,R]; -1 for those that do not count. */
  labels: Int32Array;
  /** How many count. */
  counted: number;
}

/** Keeps these draws apart from other uses of the same seed. */
const viewKey = 0x64656e7365766965n;

/** The image and the mask of a pair, undecoded and decoded. @throws LgdError BAD_IMAGE, BAD_DATASET, FILE_NOT_FOUND */
export async function readPair(
  set: MaskedImages,
  index: number,
): Promise<{ image: Buffer; path: string; classes: Int16Array; width: number; height: number }> {
  const pair = set.pairs[index]!;
  const [path, maskPath] = [join(set.root, pair.image), join(set.root, pair.mask)];
  const read = (file: string) => readListedFile(file, { mend: 'Check the data set' });
  const [image, bytes] = await Promise.all([read(path), read(maskPath)]);
  const { width, height } = await imageSize(image, path);
  // before it is unpacked: a few hundred kilobytes may be gigabytes of labels
  const size = pngMaskSize(bytes, maskPath);
  if (size.width !== width || size.height !== height) {
    const { remark, mend } = await turnedFrom(image, size, 'Give each image a mask of its own size');
    throw new LgdError(
      'BAD_DATASET',
      `${maskPath} has ${size.width} x ${size.height} pixels, its image ${width} x ${height}${remark}.`,
      { mend },
    );
  }
  const { labels } = await readPngMask(bytes, maskPath);
  return { image, path, classes: classesOf(set, labels, maskPath), width, height };
}

/**
 * Reads masks until one has a pixel of a class, which is the first unless something is wrong.
 * @throws LgdError BAD_DATASET where none has, and as {@link readPair}; ABORTED
 */
export async function checkLabelled(set: MaskedImages, option: string, signal: AbortSignal | undefined): Promise<void> {
  for (let i = 0; i < set.pairs.length; i++) {
    throwIfAborted(signal, 'the search for a class in the masks');
    if ((await readPair(set, i)).classes.some((label) => label >= 0)) return;
  }
  throw new LgdError(
    'BAD_DATASET',
    `no pixel has a class: all of the ${set.pairs.length} masks of ${set.root} hold nothing but labels to be ignored.`,
    { option, mend: 'Give masks whose pixels are numbers of classes' },
  );
}

/** Draws the views of a batch. */
export async function drawMaskBatch(set: MaskedImages, indices: Int32Array, drawing: Drawing): Promise<MaskBatch> {
  const { resolution } = drawing.dense;
  const area = resolution * resolution;
  const labels = new Int32Array(indices.length * area).fill(-1);
  const pixels = await drawViews(
    indices,
    drawing,
    viewKey,
    (index) => readPair(set, index),
    ({ classes, width }, view, place) => {
      putLabels({ width, labels: classes }, labels.subarray(place * area, (place + 1) * area), view, resolution);
    },
  );
  let counted = 0;
  for (const label of labels) if (label >= 0) counted++;
  return { pixels, labels, counted };
}

/** Nearest labels of a view. */
function putLabels(
  { width, labels }: { width: number; labels: Int16Array },
  into: Int32Array,
  { part, flip, ...size }: View,
  resolution: number,
): void {
  const columns = Int32Array.from(
    { length: size.width },
    (_, x) => part.x + Math.floor(((flip ? size.width - 1 - x : x) + 0.5) * (part.width / size.width)),
  );
  for (let y = 0; y < size.height; y++) {
    const row = (part.y + Math.floor((y + 0.5) * (part.height / size.height))) * width;
    for (let x = 0; x < size.width; x++) into[y * resolution + x] = labels[row + columns[x]!]!;
  }
}
