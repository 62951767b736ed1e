/** What goes into the native addon and comes out of it: handles and plain data. native.ts has the calls. */
import type { BankLossInput } from '../semantic/types.js';

declare const handle: unique symbol;
/** An opaque native object; {@link NativeAddon.release} drops it before the garbage collector does. */
export interface Handle<Name extends string> {
  readonly [handle]: Name;
}
/** A device of the addon; {@link Device} holds one. */
export type DeviceHandle = Handle<'device'>;
/** A float32 tensor or a batch of images on a device. */
export type TensorHandle = Handle<'tensor'>;
/** What a device keeps of a training step from one time to the next. */
export type StepHandle = Handle<'step'>;
/** A compiled graph with its parameters; {@link CompiledEncoder} holds one. */
export type EncoderHandle = Handle<'encoder'>;
/** Decoded images; {@link ImageCache} holds one. */
export type PixelStoreHandle = Handle<'pixel store'>;
/** Both banks and the queue, with the loss over them. */
export type SemanticHeadHandle = Handle<'semantic head'>;

/** Embeddings in a memory-mapped file. */
export type RowFileHandle = Handle<'row file'>;

/** What the native addon was built with. */
export interface BuildInfo {
  version: string;
  buildId: string;
  compiler: string;
  /** Vector instructions in use: baseline, avx2 or avx512. */
  isa: string;
  cuda: boolean;
  /** CUDA runtime linked in, 13000 for 13.0; 0 without CUDA. */
  cudaRuntime: number;
  cudaArchitectures: string[];
}

/** Whether CUDA devices can be used, and which there are. */
export interface CudaStatus {
  available: boolean;
  /** Why no device can be used, or ''. */
  reason: string;
  /** CUDA version of the driver, 13000 for 13.0; 0 without a driver. */
  driver: number;
  devices: {
    index: number;
    name: string;
    computeCapability: string;
    memoryBytes: number;
    multiprocessors: number;
    wgmma: boolean;
    programmaticLaunches: boolean;
  }[];
}

/** What a CUDA device may use of what it has; both true unless told. */
export interface DeviceFeatures {
  wgmma?: boolean | undefined;
  programmaticLaunches?: boolean | undefined;
}

/** What the addon tells of an open device. */
export interface NativeDeviceInfo {
  kind: 'cpu' | 'cuda';
  name: string;
  /** `9.0` and the like; '' on the CPU. */
  computeCapability: string;
  /**
   * Instructions that form dense products of bfloat16: 'wgmma' on compute capability 9.0 where a trial agreed, else
   * 'mma.sync'; '' on the CPU.
   */
  products: '' | 'mma.sync' | 'wgmma';
  /**
   * How the kernels of a step follow each other: 'programmatic', each started before the one before it ends, where a
   * trial was right (a step's graph may do without: {@link GraphWay}), else 'serialized'; '' on the CPU.
   */
  launches: '' | 'serialized' | 'programmatic';
  index: number;
  threads: number;
  /** Of the GPU in all; 0 on the CPU. */
  memoryBytes: number;
  /** Held by what was made on the device, now and at most. */
  allocatedBytes: number;
  peakBytes: number;
}

/** How a step's CUDA graph is run: choices that change its time and not a bit of its results. */
export interface GraphWay {
  /** Kernels start before the one that they come after ends, where they may (programmatic dependent launch). */
  programmatic: boolean;
  /** One operation after the other: the teacher before the student. Else it runs beside its forward pass. */
  inOrder: boolean;
  /**
   * All kernels prefer the same division of a multiprocessor's memory between shared memory and L1 cache. Else only
   * those that need more than 48 KiB of shared memory have a wish.
   */
  oneCarveout: boolean;
}

