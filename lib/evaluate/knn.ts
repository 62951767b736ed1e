/**
 * Weighted k-nearest-neighbour classification of embeddings (Wu et al. 2018, section 3.4): the k labelled embeddings
 * that are nearest by cosine vote for their classes with weights exp(similarity / T). Brute force on the device.
 * Labelled embeddings come in blocks and are not kept, so that memory holds one block, the queries and their k nearest.
 */
import type { Device } from '../device.js';
import { LgdError } from '../errors.js';
import { nextTurn } from '../turn.js';
import { answerRows, type Answers } from './accuracy.js';

const queriesAtOnce = 4096;

/** How neighbours vote. */
export interface KnnOptions {
  /** k. */
  neighbours: number;
  /** T. */
  temperature: number;
  signal?: AbortSignal | undefined;
}

/** The k nearest labelled embeddings of each query, of those seen so far. */
export class NearestNeighbours {
  readonly #count: number;
  /** Of each query, sorted: cosine and label. */
  #scores: Float32Array;
  #labels: Int32Array;
  /** Neighbours that each query has: k, or as many as were seen. */
  #held = 0;

  /** @param queries [Q,D] raw, not changed while this lives; @throws LgdError BAD_OPTION */
  constructor(
    readonly device: Device,
    readonly queries: Float32Array,
    readonly dimension: number,
    readonly options: KnnOptions,
  ) {
    const { neighbours, temperature } = options;
    if (!Number.isInteger(neighbours) || neighbours < 1)
      throw new LgdError('BAD_OPTION', 'not a number of neighbours.', {
        option: 'neighbours',
        found: neighbours,
        allowed: 'a whole number from 1',
      });
    if (!(temperature > 0))
      throw new LgdError('BAD_OPTION', 'not a temperature.', {
        option: 'temperature',
        found: temperature,
        allowed: 'a number above 0',
      });
    this.#count = queries.length / dimension;
    this.#scores = new Float32Array(this.#count * neighbours);
    this.#labels = new Int32Array(this.#count * neighbours);
  }

  /**
   * Takes in a block of labelled embeddings [n,D], raw.
   * @throws LgdError ZERO_EMBEDDING, NON_FINITE, ABORTED, and device faults
   */
  async add(block: Float32Array, labels: Int32Array): Promise<void> {
    const { dimension, queries } = this;
    const { addon, handle } = this.device;
    const { neighbours, signal } = this.options;
    const found = Math.min(neighbours, labels.length);
    const kept = Math.min(neighbours, this.#held + found);
    const [scores, classes] = [new Float32Array(neighbours), new Int32Array(neighbours)];
    for (let from = 0; from < this.#count; from += queriesAtOnce) {
      await nextTurn(signal, 'the nearest neighbours');
      const to = Math.min(from + queriesAtOnce, this.#count);
      const near = await addon.topSimilar(
        handle,
        queries.subarray(from * dimension, to * dimension),
        block,
        dimension,
        found,
      );
      for (let query = from; query < to; query++) {
        const [old, fresh] = [query * neighbours, (query - from) * found];
        let [a, b] = [0, 0];
        for (let place = 0; place < kept; place++) {
          const earlier = a < this.#held && (b >= found || this.#scores[old + a]! >= near.scores[fresh + b]!);
          scores[place] = earlier ? this.#scores[old + a]! : near.scores[fresh + b]!;
          classes[place] = earlier ? this.#labels[old + a]! : labels[near.indices[fresh + b]!]!;
          if (earlier) a++;
          else b++;
        }
        this.#scores.set(scores.subarray(0, kept), old);
        this.#labels.set(classes.subarray(0, kept), old);
      }
    }
    this.#held = kept;
  }

  /**
   * Votes, for queries whose right classes `answers` has. Classes without a neighbour share the last places, in their
   * order.
   */
  async vote(answers: Answers, classes: number): Promise<void> {
    const { neighbours, temperature, signal } = this.options;
    const votes = new Float64Array(classes);
    for (let query = 0; query < this.#count; query++) {
      if (query % 1024 === 1023) await nextTurn(signal, 'the nearest neighbours');
      votes.fill(0);
      const at = query * neighbours;
      const nearest = this.#scores[at]!; // only ratios of weights matter, and exp(1 / T) may be beyond all numbers
      for (let i = at; i < at + this.#held; i++)
        votes[this.#labels[i]!]! += Math.exp((this.#scores[i]! - nearest) / temperature);
      answerRows(answers, votes, classes, query);
    }
  }
}
