/** Segmentation of images of any size: by a trained network, or without training by the text bank. */
import {
  checkArgument,
  checkGiven,
  checkOptions,
  withFixedBuffer,
  optionTable,
  type OptionTable,
} from '../arguments.js';
import type { TextualSemanticsBank } from '../banks/textual.js';
import type { Device } from '../device.js';
import { LgdError, throwIfAborted } from '../errors.js';
import type { Precision } from '../models/compiled.js';
import { weightsOf } from '../models/features.js';
import type { GraphSpec } from '../models/graph.js';
import { denseProjectionGraph, denseProjectionWeights } from '../models/heads/dense-projection.js';
import { segmentationGraph } from '../models/heads/segmentation.js';
import type { WeightRecord } from '../models/weights.js';
import { backboneOf, readDense, type DenseInfo } from '../runs/network-file.js';
import type { StudentInfo } from '../runs/student-file.js';
import { nextTurn } from '../turn.js';
import { checkBytes } from './checks.js';
import { labelMap, slidingParts, type ScoredWindow } from './label-map.js';
import { DenseNetwork, type NetworkParts } from './network.js';
import { imageSize, wholeView, type Rectangle } from './pixels.js';
import { checkInput } from './trainer.js';

/** How an image is looked at. */
export interface SegmentOptions {
  /**
   * whole (default): the image at once, so scaled that it fits the input; sliding: squares of its short side along its
   * long one.
   */
  inference?: 'whole' | 'sliding' | undefined;
  /** Names the image in errors. */
  path?: string | undefined;
  signal?: AbortSignal | undefined;
}

/** Those of them that are not about one image alone. */
export const lookOptions = optionTable<Omit<SegmentOptions, 'path'>>()('inference? signal?');
const segmentOptions = { path: 'optional', ...lookOptions } satisfies OptionTable<SegmentOptions>;

/** @throws LgdError BAD_OPTION for a way to look that there is not, which would be taken for another */
export function checkLook({ inference }: Pick<SegmentOptions, 'inference'>): void {
  if (inference === undefined || inference === 'whole' || inference === 'sliding') return;
  throw new LgdError('BAD_OPTION', 'there is no such inference.', {
    option: 'inference',
    found: inference,
    allowed: 'whole, sliding',
  });
}

const placeOptions = optionTable<Parameters<typeof Segmenter.load>[1]>()('device precision?');

/** The class of each pixel. */
export interface Segmentation {
  width: number;
  height: number;
  /** [height, width], indices into the names. */
  labels: Int16Array;
}

interface Parts extends NetworkParts {
  names: readonly string[];
  /** Unit text embeddings [K,D], where the network gives embeddings. */
  bank?: Float32Array;
}

/** A network that gives each pixel of an image a class. Release it with {@link Segmenter.dispose}. */
export class Segmenter implements Disposable {
  readonly names: readonly string[];
  readonly resolution: number;
  readonly #bank: Float32Array | undefined;
  readonly #network: DenseNetwork;

