/**
 * The native addon's calls. {@link NativeAddon} mirrors the export list of native/binding/exports.h; the contracts
 * stand in native/engine.h. Calls that return a promise settle when the device has done the work; all others only queue
 * it. addon.ts loads it.
 */
import type {
  BankLossOutput,
  BankUpdateInput,
  BankUpdateOutput,
  FeatureLossInput,
  FeatureLossOutput,
} from '../semantic/types.js';
import type {
  BuildInfo,
  CudaStatus,
  DeviceFeatures,
  DeviceHandle,
  EncoderHandle,
  EncoderInfo,
  Handle,
  NativeAugmentRecipe,
  NativeBankLossArguments,
  NativeClassifierArguments,
  NativeDetectionArguments,
  NativeDeviceInfo,
  NativeGraph,
  NativePixelFile,
  ParameterSlot,
  PixelStoreHandle,
  RowFileHandle,
  SemanticHeadHandle,
  SemanticMetrics,
  SemanticOptions,
  SemanticState,
  StepHandle,
  StepInfo,
  TensorHandle,
} from './native-types.js';

export type * from './native-types.js';

/**
 * The native addon, for code that works with tensors on the device itself. Contracts stand in native/engine.h of the
 * repository.
 */
export interface NativeAddon {
  buildInfo(): BuildInfo;
  /** CUDA version of the driver, 0 without one. It asks no device. */
  cudaDriver(): number;
  cudaStatus(): CudaStatus;
  release(object: Handle<string>): void;

  /** What a CUDA device may use of what it has; false: `mma.sync` in the place of `wgmma`, serialized launches. */
  openDevice(kind: 'cpu' | 'cuda', index: number, threads: number, features?: DeviceFeatures): DeviceHandle;
  deviceInfo(device: DeviceHandle): NativeDeviceInfo;
  /** The largest |by wgmma - by mma.sync| / |by mma.sync| of whole results. */
  wgmmaDifference(device: DeviceHandle): Promise<number>;
  /**
   * The time of a step with programmatic launches in that of one with serialized ones.
   * @throws LgdError DEVICE_ERROR if they do not compute the same
   */
  programmaticLaunchTime(device: DeviceHandle): Promise<number>;
  /** Resolves once everything queued before has run; rejects with the first error of it. */
  synchronize(device: DeviceHandle): Promise<void>;

  /** Keeps the CUDA graph of steps of one kind. Steps and branches do nothing on the CPU; see native/engine.h. */
  makeStep(device: DeviceHandle): StepHandle;
  /** What is queued from here to {@link endStep} may start as a whole, as one CUDA graph. */
  beginStep(step: StepHandle): void;
  /** Ends what {@link beginStep} began. @param givenUp was not all queued that was to be in it? */
  endStep(step: StepHandle, givenUp?: boolean): void;
  /**
   * What is queued from here to {@link endUpdate}, in one turn, moves numbers that outlive the step: nothing of it
   * happens where the step has lost work.
   */
  beginUpdate(step: StepHandle): void;
  endUpdate(step: StepHandle): void;
  /**
   * Throws, once, what cost a step that has ended by now: an error of its own work or, where several use one device, of
   * another's. Wait first for something that was queued behind the step.
   * @param isTold does the caller know of an error already? Then only one of before the step is thrown, which is
   *   another's
   */
  checkStep(step: StepHandle, isTold: boolean): void;
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

