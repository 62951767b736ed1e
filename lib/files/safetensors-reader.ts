import { LgdError } from '../errors.js';
import { openSafetensors, readTensor, type OpenSafetensors } from './safetensors.js';
import { damaged } from './safetensors-header.js';

const floats: readonly string[] = ['F32', 'F16', 'BF16'];

/**
 * The tensors of one or several safetensors files (a model in shards), read one at a time, so that files may be larger
 * than memory.
 */
export class SafetensorsReader implements AsyncDisposable {
  readonly #places = new Map<string, OpenSafetensors>();
  readonly #files: OpenSafetensors[] = [];
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
    return new Map([...this.#places].map(([name, { entries }]) => [name, entries.get(name)!.shape]));
  }

  /**
   * A tensor of F32, F16 or BF16 as float32, row-major.
   * @throws LgdError BAD_FILE (damaged, or of another dtype), BAD_MODEL (no such tensor), ABORTED
   */
  async read(name: string, signal?: AbortSignal): Promise<Float32Array> {
    const file = this.#places.get(name);
    if (file === undefined)
      throw new LgdError(
        'BAD_MODEL',
        `there is no tensor ${name} in ${this.#files.map(({ path }) => path).join(', ')}.`,
        { mend: 'Check that the file is the one meant' },
      );
    const { dtype } = file.entries.get(name)!;
    if (!floats.includes(dtype))
      throw damaged(file.path, `tensor ${name} has dtype ${dtype}, and weights are ${floats.join(', ')}`);
    return (await readTensor(file, name, signal)).data as Float32Array;
  }

  /** Closes the files. */
  async close(): Promise<void> {
    await Promise.all(this.#files.splice(0).map((file) => file[Symbol.asyncDispose]()));
    this.#places.clear();
  }

  /** For `await using`: {@link close}. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #add(path: string): Promise<void> {
    const file = await openSafetensors(path);
    this.#files.push(file);
    Object.assign(this.metadata, file.metadata);
    for (const name of file.entries.keys()) this.#places.set(name, file);
  }
}
