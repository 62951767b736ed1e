import { LgdError } from '../../errors.js';
import { decodeImage } from '../decode.js';
import { decodingError, importSharp } from '../sharp.js';
import type { PackRecipe } from './format.js';

/** An image as it goes into a pack. */
export interface PackedImage {
  bytes: Uint8Array;
  /** Upright, in pixels. */
  width: number;
  height: number;
}

const trialSide = 32; // a file that stays as it is gets decoded all the same, to see that it can be

/**
 * Makes of an image what a pack keeps. Raw pixels are those that {@link decodeImage} gives; a JPEG that is small enough
 * stays as it is, so nothing is encoded twice.
 * @throws LgdError BAD_IMAGE
 */
export async function packImage(
  file: Uint8Array,
  { kind, shortSide, quality }: PackRecipe,
  background: string | undefined,
): Promise<PackedImage> {
  if (kind === 'raw') {
    const { width, height, pixels } = await decodeImage(file, { shortSide, background });
    return { bytes: pixels, width, height };
  }
  const { width, height, format } = await sizeOf(file);
  if (kind === 'original' || (format === 'jpeg' && Math.min(width, height) <= shortSide)) {
    await decodeImage(file, { shortSide: trialSide, background });
    return { bytes: file, width, height };
  }
  const sharp = await importSharp();
  const reduced = await decodeImage(file, { shortSide, background });
  const bytes = await sharp(reduced.pixels, { raw: { width: reduced.width, height: reduced.height, channels: 3 } })
    .jpeg({ quality })
    .toBuffer();
  return { bytes, width: reduced.width, height: reduced.height };
}

async function sizeOf(file: Uint8Array): Promise<{ width: number; height: number; format: string | undefined }> {
  if (file.length === 0) throw new LgdError('BAD_IMAGE', 'the file is empty.');
  const sharp = await importSharp();
  try {
    const { autoOrient, format } = await sharp(file, { failOn: 'error' }).metadata();
    return { ...autoOrient, format };
  } catch (cause) {
    throw decodingError(cause, file);
  }
}