  makeEncoder(
    device: DeviceHandle,
    graph: NativeGraph,
    options: {
      batch: number;
      height: number;
      width: number;
      bfloat16: boolean;
      training: boolean;
      optimizer?: 'sgd' | 'adamw';
    },
  ): EncoderHandle;
  encoderInfo(encoder: EncoderHandle): EncoderInfo;
  writeParameter(encoder: EncoderHandle, name: string, slot: ParameterSlot, values: Float32Array): void;
  readParameter(encoder: EncoderHandle, name: string, slot: ParameterSlot): Promise<Float32Array>;
  forward(
    encoder: EncoderHandle,
    images: TensorHandle,
    options: { training: boolean; seed?: number; step?: number },
  ): void;
  /** Queues that a step that has begun leaves the statistics of norms as they are if it is given up; on the CPU alone. */
  keepStatistics(encoder: EncoderHandle, step: StepHandle): void;
  /** One output [B,h,w,c] is a tensor [B h w, c]; several lie one behind the other in a tensor of one row. */
  encoderOutput(encoder: EncoderHandle): TensorHandle;
  zeroGradients(encoder: EncoderHandle): void;
  /** Adds to the gradients; `afresh`: sets them. */
  backward(encoder: EncoderHandle, dOutput: TensorHandle, afresh?: boolean): void;
  /**
   * One step of the optimiser that the encoder was made for: `momentum` is SGD's, betas, `epsilon` and `count`, the
   * number of the step from 1, are AdamW's. Gradients are clipped to a norm of `clipNorm`, where it is above 0; their
   * norm before goes to `slot` in [0, 64).
   */
  optimizerStep(
    encoder: EncoderHandle,
    step: {
      learningRate: number;
      weightDecay: number;
      decayNormAndBias?: boolean;
      gradientScale?: number;
      momentum?: number;
      beta1?: number;
      beta2?: number;
      epsilon?: number;
      count?: number;
      clipNorm?: number;
      slot?: number;
    },
  ): void;
  /** What the clipped step of this slot found. */
  readGradientNorm(encoder: EncoderHandle, slot: number): Promise<number>;

  makePixelStore(options: { memoryLimitBytes: number; spillFolder: string }): PixelStoreHandle;
  /** `rgb`: width * height * 3 bytes; returns the image's index in the store. */
  appendPixels(store: PixelStoreHandle, width: number, height: number, rgb: Uint8Array): number;
  /** Adds an image under an index of its own, to a store that holds only such ones. */
  placePixels(store: PixelStoreHandle, index: number, width: number, height: number, rgb: Uint8Array): void;
  /** Forgets the images, not the memory; BAD_OPTION while queued work may read them. */
  clearPixels(store: PixelStoreHandle): void;
  /** A file of raw pixels as the images of an empty store, read where they lie. */
  mapPixels(store: PixelStoreHandle, file: NativePixelFile): void;
  /**
   * Fetches and checks, on a thread of its own, images of a mapped file that will be needed; nothing for other stores.
   */
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
   * Decodes a JPEG file of three colours, on one of libuv's threads, to RGB pixels [height,width,3], neither side
   * larger than the picture's; from the colours of an ICC `profile`, if one is given, to sRGB. What the file says of
   * its orientation and colours is not looked at. Do not change the arrays before the promise settles.
   * @throws LgdError BAD_IMAGE (also for a file that warns of damage, and a profile that is more than curves and a
   *   matrix), DEPENDENCY_MISSING before openJpegDecoder
   */
  decodeJpeg(file: Uint8Array, width: number, height: number, profile?: Uint8Array): Promise<Uint8Array>;
  /** The same into a store, as {@link placePixels} does. */
  placeJpeg(
    store: PixelStoreHandle,
    index: number,
    file: Uint8Array,
    width: number,
    height: number,
    profile?: Uint8Array,
  ): Promise<void>;