/** How the steps of a kind ran so far; zeros on the CPU. */
export interface StepInfo {
  /**
   * Steps that ran call by call: the first, which starts once it is queued as a whole, those that wait in the middle
   * every time, and those that the driver took no graph of.
   */
  eager: number;
  /** Steps that ran as one CUDA graph. */
  launched: number;
  /** Steps begun as a graph that something cut short, such as a wait of the host. */
  interrupted: number;
  /** Graphs whose shape was new. */
  instantiated: number;
  /** Operations of the last graph. */
  nodes: number;
  /**
   * Of these, how many got other arguments than the step before gave them (learning rate, seeds, addresses); all of a
   * graph that was new.
   */
  changed: number;
  /** How many may start before the one that they come after ends. */
  programmatic: number;
  /** How the last graph ran. */
  way: GraphWay;
  /** Whether other ways are still being compared, which takes some hundred steps of one shape. */
  tuning: boolean;
  /**
   * The ways that were compared, the usual one first, and what a step took: the median of nine, on the GPU alone. Empty
   * until all are.
   */
  ways: (GraphWay & { milliseconds: number })[];
  /**
   * Where the driver took no graph of such a step: what it said, the last time. That step ran call by call, and so did
   * some after it, with the same bits: 16 until the next is tried, and after each refusal in a row twice as many, up to
   * 1024.
   */
  refused?: string;
}

/** One operation; see native/graph/graph.h for the operations and their attributes. */
export interface GraphNode {
  op: string;
  name: string;
  /** Value numbers: 0 is the image batch, i + 1 the output of node i. */
  inputs: number[];
  parameters?: string[] | undefined;
  attributes?: Record<string, number | string> | undefined;
}

/** A {@link GraphSpec} as the addon takes it. */
export interface NativeGraph {
  name: string;
  nodes: GraphNode[];
  parameters: { name: string; shape: number[]; trainable: boolean; decay: boolean }[];
  output: number;
  /** More values given out behind `output`. */
  further?: number[];
}

/**
 * Sizes of a compiled encoder: values an image of all outputs together, multiply-adds an image, parameters, bytes,
 * kernels a call.
 */
export interface EncoderInfo {
  outputSize: number;
  /** [h,w,c] of each output. */
  outputs: number[][];
  macsPerImage: number;
  parameters: number;
  arenaBytes: number;
  parameterBytes: number;
  kernelsForward: number;
  kernelsBackward: number;
}

/** A file of raw pixels, 8-bit RGB row by row, image after image. */
export interface NativePixelFile {
  path: string;
  /** Where each image's pixels begin, in bytes; at least 64 bytes follow the last image's. */
  offsets: Float64Array;
  widths: Int32Array;
  heights: Int32Array;
  /** CRC-32C of each image's pixels, looked at before they are first used. */
  checksums: Uint32Array;
  /**
   * Where each image's name begins in the file, in bytes, and where the last one ends: one more than there are images.
   */
  names: Float64Array;
}

/** MoCo v2's recipe; meanings and defaults in native/engine.h. */
export interface NativeAugmentRecipe {
  train?: boolean;
  scaleMin?: number;
  scaleMax?: number;
  ratioMin?: number;
  ratioMax?: number;
  flipProbability?: number;
  jitterProbability?: number;
  brightness?: number;
  contrast?: number;
  saturation?: number;
  hue?: number;
  greyProbability?: number;
  blurProbability?: number;
  blurSigmaMin?: number;
  blurSigmaMax?: number;
  resize?: number;
  mean?: readonly number[];
  std?: readonly number[];
}

/** Sizes and numbers of a semantic head; meanings and defaults in native/engine.h. */
export interface SemanticOptions {
  dimension: number;
  categories: number;
  queueSize?: number;
  useTextual?: boolean;
  useVisual?: boolean;
  /** 1 - cosine of student and teacher in the place of both parts; takes no bank into the loss. */
  feature?: boolean;
  alpha?: number;
  studentTemperature?: number;
  teacherTemperature?: number;
  momentum?: number;
  bfloat16?: boolean;
}

