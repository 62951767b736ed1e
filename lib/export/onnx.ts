/**
 * A student as an ONNX file: pixel_values [batch,3,R,R] in, image_embeds [batch,D] out, and logits [batch,K] where the
 * text bank is its last layer.
 */
import type { TextualSemanticsBank } from '../banks/textual.js';
import { hasCode, LgdError } from '../errors.js';
import { writeFileAtomically } from '../files/write-file.js';
import { featureGraph } from '../models/features.js';
import { studentMetadata, type StudentInfo } from '../models/student-info.js';
import { graphOf } from '../models/student.js';
import type { OnnxModel } from '../onnx/format.js';
import { importOnnxRuntime, openOnnxSession } from '../onnx/session.js';
import { version } from '../package.js';
import { compareEmbeddings, exportFailed, type Comparison, type Reference } from './compare.js';
import { onnxGraph, opset } from './onnx-graph.js';
import type { ExportSource } from './source.js';
import type { Written } from './written.js';

/** A text bank as the model's last layer. */
export interface Classifier {
  bank: TextualSemanticsBank;
  /** Logits are cosines divided by it; softmax of them are the student's probabilities. */
  temperature: number;
}

export interface OnnxOptions {
  head: 'keep' | 'drop';
  fold: boolean;
  classifier: Classifier | undefined;
}

/** The result's name: CLIP's for an embedding, another for pooled features. */
export const outputName = { keep: 'image_embeds', drop: 'features' } as const;

/**
 * The student as a network in float32.
 * @throws LgdError BAD_BANK (a classifier of another size)
 */
export function onnxModel({ info, weights }: ExportSource, { head, fold, classifier }: OnnxOptions): OnnxModel {
  const whole = graphOf(info);
  if (classifier !== undefined) checkClassifier(classifier.bank, info);
  const graph = onnxGraph(head === 'keep' ? whole : featureGraph(whole), weights, {
    resolution: info.resolution,
    output: outputName[head],
    fold,
    ...(classifier !== undefined && {
      classifier: { data: classifier.bank.data, size: classifier.bank.size, scale: 1 / classifier.temperature },
    }),
  });
  const metadata: Record<string, string> = {
    format: 'lgdistill-onnx',
    version,
    ...studentMetadata(info),
    head,
    preprocessing: JSON.stringify(preprocessing(info)),
    ...(classifier !== undefined && {
      classes: JSON.stringify(classifier.bank.names),
      classifierBank: classifier.bank.hash,
      classifierTemperature: String(classifier.temperature),
    }),
  };
  return {
    irVersion: 7n,
    producerName: 'lgdistill',
    producerVersion: version,
    docString: `${info.architecture}, distilled from ${info.teacher}`,
    graph,
    opsetImport: [{ domain: '', version: BigInt(opset) }],
    metadataProps: Object.entries(metadata).map(([key, value]) => ({ key, value })),
  };
}

/** @throws LgdError NOT_WRITABLE */
export async function writeOnnx(file: string, model: OnnxModel): Promise<Written> {
  const { encodeOnnx } = await import('../onnx/format.js');
  await writeFileAtomically(file, encodeOnnx(model));
  const sizes = model.graph.initializer.map(({ dims }) => dims.reduce((size, length) => size * Number(length), 1));
  return { tensors: sizes.length, values: sizes.reduce((sum, size) => sum + size, 0) };
}

/** How an image becomes the model's input. */
export function preprocessing({ resolution, mean, std }: StudentInfo): Record<string, unknown> {
  return {
    resize: { shortestEdge: resolution, filter: 'bicubic' },
    centerCrop: resolution,
    channels: 'RGB',
    layout: 'NCHW',
    rescale: 1 / 255,
    mean,
    std,
  };
}

function checkClassifier(bank: TextualSemanticsBank, { embeddingSize }: StudentInfo): void {
  if (bank.embeddingSize === embeddingSize) return;
  throw new LgdError(
    'BAD_BANK',
    `its rows have ${bank.embeddingSize} values, the student's embeddings ${embeddingSize}.`,
    { option: 'classifier', mend: "Build it with the text tower of the student's teacher" },
  );
}

