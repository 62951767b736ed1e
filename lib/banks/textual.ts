import { constants } from 'node:buffer';
import { createHash } from 'node:crypto';
import { checkArgument, checkOptions, checkText, optionTable } from '../arguments.js';
import { counted } from '../counted.js';
import { LgdError } from '../errors.js';
import { isTexts, parsed } from '../files/json.js';
import { mebibytes } from '../files/safetensors-header.js';
import { bytesOf, readSafetensors, writeSafetensors } from '../files/safetensors.js';
import { version } from '../package.js';
import { encodeOptions, type EncodeOptions, type TextEncoder } from '../text/encoder.js';
import { CategoryList } from '../text/names.js';
import { checkSimilarity, nearestPairs } from '../text/nearest-pairs.js';
import { embedNames } from '../text/prompts.js';
import { loadTemplates } from '../text/templates.js';

/** How {@link TextualSemanticsBank.build} embeds names. */
export interface BuildOptions extends EncodeOptions {
  encoder: TextEncoder;
  /** A set's id, a file, or the templates ({@link loadTemplates}); `default` by default. */
  templates?: string | readonly string[] | undefined;
  /**
   * Keeps names that are given more than once, each with its own row. Default false: they are refused, since of rows
   * alike only the first can ever be assigned.
   */
  allowDuplicates?: boolean | undefined;
}

const buildOptions = optionTable<BuildOptions>()('encoder templates? allowDuplicates?', encodeOptions);

/** Where the rows of {@link TextualSemanticsBank.fromEmbeddings} come from; recorded in the bank. */
export interface BankInfo {
  encoderId: string;
  templates?: readonly string[] | undefined;
  allowDuplicates?: boolean | undefined;
}

const bankInfo = optionTable<BankInfo>()('encoderId templates? allowDuplicates?');

/** Which pairs {@link TextualSemanticsBank.nearestNames} looks for. */
export interface NearestOptions {
  /** Cosine from which two rows count as alike, above 0 and up to 1; the higher, the faster. Default 0.9. */
  similarity?: number | undefined;
  /** How many pairs at most; default 1,000. */
  limit?: number | undefined;
  signal?: AbortSignal | undefined;
}

const nearestOptions = optionTable<NearestOptions>()('similarity? limit? signal?');

/** Two names and the cosine between their rows. */
export interface NearestNames {
  a: string;
  b: string;
  similarity: number;
}

const format = 'lgdistill-textual-bank';
const unitTolerance = 1e-3; // leaves room for banks written by programs that store half precision

/**
 * The Textual Semantics Bank: one frozen unit text embedding for each category name (L, [K,D], in Li et al. 2024).
 * Row k belongs to name k.
 */
export class TextualSemanticsBank {
  /**
   * SHA-256, in hex, of the names (their JSON array in UTF-8) followed by the rows (float32, little-endian): two banks
   * agree exactly when their hashes do.
   */
  readonly hash: string;
  readonly #places = new Map<string, number>();

