import { open, readdir } from 'node:fs/promises';
import { extname } from 'node:path';
import { checkOptions, checkText, checkWord, optionTable } from '../arguments.js';
import { LgdError } from '../errors.js';
import { isFile, isHidden } from '../files/folders.js';
import { closeRead } from '../files/open.js';
import { isCifar, openCifar } from './cifar.js';
import { openImageFolder } from './image-folder.js';
import { beginsAsPack } from './pack/format.js';
import { PackFile } from './pack/reader.js';
import { openParquet } from './parquet.js';
import { classesOf, imageExtensions, type ImageSource } from './sources.js';
import { openTarShards } from './tar.js';

/** How {@link openImages} reads. */
export interface OpenImagesOptions {
  /**
   * 'folders': labels are needed, of a folder its class folders. 'none': they are left out (default). 'auto': taken
   * where there are some.
   */
  labels?: 'folders' | 'none' | 'auto' | undefined;
  signal?: AbortSignal | undefined;
}

const openOptions = optionTable<OpenImagesOptions>()('labels? signal?');

/**
 * Images wherever they are: a pack, a folder of images or of class folders, WebDataset's tar shards, CIFAR's binary
 * files, parquet files with a column of images.
 * @throws LgdError BAD_OPTION, FILE_NOT_FOUND, BAD_DATASET (nothing of these; no labels where they are needed),
 *   BAD_FILE, ABORTED
 */
export async function openImages(path: string, options: OpenImagesOptions = {}): Promise<ImageSource> {
  checkText(path, 'data', 'a folder, a pack, tar shards, CIFAR or parquet files');
  checkOptions(options, 'openImages()', openOptions);
  const { labels = 'none', signal } = options;
  checkWord(labels, 'labels', ['folders', 'none', 'auto']);
  const source = await openOther(path, labels !== 'none', signal);
  if (source === undefined) {
    if (labels !== 'auto') return openImageFolder(path, { labels, signal });
    const folder = await openImageFolder(path, { signal });
    return folder.ids.every((id) => id.includes('/')) ? { ...folder, ...classesOf(path, folder.ids) } : folder;
  }
  if (labels === 'none') return { ...source, labels: undefined, classNames: undefined };
  if (labels === 'folders' && source.labels === undefined)
    throw new LgdError(
      'BAD_DATASET',
      `${[`the images of ${path} have no labels`, ...(source.remarks ?? [])].join(': ')}.`,
      { mend: 'Give images that have: class folders, or a pack of such' },
    );
  return source;
}

/** Anything but a folder of images. */
async function openOther(
  path: string,
  labelled: boolean,
  signal: AbortSignal | undefined,
): Promise<ImageSource | undefined> {
  if (await isPack(path)) return openPack(path);
  if (await isCifar(path)) return openCifar(path);
  if (await holdsOnly('.tar', path)) return openTarShards(path, { labelled, signal });
  if (await holdsOnly('.parquet', path)) return openParquet(path, { labelled });
  return undefined;
}

/** Is this a file with that ending, or a folder of them that has neither images nor folders beside? */
async function holdsOnly(ending: string, path: string): Promise<boolean> {
  if (extname(path) === ending) return true;
  const entries = await readdir(path, { withFileTypes: true }).catch(() => []);
  const others = entries.some(
    (entry) => !isHidden(entry.name) && (entry.isDirectory() || imageExtensions.has(extname(entry.name).toLowerCase())),
  );
  return !others && entries.some(({ name }) => extname(name) === ending);
}

async function isPack(path: string): Promise<boolean> {
  if (!(await isFile(path))) return false;
  if (extname(path) === '.pack') return true; // one that is damaged is to be called so
  const file = await open(path, 'r').catch(() => undefined);
  if (file === undefined) return false;
  try {
    const read = await file.read(Buffer.alloc(8), 0, 8, 0).catch(() => undefined); // whoever reads it next says why
    return read !== undefined && beginsAsPack(read.buffer.subarray(0, read.bytesRead));
  } finally {
    await closeRead(file);
  }
}

/** The images of a pack. @throws LgdError FILE_NOT_FOUND, BAD_FILE */
async function openPack(path: string): Promise<ImageSource> {
  const pack = await PackFile.open(path);
  const { ids, labels, classNames, places } = pack.index;
  return {
    root: path,
    ids,
    ...(labels !== undefined && { labels, classNames }),
    places,
    pack,
    read: (image) => pack.readImage(image),
  };
}