/** A network of {@link onnxModel} in onnxruntime. */
export type OnnxRunner = (pixels: Float32Array, count: number) => Promise<Record<string, Float32Array>>;

/**
 * Loads an ONNX network in onnxruntime.
 * @param bytes its content, if it is on no disk
 * @returns what runs it on pixels [N,3,R,R]: its outputs by name
 * @throws LgdError EXPORT_FAILED, DEPENDENCY_MISSING
 */
export async function openWritten(file: string, resolution: number, bytes?: Uint8Array): Promise<OnnxRunner> {
  const runtime = await importOnnxRuntime();
  const session = await openOnnxSession(file, undefined, bytes).catch((cause: unknown) => {
    if (hasCode(cause, 'DEPENDENCY_MISSING')) throw cause;
    throw exportFailed('onnxruntime cannot open it', cause);
  });
  return async (pixels, count) => {
    const input = new runtime.Tensor('float32', pixels, [count, 3, resolution, resolution]);
    const outputs = await session.run({ pixel_values: input }).catch((cause: unknown) => {
      throw exportFailed('onnxruntime cannot run it', cause);
    });
    return Object.fromEntries(Object.entries(outputs).map(([name, { data }]) => [name, data as Float32Array]));
  };
}

/**
 * Loads a file of {@link onnxModel} in onnxruntime and compares it with the student: all images in one batch, then the
 * first alone. Pooled features are compared by the embeddings that the student's head makes of them.
 * @throws LgdError EXPORT_FAILED, DEPENDENCY_MISSING
 */
export async function compareOnnx(
  file: string,
  { info, weights }: ExportSource,
  { head, classifier }: OnnxOptions,
  reference: Reference,
): Promise<Comparison> {
  const run = await openWritten(file, info.resolution);
  const { pixels, count } = reference;
  const embeddingsOf = (outputs: Record<string, Float32Array>) => {
    const values = outputs[outputName[head]]!;
    return head === 'keep' ? values : projected(values, weights);
  };
  const all = await run(pixels, count);
  const comparison = compareEmbeddings(reference, embeddingsOf(all));
  compareEmbeddings(
    { ...reference, count: 1, embeddings: reference.embeddings.subarray(0, info.embeddingSize) },
    embeddingsOf(await run(pixels.subarray(0, 3 * info.resolution ** 2), 1)),
  );
  if (classifier !== undefined) compareLogits(reference, all['logits'], classifier);
  return comparison;
}

/** The projection head over pooled features [N,H]. */
function projected(features: Float32Array, weights: ExportSource['weights']): Float32Array {
  const linear = (x: Float32Array, name: string) => {
    const { shape, data } = weights[`${name}.weight`]!;
    const [out = 0, inputs = 0] = shape;
    const bias = weights[`${name}.bias`]!.data;
    return Float32Array.from({ length: (x.length / inputs) * out }, (_, i) => {
      const [row, column] = [Math.floor(i / out), i % out];
      let sum = bias[column]!;
      for (let k = 0; k < inputs; k++) sum += data[column * inputs + k]! * x[row * inputs + k]!;
      return sum;
    });
  };
  return linear(
    linear(features, 'head.0').map((value) => Math.max(0, value)),
    'head.2',
  );
}

const logitTolerance = 0.02; // of cosines: what a cosine of 0.9999 leaves room for

function compareLogits(
  { embeddings, count }: Reference,
  logits: Float32Array | undefined,
  { bank, temperature }: Classifier,
): void {
  if (logits?.length !== count * bank.size) throw exportFailed(`its logits are not ${count} x ${bank.size}`);
  const size = bank.embeddingSize;
  for (let i = 0; i < count; i++) {
    const row = embeddings.subarray(i * size, (i + 1) * size);
    const length = Math.hypot(...row);
    for (let k = 0; k < bank.size; k++) {
      let dot = 0;
      for (let d = 0; d < size; d++) dot += row[d]! * bank.data[k * size + d]!;
      const difference = Math.abs(dot / length - logits[i * bank.size + k]! * temperature);
      if (!(difference <= logitTolerance))
        throw exportFailed(
          `its logit of ${JSON.stringify(bank.names[k])} for image ${i} is another than the student's`,
        );
    }
  }
}
