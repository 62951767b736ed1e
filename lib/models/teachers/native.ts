import { checkOptions, optionTable } from '../../arguments.js';
import type { Device } from '../../device.js';
import { LgdError, throwIfAborted } from '../../errors.js';
import { readListed } from '../../files/manifest.js';
import type { SafetensorsReader } from '../../files/safetensors-reader.js';
import { held } from '../../lifetime.js';
import type { CompiledEncoder, Precision } from '../compiled.js';
import { Encoder } from '../encoder.js';
import type { GraphSpec } from '../graph.js';
import { studentContent } from '../student-info.js';
import { checkGrid, fitPositions } from '../position-tables.js';
import { compileEmbedder, hasHead, studentGraph } from '../student.js';
import { checkWeights, few, type WeightRecord } from '../weights.js';
import { hashWeights } from './fingerprint.js';
import { readWeights } from './naming.js';
import { checkEmbedded, checkPixels, imagesOf } from './pixels.js';
import { otherThanPlain } from './plain-towers.js';
import { checkPreprocessing, clipMean, clipStd, readPreprocessor, type Preprocessing } from './preprocessor.js';
import type { ImageTower } from './tower-sizes.js';
import { findImageTower } from './towers.js';
import type { ChannelTriple, Teacher } from './types.js';
import { openWeights } from './weight-files.js';

/** Where and how a native teacher runs. */
export interface NativeTeacherOptions extends Partial<Preprocessing> {
  device: Device;
  /** Images a call of {@link NativeTeacher.embed}; default 32. */
  batch?: number | undefined;
  /** Of activations; default: bfloat16 on CUDA, float32 on the CPU. */
  precision?: Precision | undefined;
  signal?: AbortSignal | undefined;
}

export const nativeTeacherOptions = optionTable<NativeTeacherOptions>()(
  'device batch? precision? resolution? mean? std? signal?',
);

const halves: ChannelTriple = [0.5, 0.5, 0.5];

/** Mean and std where a model's files give none. Plain towers have none in common. */
const usual: Readonly<Record<ImageTower['architecture'], Partial<Pick<Preprocessing, 'mean' | 'std'>>>> = {
  ModifiedResNet: { mean: clipMean, std: clipStd },
  ViT: { mean: clipMean, std: clipStd },
  SigLIP: { mean: halves, std: halves },
  'Perception Encoder': { mean: halves, std: halves },
  ConvNeXt: { mean: clipMean, std: clipStd },
  'plain ViT': {},
  'plain ConvNeXt': {},
};

/** What a native teacher is made of. */
interface Parts
  extends Pick<ImageTower, 'graph' | 'embeddingSize' | 'resolution'>, Pick<Preprocessing, 'mean' | 'std'> {
  id: string;
  architecture: string;
  weights: WeightRecord;
  device: Device;
  batch: number;
  precision: Precision | undefined;
}

/** A model's image tower, by the headers of its weights. */
async function towerIn(
  { shapes }: SafetensorsReader,
  {
    id,
    folder,
    files,
    resolution,
  }: { id: string; folder: string; files: readonly string[]; resolution?: number | undefined },
): Promise<ImageTower> {
  const tower = await findImageTower(shapes, folder, resolution);
  if (tower === undefined) {
    const other = otherThanPlain(shapes);
    if (other !== undefined)
      throw new LgdError('BAD_MODEL', `the tower in ${files.join(', ')} has ${other}, which is not known here.`, {
        option: 'teacher',
        mend: 'Export it to ONNX with one output [B,D], and give the .onnx file',
      });
    const names = [...shapes.keys()];
    const [, prefix] =
      /^(.+?\.)(?:visual\.conv1|stem\.0|(?:vision_model\.)?embeddings\.patch_embeddings?(?:\.projection)?|patch_embed\.proj)\.weight$/mu.exec(
        names.join('\n'),
      ) ?? [];
    throw new LgdError(
      'BAD_MODEL',
      `${files.join(', ')} ${files.length === 1 ? 'holds' : 'hold'} no image tower of CLIP or SigLIP and no plain vision transformer or ConvNeXt under names known here.`,
      {
        found: few(names),
        allowed:
          'visual.conv1.weight ..., vision_model.embeddings.patch_embedding.weight ..., embeddings.patch_embeddings.projection.weight ..., patch_embed.proj.weight ... or stem.0.weight ...',
        mend:
          prefix === undefined
            ? 'Give a model of these, or an ONNX export of the tower (onnx/vision_model.onnx)'
            : `Save the weights without '${prefix}' before their names`,
      },
    );
  }
  if (resolution !== undefined && resolution !== tower.resolution) {
    throw new LgdError('BAD_OPTION', `the teacher ${id} works at one resolution.`, {
      option: 'resolution',
      found: resolution,
      allowed: String(tower.resolution),
    });
  }
  return tower;
}

