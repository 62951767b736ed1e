/**
 * The header of a safetensors file (https://github.com/huggingface/safetensors, format section), and the types of values
 * that it names.
 */
import { constants } from 'node:buffer';
import { LgdError, systemErrorCode } from '../errors.js';
import { isObject } from './json.js';

/** One tensor in memory, row-major. */
export interface TensorRecord {
  shape: number[];
  data: Float32Array | Uint8Array | Int32Array | Float64Array | BigInt64Array;
}

/** Where a tensor lies in a file. */
export interface HeaderEntry {
  dtype: string;
  shape: number[];
  /** In bytes, from the end of the header. */
  data_offsets: [number, number];
}

/** The error of a safetensors file that is not whole. */
export function damaged(path: string, why: string): LgdError {
  return new LgdError('BAD_FILE', `${path} is not a whole safetensors file: ${why}.`, {
    mend: 'Fetch or write the file again',
  });
}

/**
 * Parses a file's header.
 * @param bytes the file's first ones, at least the header
 * @param size bytes of the whole file
 * @returns the tensors, the metadata, and where the data begin
 * @throws LgdError BAD_FILE
 */
export function parseHeader(
  bytes: Uint8Array,
  size: number,
  path: string,
): { entries: Map<string, HeaderEntry>; metadata: Record<string, string>; start: number } {
  if (bytes.byteLength < 8) throw damaged(path, `it has ${bytes.byteLength} bytes`);
  const length = headerLength(bytes);
  if (length > bytes.byteLength - 8)
    throw damaged(path, `its header should have ${length} bytes, the file ends before`);
  let header: Record<string, unknown>;
  try {
    header = JSON.parse(utf8.decode(bytes.subarray(8, 8 + length))) as typeof header;
  } catch (cause) {
    if (systemErrorCode(cause) !== 'ERR_STRING_TOO_LONG') throw damaged(path, 'its header is not JSON');
    throw new LgdError(
      'BAD_FILE',
      `the header of ${path} has ${mebibytes(length)} MiB of text, more than the ${mebibytes(mostText)} that can be read.`,
      {
        mend: 'Write the file with fewer names or ids in its metadata, or shorter ones',
        cause,
      },
    );
  }
  if (!isObject(header)) throw damaged(path, 'its header is no object');
  const { [metadataName]: metadata = {}, ...tensors } = header;
  if (!isObject(metadata ?? {}) || !Object.values(metadata ?? {}).every((value) => typeof value === 'string'))
    throw damaged(path, 'its metadata are not texts');
  const entries = new Map(Object.entries(tensors).map(([name, entry]) => [name, checkEntry(name, entry, path)]));
  checkPlaces(entries, size - 8 - length, path);
  return { entries, metadata: (metadata ?? {}) as Record<string, string>, start: 8 + length };
}

const utf8 = new TextDecoder('utf-8', { fatal: true });
const areNumbers = (value: unknown): value is number[] =>
  Array.isArray(value) && value.every((one) => typeof one === 'number');
const areSizes = (value: unknown): value is number[] =>
  Array.isArray(value) && value.every((size) => Number.isSafeInteger(size) && size >= 0);

/** @throws LgdError BAD_FILE */
function checkEntry(name: string, entry: unknown, path: string): HeaderEntry {
  const { dtype, shape, data_offsets: offsets } = (entry ?? {}) as Partial<Record<keyof HeaderEntry, unknown>>;
  if (typeof dtype !== 'string' || !areSizes(shape)) throw damaged(path, `tensor ${name} has no dtype and shape`);
  if (!areSizes(offsets) || offsets.length !== 2 || offsets[0]! > offsets[1]!)
    throw damaged(path, `tensor ${name} lies from byte ${areNumbers(offsets) ? offsets.join(' to ') : 'none'}`);
  const [from, to] = offsets as [number, number];
  const size = bytesPerValue(dtype);
  if (size !== undefined && to - from !== shape.reduce((a, b) => a * b, size))
    throw damaged(path, `tensor ${name} has ${to - from} bytes for ${dtype} [${shape.join(',')}]`);
  return { dtype, shape, data_offsets: [from, to] };
}

