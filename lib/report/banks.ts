/** Both banks of a run, as its last checkpoint has them. */
import { LgdError } from '../errors.js';
import { findCheckpoint } from '../files/checkpoint-folders.js';
import { readCheckpoint } from '../runs/checkpoint.js';

export interface RunBanks {
  names: readonly string[];
  /** K and D. */
  size: number;
  embeddingSize: number;
  /** [K,D], unit rows. */
  textual: Float32Array;
  /**
   * [K,D], unit rows (the bank's own are shorter; only their direction matters here); of unseen categories random ones.
   */
  visual: Float32Array;
  /** [K], 1 once an image was assigned to the category. */
  seen: Uint8Array;
  /** Of the checkpoint. */
  step: number;
}

/** @throws LgdError BAD_CHECKPOINT (none, or damaged), BAD_CONFIG (a method without the banks) */
export async function readBanks(run: string): Promise<RunBanks> {
  const last = await findCheckpoint(run, 'last');
  if (last === undefined)
    throw new LgdError('BAD_CHECKPOINT', 'the run has no checkpoint yet.', {
      mend: 'Wait for its first, or resume the run if it ended',
    });
  const { bank, semantic, info } = await readCheckpoint(last);
  const { visual, seen } = semantic;
  if (bank === undefined || visual === undefined || seen === undefined || visual.length !== bank.data.length) {
    throw new LgdError('BAD_CONFIG', `method ${info.method} keeps no textual and visual bank side by side.`, {
      option: 'method',
      mend: 'Give the run names: it then keeps both banks',
    });
  }
  return {
    names: bank.names,
    size: bank.size,
    embeddingSize: bank.embeddingSize,
    textual: bank.data,
    visual: unitRows(visual, bank.embeddingSize),
    seen,
    step: info.step,
  };
}

/** Rows of length 1; a row of zeros stays. */
export function unitRows(rows: Float32Array, size: number): Float32Array {
  const result = new Float32Array(rows.length);
  for (let from = 0; from < rows.length; from += size) {
    let squares = 0;
    for (let i = from; i < from + size; i++) squares += rows[i]! * rows[i]!;
    const scale = squares > 0 ? 1 / Math.sqrt(squares) : 0;
    for (let i = from; i < from + size; i++) result[i] = rows[i]! * scale;
  }
  return result;
}
