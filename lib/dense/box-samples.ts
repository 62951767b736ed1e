/** Training batches of images and boxes. */
import { join } from 'node:path';
import { counted } from '../counted.js';
import type { Annotation, BoxedImages } from '../data/coco.js';
import { LgdError } from '../errors.js';
import { assignTargets, type DetectionTargets, type ViewBox } from './detection-targets.js';
import { imageSize, readListedFile, turnedFrom, type View } from './pixels.js';
import { type Drawing, drawViews } from './views.js';

/** A batch of views. */
export interface BoxBatch {
  /** [B,3,R,R], normalised. */
  pixels: Float32Array;
  targets: DetectionTargets;
}

/** Keeps these draws apart from other uses of the same seed. */
const viewKey = 0x64657465637420n;
/** Of a box that a view cuts, at least this share of its area must be inside. */
const leastVisible = 0.25;

/** A folder of images with their boxes. */
export interface Boxes {
  folder: string;
  set: BoxedImages;
  /** The options that name the folder and the annotations. */
  options: { folder: string; annotations: string };
}

/**
 * The bytes of an image, whose size must be the one that the annotations are of.
 * @throws LgdError FILE_NOT_FOUND, BAD_IMAGE, BAD_DATASET
 */
export async function readBoxed(
  { folder, options }: Boxes,
  { file, width, height }: BoxedImages['images'][number],
): Promise<{ image: Buffer; path: string }> {
  const path = join(folder, file);
  const image = await readListedFile(path, {
    option: options.folder,
    mend: 'Give the folder that the file names of the annotations start from',
  });
  const size = await imageSize(image, path);
  if (size.width === width && size.height === height) return { image, path };
  const { remark, mend } = await turnedFrom(image, { width, height }, 'Give the images that were annotated');
  throw new LgdError(
    'BAD_DATASET',
    `${path} has ${size.width} x ${size.height} pixels${remark}, the annotations say ${width} x ${height}.`,
    { option: options.annotations, mend },
  );
}

/**
 * Boxes that end where their images do, without those of which nothing is left.
 * @returns with a line on what was cut or left out, where anything was
 * @throws LgdError BAD_DATASET unless there is a box to be learnt, or to be found
 */
export function boxesInside(boxes: Boxes): { inside: Boxes; remarks: string[] } {
  const { set, options } = boxes;
  let [crowds, empty, cut] = [0, 0, 0];
  const images = set.images.map((image) => ({
    ...image,
    annotations: image.annotations.flatMap((annotation) => {
      const [x, y, w, h] = annotation.box;
      const [left, right] = [Math.max(x, 0), Math.min(x + w, image.width)];
      const [top, bottom] = [Math.max(y, 0), Math.min(y + h, image.height)];
      if (annotation.crowd) crowds++;
      if (!(right > left && bottom > top)) {
        if (!annotation.crowd) empty++;
        return [];
      }
      if (Math.max(left - x, x + w - right, top - y, y + h - bottom) > 1) cut++; // less is the writer's rounding
      const box: Annotation['box'] = [left, top, right - left, bottom - top];
      return [{ ...annotation, box }];
    }),
  }));
  if (!images.some(({ annotations }) => annotations.some(({ crowd }) => !crowd)))
    throw new LgdError(
      'BAD_DATASET',
      `no box of an object in ${counted(images.length, 'image')}: there are ${counted(crowds, 'crowd')}, and ${counted(empty, 'box', 'boxes')} without an area or outside of the image.`,
      { option: options.annotations, mend: 'Give the objects of these images boxes: x, y, width, height in pixels' },
    );
  const remarks = [
    ...(empty > 0
      ? [`${counted(empty, 'box is', 'boxes are')} left out: without an area, or outside of the image`]
      : []),
    ...(cut > 0 ? [`${counted(cut, 'box ends', 'boxes end')} at the image's edge instead of beyond it`] : []),
  ];
  return { inside: { ...boxes, set: { ...set, images } }, remarks };
}

/** Draws the views of a batch. */
export async function drawBoxBatch(from: Boxes, indices: Int32Array, drawing: Drawing): Promise<BoxBatch> {
  const boxes: ViewBox[][] = Array.from(indices, () => []);
  const read = async (index: number) => {
    const entry = from.set.images[index]!;
    return { ...entry, ...(await readBoxed(from, entry)) };
  };
  const pixels = await drawViews(indices, drawing, viewKey, read, ({ annotations }, view, place) => {
    boxes[place] = annotations.flatMap((annotation) => viewBox(annotation, view) ?? []);
  });
  return { pixels, targets: assignTargets(boxes, drawing.dense.resolution) };
}

/** A box as a view shows it, or undefined where too little of it is left. */
function viewBox(
  { label, crowd, box: [x, y, w, h] }: BoxedImages['images'][number]['annotations'][number],
  { part, width, height, flip }: View,
): ViewBox | undefined {
  const [scaleX, scaleY] = [width / part.width, height / part.height];
  const across = (value: number) => Math.min(Math.max((value - part.x) * scaleX, 0), width);
  const down = (value: number) => Math.min(Math.max((value - part.y) * scaleY, 0), height);
  const [left, right, y0, y1] = [across(x), across(x + w), down(y), down(y + h)];
  const whole = w * scaleX * h * scaleY;
  if (!(right - left >= 1) || !(y1 - y0 >= 1) || (right - left) * (y1 - y0) < leastVisible * whole) return undefined;
  return flip
    ? { label, crowd, x0: width - right, x1: width - left, y0, y1 }
    : { label, crowd, x0: left, x1: right, y0, y1 };
}