/** State of both banks and the queue; an absent field is left as it is when written. */
export interface SemanticState {
  /** [K,D] unit rows. */
  textual?: Float32Array | undefined;
  /** [K,D] visual anchors. */
  visual?: Float32Array | undefined;
  /** [K], 0 or 1. */
  seen?: Uint8Array | undefined;
  /** [Q,D] unit rows. */
  queue?: Float32Array | undefined;
  queuePosition?: number | undefined;
  queueFilled?: number | undefined;
}

/**
 * One step's numbers, means over the batch; losses and entropies in nats. A part that the method does not have is 0.
 */
export interface SemanticMetrics {
  /** The whole: alpha * lossVisual + (1 - alpha) * lossTextual; of method feature 1 - cosine. */
  loss: number;
  /** Cross-entropy over visual bank and queue: klVisual + entropyVisual. */
  lossVisual: number;
  /** Cross-entropy over the text bank: klTextual + entropyTextual. */
  lossTextual: number;
  /** What of the visual loss the student can lower. */
  klVisual: number;
  /** What of the textual loss the student can lower. */
  klTextual: number;
  /** Entropy of the teacher's distribution over visual bank and queue, to which lossVisual can fall. */
  entropyVisual: number;
  /** Entropy of the teacher's distribution over the text bank, to which lossTextual can fall. */
  entropyTextual: number;
  /** Share of the visual target, 0 to 1, that lies on the image's own embedding. */
  ownMass: number;
  /** Share of images, 0 to 1, whose nearest name is the teacher's; it rises with the accuracy and needs no labels. */
  agreement: number;
  /** Names that an image of this step was assigned to. */
  categoriesHit: number;
  /** Names that an image was assigned to since the start. */
  categoriesSeen: number;
}

/** Arguments of {@link bankLoss} as the addon takes them. */
export interface NativeBankLossArguments extends BankLossInput {
  /** Operands of the products; default false, float32. */
  bfloat16?: boolean;
}

/** H linear classifiers of K classes side by side on the same rows. */
export interface NativeClassifierArguments {
  /** [N,D]. */
  features: TensorHandle;
  /** [H K, D]. */
  weights: TensorHandle;
  /** [1, H K]. */
  bias: TensorHandle;
  /** Receive `scale` times the gradient of the losses' sum; left out, none is formed. */
  dWeights?: TensorHandle;
  dBias?: TensorHandle;
  /** [rows, 3 H]: loss, class with the largest logit, how many classes come before the right one. */
  results?: TensorHandle;
  /** Class of each row, 0 to K - 1. */
  labels: Int32Array;
  /** Which rows of the features; left out: all. */
  rows?: Int32Array;
  /** H; default 1. */
  heads?: number;
  /** Divide rows by their lengths first; default false. */
  unit?: boolean;
  scale?: number;
}

/** A detector's output with what it should have said; the loss stands in native/semantic/detection_loss.h. */
export interface NativeDetectionArguments {
  /** Of each level class scores [B,h,w,K], then distances and centre-ness [B,h,w,5]. */
  output: TensorHandle;
  dOutput?: TensorHandle;
  /** [locations, 3]: focal loss of the classes, weighted 1 - GIoU, cross entropy of the centre-ness. */
  results: TensorHandle;
  /** Locations of each level, B h w. */
  levels: number[];
  classes: number;
  /** Class of each location; -1: none; -2: it does not count. */
  labels: Int32Array;
  /** [locations, 4]: distances to left, top, right, bottom in strides. */
  boxes: Float32Array;
  /** Factors of the gradients. */
  classScale?: number;
  boxScale?: number;
  centreScale?: number;
}

/** Which values of a parameter: its own, its gradient, its momentum (AdamW's first moment), AdamW's second moment. */
export type ParameterSlot = 'value' | 'gradient' | 'momentum' | 'secondMoment';
