import { stat } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { checkOptions, checkText, optionTable } from '../../arguments.js';
import { LgdError } from '../../errors.js';
import { isFolder, statIfThere } from '../../files/folders.js';
import { readFile } from '../../files/open.js';
import { resolveModel, resolveOptions } from '../../hub/hub.js';
import type { ResolveOptions } from '../../hub/hub.js';
import { held } from '../../lifetime.js';
import { importOnnxRuntime, openOnnxSession } from '../../onnx/session.js';
import type { OnnxRuntime, OnnxSession, OnnxTensor } from '../../onnx/session.js';
import { nextTurn } from '../../turn.js';
import { hashModel } from './fingerprint.js';
import { checkEmbedded, checkPixels, imagesOf } from './pixels.js';
import {
  checkPreprocessing,
  clipPreprocessor,
  preprocessing,
  preprocessorFiles,
  readPreprocessor,
} from './preprocessor.js';
import type { Preprocessing } from './preprocessor.js';
import type { ChannelTriple, Teacher } from './types.js';

/** The files that may hold an image tower, in the order looked for. */
export const onnxFiles: readonly string[] = [
  'onnx/vision_model.onnx',
  'onnx/model.onnx',
  'vision_model.onnx',
  'model.onnx',
];

/** How {@link OnnxTeacher.load} finds a model and prepares its input. */
export interface OnnxTeacherOptions extends ResolveOptions, Partial<Preprocessing> {
  /** The model's output that holds the embedding [B,D]; by default image_embeds, or the only output of rank 2. */
  output?: string | undefined;
}

export const onnxTeacherOptions = optionTable<OnnxTeacherOptions>()('resolution? mean? std? output?', resolveOptions);

/**
 * Any image encoder in ONNX: CLIP's image towers, and others with one image input and an embedding output. Runs in
 * float32 on the CPU.
 */
export class OnnxTeacher implements Teacher {
  readonly kind = 'onnx';
  readonly resolution: number;
  readonly mean: ChannelTriple;
  readonly std: ChannelTriple;
  #session: OnnxSession | undefined;
  #output = '';
  #embeddingSize = 0;
  #oneByOne = false;
  #fingerprint: string | undefined;

  private constructor(
    readonly id: string,
    private readonly runtime: OnnxRuntime,
    session: OnnxSession,
    private readonly input: string,
    private readonly file: string,
    { resolution, mean, std }: Preprocessing,
  ) {
    this.#session = session;
    [this.resolution, this.mean, this.std] = [resolution, mean, std];
  }

  /** D. */
  get embeddingSize(): number {
    return this.#embeddingSize;
  }

  /**
   * @param source a model folder (`./dir`) or hub id with onnx/vision_model.onnx (or onnx/model.onnx) and
   *   preprocessor_config.json; or an .onnx file, with that JSON file beside it or one folder up (a student that this
   *   package exported needs none)
   * @param options resolution, mean and std replace what preprocessor_config.json says
   * @throws LgdError FILE_NOT_FOUND, BAD_MODEL, DEPENDENCY_MISSING, NOT_WRITABLE, ABORTED
   */
  static async load(source: string, options: OnnxTeacherOptions = {}): Promise<OnnxTeacher> {
    checkText(source, 'teacher', 'a folder, a hub id, or an .onnx file');
    checkOptions(options, 'OnnxTeacher.load()', onnxTeacherOptions);
    checkPreprocessing(options);
    const { id, file, preprocessing } = await locate(source, options);
    const session = await openOnnxSession(file);
    const { inputNames } = session;
    const input = inputNames.length === 1 ? inputNames[0] : undefined;
    if (input === undefined) {
      throw new LgdError('BAD_MODEL', `${file} takes ${inputNames.length} inputs where an image tower takes one.`, {
        found: inputNames.join(', '),
        allowed: 'pixel_values',
        mend: 'Give the image tower alone (onnx/vision_model.onnx)',
      });
    }
    const teacher = new OnnxTeacher(id, await importOnnxRuntime(), session, input, file, preprocessing);
    await teacher.probe(file, options.output);
    return teacher;
  }

