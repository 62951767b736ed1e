import { checkOptions, checkText, type OptionTable } from '../arguments.js';
import { LgdError, throwIfAborted } from '../errors.js';
import { readFile } from '../files/open.js';
import { resolveModel, resolveOptions, type ResolveOptions } from '../hub.js';
import { held } from '../lifetime.js';
import { checkWhole } from '../number-limits.js';
import { importOnnxRuntime, openOnnxSession, type OnnxRuntime, type OnnxSession, type OnnxTensor } from '../onnx.js';
import { nextTurn } from '../turn.js';
import { TextTokenizer, tokenizerFiles } from './tokenizers.js';

/** Options of calls that encode many texts. */
export interface EncodeOptions {
  signal?: AbortSignal | undefined;
  /** Called after each batch with the number of texts done and to do. */
  onProgress?: ((done: number, total: number) => void) | undefined;
}

export const encodeOptions = { signal: 'optional', onProgress: 'optional' } satisfies OptionTable<EncodeOptions>;

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

export const textEncoderOptions = {
  batchSize: 'optional',
  ...resolveOptions,
} satisfies OptionTable<TextEncoderOptions>;

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

/** The files that may hold a text tower in ONNX, in the order looked for. */
export const textOnnxFiles: readonly string[] = ['onnx/text_model.onnx', 'text_model.onnx'];

/**
 * The text tower of a model of CLIP's or SigLIP's in the Hugging Face layout with ONNX files (config.json,
 * tokenizer.json, tokenizer_config.json, onnx/text_model.onnx), in float32.
 */
export class ClipTextEncoder implements TextEncoder, AsyncDisposable {
  #session: OnnxSession | undefined;
  #embeddingSize = 0;

  private constructor(
    readonly id: string,
    readonly maxTokens: number,
    private readonly runtime: OnnxRuntime,
    private readonly tokenizer: TextTokenizer,
    session: OnnxSession,
    private readonly batchSize: number,
  ) {
    this.#session = session;
  }

  get embeddingSize(): number {
    return this.#embeddingSize;
  }

  /**
   * @param idOrDir a folder (`./dir`, an absolute path, or any that exists) or a Hugging Face id
   *   (`Xenova/clip-vit-base-patch32`)
   * @throws LgdError BAD_OPTION, FILE_NOT_FOUND, BAD_MODEL, DEPENDENCY_MISSING, NOT_WRITABLE, ABORTED
   */
  static async load(idOrDir: string, options: TextEncoderOptions = {}): Promise<ClipTextEncoder> {
    checkOptions(options, 'ClipTextEncoder.load()', textEncoderOptions);
    checkLoading(idOrDir, options);
    const { id, folder, files } = await resolveModel(
      idOrDir,
      { required: [textOnnxFiles, 'config.json', ...tokenizerFiles] },
      options,
    );
    const stopIfAborted = () => throwIfAborted(options.signal, `loading ${idOrDir}`);
    try {
      stopIfAborted();
      const config = JSON.parse(await readFile(files[1]!, 'utf8')) as ModelConfig;
      const tokenizer = await TextTokenizer.load(folder, { siglip: config.model_type?.startsWith('siglip') ?? false });
      stopIfAborted();
      const session = await openOnnxSession(files[0]!);
      const maxTokens = readMaxTokens(config, tokenizer);
      const encoder = new ClipTextEncoder(
        id,
        maxTokens,
        await importOnnxRuntime(),
        tokenizer,
        session,
        options.batchSize ?? 32,
      );
      encoder.#embeddingSize = (await encoder.run([tokenizer.encode('a photo', maxTokens)])).dims[1]!;
      return encoder;
    } catch (cause) {
      if (cause instanceof LgdError) throw cause;
      throw new LgdError('BAD_MODEL', `the text tower in ${folder} cannot be used: ${(cause as Error).message}.`, {
        mend: "Check that the folder holds a model of CLIP's or SigLIP's exported to ONNX with its projection",
        cause,
      });
    }
  }

  /** @throws LgdError BAD_OPTION, DISPOSED, ABORTED, NON_FINITE */
  async encode(texts: readonly string[], options: EncodeOptions = {}): Promise<Float32Array> {
    checkOptions(options, 'encode()', encodeOptions);
    checkTexts(texts);
    const rows = await tokensOf(texts, this.tokenizer, this.maxTokens, options.signal);
    const run = async (batch: readonly number[][]) => (await this.run(batch)).data as Float32Array;
    return embedInBatches(
      texts,
      rows,
      { embeddingSize: this.embeddingSize, most: this.batchSize, longest: () => Infinity, run },
      options,
    );
  }

  countTokens(text: string): number {
    return this.tokenizer.count(text);
  }

  /** Frees the model, once; later calls of {@link encode} throw DISPOSED. */
  async dispose(): Promise<void> {
    this.#session = undefined; // onnxruntime-node frees a session when it is collected
  }

  /** For `await using`: {@link dispose}. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }

  /**
   * One batch -> [N,D]. Padding stands after the end token, where causal attention keeps it out of the embedding;
   * SigLIP's texts have their own, and all of it counts.
   */
  private async run(rows: readonly number[][]): Promise<OnnxTensor> {
    const session = held(this.#session, 'the text encoder', 'Load it again');
    const length = Math.max(...rows.map((row) => row.length));
    const ids = new BigInt64Array(rows.length * length);
    const mask = new BigInt64Array(rows.length * length);
    rows.forEach((row, i) => {
      for (let j = 0; j < length; j++) {
        ids[i * length + j] = BigInt(row[j] ?? row.at(-1)!);
        mask[i * length + j] = j < row.length ? 1n : 0n;
      }
    });
    const shape = [rows.length, length];
    const { Tensor } = this.runtime;
    const inputs: Record<string, OnnxTensor> = {
      input_ids: new Tensor('int64', ids, shape),
      attention_mask: new Tensor('int64', mask, shape),
    };
    const output = await session.run(
      Object.fromEntries(Object.entries(inputs).filter(([name]) => session.inputNames.includes(name))),
    );
    const siglip = this.tokenizer.siglip !== undefined;
    const name = siglip ? 'pooler_output' : 'text_embeds';
    const embeddings = output[name];
    if (embeddings?.dims.length !== 2) {
      throw new LgdError('BAD_MODEL', `the text model gives no ${name} of shape [N,D].`, {
        found: Object.keys(output).join(', '),
        mend: siglip
          ? "Export it with transformers' SiglipTextModel"
          : "Export CLIP's text tower with its projection (CLIPTextModelWithProjection); SigLIP's is known by model_type in config.json",
      });
    }
    return embeddings;
  }
}

/** What is read of a model's config.json. */
interface ModelConfig {
  model_type?: string;
  text_config?: { max_position_embeddings?: number };
  max_position_embeddings?: number;
}

/**
 * The smaller of what the model has positions for and what its tokenizer is set to; where neither says, CLIP's 77 or
 * SigLIP's 64.
 */
function readMaxTokens(config: ModelConfig, tokenizer: TextTokenizer): number {
  const limits = [config.text_config?.max_position_embeddings, config.max_position_embeddings, tokenizer.maxTokens];
  const known = limits.filter((limit) => limit !== undefined && limit >= 3 && limit < 1e6) as number[];
  return known.length > 0 ? Math.min(...known) : tokenizer.siglip === undefined ? 77 : 64;
}
