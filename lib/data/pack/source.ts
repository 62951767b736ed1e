import type { ImageSource } from '../sources.js';
import { PackFile } from './reader.js';

/** The images of a pack. @throws LgdError FILE_NOT_FOUND, BAD_FILE */
export async function openPack(path: string): Promise<ImageSource> {
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
