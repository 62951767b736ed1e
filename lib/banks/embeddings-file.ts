import { checkOptions, optionTable } from '../arguments.js';
import { counted } from '../counted.js';
import { LgdError } from '../errors.js';
import { isTexts, parsed } from '../files/json.js';
import { readSafetensors, type TensorRecord } from '../files/safetensors.js';
import type { CategoryList } from '../text/names.js';
import { namesOf, TextualSemanticsBank, type BankInfo } from './textual.js';

export interface EmbeddingsFileOptions extends Partial<BankInfo> {
  /** Names of the rows, in their order; default: those in the file's metadata. Where both are there they must agree. */
  names?: CategoryList | readonly string[] | undefined;
}

const embeddingsFileOptions = optionTable<EmbeddingsFileOptions>()('names? encoderId? templates? allowDuplicates?');

export interface EmbeddedBank {
  bank: TextualSemanticsBank;
  /** Shortest and longest row in the file; in the bank all have length 1. */
  lengths: { shortest: number; longest: number };
}

/**
 * Makes a text bank of embeddings computed elsewhere, so that no text tower is needed here.
 * @param file safetensors with a tensor `embeddings` [K,D] (or one tensor alone; float32, float64 or half precision),
 *   row k for name k. Its metadata may hold `names` and `templates` (JSON arrays) and `encoder`; options override the
 *   latter two.
 * @throws LgdError FILE_NOT_FOUND, BAD_FILE, BAD_SHAPE (not [K,D], or not a row for each name), BAD_NAMES (none, or
 *   others than the file's), BAD_OPTION (no encoder is named: a bank records where its rows come from), ZERO_EMBEDDING,
 *   NON_FINITE
 */
export async function bankFromFile(file: string, options: EmbeddingsFileOptions = {}): Promise<EmbeddedBank> {
  checkOptions(options, 'bankFromFile()', embeddingsFileOptions);
  const { names, encoderId, templates, allowDuplicates } = options;
  const { tensors, metadata } = await readSafetensors(file);
  const { shape, data } = embeddingsOf(tensors, file);
  const [count, size] = [shape[0]!, shape[1]!];
  const own = metadata['names'] === undefined ? undefined : stringsOf(metadata['names'], 'names', file);
  const list = names === undefined ? own : namesOf(names);
  if (list === undefined)
    throw new LgdError('BAD_NAMES', `${file} holds no names.`, {
      option: 'names',
      mend: 'Give the names of its rows, in their order',
    });
  if (list.length !== count)
    throw new LgdError('BAD_SHAPE', `${file} has ${counted(count, 'row')} for ${counted(list.length, 'name')}.`, {
      option: 'embeddings',
      found: `[${shape.join(',')}]`,
      allowed: 'one row for each name',
    });
  const differs = own?.findIndex((name, index) => name !== list[index]) ?? -1;
  if (differs !== -1) {
    throw new LgdError(
      'BAD_NAMES',
      `row ${differs} of ${file} is ${JSON.stringify(own![differs])}, the list has ${JSON.stringify(list[differs])} there.`,
      { option: 'names', mend: 'Give the names in the order of the rows, or leave them out' },
    );
  }
  const encoder = encoderId ?? metadata['encoder'];
  if (encoder === undefined) {
    throw new LgdError('BAD_OPTION', 'a bank records which encoder its rows come from.', {
      option: 'textEncoder',
      mend: 'Name it (with --embeddings it is not loaded), or put "encoder" into the metadata of the file',
    });
  }
  const recorded =
    metadata['templates'] === undefined ? undefined : stringsOf(metadata['templates'], 'templates', file);
  const bank = TextualSemanticsBank.fromEmbeddings(list, data, {
    encoderId: encoder,
    templates: templates ?? recorded,
    allowDuplicates,
  });
  return { bank, lengths: lengthsOf(data, size) };
}

function embeddingsOf(tensors: Map<string, TensorRecord>, file: string): { shape: number[]; data: Float32Array } {
  const tensor = tensors.get('embeddings') ?? (tensors.size === 1 ? [...tensors.values()][0] : undefined);
  if (tensor === undefined)
    throw new LgdError('BAD_FILE', `${file} has no tensor "embeddings".`, {
      found: [...tensors.keys()].slice(0, 5).join(', '),
      mend: 'Write one tensor "embeddings" [K,D]',
    });
  const { shape, data } = tensor;
  if (
    shape.length !== 2 ||
    shape.some((length) => length < 1) ||
    !(data instanceof Float32Array || data instanceof Float64Array)
  ) {
    throw new LgdError('BAD_SHAPE', `the embeddings of ${file} are no matrix of floats.`, {
      option: 'embeddings',
      found: `[${shape.join(',')}]`,
      allowed: '[K,D], float32, float64 or half precision',
    });
  }
  return { shape, data: data instanceof Float32Array ? data : Float32Array.from(data) };
}

function stringsOf(json: string, what: string, file: string): string[] {
  const value = parsed(json);
  if (isTexts(value)) return value;
  throw new LgdError('BAD_FILE', `the ${what} in the metadata of ${file} are no JSON array of strings.`, {
    found: json.slice(0, 100),
    mend: 'Write them again',
  });
}

function lengthsOf(data: Float32Array, size: number): EmbeddedBank['lengths'] {
  let [shortest, longest] = [Infinity, 0];
  for (let from = 0; from < data.length; from += size) {
    let squares = 0;
    for (let k = from; k < from + size; k++) squares += data[k]! * data[k]!;
    const length = Math.sqrt(squares);
    shortest = Math.min(shortest, length);
    longest = Math.max(longest, length);
  }
  return { shortest, longest };
}
