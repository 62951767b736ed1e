/**
 * The native addon's types. {@link NativeAddon} mirrors the export list of native/binding/addon.cpp; the contracts stand in native/engine.h. Calls that
 * return a promise settle when the device has done the work; all others only queue it. addon.ts loads it.
 */
declare const handle: unique symbol;
/** An opaque native object; {@link NativeAddon.release} drops it before the garbage collector does. */
export interface Handle<Name extends string> { readonly [handle]: Name }
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
  devices: { index: number; name: string; computeCapability: string; memoryBytes: number; multiprocessors: number; wgmma: boolean; programmaticLaunches: boolean }[];
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
  /** Instructions that form dense products of bfloat16: 'wgmma' on compute capability 9.0 where a trial agreed, else 'mma.sync'; '' on the CPU. */
  products: '' | 'mma.sync' | 'wgmma';
  /** How the kernels of a step follow each other: 'programmatic', each started before the one before it ends, where a trial was right and faster, else 'serialized'; '' on the CPU. */
  launches: '' | 'serialized' | 'programmatic';
  index: number;
  threads: number;
  memoryBytes: number;
  allocatedBytes: number;
  peakBytes: number;
}

/** How the steps of a kind ran so far; zeros on the CPU. */
export interface StepInfo {
  /** Steps that ran call by call: the first, and those that wait in the middle every time. */
  eager: number;
  /** Steps that ran as one CUDA graph. */
  launched: number;
  /** Steps begun as a graph that something cut short, such as a wait of the host. */
  interrupted: number;
  /** Graphs whose shape was new. */
  instantiated: number;
  /** Operations of the last graph. */
  nodes: number;
  /** Of these, how many got other arguments than the step before gave them (learning rate, seeds, addresses); all of a graph that was new. */
  changed: number;
  /** How many may start before the one that they come after ends. */
  programmatic: number;
}

/** One operation; see native/graph/graph.h for the operations and their attributes. */
export interface GraphNode {
  op: string;
  name: string;
  /** Value numbers: 0 is the image batch, i + 1 the output of node i. */
  inputs: number[];
  parameters?: string[];
  attributes?: Record<string, number | string>;
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

/** Sizes of a compiled encoder: values an image of all outputs together, multiply-adds an image, parameters, bytes, kernels a call. */
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
  /** Where each image's name begins in the file, in bytes, and where the last one ends: one more than there are images. */
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
  textual?: Float32Array;
  /** [K,D] visual anchors. */
  visual?: Float32Array;
  /** [K], 0 or 1. */
  seen?: Uint8Array;
  /** [Q,D] unit rows. */
  queue?: Float32Array;
  queuePosition?: number;
  queueFilled?: number;
}

/** One step's numbers, means over the batch; losses and entropies in nats. A part that the method does not have is 0. */
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
export interface NativeBankLossArguments {
  student: Float32Array;
  teacher: Float32Array;
  textual?: Float32Array;
  visual?: Float32Array;
  queue?: Float32Array;
  dimension: number;
  studentTemperature: number;
  teacherTemperature: number;
  alpha: number;
  bfloat16?: boolean;
}

/** What the addon gives for {@link bankLoss}. */
export interface BankLossResult {
  loss: number;
  lossVisual: number;
  lossTextual: number;
  klVisual: number;
  klTextual: number;
  /** dL/d raw student, [B*D]. */
  gradient: Float32Array;
}

/** What the addon gives for {@link featureLoss}. */
export interface FeatureLossResult {
  loss: number;
  /** dL/d raw student, [B*D]. */
  gradient: Float32Array;
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

/** Arguments of {@link bankUpdate} as the addon takes them. */
export interface NativeBankUpdateArguments {
  teacher: Float32Array;
  textual: Float32Array;
  visual: Float32Array;
  seen: Uint8Array;
  dimension: number;
  momentum: number;
}

/** What the addon gives for {@link bankUpdate}. */
export interface BankUpdateResult {
  /** [B], index of the nearest category. */
  assignment: Int32Array;
  visual: Float32Array;
  seen: Uint8Array;
}

/** Which values of a parameter: its own, its gradient, its momentum. */
export type ParameterSlot = 'value' | 'gradient' | 'momentum';

/** The native addon, for code that works with tensors on the device itself. Contracts stand in native/engine.h of the repository. */
export interface NativeAddon {
  buildInfo(): BuildInfo;
  cudaStatus(): CudaStatus;
  release(object: Handle<string>): void;

  /** What a CUDA device may use of what it has; false: `mma.sync` in the place of `wgmma`, serialized launches. */
  openDevice(kind: 'cpu' | 'cuda', index: number, threads: number, features?: DeviceFeatures): DeviceHandle;
  deviceInfo(device: DeviceHandle): NativeDeviceInfo;
  /** The largest |by wgmma - by mma.sync| / |by mma.sync| of whole results. */
  wgmmaDifference(device: DeviceHandle): Promise<number>;
  /** The time of a step with programmatic launches in that of one with serialized ones. @throws LgdError DEVICE_ERROR if they do not compute the same */
  programmaticLaunchTime(device: DeviceHandle): Promise<number>;
  /** Resolves once everything queued before has run; rejects with the first error of it. */
  synchronize(device: DeviceHandle): Promise<void>;

