import type { TensorHandle } from '../addon/native.js';
import { checkOptions, optionTable } from '../arguments.js';
import { openDevice, type Device, type DeviceName } from '../device.js';
import { LgdError } from '../errors.js';
import type { SafetensorsReader } from '../files/safetensors-reader.js';
import { resolveModel, type ResolveOptions } from '../hub/hub.js';
import { held } from '../lifetime.js';
import { CompiledEncoder, type Precision } from '../models/compiled.js';
import type { GraphSpec } from '../models/graph.js';
import { readWeights } from '../models/teachers/naming.js';
import { findTextTower, type TextTower } from '../models/teachers/towers.js';
import { openWeights, sideFiles, weightFiles, weightFilesOf } from '../models/teachers/weight-files.js';
import { few, type WeightRecord } from '../models/weights.js';
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
import { TextTokenizer, tokenizerFiles } from './tokenizers.js';

/** Where and how a native text tower runs. */
export interface NativeTextEncoderOptions extends TextEncoderOptions {
  /** A device, or the name of one to open and to close with the encoder; default 'auto'. */
  device?: Device | DeviceName | undefined;
  /** Of activations; default float32: a bank is built once, and its errors are in every target. */
  precision?: Precision | undefined;
}

export const nativeTextEncoderOptions = optionTable<NativeTextEncoderOptions>()(
  'device? precision?',
  textEncoderOptions,
);

const step = 8; // plans are compiled for lengths that are multiples of it

/** What a native text tower is made of. */
interface Parts {
  id: string;
  embeddingSize: number;
  maxTokens: number;
  tokenizer: TextTokenizer;
  /** Rows of the token embedding. */
  words: number;
  graph: GraphSpec;
  weights: WeightRecord;
  device: Device;
  ownsDevice: boolean;
  /** Texts computed at once. */
  batch: number;
  precision: Precision;
}

/** A model's files that {@link NativeTextEncoder.load} reads. */
async function locateTower(
  idOrDir: string,
  options: ResolveOptions,
): Promise<{ id: string; folder: string; files: string[] }> {
  const model = await resolveModel(
    idOrDir,
    { required: [[...weightFiles], ...tokenizerFiles], optional: sideFiles },
    options,
  );
  return { id: model.id, ...(await weightFilesOf(idOrDir, model, options, tokenizerFiles)) };
}

/** The text tower in files of weights, by their headers, and the tokenizer beside them. */
async function towerIn(
  { shapes }: SafetensorsReader,
  folder: string,
  files: readonly string[],
): Promise<{ tower: TextTower; tokenizer: TextTokenizer }> {
  const tower = await findTextTower(shapes, folder);
  if (tower === undefined) {
    throw new LgdError(
      'BAD_MODEL',
      `${files.join(', ')} ${files.length === 1 ? 'holds' : 'hold'} no text tower of CLIP or SigLIP.`,
      {
        found: few([...shapes.keys()]),
        allowed: 'token_embedding.weight ... or text_model.embeddings.token_embedding.weight ...',
        mend: "Give the text tower of the teacher's model (textEncoder), its ONNX export (onnx/text_model.onnx), or a bank built from embeddings",
      },
    );
  }
  return { tower, tokenizer: await TextTokenizer.load(folder, { siglip: tower.siglip }) };
}

/**
 * What {@link NativeTextEncoder.load} would load, its weights unread.
 * @throws as that does
 */
export async function lookAtNativeTower(
  idOrDir: string,
  options: ResolveOptions,
): Promise<Pick<TextEncoder, 'id' | 'embeddingSize'>> {
  const { id, folder, files } = await locateTower(idOrDir, options);
  await using reader = await openWeights(files);
  const { tower } = await towerIn(reader, folder, files);
  return { id, embeddingSize: tower.embeddingSize };
}

/**
 * CLIP's or SigLIP's text tower run natively, from the safetensors file that the image tower is in (OpenAI's,
 * open_clip's or transformers' names; SigLIP's under SiglipModel's), with tokenizer.json and tokenizer_config.json
 * beside it.
 */
export class NativeTextEncoder implements TextEncoder, AsyncDisposable {
  readonly id: string;
  readonly embeddingSize: number;
  readonly maxTokens: number;
  readonly #parts: Omit<Parts, 'weights'>;
  #weights: WeightRecord | undefined;
  #plan: { encoder: CompiledEncoder; ids: TensorHandle } | undefined;

  private constructor({ weights, ...parts }: Parts) {
    ({ id: this.id, embeddingSize: this.embeddingSize, maxTokens: this.maxTokens } = parts);
    this.#parts = parts;
    this.#weights = weights;
  }

