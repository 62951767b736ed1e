/**
 * Label masks: PNG files of one number a pixel, greyscale or palette indices. sharp cannot read them: libvips turns
 * palettes into colours and stretches greys of fewer than 8 bits. PNG: W3C recommendation, second edition, chapters 4,
 * 9 and 11; what is not a mask (colours, alpha, interlacing) is refused.
 */
import { inflate } from 'node:zlib';
import { promisify } from 'node:util';
import { LgdError } from '../errors.js';

/** A label of each pixel. */
export interface Mask {
  width: number;
  height: number;
  /** Row by row; 8-bit labels, or the high and low byte of 16-bit ones as one number. */
  labels: Uint8Array | Uint16Array;
}

interface Header {
  width: number;
  height: number;
  bits: number;
}

const inflateBytes = promisify<Uint8Array, { maxOutputLength: number }, Buffer>(inflate);
const signature = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
const mostPixels = 2 ** 28;
// other readers let bytes behind the last row pass; a few hundred kilobytes may unpack to gigabytes of them
const mostSurplus = 2 ** 16;

type Bad = (why: string, mend?: string) => LgdError;

const badMask =
  (path: string): Bad =>
  (why, mend = 'Write the file again') =>
    new LgdError('BAD_IMAGE', `${path} is not a mask: ${why}.`, {
      allowed: 'PNG, greyscale or palette, not interlaced',
      mend,
    });

/**
 * What a mask says of its size, before any of it is unpacked.
 * @throws LgdError BAD_IMAGE
 */
export function pngMaskSize(bytes: Uint8Array, path: string): Pick<Mask, 'width' | 'height'> {
  return readChunks(bytes, badMask(path)).header;
}

/**
 * Reads a mask.
 * @param path names it in errors
 * @throws LgdError BAD_IMAGE
 */
export async function readPngMask(bytes: Uint8Array, path: string): Promise<Mask> {
  const bad = badMask(path);
  const { header, parts } = readChunks(bytes, bad);
  const { width, height, bits } = header;
  const rowBytes = Math.ceil((width * bits) / 8);
  const needed = height * (rowBytes + 1);
  const raw = await inflateBytes(Buffer.concat(parts), { maxOutputLength: needed + mostSurplus }).catch(
    (cause: unknown) => {
      throw bad(`its pixels cannot be unpacked (${(cause as Error).message})`);
    },
  );
  if (raw.length < needed) throw bad('it has fewer rows than it says');
  unfilter(raw, height, rowBytes, Math.max(1, bits / 8), bad);
  return { width, height, labels: unpack(raw, header, rowBytes) };
}

/** The header, and the packed pixels. */
function readChunks(bytes: Uint8Array, bad: Bad): { header: Header; parts: Buffer[] } {
  const file = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (!file.subarray(0, 8).equals(signature))
    throw bad('it is not a PNG file', 'Save masks as PNG, with the label as the pixel');
  let header: Header | undefined;
  const parts: Buffer[] = [];
  for (let at = 8; at + 12 <= file.length;) {
    const length = file.readUInt32BE(at);
    const body = file.subarray(at + 8, at + 8 + length);
    if (body.length < length) throw bad('it ends in the middle of a chunk');
    const kind = file.toString('latin1', at + 4, at + 8);
    if (kind === 'IHDR') header = readHeader(body, bad);
    else if (kind === 'IDAT') parts.push(body);
    else if (kind === 'IEND') break;
    at += 12 + length;
  }
  if (header === undefined || parts.length === 0) throw bad('it has no pixels');
  return { header, parts };
}

function readHeader(body: Buffer, bad: Bad): Header {
  if (body.length < 13) throw bad('its header is too short');
  const [width, height, bits, colour, interlace] = [
    body.readUInt32BE(0),
    body.readUInt32BE(4),
    body[8]!,
    body[9]!,
    body[12]!,
  ];
  if (colour !== 0 && colour !== 3)
    throw bad(
      `its pixels are ${colour === 4 ? 'grey with alpha' : 'colours'}`,
      'Save the label itself as the pixel: greyscale, or a palette',
    );
  if (interlace !== 0) throw bad('it is interlaced', 'Save it without interlacing');
  if (width === 0 || height === 0 || width * height > mostPixels || ![1, 2, 4, 8, 16].includes(bits))
    throw bad(`it says ${width} x ${height} pixels of ${bits} bits`);
  return { width, height, bits };
}

/** Undoes the row filters in place; each row keeps its filter byte. */
function unfilter(raw: Buffer, height: number, rowBytes: number, step: number, bad: Bad): void {
  for (let row = 0; row < height; row++) {
    const at = row * (rowBytes + 1) + 1;
    const above = at - (rowBytes + 1);
    const filter = raw[at - 1]!;
    if (filter > 4) throw bad(`row ${row} has filter ${filter}`);
    if (filter === 0) continue;
    for (let i = 0; i < rowBytes; i++) {
      const left = i >= step ? raw[at + i - step]! : 0;
      const up = row > 0 ? raw[above + i]! : 0;
      const corner = row > 0 && i >= step ? raw[above + i - step]! : 0;
      const guess = filter === 1 ? left : filter === 2 ? up : filter === 3 ? (left + up) >> 1 : paeth(left, up, corner);
      raw[at + i] = raw[at + i]! + guess; // a byte wraps
    }
  }
}

function paeth(left: number, up: number, corner: number): number {
  const estimate = left + up - corner;
  const [a, b, c] = [Math.abs(estimate - left), Math.abs(estimate - up), Math.abs(estimate - corner)];
  return a <= b && a <= c ? left : b <= c ? up : corner;
}

function unpack(raw: Buffer, { width, height, bits }: Header, rowBytes: number): Uint8Array | Uint16Array {
  const labels = bits === 16 ? new Uint16Array(width * height) : new Uint8Array(width * height);
  for (let row = 0; row < height; row++) {
    const [at, to] = [row * (rowBytes + 1) + 1, row * width];
    if (bits === 8) labels.set(raw.subarray(at, at + width), to);
    else if (bits === 16) for (let x = 0; x < width; x++) labels[to + x] = raw.readUInt16BE(at + 2 * x);
    else
      for (let x = 0; x < width; x++)
        labels[to + x] = (raw[at + ((x * bits) >> 3)]! >> (8 - bits - ((x * bits) & 7))) & ((1 << bits) - 1);
  }
  return labels;
}
