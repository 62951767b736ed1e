import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { accuracyByClass, accuracyOf, answerRows, makeAnswers } from '../../lib/evaluate/accuracy.js';
import { FeatureSet, LinearHeads, measureScale } from '../../lib/evaluate/feature-set.js';
import { NearestNeighbours } from '../../lib/evaluate/knn.js';
import { minimise } from '../../lib/evaluate/lbfgs.js';
import { fitLogistic, fitSgd, logisticRegression } from '../../lib/evaluate/probe.js';
import { balancedShare, holdOut } from '../../lib/evaluate/split.js';
import { shuffledOrder } from '../../lib/data/sampler.js';
import { devicesUnderTest } from '../devices.js';
import { randomNormal } from '../fixtures/random.js';
import { relativeError } from '../fixtures/semantic/cases.js';
import { testPath } from '../shared.js';

/** Computed with scikit-learn (test/fixtures/probe/make.py). */
const oracle = JSON.parse(readFileSync(testPath('fixtures', 'probe', 'sklearn.json'), 'utf8')) as {
  classes: number;
  dimension: number;
  train: number;
  x: number[];
  labels: number[];
  fits: { C: number; weights: number[]; bias: number[]; probabilities: number[]; predicted: number[] }[];
  neighbours: { k: number; temperature: number; predicted: number[]; shares: number[] }[];
};
const { classes, dimension } = oracle;
const x = Float32Array.from(oracle.x);
const [trainX, testX] = [x.slice(0, oracle.train * dimension), x.slice(oracle.train * dimension)];
const [trainY, testY] = [
  Int32Array.from(oracle.labels.slice(0, oracle.train)),
  Int32Array.from(oracle.labels.slice(oracle.train)),
];
const asTheyAre = { mean: new Float32Array(dimension), deviation: new Float32Array(dimension).fill(1) };
const devices = await devicesUnderTest('probes');