  private constructor(
    readonly device: Device,
    parts: Parts,
    precision: Precision | undefined,
  ) {
    [this.names, this.resolution, this.#bank] = [parts.names, parts.resolution, parts.bank];
    this.#network = new DenseNetwork(device, parts, precision, 'the segmenter');
  }

  /**
   * The network that `lgdistill segment train` wrote: its folder or file.
   * @throws LgdError BAD_OPTION, FILE_NOT_FOUND, BAD_FILE, BAD_MODEL, OUT_OF_MEMORY
   */
  static async load(path: string, options: { device: Device; precision?: Precision | undefined }): Promise<Segmenter> {
    checkOptions(options, 'Segmenter.load()', placeOptions);
    const { info, weights } = await readDense(path, 'segmentation');
    return Segmenter.fromWeights(info, weights, options);
  }

  /** A network from its weights. @throws LgdError BAD_OPTION, BAD_MODEL, OUT_OF_MEMORY */
  static fromWeights(
    info: Omit<DenseInfo, 'task' | 'step'>,
    weights: WeightRecord,
    options: { device: Device; precision?: Precision | undefined },
  ): Segmenter {
    checkOptions(options, 'Segmenter.fromWeights()', placeOptions);
    const { device, precision } = options;
    const graph = segmentationGraph(backboneOf(info), { ...info, classes: info.names.length, enlarge: false });
    return new Segmenter(device, { graph, weights: weightsOf(graph, weights), ...info }, precision);
  }

  /**
   * A student as it is: the projection head, with which its graph must come, at every position of its last map, and of
   * the bank's names the one whose text is nearest. `resolution` is the side of the input in pixels, a multiple of 32.
   * @throws LgdError BAD_OPTION, BAD_MODEL, BAD_SHAPE (a bank of another size), OUT_OF_MEMORY
   */
  static zeroShot(
    student: {
      graph: GraphSpec;
      weights: Readonly<WeightRecord>;
      info: Pick<StudentInfo, 'mean' | 'std' | 'embeddingSize'>;
    },
    bank: TextualSemanticsBank,
    options: { device: Device; outputStride: number; resolution: number; precision?: Precision | undefined },
  ): Segmenter {
    checkOptions(options, 'Segmenter.zeroShot()', { ...placeOptions, outputStride: 'needed', resolution: 'needed' });
    const { device, outputStride, resolution, precision } = options;
    checkGiven(student, 'Segmenter.zeroShot()', 'graph, weights, info');
    checkArgument('tsb', bank, 'bank');
    checkInput({ outputStride, resolution });
    const { mean, std, embeddingSize } = student.info;
    if (bank.embeddingSize !== embeddingSize)
      throw new LgdError(
        'BAD_SHAPE',
        `the bank's embeddings have ${bank.embeddingSize} values, the student's ${embeddingSize}.`,
        { option: 'bank', mend: 'Give the bank that the student was trained with' },
      );
    const graph = denseProjectionGraph(student.graph, outputStride);
    return new Segmenter(
      device,
      {
        graph,
        weights: denseProjectionWeights(graph, student.weights),
        names: bank.names,
        resolution,
        mean,
        std,
        bank: bank.data,
      },
      precision,
    );
  }

  /**
   * @param bytes an image in any format that sharp reads; EXIF orientation is applied, and the size is that of the
   *   image so turned
   * @throws LgdError BAD_OPTION, BAD_IMAGE, NON_FINITE, DISPOSED, ABORTED
   */
  async segment(bytes: Uint8Array, options: SegmentOptions = {}): Promise<Segmentation> {
    checkOptions(options, 'segment()', segmentOptions);
    checkBytes(bytes);
    const file = withFixedBuffer(bytes);
    checkLook(options);
    const { inference = 'whole', path = 'the image', signal } = options;
    this.#network.check();
    const size = await imageSize(file, path);
    const parts = inference === 'whole' ? [wholeView(size, this.resolution).part] : slidingParts(size);
    const windows: ScoredWindow[] = [];
    for (const part of parts) {
      throwIfAborted(signal, 'the segmentation');
      windows.push(await this.#look(file, part, path, signal));
    }
    return { ...size, labels: await labelMap(windows, { ...size, classes: this.names.length }, signal) };
  }

  async #look(
    bytes: Uint8Array,
    part: Rectangle,
    path: string,
    signal: AbortSignal | undefined,
  ): Promise<ScoredWindow> {
    const { output, width, height } = await this.#network.look(bytes, part, path);
    const [rows, columns] = this.#network.outputSize;
    const scores =
      this.#bank === undefined ? output : await similarities(output, this.#bank, this.names.length, signal);
    return {
      part,
      scaleX: width / part.width,
      scaleY: height / part.height,
      stride: this.resolution / rows,
      rows,
      columns,
      scores,
    };
  }

  /** Frees the device memory; later calls throw DISPOSED. */
  dispose(): void {
    this.#network.dispose();
  }

  /** For `using`: {@link dispose}. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}

const valuesAtOnce = 2 ** 22;

/** Cosines of embeddings [P,D] with unit rows [K,D]: [P,K]. */
async function similarities(
  embeddings: Float32Array,
  bank: Float32Array,
  classes: number,
  signal: AbortSignal | undefined,
): Promise<Float32Array> {
  const dimension = bank.length / classes;
  const scores = new Float32Array((embeddings.length / dimension) * classes);
  let done = 0;
  for (let p = 0; p * dimension < embeddings.length; p++) {
    const row = embeddings.subarray(p * dimension, (p + 1) * dimension);
    let squares = 0;
    for (let d = 0; d < dimension; d++) squares += row[d]! * row[d]!;
    const length = Math.sqrt(squares) || 1;
    for (let k = 0; k < classes; k++) {
      let sum = 0;
      for (let d = 0; d < dimension; d++) sum += row[d]! * bank[k * dimension + d]!;
      scores[p * classes + k] = sum / length;
    }
    done += classes * dimension;
    if (done < valuesAtOnce) continue;
    done = 0;
    await nextTurn(signal, 'the segmentation');
  }
  return scores;
}
