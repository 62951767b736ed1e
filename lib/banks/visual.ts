import { types } from 'node:util';
import { LgdError } from '../errors.js';
import { checkSeed } from '../number-limits.js';
import { nextTurn } from '../turn.js';
import type { TextualSemanticsBank } from './textual.js';

/**
 * The Visual Semantics Bank: one visual anchor for each category name (V, [K,D], in Li et al. 2024), with a flag that
 * tells which categories were seen. It holds state; the device moves the anchors (`bankUpdate`, and the distiller's
 * semantic head).
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
    if (!types.isFloat32Array(data) || !types.isUint8Array(seen))
      throw new LgdError('BAD_SHAPE', 'these are no anchors.', {
        option: 'visual',
        found: types.isFloat32Array(data) ? seen : data,
        allowed: 'a Float32Array [K,D] and a Uint8Array [K]',
      });
    if (
      !Number.isInteger(embeddingSize) ||
      embeddingSize < 1 ||
      seen.length === 0 ||
      data.length !== seen.length * embeddingSize
    ) {
      throw new LgdError(
        'BAD_SHAPE',
        `${data.length} values are not ${seen.length} anchors of ${embeddingSize} values.`,
        {
          option: 'visual',
          allowed: '[K,D] values and K flags, K and D at least 1',
        },
      );
    }
    const broken = firstBroken(data);
    if (broken >= 0)
      throw new LgdError('NON_FINITE', `anchor ${Math.floor(broken / embeddingSize)} has a value that is not finite.`, {
        option: 'visual',
      });
    this.size = seen.length;
    this.embeddingSize = embeddingSize;
    this.data = data;
    this.seen = seen;
  }

  /**
   * The start of training: random directions (Gaussian rows, normalised), no category seen. The same seed gives the
   * same bank. Of 20,000 categories it takes about a second.
   * @param seed a whole number from 0
   * @throws LgdError BAD_SHAPE, BAD_OPTION (no seed)
   */
  static random(size: number, embeddingSize: number, seed: number): VisualSemanticsBank {
    const data = emptyBank(size, embeddingSize);
    for (const drawn of drawRows(data, embeddingSize, checkSeed(seed))) void drawn;
    return new VisualSemanticsBank(data, new Uint8Array(size), embeddingSize);
  }
}

/** What {@link drawStartBank} drew, until it is taken. */
const drawnAhead = new WeakMap<TextualSemanticsBank, { seed: number; bank: VisualSemanticsBank }>();

/** The bank that training with these names starts from. */
export function takeStartBank(tsb: TextualSemanticsBank, seed: number): VisualSemanticsBank {
  const ahead = drawnAhead.get(tsb);
  drawnAhead.delete(tsb);
  return ahead?.seed === seed ? ahead.bank : VisualSemanticsBank.random(tsb.size, tsb.embeddingSize, seed);
}

/**
 * Draws what {@link takeStartBank} will give, letting timers and other callbacks run meanwhile; else that draws it at
 * once.
 * @throws LgdError ABORTED
 */
export async function drawStartBank(tsb: TextualSemanticsBank, seed: number, signal?: AbortSignal): Promise<void> {
  const { size, embeddingSize } = tsb;
  const data = emptyBank(size, embeddingSize);
  let since = 0;
  for (const drawn of drawRows(data, embeddingSize, checkSeed(seed))) {
    since += drawn;
    if (since < valuesAtOnce) continue;
    since = 0;
    await nextTurn(signal, 'drawing the visual bank');
  }
  drawnAhead.set(tsb, { seed, bank: new VisualSemanticsBank(data, new Uint8Array(size), embeddingSize) });
}

const valuesAtOnce = 32_768; // a few milliseconds

function emptyBank(size: number, embeddingSize: number): Float32Array {
  if (Number.isInteger(size) && size >= 1 && Number.isInteger(embeddingSize) && embeddingSize >= 1)
    return new Float32Array(size * embeddingSize);
  throw new LgdError('BAD_SHAPE', `a bank needs whole positive sizes, found ${size} x ${embeddingSize}.`, {
    option: 'visual',
  });
}

/** A loop: findIndex calls back for each of millions of values, ten times slower. */
function firstBroken(data: Float32Array): number {
  for (let i = 0; i < data.length; i++) if (!Number.isFinite(data[i])) return i;
  return -1;
}

/** Draws row after row, and tells after each how many values it has. */
function* drawRows(data: Float32Array, embeddingSize: number, seed: number): Generator<number, void, undefined> {
  const normal = new Gaussian(seed);
  const row = new Float64Array(embeddingSize);
  for (let begin = 0; begin < data.length; begin += embeddingSize) {
    drawRow(normal, row, data, begin);
    yield embeddingSize;
  }
}

/** Draws a unit row. Apart from the generator, where V8 compiles its loops to slower code. */
function drawRow(normal: Gaussian, row: Float64Array, data: Float32Array, begin: number): void {
  let squares = 0;
  while (squares === 0) {
    for (let d = 0; d < row.length; d++) {
      const value = normal.next();
      row[d] = value;
      squares += value * value;
    }
  }
  const length = Math.sqrt(squares);
  for (let d = 0; d < row.length; d++) data[begin + d] = row[d]! / length;
}

const pairsAtOnce = 256;

/**
 * Standard normal numbers by Box and Muller's transform of a seeded 53-bit uniform source, some hundred made at once:
 * banks have a hundred million.
 */
class Gaussian {
  readonly #state: Uint32Array;
  readonly #words = new Uint32Array(4 * pairsAtOnce);
  readonly #numbers = new Float64Array(2 * pairsAtOnce);
  #taken = 2 * pairsAtOnce;

  constructor(seed: number) {
    this.#state = Uint32Array.from([0, 1, 2, 3], (i) => mix(mix(seed >>> 0, i), Math.floor(seed / 2 ** 32)));
  }

  next(): number {
    if (this.#taken === this.#numbers.length) this.#make();
    return this.#numbers[this.#taken++]!;
  }

  #make(): void {
    const [words, numbers] = [this.#words, this.#numbers];
    drawWords(this.#state, words);
    for (let i = 0; i < numbers.length; i += 2) {
      const radius = Math.sqrt(-2 * Math.log(1 - uniform(words[2 * i]!, words[2 * i + 1]!)));
      const angle = 2 * Math.PI * uniform(words[2 * i + 2]!, words[2 * i + 3]!);
      numbers[i] = radius * Math.cos(angle);
      numbers[i + 1] = radius * Math.sin(angle);
    }
    this.#taken = 0;
  }
}

/** A number in [0, 1) of 53 random bits. */
function uniform(high: number, low: number): number {
  return ((high >>> 5) * 2 ** 26 + (low >>> 6)) / 2 ** 53;
}

/** The next words of xoshiro128++ (Blackman and Vigna 2021), whose state moves on. */
function drawWords(state: Uint32Array, words: Uint32Array): void {
  let [a, b, c, d] = state as unknown as [number, number, number, number];
  for (let i = 0; i < words.length; i++) {
    const sum = (a + d) | 0;
    words[i] = ((sum << 7) | (sum >>> 25)) + a;
    const shifted = b << 9;
    c ^= a;
    d ^= b;
    b ^= c;
    a ^= d;
    c ^= shifted;
    d = (d << 11) | (d >>> 21);
  }
  state.set([a, b, c, d]);
}

/** MurmurHash3's finaliser over two words: every bit of both reaches every bit of the result. */
function mix(value: number, salt: number): number {
  let hash = (value ^ Math.imul(salt + 1, 0x9e3779b9)) >>> 0;
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}