describe.each(devices)('on $name', ({ device, emulated }) => {
  test.each(oracle.fits)("logistic regression is scikit-learn's: C $C", async ({ C, weights, bias, predicted }) => {
    using train = await FeatureSet.make(device, trainX, trainY, asTheyAre);
    using heldOut = await FeatureSet.make(device, testX, testY, asTheyAre);
    using heads = new LinearHeads(device, dimension, classes, 1);
    const fit = await logisticRegression(train, heads, { classes, C, tolerance: 2e-6 });
    expect(fit.converged, String(fit.gradientNorm)).toBe(true);
    // The bias is known but for a constant: the softmax does not see it. scikit-learn's sums to zero, as ours does,
    // started from zero.
    expect(relativeError(fit.parameters.subarray(0, classes * dimension), weights)).toBeLessThan(2e-3);
    expect(relativeError(fit.parameters.subarray(classes * dimension), bias)).toBeLessThan(2e-3);
    expect([...(await heldOut.loss(heads)).answers(0).predicted]).toEqual(predicted);
  });

  test.each(oracle.neighbours)(
    "weighted neighbours are scikit-learn's, in whatever blocks they come: k $k",
    async ({ k, temperature, predicted, shares }) => {
      for (const block of [60, 7]) {
        const search = new NearestNeighbours(device, testX, dimension, { neighbours: k, temperature });
        for (let from = 0; from < 60; from += block)
          await search.add(
            trainX.subarray(from * dimension, (from + block) * dimension),
            trainY.subarray(from, from + block),
          );
        const answers = { ...makeAnswers(testY.length), targets: testY };
        await search.vote(answers, classes);
        expect([...answers.predicted]).toEqual(predicted);
        const ranks = Array.from(
          testY,
          (label, i) =>
            shares
              .slice(i * classes, (i + 1) * classes)
              .filter(
                (share, c) =>
                  share > shares[i * classes + label]! || (share === shares[i * classes + label]! && c < label),
              ).length,
        );
        if (k < 60) expect([...answers.ranks]).toEqual(ranks);
      }
    },
  );

  test('neighbours that are equally near come in their order, and count beside those that are far, however cold', async () => {
    const nearest = async (count: number, rows: number[], labels: number[], queries = [1, 0]) => {
      const search = new NearestNeighbours(device, Float32Array.from(queries), 2, {
        neighbours: count,
        temperature: 1e-4,
      });
      for (const [i, label] of labels.entries())
        await search.add(Float32Array.from(rows.slice(2 * i, 2 * i + 2)), Int32Array.of(label));
      const answers = makeAnswers(queries.length / 2);
      await search.vote(answers, 3);
      return [...answers.predicted];
    };
    expect(await nearest(1, [1, 0, 1, 0], [2, 1])).toEqual([2]);
    expect(await nearest(2, [-1, 0, -0.6, 0.8], [2, 1])).toEqual([1]);
    expect(await nearest(3, [-1, 0], [2])).toEqual([2]); // fewer than are asked for
    for (const change of [{ neighbours: 0 }, { temperature: 0 }])
      expect(() => new NearestNeighbours(device, x, dimension, { neighbours: 1, temperature: 1, ...change })).toThrow(
        expect.objectContaining({ code: 'BAD_OPTION', option: Object.keys(change)[0] }),
      );
    if (emulated) return;
    // more than are looked for at once
    const queries = Array.from({ length: 2 * 4100 }, (_, i) => (i % 2 === 1 ? 0 : i % 3 === 0 ? 1 : -1));
    expect(await nearest(1, [1, 0, -1, 0], [1, 2], queries)).toEqual(
      Array.from({ length: 4100 }, (_, i) => (queries[2 * i] === 1 ? 1 : 2)),
    );
  });

  test('a separable case is solved by hand: two points, one on each side', async () => {
    // With x = -1, 1 and labels 0, 1 the minimum has w_1 = -w_0 = a, no bias, and p = sigmoid(2 a) with C (1 - p) 2 =
    // a.
    using train = await FeatureSet.make(device, Float32Array.of(-1, 1), Int32Array.of(0, 1), {
      mean: new Float32Array(1),
      deviation: Float32Array.of(1),
    });
    using heads = new LinearHeads(device, 1, 2, 1);
    const C = 3;
    const {
      parameters: [left, right, ...bias],
      converged,
    } = await logisticRegression(train, heads, { classes: 2, C, tolerance: 1e-6 });
    expect(converged).toBe(true);
    expect(right).toBeCloseTo(-left!, 5);
    expect(2 * C * (1 - 1 / (1 + Math.exp(-2 * right!)))).toBeCloseTo(right!, 4);
    expect(Math.abs(bias[0]!) + Math.abs(bias[1]!)).toBeLessThan(1e-5);
  });

  test('the sweep over C takes the best on the held-out part, and fits all of it then', async () => {
    using train = await FeatureSet.make(device, trainX, trainY, await measureScale(trainX, dimension));
    const split = holdOut(trainY, classes, 0.25, 1);
    const { heads, chosen, sweep, fit } = await fitLogistic(train, split, {
      classes,
      maxIterations: emulated ? 10 : 300,
    });
    heads[Symbol.dispose]();
    expect(sweep.length).toBeGreaterThan(11);
    const best = Math.max(...sweep.map(({ top1 }) => top1));
    expect(sweep.find(({ value }) => value === chosen)!.top1).toBe(best);
    expect(Math.min(...sweep.filter(({ top1 }) => top1 === best).map(({ loss }) => loss))).toBe(
      sweep.find(({ value }) => value === chosen)!.loss,
    );
    if (!emulated) expect(fit.converged).toBe(true);
  });

  test('SGD is what plain loops give, and a rate that diverges is not chosen', async () => {
    const scale = await measureScale(trainX, dimension);
    using train = await FeatureSet.make(device, trainX, trainY, scale);
    const split = holdOut(trainY, classes, 0.25, 1);
    const epochs = emulated ? 2 : 12;
    const { heads, chosen, sweep } = await fitSgd(train, split, {
      classes,
      epochs,
      batch: 10,
      learningRates: [1e-5, 3, 1e20],
      seed: 4,
    });
    const { weights, bias } = await heads.state();
    heads[Symbol.dispose]();
    expect(chosen).toBe(3);
    expect(sweep.map(({ value }) => value)).toEqual([1e-5, 3, 1e20]);
    expect(relativeError(weights, sgdByHand(scale, epochs, chosen).weights)).toBeLessThan(1e-4);
    expect(relativeError(bias, sgdByHand(scale, epochs, chosen).bias)).toBeLessThan(1e-4);
  });
});

