/** Boxes in COCO's JSON format (cocodataset.org, "data format", object detection). */
import { createReadStream } from 'node:fs';
import { LgdError, systemErrorCode } from '../errors.js';
import { parseMembers } from './json-members.js';

/** A box as it was drawn by an annotator. */
export interface Annotation {
  /** Index into {@link BoxedImages.names}. */
  label: number;
  /** x, y, width, height in pixels; x and y of the upper left corner. */
  box: [number, number, number, number];
  /** Of the object itself, in pixels: what COCO sorts sizes by. */
  area: number;
  /** A crowd: neither a miss nor a false alarm. */
  crowd: boolean;
}

/** Images with boxes. */
export interface BoxedImages {
  /** K names, in the order of the file's category ids. */
  readonly names: readonly string[];
  /** The file's category id of each name. */
  readonly categoryIds: readonly number[];
  readonly images: readonly { id: number; file: string; width: number; height: number; annotations: readonly Annotation[] }[];
}

interface CocoFile {
  images: { id: number; file_name: string; width: number; height: number }[];
  annotations: { image_id: number; category_id: number; bbox: [number, number, number, number]; area?: number; iscrowd?: number }[];
  categories: { id: number; name: string }[];
}

/** What is kept of a file's lists: outlines of objects are most of it. */
const fields: Readonly<Record<keyof CocoFile, readonly string[]>> = {
  images: ['id', 'file_name', 'width', 'height'], annotations: ['image_id', 'category_id', 'bbox', 'area', 'iscrowd'], categories: ['id', 'name'],
};

/** @throws SyntaxError, and those of the file system; undefined where one of the lists is missing */
async function readLists(path: string): Promise<CocoFile | undefined> {
  const lists: CocoFile = { images: [], annotations: [], categories: [] };
  const found = await parseMembers(createReadStream(path, { highWaterMark: 2 ** 20 }), (key, member) => {
    if (!Object.hasOwn(fields, key)) return;
    const list = key as keyof CocoFile;
    lists[list].push(Object.fromEntries(fields[list].map((field) => [field, (member as Record<string, unknown> | null)?.[field]])) as never);
  });
  const isThere = (list: string) => Array.isArray((found as Record<string, unknown> | null)?.[list]);
  return Object.keys(fields).every(isThere) ? lists : undefined;
}

/**
 * Reads a COCO file. Images keep the file's order; those without boxes are there too.
 * @param option what its errors call it
 * @throws LgdError FILE_NOT_FOUND, BAD_DATASET naming the first entry at fault
 */
export async function readCoco(path: string, option = 'dense.annotations'): Promise<BoxedImages> {
  const bad = (why: string, found?: unknown) => new LgdError('BAD_DATASET', `${path} is not a COCO file of boxes: ${why}.`, { option, found, mend: 'Give a file like instances_train2017.json' });
  const file = await readLists(path).catch((cause: unknown) => {
    if (cause instanceof SyntaxError) throw bad(`it is not JSON (${cause.message})`);
    if (cause instanceof RangeError) throw bad(cause.message);
    if (systemErrorCode(cause) === 'ENOENT') throw new LgdError('FILE_NOT_FOUND', `there is no file ${path}.`, { option, mend: 'Check the path', cause });
    throw new LgdError('BAD_DATASET', `cannot read ${path}: ${(cause as Error).message}.`, { option, mend: 'Check its permissions', cause });
  });
  if (file === undefined || file.categories.length === 0) throw bad('it needs images, annotations and categories');
  const { images, annotations, categories } = file;
  const sorted = [...categories].sort((a, b) => a.id - b.id);
  const places = new Map(sorted.map(({ id }, index) => [id, index]));
  const boxes = new Map<number, Annotation[]>(images.map(({ id }) => [id, []]));
  if (images.some(({ file_name, width, height }) => typeof file_name !== 'string' || !(width > 0) || !(height > 0))) throw bad('an image has no file_name, width or height');
  for (const annotation of annotations) {
    const { image_id, category_id, bbox, area, iscrowd = 0 } = annotation;
    const label = places.get(category_id);
    const list = boxes.get(image_id);
    const isBox = Array.isArray(bbox) && bbox.length === 4 && bbox.every((value) => Number.isFinite(value)) && bbox[2] >= 0 && bbox[3] >= 0;
    if (label === undefined || list === undefined || !isBox) throw bad('an annotation has no category, image or box of four numbers', annotation);
    list.push({ label, box: bbox, area: area ?? bbox[2] * bbox[3], crowd: iscrowd === 1 });
  }
  return {
    names: sorted.map(({ name }) => name), categoryIds: sorted.map(({ id }) => id),
    images: images.map(({ id, file_name, width, height }) => ({ id, file: file_name, width, height, annotations: boxes.get(id)! })),
  };
}
