/**
 * Philox4x32-10, counter-based random numbers (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011);
 * the same words as native/core/philox.h. A draw is named by key and counter, so it needs no state and can be repeated
 * anywhere.
 */

/** The four words of one block. */
export type PhiloxBlock = [number, number, number, number];

const multiplier0 = 0xd2511f53;
const multiplier1 = 0xcd9e8d57;

/** Upper 32 bits of a * b, both unsigned 32-bit. */
function highProduct(a: number, b: number): number {
  const aHigh = a >>> 16;
  const aLow = a & 0xffff;
  const bHigh = b >>> 16;
  const bLow = b & 0xffff;
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16); // below 2^32
  const carry = (middle & 0xffff) + aLow * bHigh; // below 2^32
  return (aHigh * bHigh + (middle >>> 16) + (carry >>> 16)) >>> 0;
}

/**
 * One block of four uniform unsigned 32-bit words.
 * @param key0 low word of the key, which is the seed
 * @param key1 its high word
 * @param words the counter, lowest word first; the block takes its place
 */
export function philox(key0: number, key1: number, words: PhiloxBlock): PhiloxBlock {
  let c0 = words[0];
  let c1 = words[1];
  let c2 = words[2];
  let c3 = words[3];
  for (let round = 0; round < 10; ++round) {
    const high0 = highProduct(multiplier0, c0);
    const high1 = highProduct(multiplier1, c2);
    const low0 = Math.imul(multiplier0, c0);
    const low1 = Math.imul(multiplier1, c2);
    c0 = (high1 ^ c1 ^ key0) >>> 0;
    c1 = low1 >>> 0;
    c2 = (high0 ^ c3 ^ key1) >>> 0;
    c3 = low0 >>> 0;
    key0 = (key0 + 0x9e3779b9) >>> 0;
    key1 = (key1 + 0xbb67ae85) >>> 0;
  }
  words[0] = c0;
  words[1] = c1;
  words[2] = c2;
  words[3] = c3;
  return words;
}

/** Uniform numbers in [0, 1) with 53 bits, two a block: blocks 0, 1, 2 ... of the stream (key, stream). */
export class PhiloxStream {
  readonly #key: readonly [number, number];
  readonly #stream: readonly [number, number];
  readonly #words: PhiloxBlock = [0, 0, 0, 0];
  #used = 4;
  #block = 0;

  constructor(key: bigint, stream: bigint) {
    this.#key = [Number(key & 0xffffffffn), Number((key >> 32n) & 0xffffffffn)];
    this.#stream = [Number(stream & 0xffffffffn), Number((stream >> 32n) & 0xffffffffn)];
  }

  next(): number {
    const words = this.#words;
    if (this.#used === 4) {
      words[0] = this.#block >>> 0;
      words[1] = Math.floor(this.#block / 4294967296);
      words[2] = this.#stream[0];
      words[3] = this.#stream[1];
      philox(this.#key[0], this.#key[1], words);
      this.#block += 1;
      this.#used = 0;
    }
    const high = words[this.#used]! >>> 5;
    const low = words[this.#used + 1]! >>> 6;
    this.#used += 2;
    return (high * 67108864 + low) / 9007199254740992;
  }
}
