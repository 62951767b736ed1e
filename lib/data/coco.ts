/** Boxes in COCO's JSON format (cocodataset.org, "data format", object detection). */
import { checkText } from '../arguments.js';
import { LgdError, readError, systemErrorCode } from '../errors.js';
import { openToRead } from '../files/open.js';
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
  readonly images: readonly {
    id: number | string;
    file: string;
    width: number;
    height: number;
    annotations: readonly Annotation[];
  }[];
}

/** A file's lists, whose members are what was found. */
interface CocoFile {
  images: Record<'id' | 'file_name' | 'width' | 'height', unknown>[];
  annotations: Record<'image_id' | 'category_id' | 'bbox' | 'area' | 'iscrowd', unknown>[];
  categories: Record<'id' | 'name', unknown>[];
}

/** What is kept of a file's lists: outlines of objects are most of it. */
const fields: Readonly<Record<keyof CocoFile, readonly string[]>> = {
  images: ['id', 'file_name', 'width', 'height'],
  annotations: ['image_id', 'category_id', 'bbox', 'area', 'iscrowd'],
  categories: ['id', 'name'],
};

/** @throws SyntaxError, and those of the file system; undefined where one of the lists is missing */
async function readLists(path: string): Promise<CocoFile | undefined> {
  const lists: CocoFile = { images: [], annotations: [], categories: [] };
  const found = await parseMembers(
    (await openToRead(path)).createReadStream({ highWaterMark: 2 ** 20 }),
    (key, member) => {
      if (!Object.hasOwn(fields, key)) return;
      const list = key as keyof CocoFile;
      lists[list].push(
        Object.fromEntries(
          fields[list].map((field) => [field, (member as Record<string, unknown> | null)?.[field]]),
        ) as never,
      );
    },
  );
  const isThere = (list: string) => Array.isArray((found as Record<string, unknown> | null)?.[list]);
  return Object.keys(fields).every(isThere) ? lists : undefined;
}

/**
 * Reads a COCO file. Images keep the file's order; those without boxes are there too.
 * @param option what its errors call it
 * @throws LgdError FILE_NOT_FOUND, BAD_DATASET naming the first entry at fault
 */
export async function readCoco(path: string, option = 'dense.annotations'): Promise<BoxedImages> {
  checkText(path, option, 'a COCO file');
  const bad = (why: string, found?: unknown) =>
    new LgdError('BAD_DATASET', `${path} is not a COCO file of boxes: ${why}.`, {
      option,
      found,
      mend: 'Give a file like instances_train2017.json',
    });
  const file = await readLists(path).catch((cause: unknown) => {
    if (cause instanceof SyntaxError) throw bad(`it is not JSON (${cause.message})`);
    if (cause instanceof RangeError) throw bad(cause.message);
    if (systemErrorCode(cause) === 'ENOENT')
      throw new LgdError('FILE_NOT_FOUND', `there is no file ${path}.`, { option, mend: 'Check the path', cause });
    throw readError(path, cause, { code: 'BAD_DATASET', option });
  });
  if (file === undefined || file.categories.length === 0) throw bad('it needs images, annotations and categories');
  const { names, categoryIds } = readCategories(file, bad);
  const images = readImages(file, bad);
  const places = new Map<unknown, number>(categoryIds.map((id, index) => [id, index]));
  const boxes = new Map<unknown, Annotation[]>(images.map(({ id, annotations }) => [id, annotations]));
  file.annotations.forEach((annotation, place) => {
    const list = boxes.get(annotation.image_id);
    const label = places.get(annotation.category_id);
    if (list === undefined) throw bad(`annotations[${place}] has an image_id that no image has`, annotation);
    if (label === undefined) throw bad(`annotations[${place}] has a category_id that no category has`, annotation);
    list.push({ label, ...readBox(annotation, (why) => bad(`annotations[${place}] ${why}`, annotation)) });
  });
  return { names, categoryIds, images };
}

type Bad = (why: string, found?: unknown) => LgdError;

/** In the order of their ids. */
function readCategories({ categories }: CocoFile, bad: Bad): Pick<BoxedImages, 'names' | 'categoryIds'> {
  const sorted = categories
    .map((category, place) => {
      const { id, name } = category;
      if (!Number.isFinite(id)) throw bad(`categories[${place}] has no id that is a number`, category);
      if (typeof name !== 'string' || name.trim() === '') throw bad(`categories[${place}] has no name`, category);
      return { id: id as number, name };
    })
    .sort((a, b) => a.id - b.id);
  const twice = sorted.findIndex(({ id }, place) => id === sorted[place + 1]?.id);
  if (twice >= 0) throw bad('two categories have the same id', sorted.slice(twice, twice + 2));
  return { names: sorted.map(({ name }) => name), categoryIds: sorted.map(({ id }) => id) };
}

/** Without annotations so far. */
function readImages(
  { images }: CocoFile,
  bad: Bad,
): { id: number | string; file: string; width: number; height: number; annotations: Annotation[] }[] {
  const seen = new Map<unknown, number>();
  return images.map((image, place) => {
    const { id, file_name: file, width, height } = image;
    if (!Number.isFinite(id) && typeof id !== 'string') throw bad(`images[${place}] has no id`, image);
    if (typeof file !== 'string' || file === '') throw bad(`images[${place}] has no file_name`, image);
    if (!isSize(width) || !isSize(height)) throw bad(`images[${place}] has no width and height in whole pixels`, image);
    if (seen.has(id)) throw bad(`images[${seen.get(id)}] and images[${place}] have the same id`, image);
    seen.set(id, place);
    return { id: id as number | string, file, width, height, annotations: [] };
  });
}

function isSize(value: unknown): value is number {
  return Number.isInteger(value) && (value as number) > 0;
}

/**
 * A missing area is the box's. pycocotools takes any value of iscrowd that Python takes for true; writers write 1 or
 * true.
 */
function readBox(
  { bbox, area, iscrowd }: CocoFile['annotations'][number],
  bad: (why: string) => LgdError,
): Omit<Annotation, 'label'> {
  if (!Array.isArray(bbox) || bbox.length !== 4 || !bbox.every((value) => Number.isFinite(value)))
    throw bad('has no bbox of four numbers: x, y, width, height');
  const box = bbox as Annotation['box'];
  if (box[2] < 0 || box[3] < 0) throw bad('has a bbox of negative width or height');
  const isMissing = area === undefined || area === null;
  if (!isMissing && !(Number.isFinite(area) && (area as number) >= 0))
    throw bad('has an area that is no number from 0');
  if (![undefined, null, 0, 1, false, true].includes(iscrowd as null))
    throw bad('has an iscrowd that is neither 0 nor 1');
  return { box, area: isMissing ? box[2] * box[3] : (area as number), crowd: iscrowd === 1 || iscrowd === true };
}