  /**
   * @param idOrDir a folder (`./dir`, an absolute path, or any that exists) or a Hugging Face id
   * @throws LgdError BAD_OPTION, FILE_NOT_FOUND, BAD_MODEL, BAD_FILE, DEPENDENCY_MISSING, NOT_WRITABLE, ABORTED, and
   *   those of {@link openDevice}
   */
  static async load(idOrDir: string, options: NativeTextEncoderOptions = {}): Promise<NativeTextEncoder> {
    checkOptions(options, 'NativeTextEncoder.load()', nativeTextEncoderOptions);
    checkLoading(idOrDir, options);
    const { id, folder, files } = await locateTower(idOrDir, options);
    await using reader = await openWeights(files);
    const { tower, tokenizer } = await towerIn(reader, folder, files);
    const graph = tower.graph(tokenizer.endId);
    const weights = await readWeights(reader, graph, tower.naming, files.join(', '), options.signal);
    const { device: given = 'auto', batchSize: batch = 32, precision = 'float32' } = options;
    const { embeddingSize, words } = tower;
    const ownsDevice = typeof given === 'string';
    const device = ownsDevice ? await openDevice(given) : given;
    const maxTokens = Math.min(tower.maxTokens, tokenizer.maxTokens ?? tower.maxTokens);
    return new NativeTextEncoder({
      id,
      embeddingSize,
      maxTokens,
      tokenizer,
      words,
      graph,
      weights,
      device,
      ownsDevice,
      batch,
      precision,
    });
  }

  /** @throws LgdError BAD_OPTION, DISPOSED, ABORTED, NON_FINITE, BAD_MODEL (the tokenizer is another model's) */
  async encode(texts: readonly string[], options: EncodeOptions = {}): Promise<Float32Array> {
    checkOptions(options, 'encode()', encodeOptions);
    checkTexts(texts);
    const own = [...texts]; // the caller's may change meanwhile
    const { tokenizer, words, batch: most } = this.#parts;
    const rows = await tokensOf(own, tokenizer, this.maxTokens, options.signal);
    const largest = rows.reduce((most, row) => row.reduce((a, b) => Math.max(a, b), most), 0);
    if (largest >= words) {
      throw new LgdError(
        'BAD_MODEL',
        `the tokenizer of ${this.id} is not its text tower's: it gives the token ${largest} where the tower knows ${words}.`,
        { mend: "Take the model's own tokenizer.json" },
      );
    }
    const run = (batch: readonly number[][]) => this.#run(batch, this.#planned(batch[0]!.length));
    return embedInBatches(
      own,
      rows,
      { embeddingSize: this.embeddingSize, most, longest: (length) => this.#planned(length), run },
      options,
    );
  }

  countTokens(text: string): number {
    return this.#parts.tokenizer.count(text);
  }

  /** Frees the tower, and the device if the encoder opened it; later calls of {@link encode} throw DISPOSED. */
  async dispose(): Promise<void> {
    this.#release();
    if (this.#weights !== undefined && this.#parts.ownsDevice) this.#parts.device.dispose();
    this.#weights = undefined;
  }

  /** For `await using`: {@link dispose}. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }

  #release(): void {
    if (this.#plan === undefined) return;
    this.#parts.device.addon.release(this.#plan.ids);
    this.#plan.encoder.dispose();
    this.#plan = undefined;
  }

  #planned(length: number): number {
    return Math.min(Math.ceil(length / step) * step, this.maxTokens);
  }

  /**
   * One batch -> [N,D]; what stands behind the end token of a text of CLIP's does not reach it. One plan is kept: a
   * second one would hold the weights again.
   */
  async #run(rows: readonly number[][], length: number): Promise<Float32Array> {
    const weights = held(this.#weights, 'the text encoder', 'Load it again');
    const { device, graph, tokenizer, batch, precision } = this.#parts;
    if (this.#plan?.encoder.resolution !== length) {
      this.#release();
      const encoder = new CompiledEncoder(device, graph, {
        batch,
        resolution: length,
        width: 1,
        precision,
        training: false,
      });
      try {
        encoder.load(weights);
        this.#plan = { encoder, ids: encoder.makeImages() };
      } catch (error) {
        encoder.dispose();
        throw error;
      }
    }
    const { encoder, ids } = this.#plan;
    const digits = new Float32Array(batch * 3 * length);
    rows.forEach((row, i) => {
      for (let t = 0; t < length; t++) {
        const id = row[t] ?? tokenizer.endId;
        for (let digit = 0; digit < 3; digit++) digits[(i * 3 + digit) * length + t] = (id >> (8 * digit)) & 255;
      }
    });
    device.addon.writeImages(ids, digits);
    encoder.forwardTensor(ids);
    return device.addon.readTensor(encoder.output);
  }
}
