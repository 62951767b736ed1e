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
import { cosineOf, decodeEvenly, imagesToUse, pixelsOf, type Comparison, type ImagesToUse } from './compare.js';
import { OnnxBuilder } from './onnx-builder.js';
import { onnxModel, openWritten, outputName, writeOnnx, type OnnxOptions, type OnnxRunner } from './onnx.js';
import { namesOf, quantizeGraph, valuesToMeasure, type Range } from './quantize-graph.js';
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
const batch = 8;

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
  const measured = measuring(model);
  const { encodeOnnx } = await import('../onnx/format.js');
  using device = await openDevice('cpu');
  using images = await decodeEvenly(from, mostImages, { device, info, signal });
  const run = await openWritten(file, info.resolution, encodeOnnx(measured.model));
  const { calibration, comparison } = split(images.length);
  const ranges = new Map<string, Range>(measured.ends.map(({ name }) => [name, { min: Infinity, max: -Infinity }]));
  for await (const views of batches(images, calibration, { device, info, signal })) {
    const outputs = await run(views.pixels, views.count);
    for (const { name, min, max } of measured.ends) {
      const range = ranges.get(name)!;
      range.min = Math.min(range.min, outputs[min]![0]!);
      range.max = Math.max(range.max, outputs[max]![0]!);
    }
  }
  const quantization = { weights: 'int8', activations: 'uint8', calibrationImages: calibration.length };
  const written = await writeOnnx(file, {
    ...model,
    graph: quantizeGraph(model.graph, ranges),
    metadataProps: [...model.metadataProps, { key: 'quantization', value: JSON.stringify(quantization) }],
  });
  const runs: [OnnxRunner, OnnxRunner] = [run, await openWritten(file, info.resolution)];
  const views = batches(images, comparison, { device, info, signal });
  return {
    written,
    quantization: {
      calibrationImages: calibration.length,
      comparison: { folder: path, ...(await compareRuns(runs, views, options)) },
    },
  };
}

/** The names of the outputs that are a value's least and largest. */
interface Ends {
  name: string;
  min: string;
  max: string;
}

/**
 * A network with the ends of values to measure as further outputs. The last value's come first: onnxruntime computes
 * what outputs need from the last to the first, and so frees each value before the next ones.
 */
function measuring(model: OnnxModel): { model: OnnxModel; ends: Ends[] } {
  const { graph } = model;
  const builder = new OnnxBuilder(namesOf(graph));
  const integers = { keepdims: 0 };
  const ends = valuesToMeasure(graph)
    .reverse()
    .map((name) => ({
      name,
      min: builder.node('ReduceMin', `${name}/min`, [name], { integers }),
      max: builder.node('ReduceMax', `${name}/max`, [name], { integers }),
    }));
  const type = { tensorType: { elemType: 1, shape: { dim: [] } } };
  const outputs = ends.flatMap(({ min, max }) => [min, max]).map((name) => ({ name, docString: '', type }));
  const node = [...graph.node, ...builder.nodes];
  return { model: { ...model, graph: { ...graph, node, output: [...graph.output, ...outputs] } }, ends };
}

/** Places of the images to calibrate on, and of those to compare: the same ones, where there are too few. */
function split(count: number): { calibration: Int32Array; comparison: Int32Array } {
  const all = Int32Array.from({ length: count }, (_, i) => i);
  if (count < 5) return { calibration: all, comparison: all };
  return { calibration: all.filter((i) => i % 5 !== 4), comparison: all.filter((i) => i % 5 === 4) };
}

interface Views {
  pixels: Float32Array;
  count: number;
}

async function* batches(
  images: ImageCache,
  chosen: Int32Array,
  { device, info, signal }: { device: Device; info: StudentInfo; signal: AbortSignal | undefined },
): AsyncGenerator<Views, void, undefined> {
  for (let i = 0; i < chosen.length; i += batch) {
    throwIfAborted(signal, 'the export');
    const some = chosen.slice(i, i + batch);
    yield { pixels: await pixelsOf(images, some, { device, info }), count: some.length };
  }
}

/** @throws LgdError EXPORT_FAILED */
async function compareRuns(
  [floats, integers]: [OnnxRunner, OnnxRunner],
  views: AsyncIterable<Views>,
  { head, classifier }: OnnxOptions,
): Promise<Omit<Quantization['comparison'], 'folder'>> {
  const cosines: number[] = [];
  let same = 0;
  for await (const { pixels, count } of views) {
    const [wanted, found] = [await floats(pixels, count), await integers(pixels, count)];
    for (let i = 0; i < count; i++) {
      const row = (outputs: Record<string, Float32Array>, name: string) => {
        const size = outputs[name]!.length / count;
        return outputs[name]!.subarray(i * size, (i + 1) * size);
      };
      cosines.push(cosineOf(row(wanted, outputName[head]), row(found, outputName[head])));
      if (classifier !== undefined && largest(row(wanted, 'logits')) === largest(row(found, 'logits'))) same++;
    }
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
