import { open, type FileHandle } from 'node:fs/promises';
import { LgdError, systemErrorCode } from './errors.js';
import { checkBeginning, damaged, decode, parseHeader, type HeaderEntry } from './safetensors.js';
import { nextTurn } from './turn.js';

interface Place extends HeaderEntry {
  file: OpenFile;
}

interface OpenFile {
  path: string;
  handle: FileHandle;
  start: number;
}

const floatBytes: Readonly<Record<string, number>> = { F32: 4, F16: 2, BF16: 2 };
const pieceValues = 2 ** 20; // decoded between two turns of the event loop

/** The tensors of one or several safetensors files (a model in shards), read one at a time, so that files may be larger than memory or 2 GiB. */
export class SafetensorsReader implements AsyncDisposable {
  readonly #places = new Map<string, Place>();
  readonly #files: OpenFile[] = [];
  /** What the files' headers say besides; of an entry in several files the last one's. */
  readonly metadata: Record<string, string> = {};

  private constructor() {}

  /** Reads the headers. @throws LgdError FILE_NOT_FOUND, BAD_FILE */
  static async open(paths: readonly string[]): Promise<SafetensorsReader> {
    const reader = new SafetensorsReader();
    try {
      for (const path of paths) await reader.#add(path);
      return reader;
    } catch (error) {
      await reader.close();
      throw error;
    }
  }

  /** The shape of every tensor, by name. */
  get shapes(): Map<string, number[]> {
    return new Map([...this.#places].map(([name, { shape }]) => [name, shape]));
  }

  /**
   * A tensor of F32, F16 or BF16 as float32, row-major.
   * @throws LgdError BAD_FILE (damaged, or of another dtype), BAD_MODEL (no such tensor), ABORTED
   */
  async read(name: string, signal?: AbortSignal): Promise<Float32Array> {
    const place = this.#places.get(name);
    if (place === undefined) throw new LgdError('BAD_MODEL', `there is no tensor ${name} in ${this.#files.map(({ path }) => path).join(', ')}.`, { mend: 'Check that the file is the one meant' });
    const { dtype, shape, data_offsets: [from, to], file: { path, handle, start } } = place;
    const size = floatBytes[dtype];
    if (size === undefined) throw damaged(path, `tensor ${name} has dtype ${dtype}, and weights are ${Object.keys(floatBytes).join(', ')}`);
    const count = shape.reduce((a, b) => a * b, 1);
    if (to - from !== count * size) throw damaged(path, `tensor ${name} has ${to - from} bytes for shape [${shape.join(',')}]`);
    const values = new Float32Array(count);
    for (let first = 0; first < count; first += pieceValues) {
      await nextTurn(signal, 'reading weights');
      const piece = new Uint8Array(Math.min(pieceValues, count - first) * size);
      await readFully(handle, piece, start + from + first * size, path);
      values.set(decode(piece, dtype) as Float32Array, first);
    }
    return values;
  }

  /** Closes the files. */
  async close(): Promise<void> {
    await Promise.all(this.#files.splice(0).map(({ handle }) => handle.close()));
    this.#places.clear();
  }

  /** For `await using`: {@link close}. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #add(path: string): Promise<void> {
    const handle = await open(path, 'r').catch((cause: unknown) => {
      if (systemErrorCode(cause) === 'ENOENT') throw new LgdError('FILE_NOT_FOUND', `there is no file ${path}.`, { mend: 'Check the path', cause });
      throw new LgdError('BAD_FILE', `cannot read ${path}.`, { mend: 'Check that it is a file this user may read', cause });
    });
    const file: OpenFile = { path, handle, start: 0 };
    this.#files.push(file);
    const { size } = await handle.stat();
    if (size < 8) throw damaged(path, `it has ${size} bytes`);
    const prefix = Buffer.alloc(Math.min(9, size));
    await readFully(handle, prefix, 0, path);
    checkBeginning(prefix, path);
    const length = Number(prefix.readBigUInt64LE());
    if (length > size - 8) throw damaged(path, `its header should have ${length} bytes, the file ends before`);
    const header = new Uint8Array(8 + length);
    await readFully(handle, header, 0, path);
    const { entries, metadata, start } = parseHeader(header, size, path);
    file.start = start;
    Object.assign(this.metadata, metadata);
    for (const [name, entry] of entries) this.#places.set(name, { ...entry, file });
  }
}

async function readFully(handle: FileHandle, into: Uint8Array, position: number, path: string): Promise<void> {
  for (let done = 0; done < into.byteLength;) {
    const { bytesRead } = await handle.read(into, done, into.byteLength - done, position + done).catch((cause: unknown) => {
      throw new LgdError('BAD_FILE', `cannot read ${path}.`, { mend: 'Check that it is a file this user may read', cause });
    });
    if (bytesRead === 0) throw damaged(path, 'it became shorter while it was read');
    done += bytesRead;
  }
}