/** The last fit of fitSgd in plain float64 loops. */
function sgdByHand(
  { mean, deviation }: { mean: Float32Array; deviation: Float32Array },
  epochs: number,
  rate: number,
): { weights: Float64Array; bias: Float64Array } {
  const rows = Array.from(trainY, (_, i) =>
    Array.from({ length: dimension }, (_unused, d) => (trainX[i * dimension + d]! - mean[d]!) / deviation[d]!),
  );
  const size = classes * (dimension + 1);
  const [w, v] = [new Float64Array(size), new Float64Array(size)];
  const steps = 6;
  for (let t = 0; t < epochs * steps; t++) {
    const order = shuffledOrder(60, 4, Math.floor(t / steps));
    const g = new Float64Array(size);
    for (const i of order.subarray((t % steps) * 10, (t % steps) * 10 + 10)) {
      const logits = Array.from({ length: classes }, (_, k) =>
        rows[i]!.reduce((sum, value, d) => sum + value * w[k * dimension + d]!, w[classes * dimension + k]!),
      );
      const total = logits.reduce((sum, logit) => sum + Math.exp(logit), 0);
      logits.forEach((logit, k) => {
        const slope = (Math.exp(logit) / total - (k === trainY[i] ? 1 : 0)) / 10;
        rows[i]!.forEach((value, d) => (g[k * dimension + d]! += slope * value));
        g[classes * dimension + k]! += slope;
      });
    }
    const learningRate = rate * (10 / 256) * 0.5 * (1 + Math.cos((Math.PI * t) / (epochs * steps)));
    for (let i = 0; i < size; i++) {
      v[i] = 0.9 * v[i]! + g[i]!;
      w[i]! -= learningRate * v[i]!;
    }
  }
  return { weights: w.subarray(0, classes * dimension), bias: w.subarray(classes * dimension) };
}

describe('L-BFGS', () => {
  test("finds the minimum of Rosenbrock's valley", async () => {
    const valley = ([a, b]: Float64Array) =>
      Promise.resolve({
        value: (1 - a!) ** 2 + 100 * (b! - a! * a!) ** 2,
        gradient: Float64Array.of(-2 * (1 - a!) - 400 * a! * (b! - a! * a!), 200 * (b! - a! * a!)),
      });
    const { point, converged, iterations } = await minimise(valley, Float64Array.of(-1.2, 1), {
      tolerance: 1e-8,
      rounding: 0,
    });
    expect(converged).toBe(true);
    expect(iterations).toBeLessThan(80);
    expect(point[0]).toBeCloseTo(1, 6);
    expect(point[1]).toBeCloseTo(1, 6);
  });

  test('says that it did not converge, and stops when told to', async () => {
    const bowl = (at: Float64Array) =>
      Promise.resolve({
        value: at.reduce((sum, v, i) => sum + (i + 1) * v ** 4, 0),
        gradient: at.map((v, i) => 4 * (i + 1) * v ** 3),
      });
    expect(await minimise(bowl, Float64Array.of(5, 5, 5), { maxIterations: 2 })).toMatchObject({
      converged: false,
      iterations: 2,
    });
    await expect(minimise(bowl, Float64Array.of(5), { signal: AbortSignal.abort() })).rejects.toMatchObject({
      code: 'ABORTED',
    });
  });
});

