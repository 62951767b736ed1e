import { describe, expect, it } from 'vitest';
import { BatchPlan } from '../../lib/data/loader.js';
import { sequentialBatches, shuffledOrder, ShuffledSampler } from '../../lib/data/sampler.js';

describe('shuffledOrder', () => {
  it('is a permutation that seed and epoch determine', () => {
    const order = shuffledOrder(1000, 5, 2);
    expect(order.toSorted()).toEqual(Int32Array.from({ length: 1000 }, (_, i) => i));
    expect(shuffledOrder(1000, 5, 2)).toEqual(order);
    expect(shuffledOrder(1000, 5, 3)).not.toEqual(order);
    expect(shuffledOrder(1000, 6, 2)).not.toEqual(order);
  });

  it('never changes between releases: runs are resumed with it', () => {
    expect([...shuffledOrder(10, 0, 0)]).toEqual([7, 3, 0, 8, 6, 5, 9, 2, 4, 1]);
    expect([...shuffledOrder(10, 2 ** 40 + 3, 9)]).toEqual([7, 2, 5, 9, 3, 4, 1, 0, 6, 8]);
  });

  it('puts every index in every place equally often', () => {
    const [count, epochs] = [7, 7000];
    const hits = Array.from({ length: count }, () => new Float64Array(count));
    for (let epoch = 0; epoch < epochs; ++epoch)
      shuffledOrder(count, 1, epoch).forEach((index, place) => (hits[index]![place]! += 1));
    const expected = epochs / count;
    const chi = hits.flatMap((row) => [...row]).reduce((sum, hit) => sum + (hit - expected) ** 2 / expected, 0);
    expect(chi).toBeLessThan(67.99); // chi squared, 36 degrees of freedom, once in 1,000
  });
});

describe('ShuffledSampler', () => {
  it('visits each image at most once an epoch and drops what fills no batch', () => {
    const sampler = new ShuffledSampler({ count: 23, batchSize: 5, seed: 1 });
    expect(sampler.stepsPerEpoch).toBe(4);
    for (let epoch = 0; epoch < 3; ++epoch) {
      const seen = new Set<number>();
      for (let step = 0; step < 4; ++step) {
        const batch = sampler.next();
        expect([batch.epoch, batch.step, batch.indices.length]).toEqual([epoch, step, 5]);
        batch.indices.forEach((index) => seen.add(index));
      }
      expect(seen.size).toBe(20);
    }
  });

  it('continues from any position', () => {
    const whole = new ShuffledSampler({ count: 23, batchSize: 5, seed: 1 });
    for (let i = 0; i < 9; ++i) {
      const resumed = new ShuffledSampler({ count: 23, batchSize: 5, seed: 1 });
      resumed.position = whole.position;
      const expected = whole.next();
      expect(resumed.next()).toEqual(expected);
    }
    const other = new ShuffledSampler({ count: 23, batchSize: 5, seed: 1 });
    other.position = { epoch: 5, step: 2 };
    whole.position = { epoch: 5, step: 2 }; // not the epoch after the one that it is in
    expect(whole.next()).toEqual(other.next());
  });

  it('refuses batches that cannot be filled, and positions that do not exist', () => {
    expect(() => new ShuffledSampler({ count: 4, batchSize: 5, seed: 1 })).toThrow(
      expect.objectContaining({ code: 'BAD_OPTION', option: 'train.batchSize' }),
    );
    expect(() => new ShuffledSampler({ count: 0, batchSize: 1, seed: 1 })).toThrow(
      expect.objectContaining({ code: 'BAD_OPTION' }),
    );
    for (const seed of [-1, 2 ** 53])
      expect(() => new ShuffledSampler({ count: 4, batchSize: 2, seed })).toThrow(
        expect.objectContaining({ option: 'seed' }),
      );
    expect(new ShuffledSampler({ count: 4, batchSize: 4, seed: 1 }).stepsPerEpoch).toBe(1);
    const sampler = new ShuffledSampler({ count: 4, batchSize: 2, seed: 1 });
    for (const step of [2, -1, 0.5])
      expect(() => {
        sampler.position = { epoch: 0, step };
      }).toThrow(expect.objectContaining({ option: 'position.step' }));
  });
});

describe('sequentialBatches', () => {
  it('covers every index once and fills up the last batch', () => {
    expect([...sequentialBatches(5, 2)]).toEqual([
      { indices: Int32Array.of(0, 1), valid: 2 },
      { indices: Int32Array.of(2, 3), valid: 2 },
      { indices: Int32Array.of(4, 4), valid: 1 },
    ]);
    expect([...sequentialBatches(0, 2)]).toEqual([]);
    expect(() => sequentialBatches(5, 0).next()).toThrow(expect.objectContaining({ option: 'batchSize' }));
  });
});

describe('BatchPlan', () => {
  const cache = { length: 7, sourceIndex: Int32Array.of(0, 1, 3, 4, 5, 8, 9) };

  it('names draws by the place in the source', () => {
    const plan = new BatchPlan(cache, { batchSize: 3, seed: 4 });
    for (let i = 0; i < 5; ++i) {
      const { images, drawIds, seed } = plan.next();
      expect(seed).toBe(4);
      expect([...drawIds]).toEqual(Array.from(images, (index) => cache.sourceIndex[index]));
    }
  });

  it('resumes after any batch, though others were taken ahead', () => {
    const plan = new BatchPlan(cache, { batchSize: 3, seed: 4 });
    const batches = Array.from({ length: 8 }, () => plan.next());
    for (let done = 0; done < 7; ++done) {
      const resumed = new BatchPlan(cache, { batchSize: 3, seed: 4 });
      resumed.restore(JSON.parse(JSON.stringify(plan.stateAfter(batches[done]!))) as ReturnType<BatchPlan['state']>);
      expect(resumed.next()).toEqual(batches[done + 1]);
    }
    expect(plan.stateAfter(batches[7]!)).toEqual(plan.state());
  });

  it('refuses the state of another run', () => {
    const plan = new BatchPlan(cache, { batchSize: 3, seed: 4 });
    const state = plan.state();
    for (const change of [{ images: 8 }, { batchSize: 2 }, { seed: 5 }, { step: 99 }]) {
      expect(() => plan.restore({ ...state, ...change })).toThrow(expect.objectContaining({ code: 'BAD_CHECKPOINT' }));
    }
  });

  it('can be iterated', () => {
    const plan = new BatchPlan(cache, { batchSize: 3, seed: 4 });
    const seen = [];
    for (const batch of plan) if (seen.push([batch.epoch, batch.step]) === 3) break;
    expect(seen).toEqual([
      [0, 0],
      [0, 1],
      [1, 0],
    ]);
  });
});
