import { basename, extname } from 'node:path';
import { types } from 'node:util';
import { checkOptions, checkText, optionTable } from '../../arguments.js';
import { eachId, IdPlaces } from '../../data/image-id.js';
import { LgdError } from '../../errors.js';
import { isTexts, parsed } from '../../files/json.js';
import { headerJson } from '../../files/safetensors-header.js';
import { readSafetensors, writeSafetensors } from '../../files/safetensors.js';
import { held } from '../../lifetime.js';
import { version } from '../../package.js';
import { clipMean, clipStd, faultOf, isSide } from './preprocessor.js';
import type { Preprocessing } from './preprocessor.js';
import type { ChannelTriple, PrecomputedTeacherApi } from './types.js';

/** What {@link PrecomputedTeacher.save} records beside the embeddings. */
export interface PrecomputedInfo extends Partial<Preprocessing> {
  /** The encoder the embeddings come from. */
  id?: string | undefined;
}

const precomputedInfo = optionTable<PrecomputedInfo>()('id? resolution? mean? std?');

/**
 * A teacher that is a file of embeddings: safetensors with `embeddings` [N,D] (float32; half precision is widened and
 * float64 rounded on reading) and, in its metadata, `ids` (a JSON array of N image ids: paths relative to the data
 * set's root, with forward slashes; `./` before them means nothing) and optionally `teacher`, `resolution`, `mean`,
 * `std`. It never sees the student's augmented views, only whole images; resolution, mean and std say how the student's
 * input is prepared (CLIP's at 224 px by default).
 */
export class PrecomputedTeacher implements PrecomputedTeacherApi {
  readonly kind = 'precomputed';
  readonly resolution: number;
  readonly mean: ChannelTriple;
  readonly std: ChannelTriple;
  #rows: IdPlaces | undefined;

  private constructor(
    readonly id: string,
    readonly embeddingSize: number,
    private embeddings: Float32Array,
    rows: IdPlaces,
    { resolution, mean, std }: Preprocessing,
  ) {
    this.#rows = rows;
    [this.resolution, this.mean, this.std] = [resolution, mean, std];
  }

  /** N, how many images have an embedding. */
  get size(): number {
    return this.#rows?.size ?? 0;
  }

  /** @throws LgdError FILE_NOT_FOUND, BAD_FILE, BAD_MODEL (wrong content), NON_FINITE, ZERO_EMBEDDING, ABORTED */
  static async load(file: string, signal?: AbortSignal): Promise<PrecomputedTeacher> {
    const bad = notEmbeddings(file);
    const { tensors, metadata } = await readSafetensors(file);
    const tensor = tensors.get('embeddings');
    if (tensor === undefined) throw bad('it has no tensor "embeddings"');
    const {
      shape: [count = 0, size = 0],
      shape,
    } = tensor;
    const data = tensor.data instanceof Float64Array ? new Float32Array(tensor.data) : tensor.data; // numpy's own kind
    if (!(data instanceof Float32Array) || shape.length !== 2 || count < 1 || size < 1)
      throw bad(`its embeddings are [${shape.join(',')}], not [N,D] of floats`);
    if (metadata['ids'] === undefined) throw bad(`its metadata has no "ids" for its ${count} rows`);
    const ids = parsed(metadata['ids']);
    if (!isTexts(ids) || ids.length !== count)
      throw bad(`the "ids" of its metadata are no JSON array of ${count} texts, one for each row`);
    const rows = await indexRows(ids, data, file, signal);
    const read = (name: 'mean' | 'std', fallback: ChannelTriple): ChannelTriple => {
      if (metadata[name] === undefined) return fallback;
      const value = parsed(metadata[name]);
      const wrong = faultOf(name, value);
      if (wrong !== undefined) throw bad(`its ${name} is ${wrong}`);
      return value as ChannelTriple;
    };
    const resolution = statedResolution(metadata, file);
    return new PrecomputedTeacher(metadata['teacher'] ?? basename(file, extname(file)), size, data, rows, {
      resolution,
      mean: read('mean', clipMean),
      std: read('std', clipStd),
    });
  }

  /**
   * @param ids N image ids, each once
   * @param embeddings [N,D], row-major
   * @throws LgdError BAD_SHAPE, BAD_DATASET (an id twice), BAD_OPTION (resolution, mean or std), NON_FINITE,
   *   ZERO_EMBEDDING, NOT_WRITABLE (also ids of more than 512 MiB of JSON)
   */
  static async save(
    file: string,
    ids: readonly string[],
    embeddings: Float32Array,
    info: PrecomputedInfo = {},
  ): Promise<void> {
    checkOptions(info, 'PrecomputedTeacher.save()', precomputedInfo);
    const { id, resolution, mean, std } = info;
    checkText(file, 'file', 'a path to write to');
    if (!Array.isArray(ids))
      throw new LgdError('BAD_DATASET', 'these are no image ids.', {
        option: 'ids',
        found: ids,
        allowed: 'an array of strings',
        mend: 'Give the ids of the images, as the data set has them',
      });
    if (!types.isFloat32Array(embeddings))
      throw new LgdError('BAD_SHAPE', 'these are no embeddings.', {
        option: 'embeddings',
        found: embeddings,
        allowed: 'a Float32Array [N,D], row-major',
      });
    const size = embeddings.length / ids.length;
    if (!Number.isInteger(size) || size === 0)
      throw new LgdError('BAD_SHAPE', `${embeddings.length} values are not one row for each of ${ids.length} images.`, {
        option: 'embeddings',
        allowed: '[N,D], row-major',
      });
    await indexRows(ids, embeddings, file);
    checkInfo(file, info);
    const metadata: Record<string, string> = { format: 'lgdistill-embeddings', version, ids: headerJson(ids) };
    if (id !== undefined) metadata['teacher'] = id;
    if (resolution !== undefined) metadata['resolution'] = String(resolution);
    if (mean !== undefined) metadata['mean'] = JSON.stringify(mean);
    if (std !== undefined) metadata['std'] = JSON.stringify(std);
    await writeSafetensors(file, [['embeddings', { shape: [ids.length, size], data: embeddings }]], metadata);
  }