  bankLoss(device: DeviceHandle, args: NativeBankLossArguments): Promise<BankLossOutput>;
  bankUpdate(device: DeviceHandle, args: BankUpdateInput): Promise<BankUpdateOutput>;
  featureLoss(device: DeviceHandle, args: FeatureLossInput): Promise<FeatureLossOutput>;
  makeSemanticHead(device: DeviceHandle, options: SemanticOptions): SemanticHeadHandle;
  writeSemanticState(head: SemanticHeadHandle, state: SemanticState): void;
  readSemanticState(device: DeviceHandle, head: SemanticHeadHandle): Promise<Required<SemanticState>>;
  /** `slot` in [0, 64): where the metrics go; `scale` multiplies the gradient. */
  headLoss(
    head: SemanticHeadHandle,
    student: TensorHandle,
    teacher: TensorHandle,
    dStudent: TensorHandle,
    scale: number,
    slot: number,
  ): void;
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
   * Maps a file of embeddings behind `offset` bytes, grown to hold `rows` of `dimension` values, and looks at every
   * row. `present` [rows] tells which are there; those that are not what their checksums say are `damaged`, and absent.
   */
  openRows(
    device: DeviceHandle,
    options: { path: string; offset: number; rows: number; dimension: number },
  ): Promise<{ file: RowFileHandle; present: Uint8Array; damaged: number }>;
  /** `tensor` [n,D] <- rows that are there. */
  loadRows(file: RowFileHandle, batch: { rows: Float64Array }, tensor: TensorHandle): void;
  /**
   * `tensor` [n,D] <- its rows at length 1 in half precision. Those that the file lacks are written to it, those that
   * it has come from it; a number below 0 is not kept.
   */
  keepRows(file: RowFileHandle, batch: { rows: Float64Array }, tensor: TensorHandle): void;

  classifierLoss(args: NativeClassifierArguments): void;
  /**
   * Cross entropy of logits [B,K]: `dLogits` [B,K] gets `scale` times the gradient of the losses' sum, `results` [B,3]
   * what {@link NativeClassifierArguments.results} says. A label of -1: no class, no loss, no gradient.
   */
  softmaxLoss(args: {
    logits: TensorHandle;
    labels: Int32Array;
    dLogits?: TensorHandle;
    results?: TensorHandle;
    scale?: number;
  }): void;
  detectionLoss(args: NativeDetectionArguments): void;
  /** SGD with momentum on the values from `begin` to before `end` of a tensor (default: all). */
  sgdTensor(
    value: TensorHandle,
    options: {
      gradient: TensorHandle;
      velocity: TensorHandle;
      learningRate: number;
      momentum: number;
      weightDecay: number;
      gradientScale?: number;
      begin?: number;
      end?: number;
    },
  ): void;
  /** Whole rows of a tensor [N,D], from `row` on. */
  writeRows(tensor: TensorHandle, row: number, values: Float32Array): void;
}

/** Names of the addon's functions, for the test that compares them with the addon. */
export const nativeFunctions = [
  'buildInfo',
  'cudaDriver',
  'cudaStatus',
  'release',
  'openDevice',
  'deviceInfo',
  'wgmmaDifference',
  'programmaticLaunchTime',
  'synchronize',
  'makeStep',
  'beginStep',
  'endStep',
  'beginUpdate',
  'endUpdate',
  'checkStep',
  'stepInfo',
  'beginBranch',
  'endBranch',
  'joinBranch',
  'makeTensor',
  'writeTensor',
  'copyTensor',
  'readTensor',
  'makeImages',
  'writeImages',
  'readImages',
  'makeEncoder',
  'encoderInfo',
  'writeParameter',
  'readParameter',
  'forward',
  'keepStatistics',
  'encoderOutput',
  'zeroGradients',
  'backward',
  'optimizerStep',
  'readGradientNorm',
  'makePixelStore',
  'appendPixels',
  'placePixels',
  'clearPixels',
  'mapPixels',
  'readAhead',
  'pixelStoreInfo',
  'checksum',
  'augment',
  'openJpegDecoder',
  'decodeJpeg',
  'placeJpeg',
  'bankLoss',
  'featureLoss',
  'bankUpdate',
  'makeSemanticHead',
  'writeSemanticState',
  'readSemanticState',
  'headLoss',
  'headUpdate',
  'readMetrics',
  'topSimilar',
  'openRows',
  'loadRows',
  'keepRows',
  'classifierLoss',
  'softmaxLoss',
  'detectionLoss',
  'sgdTensor',
  'writeRows',
] as const satisfies readonly (keyof NativeAddon)[];
