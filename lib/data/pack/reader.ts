import { close, open, read, type Stats } from 'node:fs';
import { stat } from 'node:fs/promises';
import { promisify } from 'node:util';
import { loadAddon } from '../../addon/addon.js';
import type { NativeAddon, PixelStoreHandle } from '../../addon/native.js';
import { checkText } from '../../arguments.js';
import { LgdError, meansAbsent, readError, throwIfAborted } from '../../errors.js';
import type { BrokenImage } from '../decode.js';
import { importSharp } from '../sharp.js';
import {
  damagedPack,
  decodeFooter,
  decodeHeader,
  decodeIndex,
  footerBytes,
  headerBytes,
  type PackIndex,
} from './format.js';

const [openFile, readBytes] = [promisify(open), promisify(read)];
/** What one read is asked for: Node takes less than 2 GiB, and the index of twenty million images has more. */
const mostBytes = 2 ** 30;
// A source of images has no end that could close its file: the collector does.
const closing = new FinalizationRegistry<number>((descriptor) => close(descriptor));

/**
 * A packed data set, open for reading; any number of readers may have it open. What it holds is checked as it is read.
 */
export class PackFile {
  private constructor(
    readonly path: string,
    readonly index: PackIndex,
    readonly fileBytes: number,
    readonly descriptor: number,
  ) {
    closing.register(this, descriptor);
  }

  /**
   * Opens a pack and reads its index.
   * @throws LgdError FILE_NOT_FOUND, BAD_FILE (no pack, not whole, damaged)
   */
  static async open(path: string): Promise<PackFile> {
    checkText(path, 'path', 'a pack');
    const { checksum } = loadAddon();
    const { size } = await statFile(path);
    const descriptor = await openFile(path, 'r').catch((cause: unknown) => {
      throw readError(path, cause);
    });
    try {
      const header = await readFully(descriptor, path, 0, Math.min(size, headerBytes));
      const recipe = decodeHeader(header, path, checksum);
      const footer = decodeFooter(
        await readFully(descriptor, path, Math.max(0, size - footerBytes), Math.min(size, footerBytes)),
        size,
        path,
        checksum,
      );
      const block = await readFully(descriptor, path, footer.indexOffset, footer.indexBytes);
      return new PackFile(path, await decodeIndex(block, footer, recipe, path, checksum), size, descriptor);
    } catch (error) {
      close(descriptor);
      throw error;
    }
  }

  get length(): number {
    return this.index.ids.length;
  }

  /**
   * The bytes of an image as they stand in the pack: a file's, or raw pixels.
   * @throws LgdError BAD_FILE naming the image, where they are not what was written
   */
  async readEntry(image: number): Promise<Buffer> {
    const { offsets, bytes, checksums } = this.index;
    const entry = await readFully(this.descriptor, this.path, offsets[image]!, bytes[image]!);
    if (loadAddon().checksum(entry) !== checksums[image])
      throw damagedPack(this.path, `${this.index.ids[image]} (image ${image}) is not what was written`);
    return entry;
  }

  /** An image in a format that decoders read: raw pixels become a PNG. @throws LgdError as {@link readEntry} */
  async readImage(image: number): Promise<Buffer> {
    const entry = await this.readEntry(image);
    if (this.index.recipe.kind !== 'raw') return entry;
    const sharp = await importSharp();
    return sharp(entry, { raw: { width: this.index.widths[image]!, height: this.index.heights[image]!, channels: 3 } })
      .png({ compressionLevel: 1 })
      .toBuffer();
  }

  /**
   * Makes the raw pixels the images of an empty native store, where they lie.
   * @throws LgdError BAD_FILE, OUT_OF_MEMORY
   */
  mapInto(store: PixelStoreHandle, addon: NativeAddon): void {
    const { offsets, widths, heights, checksums, names } = this.index;
    addon.mapPixels(store, { path: this.path, offsets, widths, heights, checksums, names });
  }

  /**
   * Reads all of it.
   * @returns the images that are damaged
   * @throws LgdError ABORTED
   */
  async verify({
    signal,
    onProgress,
  }: {
    signal?: AbortSignal | undefined;
    onProgress?: ((done: number, total: number) => void) | undefined;
  } = {}): Promise<BrokenImage[]> {
    const damaged: BrokenImage[] = [];
    for (let image = 0; image < this.length; image++) {
      throwIfAborted(signal, 'verifying the pack');
      await this.readEntry(image).catch((error: unknown) => {
        damaged.push({ id: this.index.ids[image]!, reason: (error as Error).message });
      });
      onProgress?.(image + 1, this.length);
    }
    return damaged;
  }
}

async function statFile(path: string): Promise<Stats> {
  let found: Stats;
  try {
    found = await stat(path);
    if (found.isFile()) return found;
  } catch (cause) {
    if (meansAbsent(cause))
      throw new LgdError('FILE_NOT_FOUND', `there is no file ${path}.`, { mend: 'Check the path', cause });
    throw readError(path, cause);
  }
  throw new LgdError('BAD_FILE', `${path} is ${found.isDirectory() ? 'a folder' : 'no regular file'}.`, {
    allowed: 'a pack',
    mend: 'Give the file that lgdistill pack has written',
  });
}

async function readFully(descriptor: number, path: string, position: number, length: number): Promise<Buffer> {
  const buffer = Buffer.allocUnsafeSlow(length);
  for (let done = 0; done < length;) {
    const { bytesRead } = await readBytes(
      descriptor,
      buffer,
      done,
      Math.min(length - done, mostBytes),
      position + done,
    ).catch((cause: unknown) => {
      throw new LgdError('BAD_FILE', `cannot read ${path}.`, { mend: 'Check the disk', cause });
    });
    if (bytesRead === 0) throw damagedPack(path, 'it ends before an image does');
    done += bytesRead;
  }
  return buffer;
}
