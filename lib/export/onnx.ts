/**
 * A student as an ONNX file: pixel_values [batch,3,R,R] in, image_embeds [batch,D] out, and logits [batch,K] where the
 * text bank is its last layer.
 */
import type { TextualSemanticsBank } from '../banks/textual.js';
import { LgdError } from '../errors.js';
import { writeFileAtomically } from '../files/write-file.js';
import type { GraphSpec } from '../models/graph.js';
import { studentMetadata, type StudentInfo } from '../models/student-info.js';
import { graphOf } from '../models/student.js';
import { importOnnxRuntime, openOnnxSession } from '../onnx.js';
import { version } from '../version.js';
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
const outputName = { keep: 'image_embeds', drop: 'features' } as const;

/**
 * Writes the file.
 * @throws LgdError NOT_WRITABLE, BAD_BANK (a classifier of another size)
 */
export async function writeOnnx(
  file: string,
  { info, weights }: ExportSource,
  { head, fold, classifier }: OnnxOptions,
): Promise<Written> {
  const whole = graphOf(info);
  if (classifier !== undefined) checkClassifier(classifier.bank, info);
  const graph = onnxGraph(head === 'keep' ? whole : backboneOf(whole), weights, {
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
  const { encodeOnnx } = await import('../onnx-format.js');
  await writeFileAtomically(
    file,
    encodeOnnx({
      irVersion: 7n,
      producerName: 'lgdistill',
      producerVersion: version,
      docString: `${info.architecture}, distilled from ${info.teacher}`,
      graph,
      opsetImport: [{ domain: '', version: BigInt(opset) }],
      metadataProps: Object.entries(metadata).map(([key, value]) => ({ key, value })),
    }),
  );
  return {
    tensors: graph.initializer.length,
    values: graph.initializer.reduce((sum, { rawData }) => sum + rawData.length / 4, 0),
  };
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

/** The graph as far as the pooled features. */
function backboneOf(graph: GraphSpec): GraphSpec {
  const head = graph.nodes.findIndex(({ name }) => name === 'head.0');
  return { ...graph, nodes: graph.nodes.slice(0, head), output: graph.nodes[head]!.inputs[0]! };
}

function checkClassifier(bank: TextualSemanticsBank, { embeddingSize }: StudentInfo): void {
  if (bank.embeddingSize === embeddingSize) return;
  throw new LgdError(
    'BAD_BANK',
    `its rows have ${bank.embeddingSize} values, the student's embeddings ${embeddingSize}.`,
    { option: 'classifier', mend: "Build it with the text tower of the student's teacher" },
  );
}

/**
 * Loads a file of {@link writeOnnx} in onnxruntime and compares it with the student: all images in one batch, then the
 * first alone.
 * @param embed the student's embeddings of what the model gives, where that is something else (pooled features)
 * @throws LgdError EXPORT_FAILED, DEPENDENCY_MISSING
 */
export async function compareOnnx(
  file: string,
  { info, weights }: ExportSource,
  { head, classifier }: OnnxOptions,
  reference: Reference,
): Promise<Comparison> {
  const runtime = await importOnnxRuntime();
  const session = await openOnnxSession(file).catch((cause: unknown) => {
    if (cause instanceof LgdError && cause.code === 'DEPENDENCY_MISSING') throw cause;
    throw exportFailed('onnxruntime cannot open it', cause);
  });
  const { pixels, count } = reference;
  const run = async (from: number, to: number) => {
    const size = 3 * info.resolution ** 2;
    const input = new runtime.Tensor('float32', pixels.subarray(from * size, to * size), [
      to - from,
      3,
      info.resolution,
      info.resolution,
    ]);
    const outputs = await session.run({ pixel_values: input }).catch((cause: unknown) => {
      throw exportFailed('onnxruntime cannot run it', cause);
    });
    const values = outputs[outputName[head]]!.data as Float32Array;
    return {
      embeddings: head === 'keep' ? values : projected(values, weights),
      logits: outputs['logits']?.data as Float32Array | undefined,
    };
  };
  const all = await run(0, count);
  const comparison = compareEmbeddings(reference, all.embeddings);
  compareEmbeddings(
    { ...reference, count: 1, embeddings: reference.embeddings.subarray(0, info.embeddingSize) },
    (await run(0, 1)).embeddings,
  );
  if (classifier !== undefined) compareLogits(reference, all.logits, classifier);
  return comparison;
}

/** The projection head over pooled features [N,H]. */
function projected(features: Float32Array, weights: ExportSource['weights']): Float32Array {
  const linear = (x: Float32Array, name: string) => {
    const {
      shape: [out = 0, inputs = 0],
      data,
    } = weights[`${name}.weight`]!;
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