  /** Whether an image has an embedding. */
  has(id: string): boolean {
    return this.#rows?.has(id) ?? false;
  }

  lookup(ids: readonly string[]): Float32Array {
    const rows = held(this.#rows, `the teacher ${this.id}`, 'Load it again');
    const missing = ids.filter((id) => !rows.has(id));
    if (missing.length > 0) {
      throw new LgdError('BAD_DATASET', `${missing.length} of ${ids.length} images have no embedding in ${this.id}.`, {
        found: `${missing.slice(0, 3).join(', ')}${missing.length > 3 ? ', ...' : ''}`,
        allowed: `paths relative to the data set's root, such as ${rows.first}`,
        mend: 'Compute embeddings for the whole data set, or check its root',
      });
    }
    const size = this.embeddingSize;
    const result = new Float32Array(ids.length * size);
    ids.forEach((id, i) => {
      const row = rows.get(id)!;
      result.set(this.embeddings.subarray(row * size, (row + 1) * size), i * size);
    });
    return result;
  }

  async dispose(): Promise<void> {
    this.#rows = undefined;
    this.embeddings = new Float32Array(0);
  }

  /** For `using`: {@link dispose}. */
  [Symbol.dispose](): void {
    void this.dispose();
  }

  /** For `await using`: {@link dispose}. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }
}

/** The row of each id, after checking that ids are distinct and rows usable. */
async function indexRows(
  ids: readonly string[],
  embeddings: Float32Array,
  file: string,
  signal?: AbortSignal,
): Promise<IdPlaces> {
  const size = embeddings.length / ids.length;
  const rows = new IdPlaces();
  await eachId(
    ids,
    (id, row) => {
      if (rows.has(id))
        throw new LgdError('BAD_DATASET', `the image id ${JSON.stringify(id)} is given twice in ${file}.`, {
          mend: 'Give each image once',
        });
      rows.set(id, row);
      let squares = 0;
      for (let k = row * size; k < (row + 1) * size; k++) squares += embeddings[k]! * embeddings[k]!;
      if (!Number.isFinite(squares))
        throw new LgdError('NON_FINITE', `the embedding of ${id} in ${file} is not finite.`, {
          mend: 'Compute it again',
        });
      if (!Number.isFinite(Math.fround(Math.sqrt(squares))))
        throw new LgdError('NON_FINITE', `the embedding of ${id} in ${file} is longer than float32 can hold.`, {
          mend: 'Divide it by a number: its direction alone counts',
        });
      if (squares === 0)
        throw new LgdError('ZERO_EMBEDDING', `the embedding of ${id} in ${file} is zero.`, {
          mend: 'Compute it again',
        });
    },
    signal,
    'reading the embeddings',
  );
  return rows;
}

/**
 * Side of a student's input that the metadata of a file of embeddings state, in pixels; default 224.
 * @throws LgdError BAD_MODEL
 */
export function statedResolution(metadata: Readonly<Record<string, string>>, file: string): number {
  const resolution = metadata['resolution'] === undefined ? 224 : Number(metadata['resolution']);
  if (isSide(resolution)) return resolution;
  throw notEmbeddings(file)('its resolution is not a number of pixels');
}

function notEmbeddings(file: string): (why: string) => LgdError {
  return (why) =>
    new LgdError('BAD_MODEL', `${file} is not a file of embeddings: ${why}.`, {
      mend: 'Write it with PrecomputedTeacher.save, or as docs/formats.md tells (Embeddings)',
    });
}

/** Looks at the input that is to be recorded. @throws LgdError BAD_OPTION */
function checkInfo(file: string, { resolution, ...triples }: PrecomputedInfo): void {
  const bad = (option: string, found: unknown, what: string) =>
    new LgdError('BAD_OPTION', `${what}, so ${file} is not written.`, {
      option,
      found,
      mend: "Give that of the student's input",
    });
  if (resolution !== undefined && !isSide(resolution))
    throw bad('resolution', resolution, 'this is not a number of pixels');
  for (const name of ['mean', 'std'] as const) {
    const wrong = triples[name] === undefined ? undefined : faultOf(name, triples[name]);
    if (wrong !== undefined) throw bad(name, triples[name], `this is ${wrong}`);
  }
}