  /** Keeps the CUDA graph of steps of one kind. Steps and branches do nothing on the CPU; see native/engine.h. */
  makeStep(device: DeviceHandle): StepHandle;
  /** What is queued from here to {@link endStep} may start as a whole, as one CUDA graph. */
  beginStep(step: StepHandle): void;
  endStep(step: StepHandle): void;
  stepInfo(step: StepHandle): Promise<StepInfo>;
  /** What is queued from here to {@link endBranch} runs beside what is queued after it, until {@link joinBranch}. */
  beginBranch(device: DeviceHandle): void;
  endBranch(device: DeviceHandle): void;
  joinBranch(device: DeviceHandle): void;

  makeTensor(device: DeviceHandle, shape: number[]): TensorHandle;
  writeTensor(tensor: TensorHandle, values: Float32Array): void;
  /** Same device, shape and type. */
  copyTensor(from: TensorHandle, to: TensorHandle): void;
  readTensor(tensor: TensorHandle): Promise<Float32Array>;
  makeImages(device: DeviceHandle, batch: number, height: number, width: number, bfloat16: boolean): TensorHandle;
  /** `pixels` [B,3,H,W], normalised. */
  writeImages(images: TensorHandle, pixels: Float32Array): void;
  readImages(images: TensorHandle): Promise<Float32Array>;

  makeEncoder(device: DeviceHandle, graph: NativeGraph, options: { batch: number; height: number; width: number; bfloat16: boolean; training: boolean }): EncoderHandle;
  encoderInfo(encoder: EncoderHandle): EncoderInfo;
  writeParameter(encoder: EncoderHandle, name: string, slot: ParameterSlot, values: Float32Array): void;
  readParameter(encoder: EncoderHandle, name: string, slot: ParameterSlot): Promise<Float32Array>;
  forward(encoder: EncoderHandle, images: TensorHandle, options: { training: boolean; seed?: number; step?: number }): void;
  /** One output [B,h,w,c] is a tensor [B h w, c]; several lie one behind the other in a tensor of one row. */
  encoderOutput(encoder: EncoderHandle): TensorHandle;
  zeroGradients(encoder: EncoderHandle): void;
  backward(encoder: EncoderHandle, dOutput: TensorHandle): void;
  sgdStep(
    encoder: EncoderHandle,
    options: { learningRate: number; momentum: number; weightDecay: number; decayNormAndBias?: boolean; gradientScale?: number },
  ): void;

  makePixelStore(options: { memoryLimitBytes: number; spillFolder: string }): PixelStoreHandle;
  /** `rgb`: width * height * 3 bytes; returns the image's index in the store. */
  appendPixels(store: PixelStoreHandle, width: number, height: number, rgb: Uint8Array): number;
  /** Adds an image under an index of its own, to a store that holds only such ones. */
  placePixels(store: PixelStoreHandle, index: number, width: number, height: number, rgb: Uint8Array): void;
  /** Forgets the images, not the memory; BAD_OPTION while queued work may read them. */
  clearPixels(store: PixelStoreHandle): void;
  /** A file of raw pixels as the images of an empty store, read where they lie. */
  mapPixels(store: PixelStoreHandle, file: NativePixelFile): void;
  /** Fetches and checks, on a thread of its own, images of a mapped file that will be needed; nothing for other stores. */
  readAhead(store: PixelStoreHandle, images: Int32Array): void;
  pixelStoreInfo(store: PixelStoreHandle): { images: number; bytes: number; spilledBytes: number; mappedBytes: number };
  /** CRC-32C; `before` is that of the bytes in front of these. */
  checksum(bytes: Uint8Array, before?: number): number;
  augment(
    store: PixelStoreHandle,
    recipe: NativeAugmentRecipe,
    batch: { images: Int32Array | number[]; drawIds: Int32Array | number[]; seed: number; epoch: number },
    images: TensorHandle,
  ): void;
  /**
   * Opens libjpeg-turbo, a shared library.
   * @throws LgdError DEPENDENCY_MISSING saying why it cannot be loaded
   */
  openJpegDecoder(path: string): void;
  /**
   * Decodes a JPEG file of three colours, on one of libuv's threads, to RGB pixels [height,width,3], neither side larger than the picture's; from the colours of an ICC `profile`, if
   * one is given, to sRGB. What the file says of its orientation and colours is not looked at. Do not change the arrays before the promise settles.
   * @throws LgdError BAD_IMAGE (also for a file that warns of damage, and a profile that is more than curves and a matrix), DEPENDENCY_MISSING before openJpegDecoder
   */
  decodeJpeg(file: Uint8Array, width: number, height: number, profile?: Uint8Array): Promise<Uint8Array>;
  /** The same into a store, as {@link placePixels} does. */
  placeJpeg(store: PixelStoreHandle, index: number, file: Uint8Array, width: number, height: number, profile?: Uint8Array): Promise<void>;

