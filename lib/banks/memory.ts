import { types } from 'node:util';
import { LgdError } from '../errors.js';

/**
 * SEED's queue of past teacher embeddings: Q unit rows, first in, first out. It holds state; in training the device
 * fills it (the distiller's semantic head), for other callers {@link push} does; {@link rows} are what {@link bankLoss}
 * takes as `queue`.
 */
export class MemoryQueue {
  /** Q. */
  readonly size: number;
  /** D. */
  readonly embeddingSize: number;
  /** [Q,D], row-major; rows [0, filled) are in use. */
  readonly data: Float32Array;
  #position = 0;
  #filled = 0;

  /**
   * An empty queue, or one with the given state (the array is taken over without copying).
   * @throws LgdError BAD_SHAPE, BAD_BANK (a position or a count that no queue of this size can have)
   */
  constructor(size: number, embeddingSize: number, state?: { data: Float32Array; position: number; filled: number }) {
    if (!Number.isInteger(size) || size < 1 || !Number.isInteger(embeddingSize) || embeddingSize < 1) {
      throw new LgdError('BAD_SHAPE', `a queue needs whole positive sizes, found ${size} x ${embeddingSize}.`, {
        option: 'queue',
      });
    }
    this.size = size;
    this.embeddingSize = embeddingSize;
    this.data = state?.data ?? new Float32Array(size * embeddingSize);
    if (!types.isFloat32Array(this.data) || this.data.length !== size * embeddingSize) {
      throw new LgdError('BAD_SHAPE', `these are not ${size} rows of ${embeddingSize} values.`, {
        option: 'queue',
        found: this.data,
        allowed: 'a Float32Array [Q,D]',
      });
    }
    if (state) this.#place(state.position, state.filled);
  }

  #place(position: number, filled: number): void {
    const inRange =
      Number.isInteger(position) &&
      position >= 0 &&
      position < this.size &&
      Number.isInteger(filled) &&
      filled >= 0 &&
      filled <= this.size;
    if (!inRange || (filled < this.size && position !== filled)) {
      throw new LgdError(
        'BAD_BANK',
        `a queue of ${this.size} rows cannot have ${filled} filled and continue at ${position}.`,
        { option: 'queue', mend: 'Give position and filled as the queue that they come from had them' },
      );
    }
    this.#position = position;
    this.#filled = filled;
  }

  /** Where the next row goes. */
  get position(): number {
    return this.#position;
  }

  /** How many rows are in use. */
  get filled(): number {
    return this.#filled;
  }

  /** [filled,D] the rows in use, as `bankLoss` takes them; a view of {@link data}. */
  get rows(): Float32Array {
    return this.data.subarray(0, this.#filled * this.embeddingSize);
  }

  /**
   * Puts raw embeddings [B,D] in, normalised; each takes the place of the oldest once the queue is full.
   * @throws LgdError BAD_SHAPE, NON_FINITE, ZERO_EMBEDDING; nothing is put in then
   */
  push(embeddings: Float32Array): void {
    if (!types.isFloat32Array(embeddings))
      throw new LgdError('BAD_SHAPE', 'these are no embeddings.', {
        option: 'embeddings',
        found: embeddings,
        allowed: 'a Float32Array [B,D]',
      });
    const rows = embeddings.length / this.embeddingSize;
    if (!Number.isInteger(rows))
      throw new LgdError('BAD_SHAPE', `${embeddings.length} values are not rows of ${this.embeddingSize}.`, {
        option: 'embeddings',
      });
    const units = embeddings.slice();
    for (let row = 0; row < rows; row++)
      normalise(units.subarray(row * this.embeddingSize, (row + 1) * this.embeddingSize), row);
    for (let row = 0; row < rows; row++) {
      this.data.set(
        units.subarray(row * this.embeddingSize, (row + 1) * this.embeddingSize),
        this.#position * this.embeddingSize,
      );
      this.#position = (this.#position + 1) % this.size;
    }
    this.#filled = Math.min(this.#filled + rows, this.size);
  }
}

function normalise(row: Float32Array, index: number): void {
  const length = Math.sqrt(row.reduce((sum, value) => sum + value * value, 0));
  if (!Number.isFinite(length))
    throw new LgdError('NON_FINITE', `row ${index} has a value that is not finite.`, { option: 'embeddings' });
  if (length === 0)
    throw new LgdError('ZERO_EMBEDDING', `row ${index} is zero; it has no direction.`, { option: 'embeddings' });
  for (let d = 0; d < row.length; d++) row[d]! /= length;
}
