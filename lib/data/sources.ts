/** What images are read from, whatever it is; and images in memory. */
import { checkArgument } from '../arguments.js';
import { LgdError } from '../errors.js';
import { readFile } from '../files/open.js';
import type { PackFile } from './pack/reader.js';

/** Images by index, undecoded. */
export interface ImageSource {
  /** The folder, or a word for where the images come from. */
  readonly root: string;
  /** Name of each image; of a folder's its path below the root, '/'-separated, sorted by UTF-16 code units. */
  readonly ids: readonly string[];
  /** Index into {@link classNames} of each image; absent for unlabelled images. */
  readonly labels?: Int32Array | undefined;
  readonly classNames?: readonly string[] | undefined;
  /**
   * Place of each image in the source that this one was made of, where some were left out on the way; absent where it
   * is the index. Draws are named by it.
   */
  readonly places?: Int32Array | undefined;
  /** The pack that the images lie in. */
  readonly pack?: PackFile | undefined;
  /** Reading in any order but the given one is slow. */
  readonly sequential?: boolean | undefined;
  /** What was left out on opening and why, a line each. */
  readonly remarks?: readonly string[] | undefined;
  /**
   * The bytes of an image's file, encoded as they are; they must stay what they are until it is decoded. What it throws
   * makes the image a broken one, listed with the message; but a system's error such as EIO is tried again, then ends
   * the run, and a ReferenceError ends it at once, as it is.
   */
  read(index: number): Promise<Uint8Array>;
}

/** Endings of the files taken for images, lower case. */
export const imageExtensions: ReadonlySet<string> = new Set([
  '.jpg',
  '.jpeg',
  '.jpe',
  '.jfif',
  '.png',
  '.webp',
  '.gif',
  '.tif',
  '.tiff',
  '.avif',
  '.svg',
]);

/**
 * Endings of pictures that nothing here decodes, and of files with pictures in them, lower case: who has them beside
 * images shall hear that they take no part.
 */
export const otherPictures: ReadonlySet<string> = new Set([
  '.tar',
  '.tgz',
  '.zip',
  '.parquet',
  '.heic',
  '.heif',
  '.bmp',
  '.jxl',
  '.jp2',
  '.j2k',
  '.psd',
  '.tga',
  '.ppm',
  '.pgm',
  '.pbm',
  '.pnm',
  '.exr',
  '.hdr',
  '.dng',
  '.cr2',
  '.cr3',
  '.nef',
  '.arw',
  '.orf',
  '.rw2',
]);

/**
 * Looks whether a source, which may be a caller's own, has what reading it relies on.
 * @throws LgdError BAD_OPTION (no source), BAD_DATASET (labels that do not fit)
 */
export function checkSource(source: ImageSource): void {
  checkArgument('source', source);
  const { root, ids, labels, classNames, places, read } = source;
  const wrongMember = !Array.isArray(ids)
    ? 'ids'
    : typeof read !== 'function'
      ? 'read'
      : places !== undefined && places?.length !== ids.length
        ? 'places'
        : labels === null
          ? 'labels'
          : undefined;
  if (wrongMember !== undefined)
    throw new LgdError('BAD_DATASET', `${wrongMember} of ${root} is not what it must be.`, {
      option: wrongMember,
      found: source[wrongMember],
      allowed: '{ ids, an array of texts; read, a function of an index; places and labels, if any, one an image }',
      mend: 'Give the source so',
    });
  if (labels === undefined) return;
  const bad = (what: string): LgdError =>
    new LgdError('BAD_DATASET', `${what} in ${root}.`, {
      option: 'labels',
      mend: 'Give each image a label, an index into classNames, or leave labels out',
    });
  if (labels.length !== ids.length) throw bad(`there are ${labels.length} labels of ${ids.length} images`);
  const classes = classNames?.length ?? 0;
  const wrong = labels.findIndex((label) => !(Number.isInteger(label) && label >= 0 && label < classes));
  if (wrong !== -1)
    throw bad(`image ${ids[wrong]} has the label ${labels[wrong]}, and there are ${classes} class names`);
}

/** At most `most` images of a source, spread evenly over its order; class names stay as they are. */
export function sampleSource(source: ImageSource, most: number): ImageSource {
  // Member by member, and without the pack, which holds all of them: spreading an object of a caller's class loses its
  // accessors.
  const { root, ids, labels, classNames, places: before, sequential, remarks } = source;
  const total = ids.length;
  if (total <= most) return source;
  const places = Array.from({ length: most }, (_, i) => Math.floor((i * total) / most));
  return {
    root,
    ids: places.map((place) => ids[place]!),
    ...(labels !== undefined && { labels: Int32Array.from(places, (place) => labels[place]!) }),
    ...(classNames !== undefined && { classNames }),
    ...(before !== undefined && { places: Int32Array.from(places, (place) => before[place]!) }),
    ...(sequential !== undefined && { sequential }),
    ...(remarks !== undefined && { remarks }),
    read: (index) => source.read(places[index]!),
  };
}