  bankLoss(device: DeviceHandle, args: NativeBankLossArguments): Promise<BankLossResult>;
  bankUpdate(device: DeviceHandle, args: NativeBankUpdateArguments): Promise<BankUpdateResult>;
  featureLoss(device: DeviceHandle, args: { student: Float32Array; teacher: Float32Array; dimension: number }): Promise<FeatureLossResult>;
  makeSemanticHead(device: DeviceHandle, options: SemanticOptions): SemanticHeadHandle;
  writeSemanticState(head: SemanticHeadHandle, state: SemanticState): void;
  readSemanticState(device: DeviceHandle, head: SemanticHeadHandle): Promise<Required<SemanticState>>;
  /** `slot` in [0, 64): where the metrics go; `scale` multiplies the gradient. */
  headLoss(head: SemanticHeadHandle, student: TensorHandle, teacher: TensorHandle, dStudent: TensorHandle, scale: number, slot: number): void;
  headUpdate(head: SemanticHeadHandle, teacherBatches: TensorHandle[], slot: number): void;
  readMetrics(device: DeviceHandle, head: SemanticHeadHandle, slot: number): Promise<SemanticMetrics>;
  /** Reads the arrays where they lie: do not change them before the promise settles. */
  topSimilar(
    device: DeviceHandle,
    queries: Float32Array,
    bank: Float32Array,
    dimension: number,
    k: number,
  ): Promise<{ indices: Int32Array; scores: Float32Array }>;

  /**
   * Maps a file of embeddings behind `offset` bytes, grown to hold `rows` of `dimension` values, and looks at every row. `present` [rows] tells which are there; those that are not
   * what their checksums say are `damaged`, and absent.
   */
  openRows(device: DeviceHandle, options: { path: string; offset: number; rows: number; dimension: number }): Promise<{ file: RowFileHandle; present: Uint8Array; damaged: number }>;
  /** `tensor` [n,D] <- rows that are there. */
  loadRows(file: RowFileHandle, batch: { rows: Float64Array }, tensor: TensorHandle): void;
  /** `tensor` [n,D] <- its rows at length 1 in half precision. Those that the file lacks are written to it, those that it has come from it; a number below 0 is not kept. */
  keepRows(file: RowFileHandle, batch: { rows: Float64Array }, tensor: TensorHandle): void;

  classifierLoss(args: NativeClassifierArguments): void;
  /** Cross entropy of logits [B,K]: `dLogits` [B,K] gets `scale` times the gradient of the losses' sum, `results` [B,3] what {@link NativeClassifierArguments.results} says. A label of -1: no class, no loss, no gradient. */
  softmaxLoss(args: { logits: TensorHandle; labels: Int32Array; dLogits?: TensorHandle; results?: TensorHandle; scale?: number }): void;
  detectionLoss(args: NativeDetectionArguments): void;
  /** SGD with momentum on the values from `begin` to before `end` of a tensor (default: all). */
  sgdTensor(
    value: TensorHandle,
    options: { gradient: TensorHandle; velocity: TensorHandle; learningRate: number; momentum: number; weightDecay: number; gradientScale?: number; begin?: number; end?: number },
  ): void;
  /** Whole rows of a tensor [N,D], from `row` on. */
  writeRows(tensor: TensorHandle, row: number, values: Float32Array): void;
}

/** Names of the addon's functions, for the test that compares them with the addon. */
export const nativeFunctions = [
  'buildInfo', 'cudaStatus', 'release', 'openDevice', 'deviceInfo', 'wgmmaDifference', 'programmaticLaunchTime', 'synchronize',
  'makeStep', 'beginStep', 'endStep', 'stepInfo', 'beginBranch', 'endBranch', 'joinBranch',
  'makeTensor', 'writeTensor', 'copyTensor', 'readTensor', 'makeImages', 'writeImages', 'readImages',
  'makeEncoder', 'encoderInfo', 'writeParameter', 'readParameter', 'forward', 'encoderOutput', 'zeroGradients', 'backward', 'sgdStep',
  'makePixelStore', 'appendPixels', 'placePixels', 'clearPixels', 'mapPixels', 'readAhead', 'pixelStoreInfo', 'checksum', 'augment', 'openJpegDecoder', 'decodeJpeg', 'placeJpeg',
  'bankLoss', 'featureLoss', 'bankUpdate', 'makeSemanticHead', 'writeSemanticState', 'readSemanticState', 'headLoss', 'headUpdate', 'readMetrics', 'topSimilar',
    'openRows', 'loadRows', 'keepRows', 'classifierLoss', 'softmaxLoss', 'detectionLoss', 'sgdTensor', 'writeRows',
] as const satisfies readonly (keyof NativeAddon)[];
