import { opendir, readdir, readFile, realpath, stat } from 'node:fs/promises';
import { extname, isAbsolute, join } from 'node:path';
import { checkArgument, checkOptions, checkText, checkWord, type OptionTable } from '../arguments.js';
import { LgdError, meansAbsent, systemErrorCode, throwIfAborted } from '../errors.js';
import { isHidden } from '../files/folders.js';
import { closeRead } from '../files/open.js';
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
   * The bytes of an image's file, encoded as they are. What it throws makes the image a broken one, listed with the
   * message; but a system's error such as EIO is tried again, then ends the run, and a ReferenceError ends it at once,
   * as it is.
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

/** How {@link openImageFolder} reads a folder. */
export interface ImageFolderOptions {
  /** 'folders': the folders right below the root are the classes. 'none': names of folders mean nothing. */
  labels?: 'folders' | 'none' | undefined;
  signal?: AbortSignal | undefined;
}

const folderOptions = { labels: 'optional', signal: 'optional' } satisfies OptionTable<ImageFolderOptions>;

interface Found {
  ids: string[];
  others: Map<string, number>;
}

/**
 * The images of a folder, at any depth. Hidden files and folders are left out; links are followed, a folder that can be
 * reached in two ways is read once. With labels: classes are the first-level folders that hold an image, sorted.
 * @throws LgdError BAD_OPTION, FILE_NOT_FOUND (no such folder), BAD_DATASET (a file, no images, images outside the
 *   class folders), ABORTED
 */
export async function openImageFolder(root: string, options: ImageFolderOptions = {}): Promise<ImageSource> {
  checkText(root, 'data', 'a folder');
  checkOptions(options, 'openImageFolder()', folderOptions);
  const { labels = 'none', signal } = options;
  checkWord(labels, 'labels', ['folders', 'none']);
  await checkFolder(root);
  const found: Found = { ids: [], others: new Map() };
  await walk(root, found, signal);
  if (found.ids.length === 0) throw noImages(root, found.others);
  const ids = found.ids.sort((a, b) => (a < b ? -1 : 1));
  const read = (index: number): Promise<Buffer> =>
    readFile(join(root, ids[index]!)).catch(async (cause: unknown) => {
      // No cause: beneath this package's error, the system's would be one of the disk.
      if (isUnreadableName(ids[index]!, cause)) throw new LgdError('BAD_IMAGE', notUtf8, { mend: 'Rename it' });
      if (systemErrorCode(cause) === 'ENOENT' && (await isGoneOrEmpty(root)))
        throw new LgdError('BAD_FILE', `${root} is gone, or nothing is in it any more.`, {
          mend: 'Bring the folder back',
          cause,
        });
      throw cause;
    });
  const undecoded = [...found.others]
    .filter(([ending]) => otherPictures.has(ending))
    .sort()
    .map(([ending, number]) => `${number} ${ending}`);
  const remarks =
    undecoded.length === 0
      ? {}
      : {
          remarks: [
            `${root}: ${undecoded.join(', ')} left out: not among the kinds of images that are read in a folder; convert or unpack them if they are wanted`,
          ],
        };
  return labels === 'folders'
    ? { root, ids, ...classesOf(root, ids), ...remarks, read }
    : { root, ids, ...remarks, read };
}

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

const packed = /\.(?:gz|tgz|bz2|xz|zst|zip|7z|rar)$/iu;

async function checkFolder(root: string): Promise<void> {
  let isFolder: boolean;
  try {
    isFolder = (await stat(root)).isDirectory();
  } catch (cause) {
    if (!meansAbsent(cause))
      throw new LgdError('BAD_DATASET', `cannot open the folder ${root}.`, { mend: 'Check its permissions', cause });
    throw new LgdError('FILE_NOT_FOUND', `there is no folder ${root}.`, {
      mend: isAbsolute(root) ? 'Check the path' : 'Check the path; it is relative to the current folder',
      cause,
    });
  }
  if (!isFolder)
    throw new LgdError('BAD_DATASET', `${root} is a file.`, {
      allowed: 'a folder of images',
      mend: packed.test(root) ? 'Unpack it, and give the folder' : 'Give the folder that holds the images',
    });
}

async function walk(root: string, found: Found, signal: AbortSignal | undefined): Promise<void> {
  const visited = new Set<string>();
  const pending = [''];
  for (let folder = pending.pop(); folder !== undefined; folder = pending.pop()) {
    throwIfAborted(signal, 'reading the image folder');
    const path = join(root, folder);
    const below: string[] = [];
    for (const entry of await readFolder(path, visited)) {
      if (isHidden(entry.name)) continue;
      const id = folder === '' ? entry.name : `${folder}/${entry.name}`;
      const kind = entry.isSymbolicLink()
        ? await targetKind(join(path, entry.name))
        : entry.isDirectory()
          ? 'folder'
          : entry.isFile()
            ? 'file'
            : 'other';
      if (kind === 'folder') below.push(id);
      else if (kind === 'file' && imageExtensions.has(extname(entry.name).toLowerCase())) found.ids.push(id);
      else count(found.others, kind === 'file' ? extname(entry.name).toLowerCase() || 'no ending' : kind);
    }
    // Sorted and taken from the end of the list, so that of two ways to one folder the same is taken on every file
    // system.
    for (const id of below.sort().reverse()) pending.push(id);
  }
}

const notUtf8 = 'its name is not UTF-8.';

/** A byte that is no UTF-8 comes as U+FFFD, by which the file is not found again. */
function isUnreadableName(name: string, cause: unknown): boolean {
  return name.includes('\uFFFD') && systemErrorCode(cause) === 'ENOENT';
}

/**
 * A disk or a share that was taken away, which is no fault of the images: what it was mounted on stays as an empty
 * folder.
 */
async function isGoneOrEmpty(folder: string): Promise<boolean> {
  const entries = await opendir(folder).catch(() => undefined);
  const first = await entries?.read().catch(() => null);
  await closeRead(entries);
  return first == null;
}

/** What is in a folder; nothing where it was visited, perhaps by another way. */
async function readFolder(path: string, visited: Set<string>) {
  try {
    const real = await realpath(path);
    if (visited.has(real)) return [];
    visited.add(real);
    return await readdir(path, { withFileTypes: true });
  } catch (cause) {
    const [why, mend] = isUnreadableName(path, cause)
      ? [`: ${notUtf8}`, 'Rename it']
      : systemErrorCode(cause) === 'ENAMETOOLONG'
        ? [': its path is too long.', 'Move it to a folder further up']
        : ['.', 'Check its permissions'];
    throw new LgdError('BAD_DATASET', `cannot read the folder ${path}${why}`, { mend, cause });
  }
}

async function targetKind(path: string): Promise<'folder' | 'file' | 'other' | 'broken link'> {
  try {
    const target = await stat(path);
    return target.isDirectory() ? 'folder' : target.isFile() ? 'file' : 'other';
  } catch {
    return 'broken link';
  }
}

function count(counts: Map<string, number>, key: string): void {
  counts.set(key, (counts.get(key) ?? 0) + 1);
}

function noImages(root: string, others: ReadonlyMap<string, number>): LgdError {
  const list = [...others]
    .sort((a, b) => b[1] - a[1])
    .slice(0, 6)
    .map(([kind, number]) => `${number} ${kind}`);
  return new LgdError(
    'BAD_DATASET',
    `no images in ${root}: ${list.length === 0 ? 'it is empty' : `it holds ${list.join(', ')}`}.`,
    {
      allowed: `files ending in ${[...imageExtensions].join(' ')}`,
      mend: 'Give a folder of images, or convert these',
    },
  );
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
