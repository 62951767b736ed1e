/**
 * A student's ONNX network in 8-bit integers, by post-training quantisation: ranges of activations are measured on some
 * images, and what integers make of others is compared with what floats do.
 */
import { checkWord } from '../arguments.js';
import { counted } from '../counted.js';
import type { ImageCache } from '../data/cache.js';
import { openDevice, type Device } from '../device.js';
import { LgdError, throwIfAborted } from '../errors.js';
import type { GraphSpec } from '../models/graph.js';
import type { StudentInfo } from '../models/student-info.js';
import type { OnnxModel } from '../onnx/format.js';
import { RangeSearch } from './activation-ranges.js';
import { cosineOf, decodeEvenly, imagesToUse, pixelsOf, type Comparison, type ImagesToUse } from './compare.js';
import { measuringEnds, measuringSamples } from './measuring.js';
import { onnxModel, openWritten, outputName, writeOnnx, type OnnxOptions, type OnnxRunner } from './onnx.js';
import { quantizeGraph, valuesToMeasure, type Range } from './quantize-graph.js';
import type { ExportSource } from './source.js';
import type { Written } from './written.js';

/** How a network was quantised, and what that changed. */
export interface Quantization {
  /** Images that the ranges of activations were measured on. */
  calibrationImages: number;
  /** On other images, where there are five or more: embeddings of the integers beside those of float32. */
  comparison: Comparison & {
    /** The mean of the cosines. */
    meanCosine: number;
    /** With a classifier: for how many of the images it gives the same answer. */
    sameAnswers: number | undefined;
  };
}

/** Images taken of a folder. Four of five are calibrated on, the fifth is compared. */
const mostImages = 320;

/** The least mean of the cosines that passes. */
const leastMeanCosine = 0.9;

/**
 * Do the options go together with integers?
 * @throws LgdError BAD_OPTION
 */
export function checkQuantize(quantize: string, format: string, fold: boolean, graph: GraphSpec): void {
  checkWord(quantize, 'quantize', ['int8']);
  if (format !== 'onnx' && format !== 'transformers')
    throw new LgdError('BAD_OPTION', `a student for ${format} is not written in integers.`, {
      option: 'quantize',
      allowed: 'with onnx and transformers',
      mend: 'Leave it out, or export for one of those',
    });
  if (!fold)
    throw new LgdError('BAD_OPTION', 'norms on their own have no form in integers.', {
      option: 'fold',
      found: fold,
      mend: 'Leave out --no-fold (in TypeScript: fold: false), or --quantize',
    });
  if (graph.nodes.some(({ op }) => op === 'layerNorm'))
    throw new LgdError('BAD_OPTION', `layer norm, which ${graph.name} has, has no form in integers here.`, {
      option: 'quantize',
      found: quantize,
      allowed: 'with students whose norms are batch norms',
      mend: 'Leave it out; in float32 it is exported',
    });
}

/**
 * Images to calibrate on: those that were given, or the run's training images.
 * @throws LgdError BAD_OPTION where there are none; as {@link imagesToUse}
 */
export async function calibrationImages(
  { config, file }: ExportSource,
  given: string | undefined,
  signal: AbortSignal | undefined,
): Promise<ImagesToUse> {
  const images = await imagesToUse(config, given, signal);
  if (images !== undefined) return images;
  throw new LgdError(
    'BAD_OPTION',
    `there are no images to measure on which values ${file} computes with, which integers need.`,
    {
      option: 'images',
      found: config?.data.train, // no longer there, or damaged
      allowed: 'a folder of a few hundred images like those that the student will see',
      mend: 'Name it: --images photos',
    },
  );
}

/**
 * Writes the file.
 * @throws LgdError EXPORT_FAILED (its embeddings are others), BAD_DATASET, FILE_NOT_FOUND, NOT_WRITABLE,
 *   DEPENDENCY_MISSING, ABORTED
 */
export async function writeQuantized(
  file: string,
  source: ExportSource,
  options: OnnxOptions,
  { path, source: from }: ImagesToUse,
  signal: AbortSignal | undefined,
): Promise<{ written: Written; quantization: Quantization }> {
  const { info } = source;
  const model = onnxModel(source, options);
  const { encodeOnnx } = await import('../onnx/format.js');
  using device = await openDevice('cpu');
  using images = await decodeEvenly(from, mostImages, { device, info, signal });
  const { calibration, comparison } = split(images.length);
  const calibrating = () => oneByOne(images, calibration, { device, info, signal });
  await checkDiffer(calibrating(), path, calibration.length);
  const open = (of: OnnxModel) => openWritten(file, info.resolution, encodeOnnx(of));
  const { seen, sizes } = await leastAndLargest(model, open, calibrating());
  const search = new RangeSearch(model.graph, seen);
  const samples = measuringSamples(model, sizes);
  const sample = await open(samples.model);
  for await (const pixels of calibrating()) {
    const outputs = await sample(pixels, 1);
    search.add((name) => outputs[samples.outputs.get(name)!.sample]!);
  }
  const ranges = search.best();
  const quantization = { weights: 'int8', activations: 'uint8', calibrationImages: calibration.length };
  const written = await writeOnnx(file, {
    ...model,
    graph: quantizeGraph(model.graph, ranges),
    metadataProps: [...model.metadataProps, { key: 'quantization', value: JSON.stringify(quantization) }],
  });
  const runs: [OnnxRunner, OnnxRunner] = [await open(model), await openWritten(file, info.resolution)];
  const views = oneByOne(images, comparison, { device, info, signal });
  return {
    written,
    quantization: {
      calibrationImages: calibration.length,
      comparison: { folder: path, ...(await compareRuns(runs, views, options)) },
    },
  };
}

