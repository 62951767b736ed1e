/** What maps texts to embeddings, and what those that this package has share: their options, and working in batches. */
import { checkText, optionTable } from '../arguments.js';
import { LgdError } from '../errors.js';
import { resolveOptions, type ResolveOptions } from '../hub/hub.js';
import { checkWhole } from '../number-limits.js';
import { nextTurn } from '../turn.js';

/** Options of calls that encode many texts. */
export interface EncodeOptions {
  signal?: AbortSignal | undefined;
  /** Called after each batch with the number of texts done and to do. */
  onProgress?: ((done: number, total: number) => void) | undefined;
}

export const encodeOptions = optionTable<EncodeOptions>()('signal? onProgress?');

/** Maps texts into the space the teacher's images are in. */
export interface TextEncoder {
  /** What banks record: a hub id or a folder's name. */
  readonly id: string;
  /** D. */
  readonly embeddingSize: number;
  /** The most tokens a text may have, start and end tokens included; the rest of a longer one is cut off. */
  readonly maxTokens: number;
  /** Embeddings [N,D] of N texts, not normalised. */
  encode(texts: readonly string[], options?: EncodeOptions): Promise<Float32Array>;
  /** How many tokens a text has, start and end tokens included, before any cut. */
  countTokens(text: string): number;
  /** Frees its memory. */
  dispose(): Promise<void>;
}

/** How {@link ClipTextEncoder.load} finds a model and runs it. */
export interface TextEncoderOptions extends ResolveOptions {
  /** Texts computed at once; larger batches pad more and use more memory. Default 32. */
  batchSize?: number | undefined;
}

export const textEncoderOptions = optionTable<TextEncoderOptions>()('batchSize?', resolveOptions);

/**
 * @throws LgdError BAD_OPTION unless a model is named and the batch size, where there is one, is a whole number from 1
 */
export function checkLoading(idOrDir: unknown, { batchSize = 32 }: TextEncoderOptions): void {
  checkText(idOrDir, 'idOrDir', "a folder ('./dir' or an absolute path) or a Hugging Face id ('org/name')");
  checkWhole('batchSize', batchSize);
}

/** @throws LgdError BAD_OPTION for anything but an array of strings */
export function checkTexts(texts: unknown): void {
  const allowed = 'an array of strings';
  if (!Array.isArray(texts))
    throw new LgdError('BAD_OPTION', 'these are no texts.', {
      option: 'texts',
      found: texts,
      allowed,
      ...(typeof texts === 'string' && { mend: 'Put it in an array: [text]' }),
    });
  const index = texts.findIndex((text) => typeof text !== 'string');
  if (index !== -1)
    throw new LgdError('BAD_OPTION', `text ${index} is no string.`, {
      option: 'texts',
      found: texts[index] as unknown,
      allowed,
    });
}

/**
 * A text as its tokenizer reads it, for each; between them the event loop has its turns.
 * @throws LgdError ABORTED, BAD_MODEL
 */
export async function tokensOf(
  texts: readonly string[],
  tokenizer: { encode(text: string, most: number): number[] },
  maxTokens: number,
  signal: AbortSignal | undefined,
): Promise<number[][]> {
  const rows: number[][] = [];
  for (const [index, text] of texts.entries()) {
    if (index % 256 === 0) await nextTurn(signal, 'text encoding');
    rows.push(tokenizer.encode(text, maxTokens));
  }
  return rows;
}

/** How {@link embedInBatches} makes and computes batches. */
interface Batches {
  embeddingSize: number;
  /** Texts of a batch at most. */
  most: number;
  /** Tokens of a text at most that is computed together with one of so many. */
  longest: (length: number) => number;
  /** Embeddings of a batch, the shortest text first. */
  run: (rows: readonly number[][]) => Promise<Float32Array>;
}

/** Embeds texts, alike lengths together: they pad least, or share a plan. @throws LgdError NON_FINITE, ABORTED */
export async function embedInBatches(
  texts: readonly string[],
  rows: readonly number[][],
  { embeddingSize, most, longest, run }: Batches,
  { signal, onProgress }: EncodeOptions,
): Promise<Float32Array> {
  const order = rows.map((_, index) => index).sort((a, b) => rows[a]!.length - rows[b]!.length || a - b);
  const embeddings = new Float32Array(texts.length * embeddingSize);
  for (let from = 0; from < order.length;) {
    await nextTurn(signal, 'text encoding'); // onnxruntime-node computes on the main thread
    const length = longest(rows[order[from]!]!.length);
    const batch = order.slice(from, from + most).filter((index) => rows[index]!.length <= length);
    const data = await run(batch.map((index) => rows[index]!));
    batch.forEach((index, i) => {
      const row = data.subarray(i * embeddingSize, (i + 1) * embeddingSize);
      if (!row.every(Number.isFinite))
        throw new LgdError('NON_FINITE', `the embedding of ${JSON.stringify(texts[index])} is not finite.`, {
          mend: 'Check the text model',
        });
      embeddings.set(row, index * embeddingSize);
    });
    from += batch.length;
    onProgress?.(from, texts.length);
  }
  return embeddings;
}
