import { types } from 'node:util';
import { LgdError } from '../errors.js';
import { checkSeed } from '../number-limits.js';

/**
 * The Visual Semantics Bank: one visual anchor for each category name (V, [K,D], in Li et al. 2024), with a flag that tells which categories were
 * seen. It holds state; the device moves the anchors (`bankUpdate`, and the distiller's semantic head).
 */
export class VisualSemanticsBank {
  /** K. */
  readonly size: number;
  /** D. */
  readonly embeddingSize: number;
  /** [K,D], row-major. Unit rows at the start; anchors of seen categories may be shorter than 1. */
  readonly data: Float32Array;
  /** [K], 1 once an image was assigned to the category. */
  readonly seen: Uint8Array;

  /**
   * Takes the arrays over without copying.
   * @throws LgdError BAD_SHAPE, NON_FINITE
   */
  constructor(data: Float32Array, seen: Uint8Array, embeddingSize: number) {
    if (!types.isFloat32Array(data) || !types.isUint8Array(seen)) throw new LgdError('BAD_SHAPE', 'these are no anchors.', { option: 'visual', found: types.isFloat32Array(data) ? seen : data, allowed: 'a Float32Array [K,D] and a Uint8Array [K]' });
    if (!Number.isInteger(embeddingSize) || embeddingSize < 1 || seen.length === 0 || data.length !== seen.length * embeddingSize) {
      throw new LgdError('BAD_SHAPE', `${data.length} values are not ${seen.length} anchors of ${embeddingSize} values.`, {
        option: 'visual',
        allowed: '[K,D] values and K flags, K and D at least 1',
      });
    }
    const broken = data.findIndex((value) => !Number.isFinite(value));
    if (broken >= 0) throw new LgdError('NON_FINITE', `anchor ${Math.floor(broken / embeddingSize)} has a value that is not finite.`, { option: 'visual' });
    this.size = seen.length;
    this.embeddingSize = embeddingSize;
    this.data = data;
    this.seen = seen;
  }

  /**
   * The start of training: random directions (Gaussian rows, normalised), no category seen. The same seed gives the same bank.
   * @param seed a whole number from 0
   * @throws LgdError BAD_SHAPE, BAD_OPTION (no seed)
   */
  static random(size: number, embeddingSize: number, seed: number): VisualSemanticsBank {
    if (!Number.isInteger(size) || size < 1 || !Number.isInteger(embeddingSize) || embeddingSize < 1) {
      throw new LgdError('BAD_SHAPE', `a bank needs whole positive sizes, found ${size} x ${embeddingSize}.`, { option: 'visual' });
    }
    const normal = gaussian(checkSeed(seed));
    const data = new Float32Array(size * embeddingSize);
    const row = new Float64Array(embeddingSize);
    for (let k = 0; k < size; k++) {
      let squares = 0;
      while (squares === 0) {
        for (let d = 0; d < embeddingSize; d++) row[d] = normal();
        squares = row.reduce((sum, value) => sum + value * value, 0);
      }
      const length = Math.sqrt(squares);
      data.set(row.map((value) => value / length), k * embeddingSize);
    }
    return new VisualSemanticsBank(data, new Uint8Array(size), embeddingSize);
  }
}

/** Standard normal numbers by Box and Muller's transform of a seeded 53-bit uniform source. */
function gaussian(seed: number): () => number {
  const uniform = uniformSource(seed);
  let spare: number | undefined;
  return () => {
    if (spare !== undefined) {
      const value = spare;
      spare = undefined;
      return value;
    }
    const radius = Math.sqrt(-2 * Math.log(1 - uniform()));
    const angle = 2 * Math.PI * uniform();
    spare = radius * Math.sin(angle);
    return radius * Math.cos(angle);
  };
}

/** Numbers in [0, 1) with 53 random bits from xoshiro128++ (Blackman and Vigna 2021), its state filled by hashing the seed. */
function uniformSource(seed: number): () => number {
  const state = Uint32Array.from([0, 1, 2, 3], (i) => mix(mix(seed >>> 0, i), Math.floor(seed / 2 ** 32)));
  const rotate = (value: number, by: number) => (value << by) | (value >>> (32 - by));
  const word = () => {
    const a = state[0]!, b = state[1]!, c = state[2]!, d = state[3]!;
    const result = (rotate(a + d, 7) + a) >>> 0;
    state[2] = c ^ a;
    state[3] = d ^ b;
    state[1] = b ^ state[2]!;
    state[0] = a ^ state[3]!;
    state[2]! ^= b << 9;
    state[3] = rotate(state[3]!, 11);
    return result;
  };
  return () => ((word() >>> 5) * 2 ** 26 + (word() >>> 6)) / 2 ** 53;
}

/** MurmurHash3's finaliser over two words: every bit of both reaches every bit of the result. */
function mix(value: number, salt: number): number {
  let hash = (value ^ Math.imul(salt + 1, 0x9e3779b9)) >>> 0;
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}