/**
 * The tensors fill the file, one after the other, as the format asks. Where two have one name, of which JSON keeps the
 * last, the first one's bytes are left over.
 * @param bytes behind the header
 * @throws LgdError BAD_FILE
 */
function checkPlaces(entries: ReadonlyMap<string, HeaderEntry>, bytes: number, path: string): void {
  const places = [...entries]
    .map(([name, entry]) => {
      const [from, to] = entry.data_offsets;
      return { name, from, to };
    })
    .sort((a, b) => a.from - b.from || a.to - b.to);
  let end = 0;
  for (const { name, from, to } of places) {
    if (to > bytes) throw damaged(path, `tensor ${name} ends past the end of the file`);
    if (from < end) throw damaged(path, `tensor ${name} begins within another one`);
    if (from > end)
      throw damaged(path, `its bytes from ${end} to ${from} are of no tensor, as where two have one name`);
    end = to;
  }
  if (end < bytes) throw damaged(path, `its last ${bytes - end} bytes are of no tensor, as where two have one name`);
}

/** Of a file's first eight bytes. */
export function headerLength(bytes: Uint8Array): number {
  return Number(new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength).getBigUint64(0, true));
}

/** What stands among the tensors of a header and is none. */
export const metadataName = '__metadata__';

type Numbers = TensorRecord['data'];

/** What holds the values of each dtype that needs no widening. */
export const arrays = new Map<
  string,
  (new (buffer: ArrayBufferLike, byteOffset?: number, length?: number) => Numbers) & { BYTES_PER_ELEMENT: number }
>([
  ['F32', Float32Array],
  ['F64', Float64Array],
  ['I32', Int32Array],
  ['I64', BigInt64Array],
  ['U8', Uint8Array],
  ['BOOL', Uint8Array],
]);
export const halfTypes: ReadonlySet<string> = new Set(['F16', 'BF16']);

/** undefined for a dtype not supported. */
export function bytesPerValue(dtype: string): number | undefined {
  return halfTypes.has(dtype) ? 2 : arrays.get(dtype)?.BYTES_PER_ELEMENT;
}

/** The values of a tensor's bytes, which must be aligned to their size; undefined for a dtype not supported. */
export function decode(bytes: Uint8Array, dtype: string): Numbers | undefined {
  const { buffer, byteOffset, byteLength } = bytes;
  switch (dtype) {
    case 'F16': {
      halves ??= Float32Array.from({ length: 65_536 }, (_, bits) => halfToFloat(bits));
      const bits = new Uint16Array(buffer, byteOffset, byteLength / 2);
      const values = new Float32Array(bits.length);
      for (let i = 0; i < bits.length; i++) values[i] = halves[bits[i]!]!;
      return values;
    }
    case 'BF16': {
      const bits = new Uint16Array(buffer, byteOffset, byteLength / 2);
      const words = new Uint32Array(bits.length);
      for (let i = 0; i < bits.length; i++) words[i] = bits[i]! << 16;
      return new Float32Array(words.buffer);
    }
    default: {
      const Values = arrays.get(dtype);
      return Values && new Values(buffer, byteOffset, byteLength / Values.BYTES_PER_ELEMENT);
    }
  }
}

let halves: Float32Array | undefined; // every binary16 number

/** IEEE 754 binary16 bits to a number. */
export function halfToFloat(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

const mostText = constants.MAX_STRING_LENGTH;

/** Bytes as a whole number of MiB, upwards. */
export function mebibytes(bytes: number): number {
  return Math.ceil(bytes / 2 ** 20);
}

/**
 * JSON that a header is to hold, or the header itself.
 * @throws LgdError NOT_WRITABLE where it is more than a string holds
 */
export function headerJson(value: unknown): string {
  try {
    return JSON.stringify(value);
  } catch (cause) {
    if (!(cause instanceof RangeError)) throw cause;
    throw new LgdError(
      'NOT_WRITABLE',
      `the names or ids that are to stand in the header of a safetensors file come to more than ${mebibytes(mostText)} MiB of text, which is all that it can have.`,
      {
        mend: 'Give fewer of them, or shorter ones: ten million of some 45 characters fit',
        cause,
      },
    );
  }
}