  private constructor(
    readonly names: readonly string[],
    readonly templates: readonly string[],
    readonly encoderId: string,
    /** D. */
    readonly embeddingSize: number,
    /** [K,D], row-major, unit rows. */
    readonly data: Float32Array,
  ) {
    this.hash = hashOf(names, data);
    names.forEach((name, index) => this.#places.has(name) || this.#places.set(name, index));
  }

  /** K. */
  get size(): number {
    return this.names.length;
  }

  /** The row of a name (the first, where duplicates were allowed), or -1. */
  indexOf(name: string): number {
    return this.#places.get(name) ?? -1;
  }

  /**
   * Embeds every name: per template the unit text embedding, the mean over templates, normalised again
   * (text/prompts.ts).
   * @throws LgdError BAD_NAMES (no names, empty names, exact duplicates), BAD_OPTION and FILE_NOT_FOUND (templates),
   *   BAD_SHAPE (an encoder that gives no rows of its size), BAD_MODEL (one that throws what is no error),
   *   ZERO_EMBEDDING, NON_FINITE, ABORTED
   */
  static async build(list: CategoryList | readonly string[], options: BuildOptions): Promise<TextualSemanticsBank> {
    checkOptions(options, 'TextualSemanticsBank.build()', buildOptions);
    const { encoder, templates = 'default', allowDuplicates = false, signal, onProgress } = options;
    checkArgument('encoder', encoder);
    const names = namesOf(list);
    requireNames(names, allowDuplicates);
    const loaded = await loadTemplates(templates);
    const data = await embedNames(names, encoder, loaded, { signal, onProgress });
    return new TextualSemanticsBank(
      Object.freeze([...names]),
      Object.freeze(loaded),
      encoder.id,
      encoder.embeddingSize,
      data,
    );
  }

  /**
   * A bank of rows computed elsewhere.
   * @param embeddings [K,D], row-major, of any positive length; they are copied and normalised
   * @throws LgdError BAD_NAMES, BAD_SHAPE, ZERO_EMBEDDING, NON_FINITE
   */
  static fromEmbeddings(
    list: CategoryList | readonly string[],
    embeddings: Float32Array,
    options: BankInfo,
  ): TextualSemanticsBank {
    checkOptions(options, 'TextualSemanticsBank.fromEmbeddings()', bankInfo);
    const { encoderId, templates = [], allowDuplicates = false } = options;
    checkText(encoderId, 'encoderId', 'the name of the encoder that the rows come from');
    const names = namesOf(list);
    if (!ArrayBuffer.isView(embeddings))
      throw new LgdError('BAD_SHAPE', 'these are no embeddings.', {
        option: 'embeddings',
        found: embeddings,
        allowed: 'a Float32Array [K,D], row-major',
      });
    requireNames(names, allowDuplicates);
    const size = embeddings.length / names.length;
    if (!Number.isInteger(size) || size === 0)
      throw new LgdError(
        'BAD_SHAPE',
        `${embeddings.length} values are not one row for each of ${names.length} names.`,
        { option: 'embeddings', allowed: '[K,D], row-major' },
      );
    const data = new Float32Array(embeddings.length);
    names.forEach((name, index) => {
      const row = embeddings.subarray(index * size, (index + 1) * size);
      const norm = normOf(row);
      if (!Number.isFinite(norm))
        throw new LgdError('NON_FINITE', `row ${index} (${JSON.stringify(name)}) is not finite.`, {
          option: 'embeddings',
        });
      if (norm === 0)
        throw new LgdError('ZERO_EMBEDDING', `row ${index} (${JSON.stringify(name)}) is zero.`, {
          option: 'embeddings',
        });
      for (let k = 0; k < size; k++) data[index * size + k] = row[k]! / norm;
    });
    return new TextualSemanticsBank(Object.freeze([...names]), Object.freeze([...templates]), encoderId, size, data);
  }

  /**
   * Pairs of names whose rows are alike, the most alike first: images of one may be taken for the other.
   * @throws LgdError BAD_OPTION, ABORTED, ADDON_NOT_FOUND
   */
  async nearestNames(options: NearestOptions = {}): Promise<NearestNames[]> {
    checkOptions(options, 'nearestNames()', nearestOptions);
    const { similarity = 0.9, limit = 1000, signal } = options;
    checkSimilarity(similarity);
    if (!Number.isSafeInteger(limit) || limit < 1)
      throw new LgdError('BAD_OPTION', 'not a number of pairs.', {
        option: 'limit',
        found: limit,
        allowed: 'a whole number from 1',
      });
    const { pairs } = await nearestPairs(this.data, this.size, similarity, { limit, signal });
    return pairs.map(({ a, b, similarity: cosine }) => ({ a: this.names[a]!, b: this.names[b]!, similarity: cosine }));
  }

  /**
   * Writes the bank as safetensors: tensor `textual_bank` [K,D] float32; metadata format, version, names and templates
   * (JSON arrays), encoder, hash.
   * @throws LgdError BAD_OPTION (no path), NOT_WRITABLE
   */
  async save(file: string): Promise<void> {
    checkText(file, 'file', 'a path to write to');
    await writeSafetensors(file, [['textual_bank', { shape: [this.size, this.embeddingSize], data: this.data }]], {
      format,
      version,
      names: JSON.stringify(this.names),
      templates: JSON.stringify(this.templates),
      encoder: this.encoderId,
      hash: this.hash,
    });
  }

  /**
   * Reads a bank back, to the bit, after checking its shape, that its rows are finite and of unit length, and its hash.
   * @throws LgdError FILE_NOT_FOUND, BAD_FILE (not safetensors, cut short), BAD_BANK
   */
  static async load(file: string): Promise<TextualSemanticsBank> {
    const bad = (why: string) =>
      new LgdError('BAD_BANK', `${file} is not a sound text bank: ${why}.`, {
        mend: 'Build it again: lgdistill bank build',
      });
    const { tensors, metadata } = await readSafetensors(file);
    const tensor = tensors.get('textual_bank');
    if (tensor === undefined || metadata['format'] !== format) throw bad('it holds something else');
    const [names, templates] = [parsed(metadata['names']), parsed(metadata['templates'])];
    if (!isTexts(names) || !isTexts(templates) || metadata['encoder'] === undefined)
      throw bad('its names, templates or encoder are missing');
    const { data, shape } = tensor;
    const [count, size] = shape;
    if (!(data instanceof Float32Array) || shape.length !== 2 || count !== names.length || !size || count === 0)
      throw bad(`its tensor is [${shape.join(',')}] for ${counted(names.length, 'name')}`);
    for (let index = 0; index < names.length; index++) {
      const norm = normOf(data.subarray(index * size, (index + 1) * size));
      if (!(Math.abs(norm - 1) <= unitTolerance))
        throw bad(`row ${index} (${JSON.stringify(names[index])}) has length ${norm}, not 1`);
    }
    const bank = new TextualSemanticsBank(
      Object.freeze(names),
      Object.freeze(templates),
      metadata['encoder'],
      size,
      data,
    );
    if (bank.hash !== metadata['hash']) throw bad('its content does not match its hash');
    return bank;
  }
}

const mostNames = 2 ** 24; // a set's
const punctuation = 5; // quotes, each escaped in the header of a file, and a comma

/**
 * Names from a list, which `import` and `require` have different classes of, or from an array.
 * @throws LgdError BAD_NAMES
 */
export function namesOf(list: CategoryList | readonly string[]): readonly string[] {
  const names: unknown = typeof list === 'object' && list !== null && 'names' in list ? list.names : list;
  if (Array.isArray(names)) return [...(names as readonly string[])]; // the caller's may change while they are embedded
  throw new LgdError('BAD_NAMES', 'these are no names.', {
    option: 'names',
    found: list,
    allowed: 'an array of strings, or what `await CategoryList.load()` gives',
    mend: 'Give names, and put await before CategoryList.load()',
  });
}

/** Can a bank have these names? @throws LgdError BAD_NAMES */
export function requireNames(names: readonly string[], allowDuplicates: boolean): void {
  if (names.length === 0)
    throw new LgdError('BAD_NAMES', 'a bank needs at least one name.', {
      option: 'names',
      mend: 'Give category names',
    });
  const other = names.findIndex((name) => typeof name !== 'string');
  if (other !== -1)
    throw new LgdError('BAD_NAMES', `name ${other + 1} is no text.`, {
      option: 'names',
      found: names[other],
      allowed: 'strings',
      mend: 'Give names as text',
    });
  const text = names.reduce((sum, name) => sum + name.length + punctuation, 0);
  if (names.length > mostNames || text > constants.MAX_STRING_LENGTH) {
    throw new LgdError('BAD_NAMES', `a bank cannot hold ${names.length} names of ${mebibytes(text)} MiB.`, {
      option: 'names',
      allowed: `${mostNames} names of ${mebibytes(constants.MAX_STRING_LENGTH)} MiB in all`,
      mend: 'Give fewer names, or shorter ones',
    });
  }
  const empty = names.findIndex((name) => name.trim() === '');
  if (empty !== -1)
    throw new LgdError('BAD_NAMES', `name ${empty + 1} is empty.`, {
      option: 'names',
      mend: 'Remove it; lgdistill names proposes the mended list',
    });
  if (allowDuplicates) return;
  const seen = new Set<string>();
  const twice = new Set<string>();
  for (const name of names) (seen.has(name) ? twice : seen).add(name);
  if (twice.size === 0) return;
  const shown = [...twice]
    .slice(0, 10)
    .map((name) => JSON.stringify(name))
    .join(', ');
  throw new LgdError(
    'BAD_NAMES',
    `${counted(twice.size, 'name is', 'names are')} given more than once: ${shown}${twice.size > 10 ? ', ...' : ''}.`,
    {
      option: 'names',
      mend: 'Remove the repetitions (lgdistill names proposes the mended list), or allow duplicates',
    },
  );
}

function normOf(row: Float32Array): number {
  let squares = 0;
  for (const value of row) squares += value * value;
  return Math.sqrt(squares);
}

function hashOf(names: readonly string[], data: Float32Array): string {
  const hash = createHash('sha256').update(JSON.stringify(names));
  for (const bytes of bytesOf(data)) hash.update(bytes);
  return hash.digest('hex');
}
