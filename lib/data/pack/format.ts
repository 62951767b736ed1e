/**
 * The file of a packed data set: a header, the images one after the other, an index, a footer. All numbers are
 * little-endian.
 *
 *   header  64 bytes   magic 'LGDPACK1', kind, short side, quality (uint32 each), zeros, CRC-32C of the 60 bytes before
 *                      it
 *   images             as the kind says; raw ones are 8-bit RGB, row by row
 *   index              a safetensors block: where each image lies, its checksum, size, label, place in the source it
 *                      came from, and name
 *   footer  64 bytes   where the index begins, its bytes, the images, the bytes of the whole file (float64 each),
 *                      CRC-32C of the index, zeros, CRC-32C of the 52 bytes before it, magic 'LGDPEND1'
 *
 * The footer comes last, so that a file that was not written to its end has none.
 */
import type { NativeAddon } from '../../addon/native.js';
import { LgdError } from '../../errors.js';
import { parsed } from '../../files/json.js';
import { decode, parseHeader } from '../../files/safetensors-header.js';
import { encodeSafetensors, type TensorRecord } from '../../files/safetensors.js';
import { nextTurn } from '../../turn.js';
import type { BrokenImage } from '../decode.js';

/** What is kept of an image: its file as it is, a JPEG at a short side, or raw pixels at a short side. */
export type PackKind = 'original' | 'jpeg' | 'raw';
export const packKinds: readonly PackKind[] = ['original', 'jpeg', 'raw'];

/** How the images of a pack were made. */
export interface PackRecipe {
  kind: PackKind;
  /** Short side in pixels, at most; 0 for images that are as they were. */
  shortSide: number;
  /** JPEG quality, 1 to 100; 0 where nothing was encoded. */
  quality: number;
}

/** Where an image lies in a pack and what it is. */
export interface PackEntry {
  /** Its place in the source that was packed. */
  place: number;
  /** In bytes from the start of the file. */
  offset: number;
  bytes: number;
  /** CRC-32C of those bytes. */
  checksum: number;
  /** Upright, in pixels. */
  width: number;
  height: number;
  /** Bytes of the file it was made of. */
  fileBytes: number;
}

/** Everything about a pack but its images. Columns have an element an image, in order. */
export interface PackIndex {
  recipe: PackRecipe;
  ids: string[];
  labels: Int32Array | undefined;
  classNames: string[] | undefined;
  places: Int32Array;
  offsets: Float64Array;
  bytes: Uint32Array;
  checksums: Uint32Array;
  widths: Int32Array;
  heights: Int32Array;
  fileBytes: Float64Array;
  /** Where each name's UTF-8 begins in the file, and where the last one ends. */
  names: Float64Array;
  /** What was packed, in words. */
  source: string;
  /** Images of the source that could not be decoded. */
  refused: BrokenImage[];
}

export const headerBytes = 64;
export const footerBytes = 64;
const magic = 'LGDPACK1';
const endMagic = 'LGDPEND1';
const idsAtOnce = 8192;

type Checksum = NativeAddon['checksum'];

export function encodeHeader({ kind, shortSide, quality }: PackRecipe, checksum: Checksum): Buffer {
  const header = Buffer.alloc(headerBytes);
  header.write(magic, 'latin1');
  header.writeUInt32LE(packKinds.indexOf(kind), 8);
  header.writeUInt32LE(shortSide, 12);
  header.writeUInt32LE(quality, 16);
  header.writeUInt32LE(checksum(header.subarray(0, 60)), 60);
  return header;
}

/** Does a file that begins so claim to be a pack? */
export function beginsAsPack(bytes: Uint8Array): boolean {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('latin1', 0, magic.length) === magic;
}

/** @throws LgdError BAD_FILE */
export function decodeHeader(header: Buffer, path: string, checksum: Checksum): PackRecipe {
  if (!beginsAsPack(header))
    throw new LgdError('BAD_FILE', `${path} is no pack.`, { mend: 'Give a file that lgdistill pack has written' });
  if (header.byteLength < headerBytes) throw notWhole(path);
  const kind = packKinds[header.readUInt32LE(8)];
  if (header.readUInt32LE(60) !== checksum(header.subarray(0, 60)) || kind === undefined)
    throw damagedPack(path, 'its header is not what was written');
  return { kind, shortSide: header.readUInt32LE(12), quality: header.readUInt32LE(16) };
}

