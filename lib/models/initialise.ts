import type { GraphParameter, GraphSpec } from './graph.js';
import type { WeightRecord } from './weights.js';

/**
 * Start values of every parameter and buffer of a graph, as its Initialisation entries say (torchvision's distributions; not its bits).
 * Each parameter's draws depend on the seed and on its name alone, so a backbone starts alike under any head.
 * @param seed a whole number from 0
 */
export function initialWeights(graph: GraphSpec, seed: number): WeightRecord {
  const record: WeightRecord = {};
  for (const parameter of graph.parameters) record[parameter.name] = { shape: [...parameter.shape], data: draw(parameter, seed) };
  return record;
}

function draw({ name, shape, init }: GraphParameter, seed: number): Float32Array {
  const data = new Float32Array(shape.reduce((a, b) => a * b, 1));
  if (init.kind === 'constant') return data.fill(init.value);
  const words = new Uint32Array(4);
  const [high, low] = [hash(name, 0x811c9dc5), hash(name, 0x9dc5811c)];
  for (let i = 0; i < data.length; i += 4) {
    philox(words, seed, high, low, i / 4);
    const values = init.kind === 'uniform' ? uniform(words, init.bound) : normal(words, init.std);
    data.set(values.slice(0, Math.min(4, data.length - i)), i);
  }
  return data;
}

/** A word as a number in (0, 1). */
const unit = (word: number): number => (word + 0.5) / 2 ** 32;

function uniform(words: Uint32Array, bound: number): number[] {
  return Array.from(words, (word) => bound * (2 * unit(word) - 1));
}

/** Box and Muller's transform of two pairs of uniform draws. */
function normal(words: Uint32Array, std: number): number[] {
  return [0, 2].flatMap((i) => {
    const radius = std * Math.sqrt(-2 * Math.log(unit(words[i]!)));
    const angle = 2 * Math.PI * unit(words[i + 1]!);
    return [radius * Math.cos(angle), radius * Math.sin(angle)];
  });
}

/** 32-bit FNV-1a from a given basis. */
function hash(text: string, basis: number): number {
  let value = basis;
  for (const byte of Buffer.from(text)) value = Math.imul(value ^ byte, 0x01000193);
  return value >>> 0;
}

/** High and low words of a 32 x 32 bit product. */
function multiply(a: number, b: number): [number, number] {
  const [aHigh, aLow, bHigh, bLow] = [a >>> 16, a & 0xffff, b >>> 16, b & 0xffff];
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16);
  const carry = aLow * bHigh + (middle & 0xffff);
  return [(aHigh * bHigh + Math.floor(middle / 65536) + Math.floor(carry / 65536)) >>> 0, Math.imul(a, b) >>> 0];
}

/** Philox4x32-10 (Salmon et al. 2011), keyed by the seed: four random words for a counter of four. */
function philox(words: Uint32Array, seed: number, high: number, low: number, index: number): void {
  let [k0, k1] = [seed >>> 0, Math.floor(seed / 2 ** 32) >>> 0];
  let [c0, c1, c2, c3] = [index >>> 0, Math.floor(index / 2 ** 32) >>> 0, low, high];
  for (let round = 0; round < 10; round++) {
    const [high0, low0] = multiply(0xd2511f53, c0);
    const [high1, low1] = multiply(0xcd9e8d57, c2);
    [c0, c1, c2, c3] = [(high1 ^ c1 ^ k0) >>> 0, low1, (high0 ^ c3 ^ k1) >>> 0, low0];
    k0 = (k0 + 0x9e3779b9) >>> 0;
    k1 = (k1 + 0xbb67ae85) >>> 0;
  }
  words.set([c0, c1, c2, c3]);
}
