import { checkOptions } from '../arguments.js';
import { LgdError, throwIfAborted } from '../errors.js';
import { readFile } from '../files/open.js';
import { resolveModel } from '../hub/hub.js';
import { held } from '../lifetime.js';
import {
  importOnnxRuntime,
  openOnnxSession,
  type OnnxRuntime,
  type OnnxSession,
  type OnnxTensor,
} from '../onnx/session.js';
import {
  checkLoading,
  checkTexts,
  embedInBatches,
  encodeOptions,
  type EncodeOptions,
  type TextEncoder,
  textEncoderOptions,
  type TextEncoderOptions,
  tokensOf,
} from './encoder.js';
import { asMaxTokens, TextTokenizer, tokenizerFiles } from './tokenizers.js';

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
    const own = [...texts]; // the caller's may change meanwhile
    const rows = await tokensOf(own, this.tokenizer, this.maxTokens, options.signal);
    const run = async (batch: readonly number[][]) => (await this.run(batch)).data as Float32Array;
    return embedInBatches(
      own,
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
  text_config?: { max_position_embeddings?: unknown };
  max_position_embeddings?: unknown;
}

/**
 * The smaller of what the model has positions for and what its tokenizer is set to; where neither says, CLIP's 77 or
 * SigLIP's 64.
 */
function readMaxTokens(config: ModelConfig, tokenizer: TextTokenizer): number {
  const limits = [config.text_config?.max_position_embeddings, config.max_position_embeddings, tokenizer.maxTokens];
  const known = limits.flatMap((limit) => asMaxTokens(limit) ?? []);
  return known.length > 0 ? Math.min(...known) : tokenizer.siglip === undefined ? 77 : 64;
}
