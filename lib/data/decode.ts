import { loadAddon } from '../addon/addon.js';
import type { NativeAddon, PixelStoreHandle } from '../addon/native.js';
import { withFixedBuffer } from '../arguments.js';
import { hasCode, LgdError } from '../errors.js';
import { openJpegDecoder } from './jpeg-decoder.js';
import { readJpegHeader, type JpegHeader } from './jpeg-header.js';
import { checkSides, decodingError, importSharp, rgbOf, timeoutSeconds, type Sharp } from './sharp.js';

/** A decoded image: `pixels` is RGB, 8 bits, row by row, height * width * 3 bytes. */
export interface DecodedImage {
  width: number;
  height: number;
  pixels: Uint8Array;
}

export interface DecodeOptions {
  /** Images are reduced so that their short side has this many pixels; smaller ones stay as they are. */
  shortSide: number;
  /** Colour behind transparent pixels, as CSS writes it. */
  background?: string;
}

/** An image that could not be read or decoded. */
export interface BrokenImage {
  /** As its source names it. */
  id: string;
  /** Why, in words. */
  reason: string;
}

/**
 * A longer image keeps only the middle of its long side: a strip tells little, and one crop would cost as much as a
 * whole batch.
 */
const longestAspect = 4;

/**
 * Decodes an image in any format that sharp reads. EXIF orientation is applied; CMYK, greyscale, palettes, 16-bit and
 * wide-gamut colours become 8-bit sRGB; transparent pixels lie on the background; of an animation the first frame is
 * taken; SVG is drawn at the size asked for. The short side becomes min(short side, shortSide) by an antialiased cubic
 * (a = -1/2) after the decoder's own reduction; the long side keeps the aspect, up to 4 times the short one, then its
 * middle is kept. Pixels that are floating-point, signed or of 32 bits are not read.
 * @throws LgdError BAD_IMAGE saying why, DEPENDENCY_MISSING, DEVICE_UNAVAILABLE (the system starts no further thread)
 */
export async function decodeImage(given: Uint8Array, options: DecodeOptions): Promise<DecodedImage> {
  checkBytes(given);
  const bytes = withFixedBuffer(given);
  const header = readJpegHeader(bytes);
  const addon = loadAddon();
  const fast = await decodeFast(addon, header, options, async ({ width, height }) => ({
    width,
    height,
    pixels: await addon.decodeJpeg(bytes, width, height, header?.profile),
  }));
  return fast ?? decodeBySharp(bytes, header, options);
}

/**
 * A caller's own source may give anything; no image is at fault then.
 * @param id names the image.
 * @throws LgdError BAD_OPTION
 */
export function checkBytes(bytes: unknown, id?: string): void {
  if (ArrayBuffer.isView(bytes) && (bytes as Uint8Array).BYTES_PER_ELEMENT === 1) return;
  throw new LgdError(
    'BAD_OPTION',
    id === undefined ? 'not the bytes of an image.' : `what was read for ${id} is not the bytes of an image.`,
    { option: 'bytes', found: bytes, allowed: 'a Uint8Array, such as new Uint8Array(arrayBuffer)' },
  );
}

/** An image of a store, by its index. */
export interface StorePlace {
  addon: NativeAddon;
  store: PixelStoreHandle;
  index: number;
}

/**
 * {@link decodeImage} into a store of placed images, without a copy where libjpeg-turbo decodes.
 * @throws LgdError BAD_IMAGE saying why, DEPENDENCY_MISSING, DEVICE_UNAVAILABLE, OUT_OF_MEMORY
 */
export async function placeImage(
  given: Uint8Array,
  { addon, store, index }: StorePlace,
  options: DecodeOptions,
): Promise<void> {
  checkBytes(given);
  const bytes = withFixedBuffer(given);
  const header = readJpegHeader(bytes);
  const isPlaced = await decodeFast(addon, header, options, async ({ width, height }) => {
    await addon.placeJpeg(store, index, bytes, width, height, header?.profile);
    return true;
  });
  if (isPlaced) return;
  const { width, height, pixels } = await decodeBySharp(bytes, header, options);
  addon.placePixels(store, index, width, height, pixels);
}

/**
 * By libjpeg-turbo, for a JPEG that needs nothing turned or cut off; undefined where that is not to be had, and for a
 * file that it has anything to say of: sharp judges those.
 * @param decode decodes to the size that it is given
 */