/** Where the index is. */
export interface Footer {
  indexOffset: number;
  indexBytes: number;
  indexChecksum: number;
  images: number;
}

/** The end of a pack: the index of `entries`, which lie one after the other up to `end`, and the footer. */
export function encodeEnd(
  index: Omit<
    PackIndex,
    'names' | 'places' | 'offsets' | 'bytes' | 'checksums' | 'widths' | 'heights' | 'fileBytes'
  > & { entries: readonly PackEntry[] },
  end: number,
  checksum: Checksum,
): Uint8Array[] {
  const { entries, ids, labels, classNames, source, refused } = index;
  const count = entries.length;
  const starts = new Float64Array(count + 1);
  for (const [i, id] of ids.entries()) starts[i + 1] = starts[i]! + Buffer.byteLength(id);
  const names = Buffer.alloc(starts[count]!); // one for all: of millions each would take more than its name
  for (const [i, id] of ids.entries()) names.write(id, starts[i]!);
  const column = (field: keyof PackEntry) => Float64Array.from(entries, (entry) => entry[field]);
  const whole = (field: keyof PackEntry): TensorRecord => ({
    shape: [count],
    data: Int32Array.from(entries, (entry) => entry[field] | 0),
  });
  const tensors: [string, TensorRecord][] = [
    ['offset', { shape: [count], data: column('offset') }],
    ['file_bytes', { shape: [count], data: column('fileBytes') }],
    ['name_start', { shape: [count + 1], data: starts }],
    ['bytes', whole('bytes')],
    ['checksum', whole('checksum')],
    ['width', whole('width')],
    ['height', whole('height')],
    ['place', whole('place')],
    ...(labels === undefined ? [] : [['label', { shape: [count], data: labels }] as [string, TensorRecord]]),
    ['names', { shape: [starts[count]!], data: names }],
  ];
  const metadata = {
    format: 'lgdistill-pack',
    source,
    ...(classNames !== undefined && { classNames: JSON.stringify(classNames) }),
    refused: JSON.stringify(refused),
  };
  const pieces = encodeSafetensors(tensors, metadata);
  const indexBytes = pieces.reduce((sum, piece) => sum + piece.byteLength, 0);
  const footer = Buffer.alloc(footerBytes);
  [end, indexBytes, count, end + indexBytes + footerBytes].forEach((value, i) => footer.writeDoubleLE(value, 8 * i));
  footer.writeUInt32LE(
    pieces.reduce((sum, piece) => checksum(piece, sum), 0),
    32,
  );
  footer.writeUInt32LE(checksum(footer.subarray(0, 52)), 52);
  footer.write(endMagic, 56, 'latin1');
  return [...pieces, footer];
}

/** @throws LgdError BAD_FILE where the file was not written to its end, was cut, or is damaged */
export function decodeFooter(footer: Buffer, fileBytes: number, path: string, checksum: Checksum): Footer {
  if (footer.toString('latin1', 56, 64) !== endMagic || footer.readUInt32LE(52) !== checksum(footer.subarray(0, 52))) {
    throw notWhole(path);
  }
  const [indexOffset, indexBytes, images, whole] = [0, 8, 16, 24].map((at) => footer.readDoubleLE(at)) as [
    number,
    number,
    number,
    number,
  ];
  if (![indexOffset, indexBytes, images].every((value) => Number.isSafeInteger(value) && value >= 0))
    throw damagedPack(path, 'its end tells of no place');
  if (whole !== fileBytes || indexOffset + indexBytes + footerBytes !== whole)
    throw damagedPack(path, `it has ${fileBytes} bytes and should have ${whole}`);
  return { indexOffset, indexBytes, images, indexChecksum: footer.readUInt32LE(32) };
}

