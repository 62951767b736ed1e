/** Embeddings of images by a student or a teacher: to search with, or to train from in the teacher's place. */
import { checkOptions, optionTable } from '../arguments.js';
import { parseConfig, type Config, type ConfigInput } from '../config/config.js';
import { openDevice, type Device, type DeviceName } from '../device.js';
import { LgdError } from '../errors.js';
import { embedImages, teacherEmbedder, type Embedder } from '../evaluate/embed.js';
import { precisionOf, type Precision } from '../models/compiled.js';
import type { ChannelTriple } from '../models/teachers/types.js';
import { configuredTeacher } from '../runs/configured-teacher.js';
import { reporting, type PhaseProgress } from '../runs/phase.js';
import { lookAtAll, openGiven, readWithHead, studentEmbedder, type ImagesGiven, type Looked } from './looking.js';

/** What {@link computeEmbeddings} embeds, and with what. */
export interface EmbeddingsOptions {
  /** A run folder, a checkpoint folder, or a student's file; or leave it out, and give `config.teacher`. */
  student?: string | undefined;
  images: ImagesGiven;
  /**
   * `teacher` and `teacherResolution`, where no student is given. Of `data` what says how images are decoded; `device`,
   * `threads`, `offline`, `train.precision`.
   */
  config?: ConfigInput | undefined;
  signal?: AbortSignal | undefined;
  /** Called while a phase goes on. */
  onProgress?: ((progress: PhaseProgress) => void) | undefined;
}

const embeddingsOptions = optionTable<EmbeddingsOptions>()('student? images config? signal? onProgress?');

/** Embeddings of N images; {@link PrecomputedTeacher.save} writes them into a file. */
export interface ImageEmbeddings extends Looked {
  /** [N,D], not normalised. */
  embeddings: Float32Array;
  /** D. */
  embeddingSize: number;
  /** The student's file, or the teacher. */
  id: string;
  /** Side of the model's input in pixels, and its channel statistics. */
  resolution: number;
  mean: ChannelTriple;
  std: ChannelTriple;
}

/**
 * Embeds the centre crop of each image.
 * @throws LgdError BAD_OPTION (no model, or two; more values than an array holds), FILE_NOT_FOUND, BAD_MODEL,
 *   NON_FINITE, ABORTED, and those of images, teacher and device
 */
export async function computeEmbeddings(options: EmbeddingsOptions): Promise<ImageEmbeddings> {
  checkOptions(options, 'computeEmbeddings()', embeddingsOptions);
  const { student, images: given, config: input = {}, signal, onProgress } = options;
  const config = parseConfig(input);
  if ((student === undefined) === (config.teacher === undefined))
    throw new LgdError('BAD_OPTION', 'images are embedded by a student or by a teacher.', {
      option: 'student',
      found: student,
      mend: 'Give one of the two',
    });
  const source = await openGiven(given, signal);
  const count = source.ids.length;
  using device = await openDevice(config.device as DeviceName, { threads: config.threads });
  const common = { device, config, most: count, precision: precisionOf(config), signal };
  await using model = await (student === undefined ? ofTeacher(common) : ofStudent(student, common));
  const { embedder, id, embeddingSize, mean, std } = model;
  const { resolution } = embedder;
  const embeddings = rowsFor(count, embeddingSize);
  let found = 0;
  const looked = await lookAtAll(
    source,
    { device, resolution, config, signal, onDecoded: reporting(onProgress, 'images') },
    async (images, seen) =>
      embedImages(
        embedder,
        { device, images, mean, std, what: 'embedding the images' },
        (rows, some, from) => {
          embeddings.set(rows, from * embeddingSize);
          found += some.length;
          seen(some);
        },
        { signal, onProgress: reporting(onProgress, student === undefined ? 'teacher' : 'student') },
      ),
  );
  return {
    embeddings: embeddings.subarray(0, found * embeddingSize),
    embeddingSize,
    id,
    resolution,
    mean,
    std,
    ...looked,
  };
}

interface Model extends AsyncDisposable {
  embedder: Embedder;
  id: string;
  embeddingSize: number;
  mean: ChannelTriple;
  std: ChannelTriple;
}

interface Common {
  device: Device;
  config: Config;
  /** Images. */
  most: number;
  precision: Precision | undefined;
  signal: AbortSignal | undefined;
}

async function ofStudent(path: string, { device, precision, most }: Common): Promise<Model> {
  const content = await readWithHead(path);
  const { embeddingSize, mean, std } = content.info;
  const embedder = studentEmbedder(content, device, { most, precision });
  const dispose = async () => embedder[Symbol.dispose]();
  return { embedder, id: content.file, embeddingSize, mean, std, [Symbol.asyncDispose]: dispose };
}

async function ofTeacher({ device, config, most, precision, signal }: Common): Promise<Model> {
  const teacher = await configuredTeacher(config.teacher!, config, { device, signal });
  try {
    if (teacher.kind === 'precomputed')
      throw new LgdError('BAD_OPTION', 'this is a file of embeddings already.', {
        option: 'teacher',
        found: config.teacher,
        mend: 'Give the folder or hub id of a model',
      });
    const embedder = teacherEmbedder(device, teacher, { batch: most, precision, signal });
    const { id, embeddingSize, mean, std } = teacher;
    return {
      embedder,
      id,
      embeddingSize,
      mean,
      std,
      [Symbol.asyncDispose]: async () => {
        embedder[Symbol.dispose]();
        await teacher.dispose();
      },
    };
  } catch (error) {
    await teacher.dispose();
    throw error;
  }
}

/** @throws LgdError BAD_OPTION */
function rowsFor(count: number, size: number): Float32Array {
  try {
    return new Float32Array(count * size);
  } catch (cause) {
    throw new LgdError('BAD_OPTION', `${count} embeddings of ${size} values are more than one array holds.`, {
      option: 'images',
      mend: 'Embed them in several parts',
      cause,
    });
  }
}
