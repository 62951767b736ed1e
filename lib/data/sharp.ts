import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import { LgdError, mendOfMissing, messageOf } from '../errors.js';

const require = createRequire(import.meta.url);

/** sharp's own export; its type alone, the module is loaded on first use. */
export type Sharp = typeof import('sharp').default;

/**
 * Loads sharp on first use, so that importing this package, and training on pixels that are there already, needs no
 * decoder. Its CommonJS half: the other imports JSON, which Node 20.9 cannot do, and which Node 20.10 and 22.11 warn
 * of.
 * @throws LgdError DEPENDENCY_MISSING with the command to type
 */
export async function importSharp(load: () => unknown = () => require('sharp')): Promise<Sharp> {
  try {
    return (await load()) as Sharp;
  } catch (cause) {
    const why = (cause as Error).message.split('\nPossible solutions')[0]!.replaceAll('\n', ': ');
    throw new LgdError('DEPENDENCY_MISSING', `sharp could not be loaded, so no image can be decoded: ${why}.`, {
      mend: mendOfMissing(cause, 'npm install --include=optional sharp@0.35.5'),
      cause,
    });
  }
}

/** A picture that takes longer than this is given up as broken. */
export const timeoutSeconds = 60;

/** What a pipeline makes of a picture, 8 bits a channel, row by row. @throws Error */
export async function rgbOf(image: ReturnType<Sharp>): Promise<{ width: number; height: number; pixels: Uint8Array }> {
  const { data, info } = await image.raw({ depth: 'uchar' }).toBuffer({ resolveWithObject: true });
  if (info.channels !== 3) throw new Error(`it has ${info.channels} channels after the conversion to RGB`);
  return { width: info.width, height: info.height, pixels: data };
}

/** JPEG's, too. */
const longestSide = 65_535;

/**
 * Resizing keeps lines of an image by the hundred: long ones take gigabytes, however few they are, and a file of a few
 * bytes may tell of such.
 * @throws Error
 */
export function checkSides({ width, height }: { width: number; height: number }): void {
  if (Math.max(width, height) > longestSide)
    throw new Error(`it says ${width} x ${height} pixels; a side may have ${longestSide}`);
}

/**
 * What sharp says against an image, or that the system gave it no thread, which is no fault of the image.
 * @param bytes of the image's file
 * @param path of it, where the message has to name it
 */
export function decodingError(cause: unknown, bytes: Uint8Array, path?: string): LgdError {
  const text = messageOf(cause).trim().split('\n')[0]!.replace(/[.:]$/u, '');
  // Where several images fail at once, libvips has one memory for all its reasons, and sharp may find it empty.
  const why = text === 'Unknown error' ? 'its decoder gave no reason: it may be damaged, or end early' : text;
  if (why.includes('Error creating thread')) {
    return new LgdError('DEVICE_UNAVAILABLE', `the system starts no further thread to decode images (${why}).`, {
      mend: 'Raise its limit (ulimit -u; the pids limit of a container)',
      cause,
    });
  }
  const kind = otherKind(bytes);
  const reason =
    kind === undefined
      ? why
      : `it is ${kind}, whatever its name ends in, which nothing here decodes: convert it, to JPEG or PNG`;
  return new LgdError('BAD_IMAGE', `${path === undefined ? '' : `${path}: `}${reason}.`, { cause });
}

/**
 * Pictures of kinds that sharp's binary does not decode, by their first bytes; of a phone's photos, some are HEIC by
 * the name of a JPEG.
 */
function otherKind(bytes: Uint8Array): string | undefined {
  const text = Buffer.from(bytes.buffer, bytes.byteOffset, Math.min(bytes.byteLength, 64)).toString('latin1');
  if (/^....ftyp(?:hei|hev|mif1|msf1)/su.test(text) && !text.includes('avi')) return 'HEIC';
  if (/^(?:\xff\x0a|\0\0\0\x0cJXL )/u.test(text)) return 'JPEG XL';
  if (/^(?:\xff\x4f\xff\x51|\0\0\0\x0cjP {2})/u.test(text)) return 'JPEG 2000';
  return text.startsWith('BM') ? 'BMP' : undefined;
}

/** A background that is no colour would make every image a broken one. @throws LgdError BAD_OPTION */
function checkBackground(sharp: Sharp, background: string | undefined): void {
  if (background === undefined) return;
  try {
    if (typeof background !== 'string') throw new TypeError('it is no string');
    sharp().flatten({ background });
  } catch (cause) {
    throw new LgdError('BAD_OPTION', 'not a colour.', {
      option: 'background',
      found: background,
      allowed: "a colour as CSS writes it, such as '#ffffff'",
      cause,
    });
  }
}

/**
 * Pictures in the decoder at once: sharp works on libuv's threads, of which there are four unless the environment says
 * otherwise.
 */
export function decoderThreads(): number {
  const threads = Number(process.env['UV_THREADPOOL_SIZE'] ?? 4);
  return Math.max(1, Math.min(availableParallelism(), Number.isInteger(threads) && threads > 0 ? threads : 4));
}

/**
 * Sets sharp up for many pictures at once, which beat many threads on one, each of them seen once, which its cache only
 * slows down by a tenth.
 * @param background colour behind transparent pixels
 * @returns what puts its settings back
 * @throws LgdError DEPENDENCY_MISSING, BAD_OPTION
 */
export async function tuneForMany(background: string | undefined): Promise<() => void> {
  const sharp = await importSharp();
  checkBackground(sharp, background);
  const threads = sharp.concurrency();
  const { memory, files, items } = sharp.cache();
  sharp.concurrency(Math.max(1, Math.floor(availableParallelism() / decoderThreads())));
  sharp.cache(false);
  return () => {
    sharp.concurrency(threads);
    sharp.cache({ memory: memory.max, files: files.max, items: items.max });
  };
}
