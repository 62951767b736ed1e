/** Parts of images, decoded at the size wanted, and put as a network's input. */
import { checkSides, decodingError, importSharp, rgbOf, timeoutSeconds } from '../data/sharp.js';
import { LgdError, unlessAbsent, type ErrorDetails } from '../errors.js';
import { readFile } from '../files/open.js';
import type { ChannelTriple } from '../models/teachers/types.js';

/** A part of an image in whole pixels of it. */
export interface Rectangle {
  x: number;
  y: number;
  width: number;
  height: number;
}

/**
 * Width and height of an image as viewers show it, its EXIF orientation applied: masks and boxes are of that.
 * @throws LgdError BAD_IMAGE, DEPENDENCY_MISSING
 */
export async function imageSize(bytes: Uint8Array, path: string): Promise<{ width: number; height: number }> {
  const sharp = await importSharp();
  try {
    const { width, height } = (await sharp(bytes).metadata()).autoOrient;
    checkSides({ width, height });
    return { width, height };
  } catch (cause) {
    throw decodingError(cause, bytes, path);
  }
}

/** A file that a data set lists. @throws LgdError FILE_NOT_FOUND, BAD_FILE */
export async function readListedFile(
  path: string,
  { option, mend }: Pick<ErrorDetails, 'option' | 'mend'>,
): Promise<Buffer> {
  const bytes = await readFile(path).catch(unlessAbsent(path, undefined));
  if (bytes !== undefined) return bytes;
  throw new LgdError('FILE_NOT_FOUND', `cannot read ${path}: there is no such file.`, { option, mend });
}

/**
 * What to say of an image of another size than what was annotated: it may have that size as it is stored, before its
 * EXIF orientation turns it.
 * @param mend what to do about it otherwise
 */
export async function turnedFrom(
  bytes: Uint8Array,
  annotated: { width: number; height: number },
  mend: string,
): Promise<{ remark: string; mend: string }> {
  const { width, height, orientation = 1 } = await (await importSharp())(bytes).metadata();
  if (orientation === 1 || width !== annotated.width || height !== annotated.height) return { remark: '', mend };
  return {
    remark: `, as its EXIF orientation (${orientation}) turns it`,
    mend: 'Annotate the image as viewers show it, or take the orientation out of its EXIF',
  };
}

/**
 * A part of an image, upright as {@link imageSize} says, at another size, as RGB bytes.
 * @throws LgdError BAD_IMAGE, DEPENDENCY_MISSING
 */
export async function decodePart(
  bytes: Uint8Array,
  { x, y, width, height }: Rectangle,
  size: { width: number; height: number },
  path: string,
): Promise<Uint8Array> {
  const sharp = await importSharp();
  try {
    const image = sharp(bytes, { failOn: 'error' })
      .timeout({ seconds: timeoutSeconds })
      .autoOrient()
      .extract({ left: x, top: y, width, height })
      .resize({ ...size, fit: 'fill', kernel: 'cubic' })
      .flatten({ background: '#ffffff' })
      .toColourspace('srgb');
    return (await rgbOf(image)).pixels;
  } catch (cause) {
    throw decodingError(cause, bytes, path);
  }
}

/** What a network takes. */
export interface Input {
  /** Side of the image, R. */
  resolution: number;
  mean: ChannelTriple;
  std: ChannelTriple;
}

/**
 * Decodes what a view shows of an image into one image [3,R,R] of a batch.
 * @throws LgdError BAD_IMAGE, DEPENDENCY_MISSING
 */
export async function placeView(
  bytes: Uint8Array,
  view: View,
  into: Float32Array,
  input: Input,
  path: string,
): Promise<void> {
  putPixels(await decodePart(bytes, view.part, view, path), into, view, input);
}

/** Normalises RGB bytes into the upper left corner of one image [3,R,R] of a batch; what they do not cover stays. */
export function putPixels(
  rgb: Uint8Array,
  into: Float32Array,
  { width, height, flip }: Omit<View, 'part'>,
  { resolution, mean, std }: Input,
): void {
  const plane = resolution * resolution;
  for (let channel = 0; channel < 3; channel++) {
    const [scale, shift] = [1 / (255 * std[channel]!), -mean[channel]! / std[channel]!];
    for (let y = 0; y < height; y++) {
      const row = channel * plane + y * resolution;
      let from = y * width * 3 + channel;
      if (flip) for (let x = width - 1; x >= 0; x--, from += 3) into[row + x] = rgb[from]! * scale + shift;
      else for (let x = 0; x < width; x++, from += 3) into[row + x] = rgb[from]! * scale + shift;
    }
  }
}

/** Where a training view comes from and how large it is drawn. */
export interface View {
  part: Rectangle;
  /** Size in the input; the rest of it is empty. */
  width: number;
  height: number;
  flip: boolean;
}

/**
 * Draws a training view: the image so scaled that its short side is a random multiple of the input's side, of that a
 * random square, mirrored at random.
 * @param random uniform numbers in [0, 1): four are taken
 */
export function drawView(
  image: { width: number; height: number },
  resolution: number,
  { scaleMin, scaleMax, flipProbability }: { scaleMin: number; scaleMax: number; flipProbability: number },
  random: () => number,
): View {
  const scale = (resolution * (scaleMin + (scaleMax - scaleMin) * random())) / Math.min(image.width, image.height);
  const side = (length: number) => Math.max(1, Math.min(length, Math.round(resolution / scale)));
  const [width, height] = [side(image.width), side(image.height)];
  const part = {
    x: Math.floor(random() * (image.width - width + 1)),
    y: Math.floor(random() * (image.height - height + 1)),
    width,
    height,
  };
  const drawn = (length: number) => Math.max(1, Math.min(resolution, Math.round(length * scale)));
  return { part, width: drawn(width), height: drawn(height), flip: random() < flipProbability };
}

/** The whole image, so scaled that it fits the input. */
export function wholeView({ width, height }: { width: number; height: number }, resolution: number): View {
  const scale = resolution / Math.max(width, height);
  const drawn = (length: number) => Math.max(1, Math.min(resolution, Math.round(length * scale)));
  return { part: { x: 0, y: 0, width, height }, width: drawn(width), height: drawn(height), flip: false };
}