describe('parts of a training set', () => {
  const labels = Int32Array.from({ length: 103 }, (_, i) => (i < 100 ? i % 2 : 2)); // 50, 50 and 3

  test('a share is balanced, seeded, and within every larger one', () => {
    const share = balancedShare(labels, 3, 0.1, 7);
    expect([0, 1, 2].map((label) => share.filter((i) => labels[i] === label).length)).toEqual([5, 5, 1]);
    expect([...balancedShare(labels, 3, 0.1, 7)]).toEqual([...share]);
    expect([...balancedShare(labels, 3, 0.1, 8)]).not.toEqual([...share]);
    expect(share.toSorted()).toEqual(share);
    const [even, odd] = [0, 1].map((label) =>
      [...share].filter((i) => labels[i] === label).map((i) => Math.floor(i / 2)),
    );
    expect(even).not.toEqual(odd);
    const more = new Set(balancedShare(labels, 3, 0.5, 7));
    expect(more.size).toBe(25 + 25 + 2);
    expect([...share].every((image) => more.has(image))).toBe(true);
    expect(balancedShare(labels, 3, 1, 7)).toHaveLength(103);
  });

  test('what is held out and what is fitted are all of it, without overlap', () => {
    const { fit, heldOut } = holdOut(labels, 3, 0.1, 7);
    expect([...fit, ...heldOut].sort((a, b) => a - b)).toEqual([...labels.keys()]);
    expect([0, 1, 2].map((label) => heldOut.filter((i) => labels[i] === label).length)).toEqual([5, 5, 1]);
    expect([0, 1, 2].map((label) => holdOut(labels, 3, 1, 7).fit.filter((i) => labels[i] === label).length)).toEqual([
      1, 1, 1,
    ]);
    expect(holdOut(Int32Array.of(0, 1), 2, 0.5, 1)).toEqual({ fit: Int32Array.of(0, 1), heldOut: new Int32Array(0) });
  });
});

describe('answers', () => {
  test('count the classes before the right one, and those that a class was taken for', () => {
    const answers = { ...makeAnswers(4), targets: Int32Array.of(0, 1, 1, 2) };
    answerRows(answers, [3, 1, 2, /**/ 5, 5, 0], 3, 0);
    answerRows(answers, [9, 4, 8, /**/ 0, 1, 1], 3, 2);
    expect([...answers.predicted]).toEqual([0, 0, 0, 1]);
    expect([...answers.ranks]).toEqual([0, 1, 2, 1]);
    expect(accuracyOf(answers, 3)).toMatchObject({ top1: 0.25, topK: 3, top5: 1, correct1: 1, images: 4, classes: 3 });
    expect(
      accuracyByClass(answers, ['a', 'b', 'c']).map(({ name, images, correct1, mistakenFor }) => [
        name,
        images,
        correct1,
        mistakenFor?.name,
        mistakenFor?.images,
      ]),
    ).toEqual([
      ['a', 1, 1, undefined, undefined],
      ['b', 2, 0, 'a', 2],
      ['c', 1, 0, 'b', 1],
    ]);
  });

  test('are among the best five up to the fifth, and the lower class of two that one was taken for as often', () => {
    const names = [...'abcdefg'];
    const answers = {
      targets: new Int32Array(6),
      predicted: Int32Array.of(1, 3, 3, 2, 2, 0),
      ranks: Int32Array.of(5, 4, 1, 2, 3, 0),
    };
    expect(accuracyOf(answers, 7)).toMatchObject({ topK: 5, correct1: 1, correct5: 5 });
    expect(accuracyByClass(answers, names)[0]).toMatchObject({
      correct1: 1,
      correct5: 5,
      mistakenFor: { name: 'c', images: 2 },
    });
  });

  test('a scale is mean and deviation, and 1 where nothing changes', async () => {
    const rows = randomNormal(3000, 1).map((value, i) => (i % 3 === 2 ? 5 : 10 * value + (i % 3)));
    const { mean, deviation } = await measureScale(rows, 3);
    for (const d of [0, 1]) {
      const column = rows.filter((_, i) => i % 3 === d);
      const average = column.reduce((sum, value) => sum + value, 0) / 1000;
      expect(mean[d]).toBeCloseTo(average, 4);
      expect(deviation[d]).toBeCloseTo(
        Math.sqrt(column.reduce((sum, value) => sum + (value - average) ** 2, 0) / 1000),
        4,
      );
    }
    expect([mean[2], deviation[2]]).toEqual([5, 1]);
  });
});
