import type { FileHandle } from 'node:fs/promises';
import { checkText } from '../arguments.js';
import { LgdError, systemErrorCode } from '../errors.js';
import { nextTurn } from '../turn.js';
import { beginsAsSafetensors } from './file-kind.js';
import { closeRead, openToRead } from './open.js';
import {
  arrays,
  bytesPerValue,
  damaged,
  decode,
  halfTypes,
  headerJson,
  headerLength,
  metadataName,
  parseHeader,
  type HeaderEntry,
  type TensorRecord,
} from './safetensors-header.js';
import { writeFileAtomically } from './write-file.js';

export type { TensorRecord } from './safetensors-header.js';

/** The content of a safetensors file. F16 and BF16 tensors are widened to Float32Array on reading. */
export interface SafetensorsFile {
  tensors: Map<string, TensorRecord>;
  metadata: Record<string, string>;
}

/** A safetensors file that is open, until it is disposed of. */
export interface OpenSafetensors extends AsyncDisposable {
  path: string;
  handle: FileHandle;
  entries: Map<string, HeaderEntry>;
  metadata: Record<string, string>;
  /** Where the tensors' bytes begin. */
  start: number;
}

/**
 * Reads a safetensors file (https://github.com/huggingface/safetensors, format section), each tensor into memory of its
 * own. Dtypes: F32, F16 and BF16 (widened), F64, I32, I64, U8, BOOL.
 * @throws LgdError FILE_NOT_FOUND, BAD_FILE
 */
export async function readSafetensors(path: string): Promise<SafetensorsFile> {
  await using file = await openSafetensors(path);
  return await readTensors(file);
}

/** All of a file that is open, which it stays. @throws LgdError BAD_FILE */
export async function readTensors(file: OpenSafetensors): Promise<SafetensorsFile> {
  const tensors = new Map<string, TensorRecord>();
  for (const name of file.entries.keys()) tensors.set(name, await readTensor(file, name));
  return { tensors, metadata: file.metadata };
}

/** Opens a file and reads its header. @throws LgdError BAD_OPTION (no path), FILE_NOT_FOUND, BAD_FILE */
export async function openSafetensors(path: string): Promise<OpenSafetensors> {
  checkText(path, 'path', 'a safetensors file');
  const handle = await openToRead(path).catch((cause: unknown) => {
    if (systemErrorCode(cause) === 'ENOENT')
      throw new LgdError('FILE_NOT_FOUND', `there is no file ${path}.`, { mend: 'Check the path', cause });
    throw cannotRead(path, cause);
  });
  try {
    const found = await handle.stat().catch((cause: unknown) => {
      throw cannotRead(path, cause);
    });
    if (!found.isFile())
      throw new LgdError('BAD_FILE', `${path} is no regular file.`, {
        mend: 'Write what it gives into a file, and give that',
      });
    const { size } = found;
    const prefix = new Uint8Array(Math.min(size, 9));
    await readFully(handle, prefix, 0, path);
    checkBeginning(prefix, path);
    const whole = size < 8 ? size : 8 + headerLength(prefix);
    const header = whole <= size ? new Uint8Array(whole) : prefix; // which is too short for what it announces
    await readFully(handle, header, 0, path);
    return { path, handle, ...parseHeader(header, size, path), [Symbol.asyncDispose]: () => closeRead(handle) };
  } catch (error) {
    await closeRead(handle);
    throw error;
  }
}

/** Bytes that are read, and widened, between two turns of the event loop. One call of the system could read 2 GiB. */
const readBytes = 2 ** 21;

/**
 * Reads a tensor into memory of its own; half precision is widened.
 * @param name one of the file's entries
 * @throws LgdError BAD_FILE, ABORTED
 */
export async function readTensor(
  { path, handle, entries, start }: OpenSafetensors,
  name: string,
  signal?: AbortSignal,
): Promise<TensorRecord> {
  const { dtype, shape, data_offsets: offsets } = entries.get(name)!;
  const [from, to] = offsets;
  const isHalf = halfTypes.has(dtype);
  const Values = isHalf ? Float32Array : arrays.get(dtype);
  if (Values === undefined) throw damaged(path, `tensor ${name} has dtype ${dtype}, which is not supported`);
  const size = bytesPerValue(dtype)!;
  const count = (to - from) / size;
  const data = new Values(new ArrayBuffer(count * Values.BYTES_PER_ELEMENT));
  for (let first = 0; first < count; first += readBytes / size) {
    await nextTurn(signal, 'reading weights');
    const part = data.subarray(first, first + readBytes / size);
    const bytes = isHalf
      ? new Uint8Array(part.length * size)
      : new Uint8Array(part.buffer, part.byteOffset, part.byteLength);
    await readFully(handle, bytes, start + from + first * size, path);
    if (isHalf) (part as Float32Array).set(decode(bytes, dtype) as Float32Array);
  }
  return { shape, data };
}

async function readFully(handle: FileHandle, into: Uint8Array, position: number, path: string): Promise<void> {
  for (let done = 0; done < into.byteLength;) {
    const { bytesRead } = await handle
      .read(into, done, into.byteLength - done, position + done)
      .catch((cause: unknown) => {
        throw cannotRead(path, cause);
      });
    if (bytesRead === 0) throw damaged(path, 'it became shorter while it was read');
    done += bytesRead;
  }
}

function cannotRead(path: string, cause: unknown): LgdError {
  if (cause instanceof LgdError) return cause;
  return new LgdError('BAD_FILE', `cannot read ${path}.`, {
    mend: 'Check that it is a file this user may read',
    cause,
  });
}