/** Labels by the folders right below the root. @throws LgdError BAD_DATASET where images lie in none */
export function classesOf(root: string, ids: readonly string[]): { labels: Int32Array; classNames: string[] } {
  const loose = ids.filter((id) => !id.includes('/'));
  if (loose.length > 0) {
    throw new LgdError(
      'BAD_DATASET',
      `${loose.length} images of ${root} lie in no class folder, such as ${loose.slice(0, 3).join(', ')}.`,
      {
        allowed: 'one folder a class, images in those',
        mend: 'Move them into class folders, or take the images without labels',
      },
    );
  }
  const folderOf = (id: string): string => id.slice(0, id.indexOf('/'));
  const classNames = [...new Set(ids.map(folderOf))].sort();
  const index = new Map(classNames.map((name, i) => [name, i]));
  return { labels: Int32Array.from(ids, (id) => index.get(folderOf(id))!), classNames };
}

/** Names of classes in a file, one a line; undefined where there is none, or it has fewer than so many. */
export async function readClassNames(path: string, classes: number): Promise<string[] | undefined> {
  const text = await readFile(path, 'utf8').catch(() => '');
  const names = text
    .split(/\r?\n/u)
    .map((line) => line.trim())
    .filter((line) => line !== '');
  return names.length > 0 && names.length >= classes ? names : undefined;
}

const mostClasses = 1_000_000;

/**
 * Names of classes 0 to `last` that have none: their numbers.
 * @throws LgdError BAD_DATASET where that is an id rather than a class
 */
export function numberedClasses(last: number, root: string): string[] {
  if (last < mostClasses) return Array.from({ length: last + 1 }, (_, label) => String(label));
  throw new LgdError('BAD_DATASET', `${root} has the label ${last}, which is no number of a class.`, {
    allowed: `from 0 to ${mostClasses - 1}`,
    mend: 'Number the classes from 0, or take the images without labels',
  });
}

/** An image in memory: encoded bytes in any format that a file may have. */
export interface ImageBytes {
  id: string;
  bytes: Uint8Array;
  label?: number | undefined;
}

/** @throws LgdError BAD_DATASET */
export function checkImageBytes(value: unknown): void {
  if (typeof value === 'object' && value !== null && 'id' in value && typeof value.id === 'string' && 'bytes' in value)
    return;
  throw new LgdError('BAD_DATASET', 'this is no image.', {
    found: value,
    allowed: '{ id, bytes, label? }, with an id that is a string',
    mend: 'Give images so',
  });
}

/**
 * A source of images in memory, in the order given. Either all have a label, an index into `classNames`, or none has.
 * @throws LgdError BAD_DATASET
 */
export function imagesFromBuffers(images: readonly ImageBytes[], classNames?: readonly string[]): ImageSource {
  if (!Array.isArray(images))
    throw new LgdError('BAD_DATASET', 'these are no images.', {
      found: images,
      allowed: 'an array of { id, bytes, label? }',
      mend: 'Give an array; a stream is what ImageCache.fromStream() takes',
    });
  const bad = (message: string): LgdError =>
    new LgdError('BAD_DATASET', message, {
      mend: 'Give images that all have a label, an index into the class names, or none of them one',
    });
  if (images.length === 0)
    throw new LgdError('BAD_DATASET', 'there are no images.', { mend: 'Give at least one image' });
  images.forEach(checkImageBytes);
  const read = (index: number): Promise<Uint8Array> => Promise.resolve(images[index]!.bytes);
  const source = { root: '(memory)', ids: images.map(({ id }) => id), read };
  const labelled = images.filter(({ label }) => label !== undefined).length;
  if (labelled === 0) return source;
  if (labelled < images.length)
    throw bad(`${labelled} of ${images.length} images have a label; all must have one, or none.`);
  if (classNames === undefined) throw bad('the images have labels, but there are no class names.');
  const wrong = images.find(({ label }) => !(Number.isInteger(label) && label! >= 0 && label! < classNames.length));
  if (wrong) throw bad(`image ${wrong.id} has the label ${wrong.label}; there are ${classNames.length} classes.`);
  return { ...source, labels: Int32Array.from(images, ({ label }) => label!), classNames };
}