/** @throws LgdError BAD_FILE */
export async function decodeIndex(
  block: Uint8Array,
  { indexOffset, indexChecksum, images }: Footer,
  recipe: PackRecipe,
  path: string,
  checksum: Checksum,
): Promise<PackIndex> {
  if (checksum(block) !== indexChecksum) throw damagedPack(path, 'its index is not what was written');
  const { entries, metadata, start } = parseHeader(block, block.byteLength, path);
  const column = <Values extends TensorRecord['data']>(name: string, dtype: string, count?: number): Values => {
    const entry = entries.get(name);
    if (
      entry === undefined ||
      entry.dtype !== dtype ||
      entry.shape.length !== 1 ||
      (count !== undefined && entry.shape[0] !== count)
    ) {
      throw damagedPack(path, `its index has no ${name}${count === undefined ? '' : ` of ${count} images`}`);
    }
    // a copy: aligned
    return decode(
      new Uint8Array(block.subarray(start + entry.data_offsets[0], start + entry.data_offsets[1])),
      dtype,
    ) as Values;
  };
  const whole = (name: string) => column<Int32Array>(name, 'I32', images);
  const unsigned = (name: string) => new Uint32Array(whole(name).buffer);
  const starts = column<Float64Array>('name_start', 'F64');
  if (starts.length !== images + 1) throw damagedPack(path, `its index has no name_start of ${images} images`);
  const text = Buffer.from(column<Uint8Array>('names', 'U8').buffer);
  const ids: string[] = [];
  for (let i = 0; i < images; i++) {
    if (i % idsAtOnce === idsAtOnce - 1) await nextTurn(undefined, 'reading a pack');
    if (!(starts[i]! <= starts[i + 1]!))
      throw damagedPack(path, `the names of its index do not follow each other at image ${i}`);
    ids.push(text.toString('utf8', starts[i], starts[i + 1]));
  }
  const entry = {
    offsets: column<Float64Array>('offset', 'F64', images),
    bytes: unsigned('bytes'),
    widths: whole('width'),
    heights: whole('height'),
  };
  checkPlaces(entry, indexOffset, recipe, path);
  const classNames =
    metadata['classNames'] === undefined
      ? undefined
      : listIn<string>(metadata, 'classNames', (name) => typeof name === 'string', path);
  const labels = entries.has('label') ? whole('label') : undefined;
  if (labels?.some((label) => !(label >= 0 && label < (classNames?.length ?? Infinity))) === true)
    throw damagedPack(path, 'its index has a label that is no class');
  const namesFrom = indexOffset + start + entries.get('names')!.data_offsets[0];
  return {
    recipe,
    ids,
    labels,
    classNames,
    ...entry,
    places: whole('place'),
    checksums: unsigned('checksum'),
    fileBytes: column('file_bytes', 'F64', images),
    names: starts.map((from) => namesFrom + from),
    source: metadata['source'] ?? '',
    refused: listIn<BrokenImage>(
      metadata,
      'refused',
      (image) =>
        typeof (image as BrokenImage | null)?.id === 'string' && typeof (image as BrokenImage).reason === 'string',
      path,
    ),
  };
}

/** Images lie before the index, and raw ones have a byte for each of their colours. @throws LgdError BAD_FILE */
function checkPlaces(
  { offsets, bytes, widths, heights }: Pick<PackIndex, 'offsets' | 'bytes' | 'widths' | 'heights'>,
  end: number,
  { kind }: PackRecipe,
  path: string,
): void {
  for (let i = 0; i < offsets.length; i++) {
    const [from, count, width, height] = [offsets[i]!, bytes[i]!, widths[i]!, heights[i]!];
    const isThere =
      Number.isSafeInteger(from) && from >= headerBytes && from + count <= end && width >= 1 && height >= 1;
    if (!isThere || (kind === 'raw' && count !== width * height * 3))
      throw damagedPack(path, `its index tells of no place or size of image ${i}`);
  }
}

/** @throws LgdError BAD_FILE */
function listIn<Item>(
  metadata: Readonly<Record<string, string>>,
  name: string,
  accepts: (item: unknown) => boolean,
  path: string,
): Item[] {
  const value = parsed(metadata[name] ?? '[]');
  if (!Array.isArray(value) || !value.every(accepts)) throw damagedPack(path, `the ${name} of its index are no list`);
  return value as Item[];
}

function notWhole(path: string): LgdError {
  return new LgdError('BAD_FILE', `${path} is not a whole pack: its end is missing.`, {
    mend: 'Copy it again, or pack the images again',
  });
}

export function damagedPack(path: string, how: string): LgdError {
  return new LgdError('BAD_FILE', `${path} is damaged: ${how}.`, { mend: 'Copy it again, or pack the images again' });
}