  /**
   * Tells it from any other teacher: a hash of its file, and of the weights beside it where they are kept apart.
   * @throws LgdError ABORTED
   */
  async fingerprint(signal?: AbortSignal): Promise<string> {
    return (this.#fingerprint ??= await hashModel(this.file, signal));
  }

  /**
   * @param pixels [B,3,R,R], NCHW, normalised with the teacher's mean and std
   * @param batch B
   * @returns [B,D], not normalised
   * @throws LgdError BAD_SHAPE, NON_FINITE, DISPOSED, ABORTED
   */
  async embed(
    pixels: Float32Array,
    batch: number,
    { signal }: { signal?: AbortSignal | undefined } = {},
  ): Promise<Float32Array> {
    const image = checkPixels(pixels, batch, this.resolution);
    const result = new Float32Array(batch * this.embeddingSize);
    const step = this.#oneByOne ? 1 : batch;
    for (let from = 0; from < batch; from += step) {
      await nextTurn(signal, "the teacher's forward pass");
      const outputs = await this.run(imagesOf(pixels, image, from, from + step), step);
      result.set(outputs[this.#output]!.data as Float32Array, from * this.embeddingSize);
    }
    checkEmbedded(result, this.embeddingSize);
    return result;
  }

  async dispose(): Promise<void> {
    this.#session = undefined; // onnxruntime-node frees a session when it is collected
  }

  /** For `using`: {@link dispose}. */
  [Symbol.dispose](): void {
    void this.dispose();
  }

  /** For `await using`: {@link dispose}. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }

  private async run(pixels: Float32Array, batch: number): Promise<Record<string, OnnxTensor>> {
    const session = held(this.#session, `the teacher ${this.id}`, 'Load it again');
    const tensor = new this.runtime.Tensor('float32', pixels, [batch, 3, this.resolution, this.resolution]);
    return (await session.run({ [this.input]: tensor })) as Record<string, OnnxTensor>;
  }

  /**
   * Learns output and embedding size from two blank images, and whether the model is exported for single images only.
   */
  private async probe(file: string, wanted: string | undefined): Promise<void> {
    const image = 3 * this.resolution * this.resolution;
    let outputs: Record<string, OnnxTensor>;
    try {
      outputs = await this.run(new Float32Array(2 * image), 2);
    } catch {
      this.#oneByOne = true;
      outputs = await this.run(new Float32Array(image), 1).catch((cause: unknown) => {
        throw new LgdError(
          'BAD_MODEL',
          `${file} does not accept images of [B,3,${this.resolution},${this.resolution}]: ${(cause as Error).message}.`,
          {
            mend: "Give the side that it was exported for as the teacher's resolution (--teacher-resolution), or correct the size in preprocessor_config.json",
            cause,
          },
        );
      });
    }
    const batch = this.#oneByOne ? 1 : 2;
    const flat = Object.keys(outputs).filter(
      (name) =>
        outputs[name]!.dims.length === 2 && outputs[name]!.dims[0] === batch && outputs[name]!.type === 'float32',
    );
    const chosen = wanted ?? (flat.includes('image_embeds') ? 'image_embeds' : flat.length === 1 ? flat[0] : undefined);
    if (chosen === undefined || !flat.includes(chosen)) {
      throw new LgdError('BAD_MODEL', `${file} has no clear embedding output.`, {
        option: 'output',
        found: wanted ?? Object.keys(outputs).join(', '),
        allowed: flat.length > 0 ? flat.join(', ') : 'an output of shape [B,D]',
        mend: 'Name the output, or export the model with a pooled one',
      });
    }
    this.#output = chosen;
    this.#embeddingSize = outputs[chosen]!.dims[1]!;
  }
}

async function locate(
  source: string,
  options: OnnxTeacherOptions,
): Promise<{ id: string; file: string; preprocessing: Preprocessing }> {
  const isFile = source.endsWith('.onnx') && !(await isFolder(source));
  let [id, file, folders]: [string, string, string[]] = ['', '', []];
  if (isFile) {
    file = resolve(source);
    const found = await statIfThere(file);
    if (found === undefined)
      throw new LgdError('FILE_NOT_FOUND', `there is no file ${file}.`, { mend: 'Check the path' });
    if (!found.isFile())
      throw new LgdError('BAD_MODEL', `${file} is no regular file.`, {
        mend: 'Write what it gives into a file, and give that',
      });
    folders = [dirname(file), dirname(dirname(file))];
    id = basename(file, '.onnx');
  } else {
    const model = await resolveModel(
      source,
      {
        required: [onnxFiles],
        optional: preprocessorFiles,
      },
      options,
    );
    [id, file, folders] = [model.id, model.files[0]!, [model.folder]];
  }
  let read: Preprocessing | undefined;
  for (const folder of folders) read ??= await readPreprocessor(folder);
  if (isFile) read ??= await ownPreprocessing(file);
  const { resolution = read?.resolution, mean = read?.mean, std = read?.std } = options;
  if (resolution === undefined || mean === undefined || std === undefined) {
    throw new LgdError('BAD_MODEL', `there is no preprocessor_config.json with ${file}.`, {
      mend: `Write ${join(folders[0]!, 'preprocessor_config.json')} with what the model was trained with, of CLIP ${clipPreprocessor}; a program may give resolution, mean and std to loadTeacher() or OnnxTeacher.load() instead`,
    });
  }
  return { id, file, preprocessing: { resolution, mean, std } };
}

const largestStudent = 2 ** 28; // bytes; beyond it a file is not read for its metadata

/** The input of a student that this package exported, in its file's metadata. */
async function ownPreprocessing(file: string): Promise<Preprocessing | undefined> {
  if (((await stat(file).catch(() => undefined))?.size ?? Infinity) > largestStudent) return undefined;
  try {
    const { decodeOnnx } = await import('../../onnx/format.js');
    const entries = new Map(decodeOnnx(await readFile(file)).metadataProps.map(({ key, value }) => [key, value]));
    if (entries.get('format') !== 'lgdistill-onnx') return undefined;
    const [size, mean, std] = ['resolution', 'mean', 'std'].map((key) => JSON.parse(entries.get(key)!) as unknown);
    return preprocessing(
      { size, image_mean: mean, image_std: std } as never,
      (why) =>
        new LgdError('BAD_MODEL', `the metadata of ${file} do not tell its input: ${why}.`, {
          mend: 'Export the student again',
        }),
    );
  } catch (error) {
    if (error instanceof LgdError) throw error;
    return undefined; // onnxruntime says what is wrong with the file
  }
}
