/**
 * The range of each activation that its 256 integers do best with. A range as wide as the largest value has wide steps,
 * and networks with swish have few values that are large: it is often better to cut those off.
 */
import type { OnnxGraph } from '../onnx/format.js';
import { stepsOf, type Range, type Step } from './quantize-graph.js';

/** What is tried: shares of the largest and of the least value. */
const ends = [1, 0.85, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2];
const starts = [1, 0.7, 0.5, 0.3, 0.15];
const bins = 2048;

/** 1 would serve the mean of the images and large ones the worst: an image unlike the others must not be spoilt. */
const power = 1.5;

type Func = (x: number) => number;
const sigmoid: Func = (x) => 1 / (1 + Math.exp(-x));
const hardSigmoid: Func = (x) => Math.min(1, Math.max(0, x / 6 + 0.5));

/** What a value is read by, where that is one function alone: its errors are those that count. */
function readBy({ node }: OnnxGraph, name: string): Func {
  const readers = node.filter(({ input }) => input.includes(name));
  const all = (op: string) => readers.every(({ opType }) => opType === op);
  if (all('Sigmoid')) return sigmoid;
  if (all('HardSigmoid')) return hardSigmoid;
  if (all('HardSwish')) return (x) => x * hardSigmoid(x);
  const gates = readers.filter(({ opType }) => opType === 'Sigmoid').map(({ output }) => output[0]!);
  const isSwish = readers.every(
    ({ opType, input }) => opType === 'Sigmoid' || (opType === 'Mul' && input.some((of) => gates.includes(of))),
  );
  return isSwish ? (x) => x * sigmoid(x) : (x) => x;
}

/** One activation: how often its values fall into each bin, and what each range that is tried makes of a bin. */
class Search {
  readonly #least: number;
  readonly #width: number;
  readonly #tried: Range[];
  /** [bins, tried]: squared errors at the middle of each bin. */
  readonly #errors: Float64Array;
  /** [bins]: squares of what is read there. */
  readonly #squares: Float64Array;
  /** [tried]: errors of the images so far, each to the {@link power}. */
  readonly #sums: Float64Array;

  /** @param stepIn what is written for a range */
  constructor({ min, max }: Range, read: Func, stepIn: (range: Range) => Step) {
    const [least, most] = [Math.min(0, min), Math.max(0, max)];
    this.#least = least;
    this.#width = (most - least) / bins || 1;
    const ranges = ends.flatMap((end) => starts.map((start) => ({ min: start * least, max: end * most })));
    const steps: Step[] = [];
    this.#tried = ranges.filter((range) => {
      const step = stepIn(range);
      const isNew = !steps.some(({ scale, zero }) => scale === step.scale && zero === step.zero);
      if (isNew) steps.push(step);
      return isNew;
    });
    const middles = Float64Array.from({ length: bins }, (_, i) => least + (i + 0.5) * this.#width);
    const exact = middles.map(read);
    this.#squares = exact.map((value) => value ** 2);
    this.#sums = new Float64Array(steps.length);
    this.#errors = new Float64Array(bins * steps.length);
    for (let i = 0; i < bins; i++)
      steps.forEach(({ scale, zero }, k) => {
        const whole = Math.min(255, Math.max(0, Math.round(middles[i]! / scale) + zero));
        this.#errors[i * steps.length + k] = (read((whole - zero) * scale) - exact[i]!) ** 2;
      });
  }

  /**
   * An image's error is a share of the image's own squares: else the few with large values would widen the steps for
   * all.
   * @param values of one image
   */
  add(values: Float32Array): void {
    const counts = new Uint32Array(bins);
    for (const value of values) {
      const bin = Math.floor((value - this.#least) / this.#width);
      counts[Math.min(bins - 1, Math.max(0, bin))]!++;
    }
    const tried = this.#sums.length;
    const errors = new Float64Array(tried);
    let whole = 0;
    for (let i = 0; i < bins; i++) {
      const count = counts[i]!;
      if (count === 0) continue;
      whole += count * this.#squares[i]!;
      for (let k = 0; k < tried; k++) errors[k]! += count * this.#errors[i * tried + k]!;
    }
    for (let k = 0; k < tried; k++) this.#sums[k]! += (errors[k]! / (whole || 1)) ** power;
  }

  /** The range with the least error; of equals the widest. */
  best(): Range {
    return this.#tried[this.#sums.reduce((best, sum, k) => (sum < this.#sums[best]! ? k : best), 0)]!;
  }
}

/** Looks for the ranges of all activations of a network. */
export class RangeSearch {
  readonly #searches: ReadonlyMap<string, Search>;

  /** @param ranges of the least and the largest values, which the ranges found lie in */
  constructor(graph: OnnxGraph, ranges: ReadonlyMap<string, Range>) {
    const steps = stepsOf(graph);
    this.#searches = new Map(
      [...ranges].map(([name, range]) => [name, new Search(range, readBy(graph, name), steps.get(name)!)]),
    );
  }

  /** @param valuesOf a name, of one image */
  add(valuesOf: (name: string) => Float32Array): void {
    for (const [name, search] of this.#searches) search.add(valuesOf(name));
  }

  best(): Map<string, Range> {
    return new Map([...this.#searches].map(([name, search]) => [name, search.best()]));
  }
}