/**
 * What {@link NativeTeacher.load} would load, its weights unread.
 * @throws as that does
 */
export async function lookAtNativeTeacher(
  tower: { id: string; folder: string; files: readonly string[] },
  resolution: number | undefined,
): Promise<Pick<ImageTower, 'architecture' | 'embeddingSize' | 'resolution'>> {
  await using reader = await openWeights(tower.files);
  return towerIn(reader, { ...tower, resolution });
}

/** An image tower of CLIP or SigLIP, a plain vision transformer, or a student, on the same device as the student. */
export class NativeTeacher implements Teacher {
  readonly kind = 'native';
  readonly id: string;
  readonly device: Device;
  readonly resolution: number;
  readonly mean: ChannelTriple;
  readonly std: ChannelTriple;
  readonly precision: Precision;
  #weights: WeightRecord | undefined;
  #encoder: Encoder | undefined;
  #fingerprint: string | undefined;

  readonly graph: GraphSpec;
  readonly embeddingSize: number;
  /** Of a tower its kind, of a student its name. */
  readonly architecture: string;
  readonly #batch: number;

  private constructor(parts: Parts) {
    ({ id: this.id, device: this.device, architecture: this.architecture, graph: this.graph } = parts);
    ({ embeddingSize: this.embeddingSize, resolution: this.resolution, mean: this.mean, std: this.std } = parts);
    ({ weights: this.#weights, batch: this.#batch } = parts);
    this.precision = parts.precision ?? parts.device.info.precisions[0]!;
  }

  /**
   * Loads CLIP's image towers from safetensors: ModifiedResNets and vision transformers under OpenAI's names
   * (open_clip's too), with the prefix `visual.` or none; open_clip's ConvNeXts and PE-Core under timm's; vision
   * transformers under the names of transformers' CLIPModel and CLIPVisionModelWithProjection; SigLIP's under
   * SiglipModel's. And plain vision transformers (ViT, DeiT, DINO, DINOv2 with or without registers, DINOv3) under
   * timm's names or those of transformers' ViTModel, Dinov2Model, Dinov2WithRegistersModel and DINOv3ViTModel, whose
   * embedding is the class token behind the last norm. And ConvNeXts under timm's names or those of transformers'
   * DINOv3ConvNextModel, whose embedding is the normed mean. Dtypes F32, F16, BF16. Sizes are read off the tensors.
   * @param folder may hold config.json or open_clip_config.json (heads, activation, layer norms' eps, image size;
   *   without one as OpenAI's models have them, but transformers' and timm's names need it) and preprocessor_config.json
   *   or processor_config.json (mean and std, without one CLIP's, SigLIP's or DINOv2's)
   * @param weightFiles a safetensors file, its shards, or the index of shards beside it
   * @param options `resolution`: of plain vision transformers any from a patch on, to which positions are interpolated;
   *   of ConvNeXts any from 32 on; other towers work at one
   * @throws LgdError BAD_MODEL naming the first few tensors that are missing, unexpected or of another shape, or what
   *   the tower has that is computed in another way; FILE_NOT_FOUND, BAD_FILE, BAD_OPTION, ABORTED
   */
  static async load(
    id: string,
    folder: string,
    weightFiles: string | readonly string[],
    options: NativeTeacherOptions,
  ): Promise<NativeTeacher> {
    checkOptions(options, 'NativeTeacher.load()', nativeTeacherOptions);
    checkPreprocessing(options);
    const { device, batch = 32, precision, resolution, mean, std, signal } = options;
    const files = [weightFiles].flat();
    await using reader = await openWeights(files);
    const tower = await towerIn(reader, { id, folder, files, resolution });
    const weights = await readWeights(reader, tower.graph, tower.naming, files.join(', '), signal);
    const given = (await readPreprocessor(folder)) ?? usual[tower.architecture];
    const [inputMean, inputStd] = [mean ?? tower.mean ?? given.mean, std ?? tower.std ?? given.std];
    if (inputMean === undefined || inputStd === undefined)
      throw new LgdError('BAD_MODEL', `nothing in ${folder} tells the mean and std of the input of ${id}.`, {
        mend: `Fetch the model's preprocessor_config.json, or write what it was trained with: ${JSON.stringify({ size: tower.resolution, image_mean: halves, image_std: halves })} for Google's ViTs, ImageNet's numbers for DINO`,
      });
    return new NativeTeacher({ id, device, ...tower, mean: inputMean, std: inputStd, weights, batch, precision });
  }

  /**
   * A student of this package as a teacher: its own file, or one exported with its head.
   * @throws LgdError BAD_MODEL (no student, no head), FILE_NOT_FOUND, BAD_FILE, BAD_CHECKPOINT (damaged, in a
   *   checkpoint), BAD_OPTION
   */
  static async loadStudent(id: string, file: string, options: NativeTeacherOptions): Promise<NativeTeacher> {
    checkOptions(options, 'NativeTeacher.loadStudent()', nativeTeacherOptions);
    checkPreprocessing(options);
    const { device, batch = 32, precision } = options;
    const { info, weights: found } = studentContent(await readListed(file), file);
    const { architecture, embeddingSize, widthMultiplier, mean, std } = info;
    const { resolution = info.resolution } = options;
    const graph =
      info.graph ?? studentGraph(architecture, { embeddingSize, widthMultiplier, dropping: false, resolution });
    if (!hasHead(info, found))
      throw new LgdError('BAD_MODEL', `${file} has no projection head, so it gives no embeddings.`, {
        option: 'teacher',
        mend: 'Export the student with its head',
      });
    checkGrid(graph, resolution); // a network of one's own is for one
    const { weights } = fitPositions(graph, found); // of another teacherResolution
    checkWeights(graph, weights);
    return new NativeTeacher({
      id,
      device,
      architecture,
      graph,
      embeddingSize,
      resolution,
      weights,
      mean: options.mean ?? mean,
      std: options.std ?? std,
      batch,
      precision,
    });
  }

  /**
   * Do these files hold an image tower that {@link load} knows?
   * @param resolution what it will be loaded with
   * @throws as {@link load}
   */
  static async recognises(weightFiles: readonly string[], folder: string, resolution?: number): Promise<boolean> {
    await using reader = await openWeights(weightFiles);
    return (await findImageTower(reader.shapes, folder, resolution)) !== undefined;
  }

  /**
   * A forward-only encoder with the teacher's weights, for tensors that stay on the device; the caller disposes of it.
   */
  compile({
    batch,
    precision = this.precision,
  }: {
    batch: number;
    precision?: Precision | undefined;
  }): CompiledEncoder {
    const { id, graph, embeddingSize, resolution } = this;
    return compileEmbedder(
      this.device,
      { name: id, graph, embeddingSize, weights: this.#live() },
      { batch, resolution, precision, training: false },
    );
  }

  /** Tells it from any other teacher: a hash of its graph and weights. @throws LgdError DISPOSED, ABORTED */
  async fingerprint(signal?: AbortSignal): Promise<string> {
    return (this.#fingerprint ??= await hashWeights(this.graph, this.#live(), signal));
  }

  /**
   * @param pixels [B,3,R,R], NCHW, normalised with the teacher's mean and std
   * @param count B
   * @returns [B,D], not normalised
   * @throws LgdError BAD_SHAPE, NON_FINITE, DISPOSED, ABORTED
   */
  async embed(
    pixels: Float32Array,
    count: number,
    { signal }: { signal?: AbortSignal | undefined } = {},
  ): Promise<Float32Array> {
    const image = checkPixels(pixels, count, this.resolution);
    const encoder = (this.#encoder ??= new Encoder(this.compile({ batch: this.#batch })));
    const result = new Float32Array(count * this.embeddingSize);
    for (let from = 0; from < count; from += this.#batch) {
      throwIfAborted(signal, "the teacher's forward pass");
      this.#live();
      const part = await encoder.forward(imagesOf(pixels, image, from, Math.min(count, from + this.#batch)));
      result.set(part, from * this.embeddingSize);
    }
    checkEmbedded(result, this.embeddingSize);
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
    return held(this.#weights, `the teacher ${this.id}`, 'Load it again');
  }
}
