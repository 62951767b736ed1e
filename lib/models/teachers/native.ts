import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Device } from '../../device.js';
import { LgdError, throwIfAborted } from '../../errors.js';
import { readSafetensors } from '../../safetensors.js';
import { CompiledEncoder, type Precision } from '../compiled.js';
import { Encoder } from '../encoder.js';
import type { GraphSpec } from '../graph.js';
import { checkWeights, type WeightRecord } from '../weights.js';
import { modifiedResNet, type ModifiedResNetConfig } from './modified_resnet.js';
import { clipMean, clipStd, readPreprocessor, type Preprocessing } from './preprocessor.js';
import type { ChannelTriple, Teacher } from './types.js';

/** Where and how a native teacher runs. */
export interface NativeTeacherOptions extends Partial<Preprocessing> {
  device: Device;
  /** Images a call of {@link NativeTeacher.embed}; default 32. */
  batch?: number;
  /** Of activations; default: bfloat16 on CUDA, float32 on the CPU. */
  precision?: Precision;
}

/** CLIP's ModifiedResNet on the same device as the student. */
export class NativeTeacher implements Teacher {
  readonly kind = 'native';
  readonly resolution: number;
  readonly mean: ChannelTriple;
  readonly std: ChannelTriple;
  readonly precision: Precision;
  #weights: WeightRecord | undefined;
  #encoder: Encoder | undefined;

  private constructor(
    readonly id: string,
    readonly device: Device,
    readonly graph: GraphSpec,
    readonly embeddingSize: number,
    weights: WeightRecord,
    { resolution, mean, std }: Preprocessing,
    private readonly batch: number,
    precision: Precision | undefined,
  ) {
    this.#weights = weights;
    [this.resolution, this.mean, this.std] = [resolution, mean, std];
    this.precision = precision ?? device.info.precisions[0]!;
  }

  /**
   * @param folder holds config.json (`vision_config`: layers, width, heads, output_dim, image_size) or open_clip_config.json, the weights under
   *   OpenAI's names (visual.safetensors, model.safetensors or open_clip_model.safetensors; prefix `visual.` or none), and preprocessor_config.json (CLIP's mean and std without one)
   * @throws LgdError BAD_MODEL, BAD_FILE, BAD_OPTION
   */
  static async load(id: string, folder: string, weightFile: string, { device, batch = 32, precision, resolution, mean, std }: NativeTeacherOptions): Promise<NativeTeacher> {
    const config = await readConfig(folder);
    if (config === undefined) throw new LgdError('BAD_MODEL', `${folder} holds no ModifiedResNet.`, { mend: 'Load it with loadTeacher' });
    if (resolution !== undefined && resolution !== config.imageSize) {
      throw new LgdError('BAD_OPTION', `the teacher ${id} works at one resolution.`, { option: 'resolution', found: resolution, allowed: String(config.imageSize) });
    }
    const graph = modifiedResNet(config);
    const weights = await readTower(weightFile, graph);
    const read = await readPreprocessor(join(folder, 'preprocessor_config.json'));
    const preprocessing = { resolution: config.imageSize, mean: mean ?? config.mean ?? read?.mean ?? clipMean, std: std ?? config.std ?? read?.std ?? clipStd };
    return new NativeTeacher(id, device, graph, config.outputDim, weights, preprocessing, batch, precision);
  }

  /** A forward-only encoder with the teacher's weights, for tensors that stay on the device; the caller disposes of it. */
  compile({ batch, precision = this.precision }: { batch: number; precision?: Precision }): CompiledEncoder {
    const weights = this.#live();
    const compiled = new CompiledEncoder(this.device, this.graph, { batch, resolution: this.resolution, precision, training: false });
    compiled.load(weights);
    return compiled;
  }

