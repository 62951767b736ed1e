/** Detection of objects in images of any size by a trained network. */
import { checkOptions, withFixedBuffer, optionTable, type OptionTable } from '../arguments.js';
import type { Device } from '../device.js';
import { throwIfAborted } from '../errors.js';
import type { Precision } from '../models/compiled.js';
import { detectionGraph } from '../models/heads/detection.js';
import type { WeightRecord } from '../models/weights.js';
import { backboneOf, readDense, type DenseInfo } from '../runs/network-file.js';
import type { Detection } from './average-precision.js';
import { checkBytes } from './checks.js';
import { checkDecode, decodeDetections, decodeOptions, type DecodeOptions } from './detection-decode.js';
import { DenseNetwork } from './network.js';
import { imageSize } from './pixels.js';

/** How an image is looked at. */
export interface DetectOptions extends DecodeOptions {
  /** Names the image in errors. */
  path?: string | undefined;
  signal?: AbortSignal | undefined;
}

/** Those of them that are not about one image alone. */
export const lookOptions = { ...decodeOptions, signal: 'optional' } satisfies OptionTable<Omit<DetectOptions, 'path'>>;
const detectOptions = { path: 'optional', ...lookOptions } satisfies OptionTable<DetectOptions>;
const placeOptions = optionTable<Parameters<typeof Detector.load>[1]>()('device precision?');

/** A network that finds boxes. Release it with {@link Detector.dispose}. */
export class Detector implements Disposable {
  readonly names: readonly string[];
  readonly #resolution: number;
  readonly #network: DenseNetwork;

  private constructor(
    readonly device: Device,
    info: Omit<DenseInfo, 'task' | 'step'>,
    weights: WeightRecord,
    precision: Precision | undefined,
  ) {
    [this.names, this.#resolution] = [info.names, info.resolution];
    const graph = detectionGraph(backboneOf(info), { classes: info.names.length });
    this.#network = new DenseNetwork(device, { graph, weights, ...info }, precision, 'the detector');
  }

  /**
   * The network that `lgdistill detect train` wrote: its folder or file.
   * @throws LgdError BAD_OPTION, FILE_NOT_FOUND, BAD_FILE, BAD_MODEL, OUT_OF_MEMORY
   */
  static async load(path: string, options: { device: Device; precision?: Precision | undefined }): Promise<Detector> {
    checkOptions(options, 'Detector.load()', placeOptions);
    const { info, weights } = await readDense(path, 'detection');
    return Detector.fromWeights(info, weights, options);
  }

  /** A network from its weights. @throws LgdError BAD_OPTION, BAD_MODEL, OUT_OF_MEMORY */
  static fromWeights(
    info: Omit<DenseInfo, 'task' | 'step'>,
    weights: WeightRecord,
    options: { device: Device; precision?: Precision | undefined },
  ): Detector {
    checkOptions(options, 'Detector.fromWeights()', placeOptions);
    const { device, precision } = options;
    return new Detector(device, info, weights, precision);
  }

  /**
   * Boxes in an image, in its own pixels, the likeliest first.
   * @param bytes an image in any format that sharp reads; EXIF orientation is applied, and boxes are in the image so
   *   turned
   * @throws LgdError BAD_OPTION, BAD_IMAGE, NON_FINITE, DISPOSED, ABORTED
   */
  async detect(bytes: Uint8Array, given: DetectOptions = {}): Promise<Detection[]> {
    checkOptions(given, 'detect()', detectOptions);
    checkBytes(bytes);
    const file = withFixedBuffer(bytes);
    checkDecode(given);
    const { path = 'the image', signal, ...options } = given;
    this.#network.check();
    throwIfAborted(signal, 'the detection');
    const size = await imageSize(file, path);
    const { output, width, height } = await this.#network.look(file, { x: 0, y: 0, ...size }, path);
    const [scaleX, scaleY] = [size.width / width, size.height / height];
    const found = decodeDetections(
      output,
      { resolution: this.#resolution, width, height, classes: this.names.length },
      options,
    );
    return found.map(({ box: [x, y, w, h], ...rest }): Detection => ({
      ...rest,
      box: [x * scaleX, y * scaleY, w * scaleX, h * scaleY],
    }));
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
