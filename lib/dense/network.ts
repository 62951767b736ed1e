/**
 * A trained network that looks at parts of images, one after the other: what segmentation and detection have in common.
 */
import type { TensorHandle } from '../addon/native.js';
import type { Device } from '../device.js';
import { Lifetime } from '../lifetime.js';
import { CompiledEncoder, type Precision } from '../models/compiled.js';
import type { GraphSpec } from '../models/graph.js';
import type { ChannelTriple } from '../models/teachers/types.js';
import type { WeightRecord } from '../models/weights.js';
import { checkOutput } from './checks.js';
import { placeView, wholeView, type Rectangle } from './pixels.js';

/** A graph with its weights, and the input it takes. */
export interface NetworkParts {
  graph: GraphSpec;
  weights: WeightRecord;
  resolution: number;
  mean: ChannelTriple;
  std: ChannelTriple;
}

/** What a network said of a part of an image, and the size at which it saw it. */
export interface Look {
  output: Float32Array;
  width: number;
  height: number;
}

/** A compiled network for one image, with its input. */
export class DenseNetwork {
  readonly #network: CompiledEncoder;
  readonly #images: TensorHandle;
  readonly #life: Lifetime;

  /** @param owner what its user is, for the message of a late call */
  constructor(
    readonly device: Device,
    private readonly parts: NetworkParts,
    precision: Precision | undefined,
    owner: string,
  ) {
    this.#life = new Lifetime(owner, 'Load it again');
    const { graph, resolution } = parts;
    this.#network = new CompiledEncoder(device, graph, { batch: 1, resolution, precision, training: false });
    try {
      this.#network.load(parts.weights);
      this.#images = this.#network.makeImages();
    } catch (error) {
      this.#network.dispose();
      throw error;
    }
  }

  /** Rows and columns of the first output. */
  get outputSize(): [rows: number, columns: number] {
    const [rows, columns] = this.#network.info.outputs[0]!;
    return [rows!, columns!];
  }

  /** @throws LgdError DISPOSED */
  check(): void {
    this.#life.check();
  }

  /** Looks at a part of an image, so scaled that it fits the input. @throws LgdError BAD_IMAGE, NON_FINITE, DISPOSED */
  async look(bytes: Uint8Array, part: Rectangle, path: string): Promise<Look> {
    const { resolution } = this.parts;
    const { width, height } = wholeView(part, resolution);
    const pixels = new Float32Array(3 * resolution * resolution);
    await placeView(bytes, { part, width, height, flip: false }, pixels, this.parts, path);
    this.#life.check();
    this.device.addon.writeImages(this.#images, pixels);
    this.#network.forwardTensor(this.#images);
    return { output: checkOutput(await this.device.addon.readTensor(this.#network.output), path), width, height };
  }

  dispose(): void {
    if (!this.#life.end()) return;
    this.device.addon.release(this.#images);
    this.#network.dispose();
  }
}
