/** Arguments of {@link bankLoss}; arrays are row-major. */
export interface BankLossInput {
  /** [B,D] student embeddings, raw (of any positive length that float32 can hold). */
  student: Float32Array;
  /** [B,D] teacher embeddings of the same images, raw. */
  teacher: Float32Array;
  /**
   * [K,D] textual bank, unit rows: they are taken as they are, so bring raw ones to length 1 first. Absent or empty: no
   * textual part; `alpha` must then be 1.
   */
  textual?: Float32Array | undefined;
  /**
   * [K,D] visual bank, taken as it is: {@link VisualSemanticsBank.random} at first, then what {@link bankUpdate} gives.
   * Without it and without a queue `alpha` must be 0.
   */
  visual?: Float32Array | undefined;
  /**
   * [Q,D] past teacher embeddings, unit rows as {@link MemoryQueue.rows} gives them; they stand beside the visual bank,
   * or in its place (SEED).
   */
  queue?: Float32Array | undefined;
  /** D. */
  dimension: number;
  /** t_S, from 1e-9 to 1e9. */
  studentTemperature: number;
  /** t_T, from 1e-9 to 1e9. */
  teacherTemperature: number;
  /** Weight of the visual part, 0 to 1; the textual part has 1 - alpha. */
  alpha: number;
}

/**
 * Means over the batch, in nats. A part of which nothing was given is 0; one whose weight is 0 is computed, and takes no
 * part in `loss` and `gradient`.
 */
export interface BankLossOutput {
  /** alpha * lossVisual + (1 - alpha) * lossTextual. */
  loss: number;
  /**
   * Cross-entropy of the student's scores against the teacher's targets over [own teacher embedding | visual bank |
   * queue].
   */
  lossVisual: number;
  /** The same over the textual bank. */
  lossTextual: number;
  /** Kullback-Leibler divergence: lossVisual less the targets' entropy. */
  klVisual: number;
  /** lossTextual less the targets' entropy. */
  klTextual: number;
  /** [B,D] dL/d raw student. */
  gradient: Float32Array;
}

/** Arguments of {@link featureLoss}; arrays are row-major. */
export interface FeatureLossInput {
  /** [B,D] student embeddings, raw. */
  student: Float32Array;
  /** [B,D] teacher embeddings of the same images, raw. */
  teacher: Float32Array;
  /** D. */
  dimension: number;
}

/** The loss of {@link featureLoss}. */
export interface FeatureLossOutput {
  /** Mean over the batch of 1 - cosine, 0 to 2. */
  loss: number;
  /** [B,D] dL/d raw student. */
  gradient: Float32Array;
}

/** Arguments of {@link bankUpdate}; arrays are row-major and are not changed. */
export interface BankUpdateInput {
  /** [B,D] teacher embeddings, raw. */
  teacher: Float32Array;
  /** [K,D] textual bank, unit rows, taken as they are. */
  textual: Float32Array;
  /** [K,D] visual bank before the update. */
  visual: Float32Array;
  /** [K], 0 for a category that no image was assigned to yet. */
  seen: Uint8Array;
  /** D. */
  dimension: number;
  /** m in V <- m V + (1 - m) mean, from 0 to 0.999999. */
  momentum: number;
}

/** The bank after an update. */
export interface BankUpdateOutput {
  /** [B] each image's category: the nearest text, the lowest number among equals. */
  assignment: Int32Array;
  /** [K,D] the visual bank after the update. */
  visual: Float32Array;
  /** [K] 0 or 1. */
  seen: Uint8Array;
}