async function decodeFast<Result>(
  addon: NativeAddon,
  header: JpegHeader | undefined,
  { shortSide }: DecodeOptions,
  decode: (target: { width: number; height: number }) => Promise<Result>,
): Promise<Result | undefined> {
  if (header === undefined || openJpegDecoder(addon).name === 'sharp') return undefined;
  const { width, height } = header;
  if (Math.max(width, height) > longestAspect * Math.min(width, height)) return undefined;
  try {
    return await decode(targetSize(width, height, shortSide));
  } catch (error) {
    if (hasCode(error, 'BAD_IMAGE')) return undefined;
    throw error;
  }
}

async function decodeBySharp(
  bytes: Uint8Array,
  header: JpegHeader | undefined,
  { shortSide, background = '#ffffff' }: DecodeOptions,
): Promise<DecodedImage> {
  const sharp = await importSharp();
  try {
    if (header !== undefined && header.profile === undefined)
      return await decodePlain(sharp, bytes, targetSize(header.width, header.height, shortSide), header);
    const { width, height, density, isJpeg } = await sizeOf(sharp, bytes, shortSide);
    return await rgbOf(
      sharp(bytes, { failOn: 'error', density })
        .timeout({ seconds: timeoutSeconds })
        .autoOrient()
        .flatten({ background })
        .resize({
          ...targetSize(width, height, shortSide),
          position: 'centre',
          kernel: 'cubic',
          fastShrinkOnLoad: !isJpeg,
        })
        .toColourspace('srgb'),
    );
  } catch (cause) {
    throw bytes.length === 0 ? new LgdError('BAD_IMAGE', 'the file is empty.', { cause }) : decodingError(cause, bytes);
  }
}

/**
 * A file that needs no colours converted and nothing turned: with fewer steps, and without asking for its size first,
 * it takes a tenth less time at 500 pixels, a quarter less at 256.
 */
async function decodePlain(
  sharp: Sharp,
  bytes: Uint8Array,
  target: TargetSize,
  size: { width: number; height: number },
): Promise<DecodedImage> {
  const image = sharp(bytes, { failOn: 'error', ignoreIcc: true }).timeout({ seconds: timeoutSeconds });
  if (target.width !== size.width || target.height !== size.height)
    image.resize({ ...target, position: 'centre', kernel: 'cubic', fastShrinkOnLoad: false });
  return rgbOf(image);
}

/** Upright size in pixels, for a vector drawing at a density at which its short side has at least the pixels wanted. */
async function sizeOf(
  sharp: Sharp,
  bytes: Uint8Array,
  shortSide: number,
): Promise<{ width: number; height: number; density: number | undefined; isJpeg: boolean }> {
  const { autoOrient, format, depth, density = 72 } = await sharp(bytes, { failOn: 'error' }).metadata();
  const { width, height } = autoOrient;
  if (depth !== 'uchar' && depth !== 'ushort')
    throw new Error(
      `its pixels are of type ${depth}, of which nobody knows what is black and white; convert it to 8 or 16 bits`,
    );
  const isJpeg = format === 'jpeg';
  if (format !== 'svg') {
    checkSides({ width, height });
    return { width, height, density: undefined, isJpeg };
  }
  const scale = shortSide / Math.min(width, height);
  return {
    width: width * scale,
    height: height * scale,
    density: Math.min(100_000, Math.max(1, density * scale)),
    isJpeg,
  };
}

interface TargetSize {
  width: number;
  height: number;
  fit: 'cover' | 'fill';
}

/**
 * With what makes that size by sharp: `cover`, where something is cut off, has one scale for both directions, and cuts
 * off what a rounded size has too many, which shifts the rest by up to half a pixel.
 */
function targetSize(width: number, height: number, shortSide: number): TargetSize {
  const short = Math.max(1, Math.min(shortSide, Math.round(Math.min(width, height))));
  const long = Math.max(
    short,
    Math.min(longestAspect * short, Math.round((Math.max(width, height) / Math.min(width, height)) * short)),
  );
  const fit = Math.max(width, height) > longestAspect * Math.min(width, height) ? 'cover' : 'fill';
  return width <= height ? { width: short, height: long, fit } : { width: long, height: short, fit };
}
