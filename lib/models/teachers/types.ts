/** A value for each of the channels red, green, blue. */
export type ChannelTriple = readonly [number, number, number];

/** What every teacher tells: a frozen image encoder whose space the text bank shares. */
export interface Teacher extends Disposable, AsyncDisposable {
  /** native: computes on the device; onnx: in onnxruntime; custom: a caller's own; precomputed: a table. */
  readonly kind: 'native' | 'onnx' | 'custom' | 'precomputed';
  /** A hub id, or the name of the folder or file; what checkpoints and students call it. */
  readonly id: string;
  /** D. */
  readonly embeddingSize: number;
  /** Side of its square input, in pixels. */
  readonly resolution: number;
  /** Its input is (pixel - mean) / std with pixels in 0..1. */
  readonly mean: ChannelTriple;
  /** Above 0. */
  readonly std: ChannelTriple;
  /** Frees its memory; later calls throw DISPOSED. */
  dispose(): Promise<void>;
}

/**
 * A teacher of your own, whatever computes it (a model, a request to a server), as an object with these members. As for
 * {@link OnnxTeacher}, views are read back from the device for it, and its embeddings sent there.
 */
export interface CustomTeacherApi extends Teacher {
  readonly kind: 'custom';
  /**
   * An evaluation asks for a second batch while the first is computed: calls may overlap.
   * @param pixels [B,3,R,R], NCHW, normalised with the teacher's mean and std
   * @param batch B
   * @param options `signal`: fires where the run is stopped, which waits for the embeddings no longer
   * @returns [B,D], not normalised
   * @throws LgdError BAD_SHAPE, NON_FINITE, DISPOSED, ABORTED
   */
  embed(pixels: Float32Array, batch: number, options?: { signal?: AbortSignal | undefined }): Promise<Float32Array>;
  /**
   * Tells it from any other teacher, such as a hash of its weights: what was computed with one is not mixed with
   * another's.
   */
  fingerprint(signal?: AbortSignal): Promise<string>;
}

/**
 * A teacher whose embeddings were computed before, one for each image (the whole image: no augmentation reaches it):
 * {@link PrecomputedTeacher}, or a table of your own, as an object with these members.
 */
export interface PrecomputedTeacherApi extends Teacher {
  readonly kind: 'precomputed';
  /**
   * @param ids image ids: paths relative to the data set's root, with forward slashes
   * @returns [ids.length,D], not normalised
   * @throws LgdError BAD_DATASET (ids without an embedding), DISPOSED
   */
  lookup(ids: readonly string[]): Float32Array;
  /** Whether an image has an embedding. */
  has(id: string): boolean;
}