  /**
   * @param pixels [B,3,R,R], NCHW, normalised with the teacher's mean and std
   * @param count B
   * @returns [B,D], not normalised
   * @throws LgdError BAD_SHAPE, NON_FINITE, DISPOSED, ABORTED
   */
  async embed(pixels: Float32Array, count: number, { signal }: { signal?: AbortSignal } = {}): Promise<Float32Array> {
    const image = 3 * this.resolution * this.resolution;
    if (!Number.isInteger(count) || count < 1 || pixels.length !== count * image) {
      throw new LgdError('BAD_SHAPE', `${pixels.length} values are not ${count} images of [3,${this.resolution},${this.resolution}].`, { option: 'pixels' });
    }
    const encoder = (this.#encoder ??= new Encoder(this.compile({ batch: this.batch })));
    const result = new Float32Array(count * this.embeddingSize);
    for (let from = 0; from < count; from += this.batch) {
      throwIfAborted(signal, "the teacher's forward pass");
      this.#live();
      const part = await encoder.forward(pixels.subarray(from * image, Math.min(count, from + this.batch) * image));
      result.set(part, from * this.embeddingSize);
    }
    const wrong = result.findIndex((value) => !Number.isFinite(value));
    if (wrong !== -1) throw new LgdError('NON_FINITE', `the teacher's embedding of image ${Math.floor(wrong / this.embeddingSize)} of the batch is not finite.`, { mend: 'Check the image and the model' });
    return result;
  }

  async dispose(): Promise<void> {
    this.#encoder?.dispose();
    this.#encoder = undefined;
    this.#weights = undefined;
  }

  /** For `using`: {@link dispose}. */
  [Symbol.dispose](): void {
    void this.dispose();
  }

  /** For `await using`: {@link dispose}. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }

  /** The weights. @throws LgdError DISPOSED */
  #live(): WeightRecord {
    if (this.#weights === undefined) throw new LgdError('DISPOSED', `the teacher ${this.id} was disposed of.`, { mend: 'Load it again' });
    return this.#weights;
  }
}

/** Where a native teacher's sizes stand, and its weights, in the order looked for. */
export const configFiles = ['config.json', 'open_clip_config.json'] as const;
export const weightFiles = ['visual.safetensors', 'open_clip_model.safetensors', 'model.safetensors'] as const;

interface TowerFile {
  layers?: unknown;
  width?: number;
  heads?: number;
  head_width?: number;
  output_dim?: number;
  image_size?: number;
}

interface ConfigFile {
  vision_config?: TowerFile;
  projection_dim?: number;
  model_cfg?: { embed_dim?: number; vision_cfg?: TowerFile };
  preprocess_cfg?: { mean?: ChannelTriple; std?: ChannelTriple };
}

/** A folder's ModifiedResNet (its `layers` are a list, as CLIP's code has it), or undefined for any other model. */
export async function readConfig(folder: string): Promise<(ModifiedResNetConfig & Partial<Preprocessing>) | undefined> {
  for (const name of configFiles) {
    const path = join(folder, name);
    const text = await readFile(path, 'utf8').catch(() => undefined);
    if (text === undefined) continue;
    let file: ConfigFile;
    try {
      file = JSON.parse(text) as ConfigFile;
    } catch (cause) {
      throw new LgdError('BAD_MODEL', `${path} is not JSON.`, { mend: 'Fetch it again', cause });
    }
    const tower = file.vision_config ?? file.model_cfg?.vision_cfg;
    if (tower === undefined || !Array.isArray(tower.layers)) continue;
    const { layers, width = 64, head_width: headWidth = 64, image_size: imageSize = 224 } = tower;
    const outputDim = tower.output_dim ?? file.projection_dim ?? file.model_cfg?.embed_dim ?? 0;
    return { layers: layers as number[], width, heads: tower.heads ?? Math.floor((32 * width) / headWidth), outputDim, imageSize, ...file.preprocess_cfg };
  }
  return undefined;
}

/** The image tower's weights in a file that may also hold the text tower. */
async function readTower(file: string, graph: GraphSpec): Promise<WeightRecord> {
  const { tensors } = await readSafetensors(file);
  const prefix = tensors.has('visual.conv1.weight') ? 'visual.' : '';
  const record: WeightRecord = {};
  for (const [name, { shape, data }] of tensors) {
    if (name.startsWith(prefix) && data instanceof Float32Array) record[name.slice(prefix.length)] = { shape, data };
  }
  checkWeights(graph, record);
  return record;
}
