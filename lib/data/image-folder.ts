/** The images of a folder, at any depth. */
import { opendir, readdir, readFile, realpath, stat } from 'node:fs/promises';
import { extname, isAbsolute, join } from 'node:path';
import { checkOptions, checkText, checkWord, optionTable } from '../arguments.js';
import { counted } from '../counted.js';
import { LgdError, meansAbsent, readError, systemErrorCode, throwIfAborted } from '../errors.js';
import { isHidden } from '../files/folders.js';
import { closeRead } from '../files/open.js';
import { classesOf, imageExtensions, otherPictures, type ImageSource } from './sources.js';

/** How {@link openImageFolder} reads a folder. */
export interface ImageFolderOptions {
  /** 'folders': the folders right below the root are the classes. 'none': names of folders mean nothing. */
  labels?: 'folders' | 'none' | undefined;
  signal?: AbortSignal | undefined;
}

const folderOptions = optionTable<ImageFolderOptions>()('labels? signal?');

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

const packed = /\.(?:gz|tgz|bz2|xz|zst|zip|7z|rar)$/iu;

async function checkFolder(root: string): Promise<void> {
  let isFolder: boolean;
  try {
    isFolder = (await stat(root)).isDirectory();
  } catch (cause) {
    if (!meansAbsent(cause)) throw readError(root, cause, { code: 'BAD_DATASET', kind: 'the folder ' });
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
      else count(found.others, kind === 'file' ? extname(entry.name).toLowerCase() : kind);
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
    if (isUnreadableName(path, cause))
      throw new LgdError('BAD_DATASET', `cannot read the folder ${path}: ${notUtf8}`, { mend: 'Rename it', cause });
    throw readError(path, cause, { code: 'BAD_DATASET', kind: 'the folder ' });
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
    .map(([kind, number]) => (kind === '' ? `${counted(number, 'file')} without an ending` : `${number} ${kind}`));
  return new LgdError(
    'BAD_DATASET',
    `no images in ${root}: ${list.length === 0 ? 'it is empty' : `it holds ${list.join(', ')}`}.`,
    {
      allowed: `files ending in ${[...imageExtensions].join(' ')}`,
      mend: 'Give a folder of images, or convert these',
    },
  );
}
