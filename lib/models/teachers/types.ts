/** A value for each of the channels red, green, blue. */
export type ChannelTriple = [number, number, number];

/** What every teacher tells: a frozen image encoder whose space the text bank shares. */
export interface Teacher extends Disposable, AsyncDisposable {
  readonly kind: 'native' | 'onnx' | 'precomputed';
  /** A hub id, or the name of the folder or file. */
  readonly id: string;
  /** D. */
  readonly embeddingSize: number;
  /** Side of its square input, in pixels. */
  readonly resolution: number;
  /** Its input is (pixel - mean) / std with pixels in 0..1. */
  readonly mean: ChannelTriple;
  readonly std: ChannelTriple;
  /** Frees its memory; later calls throw DISPOSED. */
  dispose(): Promise<void>;
}

/** A teacher that runs in onnxruntime, on the CPU. */
export interface OnnxTeacherApi extends Teacher {
  readonly kind: 'onnx';
  /**
   * @param pixels [B,3,R,R], NCHW, normalised with the teacher's mean and std
   * @param batch B
   * @returns [B,D], not normalised
   * @throws LgdError BAD_SHAPE, NON_FINITE, DISPOSED, ABORTED
   */
  embed(pixels: Float32Array, batch: number, options?: { signal?: AbortSignal }): Promise<Float32Array>;
}

/** A teacher whose embeddings were computed before, one for each image (the whole image: no augmentation reaches it). */
export interface PrecomputedTeacherApi extends Teacher {
  readonly kind: 'precomputed';
  /**
   * @param ids image ids: paths relative to the data set's root, with forward slashes
   * @returns [ids.length,D], not normalised
   * @throws LgdError BAD_DATASET (ids without an embedding), DISPOSED
   */
  lookup(ids: readonly string[]): Float32Array;
}
