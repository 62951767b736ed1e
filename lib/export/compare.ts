/** The proof of an export: what was written gives the student's own embeddings. */
import { ImageCache } from '../data/cache.js';
import { openImages } from '../data/open-images.js';
import { sampleSource, type ImageSource } from '../data/sources.js';
import { readViews } from '../data/views.js';
import { openDevice, type Device } from '../device.js';
import { hasCode, LgdError } from '../errors.js';
import { CompiledEncoder } from '../models/compiled.js';
import { Encoder } from '../models/encoder.js';
import type { GraphSpec } from '../models/graph.js';
import { graphOf } from '../models/student.js';
import type { WeightRecord } from '../models/weights.js';
import type { StudentInfo } from '../models/student-info.js';
import type { ExportSource } from './source.js';

/** What an export was compared on, and how well it agreed. */
export interface Comparison {
  /** Images looked at. */
  images: number;
  /** The folder or file they are from; undefined: drawn ones, as none was given or known. */
  folder: string | undefined;
  /** The smallest cosine between the student's embedding of an image and the exported one's. */
  cosine: number;
}

/** The least cosine that passes. */
const leastCosine = 0.9999;
const mostImages = 8;

/** Inputs to compare on, and the student's embeddings of them. */
export interface Reference {
  /** N. */
  count: number;
  /** [N,3,R,R], normalised. */
  pixels: Float32Array;
  folder: string | undefined;
  /** [N,D], not normalised. */
  embeddings: Float32Array;
}

/**
 * Embeddings by this package's engine on the CPU, of up to eight images: from `folder`, else from the run's training
 * images where they are still there, else drawn.
 * @throws LgdError BAD_DATASET and FILE_NOT_FOUND for a folder that was given
 */
export async function referenceEmbeddings(
  { info, weights, config }: ExportSource,
  folder: string | undefined,
  signal: AbortSignal | undefined,
): Promise<Reference> {
  using device = await openDevice('cpu');
  const chosen = await imagesToUse(config, folder, signal);
  const pixels = chosen === undefined ? drawnImages(info.resolution) : await pixelsOfSome(chosen, device, info, signal);
  const count = pixels.length / (3 * info.resolution ** 2);
  return { count, pixels, folder: chosen?.path, embeddings: await embed(device, info, weights, pixels, count) };
}

/** Images of a folder, or of a pack, a tar or a parquet file. */
export interface ImagesToUse {
  path: string;
  source: ImageSource;
}

/**
 * Images that were given, else the run's training images where they are still there and whole.
 * @throws LgdError for images that were given, as {@link openImages}; ABORTED
 */
export async function imagesToUse(
  config: ExportSource['config'],
  given: string | undefined,
  signal: AbortSignal | undefined,
): Promise<ImagesToUse | undefined> {
  const path = given ?? config?.data.train;
  if (path === undefined) return undefined;
  try {
    return { path, source: await openImages(path, { signal }) };
  } catch (error) {
    // an export can do without those of a run: they may be gone, or damaged
    if (given === undefined && hasCode(error, 'FILE_NOT_FOUND', 'BAD_DATASET', 'BAD_FILE')) return undefined;
    throw error;
  }
}

/**
 * The student's embeddings [N,D] by the engine, of weights under the graph's names.
 * @param graph the student's, where it is to be built in another way
 * @throws LgdError BAD_MODEL
 */
export async function engineEmbeddings(
  info: StudentInfo,
  weights: WeightRecord,
  { pixels, count }: Pick<Reference, 'pixels' | 'count'>,
  graph?: GraphSpec,
): Promise<Float32Array> {
  using device = await openDevice('cpu');
  return embed(device, info, weights, pixels, count, graph);
}

async function embed(
  device: Device,
  info: StudentInfo,
  weights: WeightRecord,
  pixels: Float32Array,
  count: number,
  graph = graphOf(info),
): Promise<Float32Array> {
  const compiled = new CompiledEncoder(device, graph, { batch: count, resolution: info.resolution, training: false });
  using encoder = new Encoder(compiled);
  compiled.load(weights);
  return encoder.forward(pixels);
}

async function pixelsOfSome(
  { source }: ImagesToUse,
  device: Device,
  info: StudentInfo,
  signal: AbortSignal | undefined,
): Promise<Float32Array> {
  using images = await decodeEvenly(source, mostImages, { device, info, signal });
  return pixelsOf(
    images,
    Int32Array.from({ length: images.length }, (_, i) => i),
    { device, info },
  );
}

/**
 * Up to `most` of the images, evenly spread.
 * @throws LgdError BAD_DATASET, ABORTED
 */
export async function decodeEvenly(
  source: ImageSource,
  most: number,
  { device, info, signal }: { device: Device; info: StudentInfo; signal: AbortSignal | undefined },
): Promise<ImageCache> {
  return ImageCache.build(sampleSource(source, most), {
    device,
    resolution: info.resolution,
    margin: 1,
    memoryLimitBytes: 2 ** 30,
    maxBrokenShare: 0.5,
    signal,
  });
}

/** Some of them as evaluation sees them: [N,3,R,R], normalised. */
export async function pixelsOf(
  images: ImageCache,
  chosen: Int32Array,
  { device, info: { resolution, mean, std } }: { device: Device; info: StudentInfo },
): Promise<Float32Array> {
  return readViews(
    images,
    { images: chosen, drawIds: chosen, seed: 0, epoch: 0 },
    { device, resolution, mean, std, augment: false },
  );
}

/** Smooth, not symmetric, each another one, and about the range of normalised pixels. */
export function drawnImages(resolution: number, count = 4): Float32Array {
  const size = 3 * resolution ** 2;
  return Float32Array.from({ length: count * size }, (_, i) => {
    const image = Math.floor(i / size) + 1;
    return Math.sin((i % size) * 0.37 * image) + Math.sin((i % size) * 0.011 * image);
  });
}

/**
 * @param found embeddings of the reference's images by what was written, [N,D]
 * @throws LgdError EXPORT_FAILED
 */
export function compareEmbeddings({ embeddings, count, folder }: Reference, found: Float32Array): Comparison {
  if (found.length !== embeddings.length)
    throw exportFailed(`it gives ${found.length / count} values an image instead of ${embeddings.length / count}`);
  const size = embeddings.length / count;
  let least = 1;
  for (let i = 0; i < count; i++) {
    const cosine = cosineOf(embeddings.subarray(i * size, (i + 1) * size), found.subarray(i * size, (i + 1) * size));
    if (!(cosine >= leastCosine))
      throw exportFailed(
        `its embedding of image ${i} of ${folder ?? 'the drawn ones'} has the cosine ${cosine.toFixed(6)} with the student's, less than ${leastCosine}`,
      );
    least = Math.min(least, cosine);
  }
  return { images: count, folder, cosine: least };
}

export function exportFailed(why: string, cause?: unknown): LgdError {
  return new LgdError('EXPORT_FAILED', `what was written is not the student: ${why}. It was removed.`, {
    mend: 'Check the disk, and export again; if it stays, report it',
    cause,
  });
}

export function cosineOf(a: Float32Array, b: Float32Array): number {
  let [ab, aa, bb] = [0, 0, 0];
  for (let k = 0; k < a.length; k++) {
    ab += a[k]! * b[k]!;
    aa += a[k]! ** 2;
    bb += b[k]! ** 2;
  }
  return ab / Math.sqrt(aa * bb);
}
