/** Images given file by file. */
import { stat } from 'node:fs/promises';
import { extname } from 'node:path';
import { checkTexts } from '../arguments.js';
import { LgdError, meansAbsent, readError } from '../errors.js';
import { readFile } from '../files/open.js';
import { imageExtensions, type ImageSource } from './sources.js';

/** Is this, by its ending, one of the files that are taken for images? */
export function isImageName(path: string): boolean {
  return imageExtensions.has(extname(path).toLowerCase());
}

/**
 * Images of which each is a file that is named; its id is the path as it is given. One that is named twice is one image.
 * @throws LgdError BAD_OPTION, FILE_NOT_FOUND, BAD_DATASET (a folder, or a file of another kind), BAD_FILE
 */
export async function openImageFiles(paths: readonly string[]): Promise<ImageSource> {
  checkTexts(paths, 'images', 'the path of an image');
  if (paths.length === 0)
    throw new LgdError('BAD_DATASET', 'there are no images.', { option: 'images', mend: 'Give at least one image' });
  for (const path of paths) await checkImageFile(path);
  const ids = [...new Set(paths)];
  return { root: 'the files given', ids, read: (index) => readFile(ids[index]!) };
}

async function checkImageFile(path: string): Promise<void> {
  const found = await stat(path).catch((cause: unknown) => {
    if (!meansAbsent(cause)) throw readError(path, cause);
    throw new LgdError('FILE_NOT_FOUND', `there is no file ${path}.`, { option: 'images', mend: 'Check the path' });
  });
  const isFolder = found.isDirectory();
  if (!isFolder && isImageName(path)) return;
  throw new LgdError('BAD_DATASET', `${path} is ${isFolder ? 'a folder' : 'no image by its ending'}.`, {
    option: 'images',
    allowed: `one folder, pack or set of shards; or image files: ${[...imageExtensions].join(', ')}`,
    mend: 'Give it alone, or image files alone',
  });
}