/** Root of the mean square of differences of normalised pixels up to which images are alike: about 3 of 255. */
const alike = 0.05;

/** @throws LgdError BAD_DATASET where all images are alike: ranges of one fit no other */
async function checkDiffer(views: AsyncIterable<Float32Array>, path: string, count: number): Promise<void> {
  let first: Float32Array | undefined;
  for await (const pixels of views) {
    first ??= pixels;
    const squares = pixels.reduce((sum, value, i) => sum + (value - first![i]!) ** 2, 0);
    if (Math.sqrt(squares / pixels.length) > alike) return;
  }
  throw new LgdError(
    'BAD_DATASET',
    count === 1
      ? `there is one image in ${path} to measure on which values the student computes with; integers need several.`
      : `the ${count} images of ${path} to measure on which values the student computes with are all alike.`,
    {
      option: 'images',
      allowed: 'a few hundred images like those that the student will see',
      mend: 'Name others: --images photos',
    },
  );
}

/** @returns the ranges of all values to measure, and how many values an image has of each */
async function leastAndLargest(
  network: OnnxModel,
  open: (model: OnnxModel) => Promise<OnnxRunner>,
  views: AsyncIterable<Float32Array>,
): Promise<{ seen: Map<string, Range>; sizes: Map<string, number> }> {
  const { model, outputs } = measuringEnds(network, valuesToMeasure(network.graph));
  const run = await open(model);
  const seen = new Map<string, Range>();
  const sizes = new Map<string, number>();
  for await (const pixels of views) {
    const values = await run(pixels, 1);
    for (const [name, of] of outputs) {
      const { min = Infinity, max = -Infinity } = seen.get(name) ?? {};
      seen.set(name, { min: Math.min(min, values[of.min]![0]!), max: Math.max(max, values[of.max]![0]!) });
      sizes.set(name, values[of.size]![0]!);
    }
  }
  return { seen, sizes };
}

/** Places of the images to calibrate on, and of those to compare: the same ones, where there are too few. */
function split(count: number): { calibration: Int32Array; comparison: Int32Array } {
  const all = Int32Array.from({ length: count }, (_, i) => i);
  if (count < 5) return { calibration: all, comparison: all };
  return { calibration: all.filter((i) => i % 5 !== 4), comparison: all.filter((i) => i % 5 === 4) };
}

/** Pixels of each image chosen, [1,3,R,R]. */
async function* oneByOne(
  images: ImageCache,
  chosen: Int32Array,
  { device, info, signal }: { device: Device; info: StudentInfo; signal: AbortSignal | undefined },
): AsyncGenerator<Float32Array, void, undefined> {
  for (const image of chosen) {
    throwIfAborted(signal, 'the export');
    yield pixelsOf(images, Int32Array.of(image), { device, info });
  }
}

/** @throws LgdError EXPORT_FAILED */
async function compareRuns(
  [floats, integers]: [OnnxRunner, OnnxRunner],
  views: AsyncIterable<Float32Array>,
  { head, classifier }: OnnxOptions,
): Promise<Omit<Quantization['comparison'], 'folder'>> {
  const cosines: number[] = [];
  let same = 0;
  for await (const pixels of views) {
    const [wanted, found] = [await floats(pixels, 1), await integers(pixels, 1)];
    cosines.push(cosineOf(wanted[outputName[head]]!, found[outputName[head]]!));
    if (classifier !== undefined && largest(wanted['logits']!) === largest(found['logits']!)) same++;
  }
  const meanCosine = cosines.reduce((sum, cosine) => sum + cosine, 0) / cosines.length;
  if (!(meanCosine >= leastMeanCosine))
    throw new LgdError(
      'EXPORT_FAILED',
      `in integers its embeddings of ${counted(cosines.length, 'image')} have a mean cosine of ${meanCosine.toFixed(4)} with those in float32, less than ${leastMeanCosine}. It was removed.`,
      {
        option: 'quantize',
        mend: 'Give some hundred images like those that the student will see (--images), or export it in float32',
      },
    );
  return {
    images: cosines.length,
    cosine: Math.min(...cosines),
    meanCosine,
    sameAnswers: classifier === undefined ? undefined : same,
  };
}

const largest = (values: Float32Array): number =>
  values.reduce((best, value, i) => (value > values[best]! ? i : best), 0);
