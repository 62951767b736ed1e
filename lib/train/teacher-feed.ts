/** Teacher embeddings of augmented batches, as tensors on the student's device. */
import type { NativeAugmentRecipe, TensorHandle } from '../addon/native.js';
import type { Device } from '../device.js';
import { Made } from '../lifetime.js';
import type { CompiledEncoder } from '../models/compiled.js';
import type { AnyTeacher } from '../models/index.js';
import { askTeacher, lookUp } from '../models/teachers/ask.js';
import { idsOf, type Batch } from './batch.js';
import type { TeacherViewCache } from './view-cache.js';

export interface TeacherFeed {
  /** The teacher, compiled; undefined for one outside the device. */
  readonly plan: CompiledEncoder | undefined;
  /**
   * Queues (or, for a teacher outside the device, computes) the teacher's raw embeddings of a batch. They are there
   * after `joinBranch`: a teacher on the device runs beside what is queued next.
   * @param place which of the step's batches this is: embeddings of different places stay apart
   * @param signal stops a teacher outside the device
   * @returns [B,D]; good until `embed` is called with the same place again
   */
  embed(batch: Batch, place: number, signal?: AbortSignal): TensorHandle | Promise<TensorHandle>;
  dispose(): void;
}

export interface FeedOptions {
  device: Device;
  teacher: AnyTeacher;
  /** The student, compiled for training; its images serve a native teacher of the same input size and precision too. */
  encoder: CompiledEncoder;
  /** The batch's augmented images at the student's resolution, filled before `embed` is called. */
  images: TensorHandle;
  recipe: NativeAugmentRecipe;
  /** Batches a step. */
  places: number;
}

/** The feed of a teacher. @throws LgdError OUT_OF_MEMORY, BAD_MODEL */
export function makeTeacherFeed(options: FeedOptions): TeacherFeed {
  const made = new Made();
  try {
    return { ...feedOf(options, made), dispose: () => made.free() };
  } catch (error) {
    made.free();
    throw error;
  }
}

type Feed = Omit<TeacherFeed, 'dispose'>;

function feedOf(options: FeedOptions, made: Made): Feed {
  const { teacher } = options;
  switch (teacher.kind) {
    case 'native': {
      const { batch, precision } = options.encoder;
      return nativeFeed(options, made.use(teacher.compile({ batch, precision })), made);
    }
    case 'onnx':
    case 'custom':
      return outsideFeed(options, teacher, made);
    case 'precomputed':
      return precomputedFeed(options, teacher, made);
  }
}

/**
 * The teacher on the same device sees the student's tensor, or, at another resolution, the same draws taken at its own.
 */
function nativeFeed(
  { device, encoder, images, recipe, places }: FeedOptions,
  compiled: CompiledEncoder,
  made: Made,
): Feed {
  const { addon } = device;
  const shared = compiled.resolution === encoder.resolution;
  const own = shared ? images : made.add(compiled.makeImages(), addon.release);
  // A lone batch is used before the next forward; several wait for the bank's update together, so each needs a place of
  // its own.
  const results = places === 1 ? [] : makeResults(made, device, [encoder.batch, compiled.info.outputSize], places);
  return {
    plan: compiled,
    embed(batch, place) {
      if (!shared) addon.augment(batch.dataset.store, recipe, batch, own);
      addon.beginBranch(device.handle);
      compiled.forwardTensor(own);
      const result = results[place];
      if (result !== undefined) addon.copyTensor(compiled.output, result);
      addon.endBranch(device.handle);
      return result ?? compiled.output;
    },
  };
}

/**
 * A teacher outside the device, in onnxruntime or a caller's own: the views come back from the device in float32, their
 * embeddings go there.
 */
function outsideFeed(
  { device, encoder, recipe, places }: FeedOptions,
  teacher: Extract<AnyTeacher, { kind: 'onnx' | 'custom' }>,
  made: Made,
): Feed {
  const { addon } = device;
  const views = made.add(
    addon.makeImages(device.handle, encoder.batch, teacher.resolution, teacher.resolution, false),
    addon.release,
  );
  const results = makeResults(made, device, [encoder.batch, teacher.embeddingSize], places);
  return {
    plan: undefined,
    async embed(batch, place, signal) {
      addon.augment(batch.dataset.store, recipe, batch, views);
      const pixels = await addon.readImages(views);
      addon.writeTensor(results[place]!, await askTeacher(teacher, pixels, encoder.batch, signal));
      return results[place]!;
    },
  };
}

function precomputedFeed(
  { device, encoder, places }: FeedOptions,
  teacher: Extract<AnyTeacher, { kind: 'precomputed' }>,
  made: Made,
): Feed {
  const { addon } = device;
  const results = makeResults(made, device, [encoder.batch, teacher.embeddingSize], places);
  return {
    plan: undefined,
    embed(batch, place) {
      addon.writeTensor(results[place]!, lookUp(teacher, idsOf(batch)));
      return results[place]!;
    },
  };
}

/**
 * A feed that asks the cache first, and keeps what it lacks. What it gives is what the cache holds, whether that was
 * there before or not.
 */
export function makeCachedFeed(
  feed: TeacherFeed,
  cache: TeacherViewCache,
  { device, encoder, places }: Pick<FeedOptions, 'device' | 'encoder' | 'places'>,
): TeacherFeed {
  const { addon, handle } = device;
  const made = new Made();
  const loaded = makeResults(made, device, [encoder.batch, cache.embeddingSize], places);
  const keep = (rows: Float64Array, embeddings: TensorHandle) => {
    addon.joinBranch(handle);
    cache.keep(rows, embeddings);
    return embeddings;
  };
  return {
    plan: feed.plan,
    embed(batch, place, signal) {
      const rows = cache.rowsOf(batch);
      if (cache.has(rows)) {
        cache.load(rows, loaded[place]!);
        return loaded[place]!;
      }
      const embedded = feed.embed(batch, place, signal);
      return embedded instanceof Promise ? embedded.then((embeddings) => keep(rows, embeddings)) : keep(rows, embedded);
    },
    dispose: () => made.free(),
  };
}

/**
 * Of a step of several batches the embeddings of all, where the teacher may refuse one or be stopped: before a student
 * sees the first. None of a teacher on the device.
 */
export function embedEarly(
  feed: TeacherFeed,
  { kind }: AnyTeacher,
  batches: readonly Batch[],
  signal: AbortSignal | undefined,
): TensorHandle[] | Promise<TensorHandle[]> {
  if (batches.length === 1 || kind === 'native') return [];
  return kind === 'precomputed'
    ? batches.map((batch, place) => feed.embed(batch, place) as TensorHandle)
    : embedAll(feed, batches, signal);
}

async function embedAll(
  feed: TeacherFeed,
  batches: readonly Batch[],
  signal: AbortSignal | undefined,
): Promise<TensorHandle[]> {
  const embeddings: TensorHandle[] = [];
  for (const [place, batch] of batches.entries()) embeddings.push(await feed.embed(batch, place, signal));
  return embeddings;
}

/** Bytes of an encoder's parameters and activations. */
export function plannedBytes({ info }: CompiledEncoder): number {
  return info.parameterBytes + info.arenaBytes;
}

function makeResults(
  made: Made,
  { addon, handle }: Device,
  shape: [rows: number, columns: number],
  places: number,
): TensorHandle[] {
  return Array.from({ length: places }, () => made.add(addon.makeTensor(handle, shape), addon.release));
}
