/** Embeddings of the centre crops of cached images, batch by batch: what evaluations and reports look at. */
import type { NativeAugmentRecipe, TensorHandle } from '../addon/native.js';
import { optionTable } from '../arguments.js';
import type { ImageCache } from '../data/cache.js';
import { readAhead, type PreparableImages } from '../data/read-ahead.js';
import { sequentialBatches } from '../data/sampler.js';
import type { Device } from '../device.js';
import { throwIfAborted } from '../errors.js';
import type { CompiledEncoder, Precision } from '../models/compiled.js';
import type { AnyTeacher } from '../models/index.js';
import { askTeacher } from '../models/teachers/ask.js';
import type { ChannelTriple } from '../models/teachers/types.js';
import { orAborted } from '../turn.js';

/** Turns batches of images into embeddings. Dispose of it when done; what it was made of stays. */
export interface Embedder extends Disposable {
  readonly batch: number;
  /** Side of the views, in pixels. */
  readonly resolution: number;
  /** Where a batch's views go. */
  readonly images: TensorHandle;
  /** Queues the views' forward pass; resolves with [batch,D], not normalised. */
  embed(): Promise<Float32Array>;
}

/** Of what embeds a set of images. */
export interface EmbedOptions {
  signal?: AbortSignal | undefined;
  /** Called after each batch with the number of images done and to do. */
  onProgress?: ((done: number, total: number) => void) | undefined;
}

export const embedOptions = optionTable<EmbedOptions>()('signal? onProgress?');

/**
 * An encoder compiled for training or for inference; training statistics are left alone.
 * @throws LgdError OUT_OF_MEMORY
 */
export function encoderEmbedder(encoder: CompiledEncoder): Embedder {
  const { addon } = encoder.device;
  const images = encoder.makeImages();
  return {
    batch: encoder.batch,
    resolution: encoder.resolution,
    images,
    embed: () => {
      encoder.forwardTensor(images, { training: false });
      return addon.readTensor(encoder.output);
    },
    [Symbol.dispose]: () => addon.release(images),
  };
}

/** The same of an encoder that is disposed of with it. */
export function ownedEmbedder(encoder: CompiledEncoder): Embedder {
  try {
    const inner = encoderEmbedder(encoder);
    return {
      ...inner,
      [Symbol.dispose]: () => {
        inner[Symbol.dispose]();
        encoder.dispose();
      },
    };
  } catch (error) {
    encoder.dispose();
    throw error;
  }
}

/**
 * A teacher that sees images: any but one of precomputed embeddings.
 * @param options `batch`: images at once at most, see {@link embeddedAtOnce}
 * @throws LgdError OUT_OF_MEMORY, BAD_MODEL
 */
export function teacherEmbedder(
  { addon, handle }: Device,
  teacher: Exclude<AnyTeacher, { kind: 'precomputed' }>,
  { batch: most, precision, signal }: { batch: number; precision?: Precision; signal?: AbortSignal | undefined },
): Embedder {
  const { resolution } = teacher;
  const batch = embeddedAtOnce(most, resolution);
  if (teacher.kind === 'native') return ownedEmbedder(teacher.compile({ batch, precision }));
  const images = addon.makeImages(handle, batch, resolution, resolution, false);
  return {
    batch,
    resolution,
    images,
    // a copy: rows are kept, and a caller's own teacher may write each batch into one array
    embed: async () => (await askTeacher(teacher, await addon.readImages(images), batch, signal)).slice(),
    [Symbol.dispose]: () => addon.release(images),
  };
}

const mostAtOnce = 256;
const pixelsAtOnce = mostAtOnce * 224 ** 2;

/**
 * Images to embed at once: `most`, but 256 at most, and the fewer the more they are beyond 224 pixels a side, so that
 * memory does not grow with it.
 */
export function embeddedAtOnce(most: number, resolution: number): number {
  const fitting = Math.min(mostAtOnce, Math.max(1, Math.floor(pixelsAtOnce / resolution ** 2)));
  return Number.isInteger(most) ? Math.min(most, fitting) : most; // what is no number is refused by what compiles
}

const batchesAhead = 2;

function* batchesOf(
  count: number,
  batchSize: number,
): Generator<{ images: Int32Array; valid: number }, void, undefined> {
  for (const { indices, valid } of sequentialBatches(count, batchSize)) yield { images: indices, valid };
}

export interface EmbedTask {
  device: Device;
  /** Decoded for the embedder's resolution, or a larger one. */
  images: Pick<ImageCache, 'length'> & PreparableImages;
  /** Channel statistics of the encoder's input. */
  mean: ChannelTriple;
  std: ChannelTriple;
  /** What is going on, for the error when it is stopped: 'the evaluation'. */
  what: string;
}

/** Takes rows [n,D], those of n images by their indices; `from` rows came before. */
export type TakeRows = (rows: Float32Array, images: Int32Array, from: number) => Promise<void> | void;

/**
 * Embeds every image that can be decoded, in order: what stands in for a broken one is left out. `take` works on one
 * batch while the next is on the device.
 * @throws LgdError NON_FINITE, ABORTED, and device faults
 */
export async function embedImages(
  embedder: Embedder,
  { device, images, mean, std, what }: EmbedTask,
  take: TakeRows,
  { signal, onProgress }: EmbedOptions = {},
): Promise<void> {
  const recipe: NativeAugmentRecipe = { train: false, resize: embedder.resolution, mean, std };
  let [done, rows] = [0, 0];
  let before: Promise<void> = Promise.resolve();
  let latest = before;
  const batches = readAhead(images, batchesOf(images.length, embedder.batch), batchesAhead, signal);
  try {
    for await (const { images: indices, valid, shown = indices, store, release } of batches) {
      const isShown = (place: number) => place < valid && shown[place] === indices[place];
      const places = Int32Array.from(indices.keys()).filter(isShown);
      const [from, to] = [rows, done + valid];
      const embed = async () => {
        try {
          throwIfAborted(signal, what);
          const drawn = { images: indices, drawIds: indices, seed: 0, epoch: 0 };
          device.addon.augment(store, recipe, drawn, embedder.images);
          return await embedder.embed();
        } finally {
          release();
        }
      };
      const earlier = before;
      latest = embed().then(async (embeddings) => {
        await earlier; // this batch may leave the device while the one before is still being taken
        throwIfAborted(signal, what); // who was told of the end is called no more
        if (places.length > 0)
          await take(
            rowsAt(places, embeddings, embeddings.length / embedder.batch),
            places.map((place) => indices[place]!),
            from,
          );
        throwIfAborted(signal, what);
        onProgress?.(to, images.length);
      });
      latest.catch(() => undefined); // awaited below; until then a failure of the batch before must not leave it unhandled
      await before;
      before = latest;
      [done, rows] = [to, rows + places.length];
    }
    await before;
  } catch (error) {
    await orAborted(latest, what, signal).catch(() => undefined); // nor does it use the embedder after the end
    throw error;
  }
}

/** Rows of [B,D] in rising places, without a copy where they are the first. */
function rowsAt(places: Int32Array, embeddings: Float32Array, size: number): Float32Array {
  const count = places.length;
  if (places[count - 1] === count - 1) return embeddings.subarray(0, count * size);
  const rows = new Float32Array(count * size);
  places.forEach((place, i) => rows.set(embeddings.subarray(place * size, (place + 1) * size), i * size));
  return rows;
}