/**
 * Tells a file of another kind from one that is not whole.
 * @param first its first 9 bytes or more
 * @throws LgdError BAD_FILE
 */
function checkBeginning(first: Uint8Array, path: string): void {
  if (first.byteLength < 8 || beginsAsSafetensors(first)) return;
  // "version https://git-lfs.github.com/spec/v1"
  const isPointer = Buffer.from(first).toString('latin1').startsWith('version h');
  throw new LgdError('BAD_FILE', `${path} is not a safetensors file.`, {
    mend: isPointer ? 'It is a pointer of Git LFS: fetch the file itself (git lfs pull)' : 'Give a safetensors file',
  });
}

/**
 * The bytes of an array, in views of at most `most` (default 1 GiB): one view reaches 4 GiB, and hashing takes 2 at
 * once.
 */
export function* bytesOf(
  { buffer, byteOffset, byteLength }: ArrayBufferView,
  most = 2 ** 30,
): Generator<Uint8Array, void, undefined> {
  for (let from = 0; from < byteLength; from += most)
    yield new Uint8Array(buffer, byteOffset + from, Math.min(most, byteLength - from));
}

/**
 * The bytes of a safetensors file, one piece after the other: the header, then views of the tensors' own memory in the
 * order given.
 * @throws LgdError BAD_OPTION and BAD_SHAPE (tensors that would not be read back), NOT_WRITABLE (a header too long)
 */
export function encodeSafetensors(
  tensors: Iterable<[string, TensorRecord]>,
  metadata: Record<string, string>,
): Uint8Array[] {
  if (typeof (tensors as Partial<typeof tensors> | undefined)?.[Symbol.iterator] !== 'function') {
    throw new LgdError('BAD_OPTION', 'these are no tensors.', {
      option: 'tensors',
      found: tensors,
      allowed: pairs,
      mend: 'Give Object.entries(tensors) of an object, a Map as it is',
    });
  }
  const header = new Map<string, unknown>([[metadataName, metadata]]);
  const parts: Uint8Array[] = [];
  let offset = 0;
  for (const tensor of tensors) {
    const [name, dtype, { shape, data }] = checkTensor(tensor);
    if (header.has(name)) {
      const message =
        name === metadataName ? 'no tensor can have the name of the metadata.' : 'two tensors have one name.';
      throw new LgdError('BAD_OPTION', message, {
        option: 'tensors',
        found: name,
        mend: 'Give each tensor a name of its own',
      });
    }
    header.set(name, { dtype, shape, data_offsets: [offset, offset + data.byteLength] });
    offset += data.byteLength;
    for (const bytes of bytesOf(data)) parts.push(bytes);
  }
  let json = headerJson(Object.fromEntries(header));
  json += ' '.repeat((8 - (Buffer.byteLength(json) % 8)) % 8);
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(BigInt(Buffer.byteLength(json)));
  return [prefix, Buffer.from(json), ...parts];
}

const pairs = 'pairs of a name and { shape, data }';

/** By the arrays' tags: a Buffer is a Uint8Array, and so is one of another realm. */
const dtypes: ReadonlyMap<unknown, string> = new Map([
  ['Float32Array', 'F32'],
  ['Float64Array', 'F64'],
  ['Int32Array', 'I32'],
  ['BigInt64Array', 'I64'],
  ['Uint8Array', 'U8'],
]);

/**
 * A tensor as it is to be written, with its dtype, once it is known that it can be read back.
 * @throws LgdError BAD_OPTION, BAD_SHAPE
 */
function checkTensor(given: readonly [string, TensorRecord]): [name: string, dtype: string, TensorRecord] {
  const [name, tensor] = Array.isArray(given) ? (given as [unknown, Partial<TensorRecord> | null | undefined]) : [];
  if (typeof name !== 'string' || typeof tensor !== 'object' || tensor === null)
    throw new LgdError('BAD_OPTION', 'this is no tensor.', { option: 'tensors', found: given, allowed: pairs });
  const { shape, data } = tensor;
  const dtype = dtypes.get(data?.[Symbol.toStringTag]);
  if (data === undefined || dtype === undefined) {
    throw new LgdError('BAD_OPTION', `the values of the tensor ${name} are of no kind that is written.`, {
      option: 'tensors',
      found: data,
      allowed: [...dtypes.keys()].join(', '),
      mend: 'Convert them',
    });
  }
  if (!Array.isArray(shape) || !shape.every((length) => Number.isSafeInteger(length) && length >= 0)) {
    throw new LgdError('BAD_SHAPE', `the tensor ${name} has no shape.`, {
      option: 'tensors',
      found: shape,
      allowed: 'an array of whole numbers from 0',
    });
  }
  const count = shape.reduce((a, b) => a * b, 1);
  if (count !== data.length)
    throw new LgdError('BAD_SHAPE', `the tensor ${name} has ${data.length} values for shape [${shape.join(',')}].`, {
      option: 'tensors',
      found: data,
      allowed: `${count} values`,
    });
  return [name, dtype, { shape, data }];
}

/**
 * Writes a safetensors file: beside its place, synced and renamed, so that a crash leaves the old file or the new one.
 * Nothing is copied: the tensors must not change before the promise settles.
 * @throws LgdError BAD_OPTION and BAD_SHAPE, before anything is written, for tensors that would not be read back: of
 *   other kinds of values, of other lengths than their shapes, two of one name; NOT_WRITABLE
 */
export async function writeSafetensors(
  path: string,
  tensors: Iterable<[string, TensorRecord]>,
  metadata: Record<string, string>,
): Promise<void> {
  checkText(path, 'path', 'a path to write to');
  await writeFileAtomically(path, encodeSafetensors(tensors, metadata));
}
