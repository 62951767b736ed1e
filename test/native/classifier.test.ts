import { describe, expect, test } from 'vitest';
import type { TensorHandle } from '../../lib/addon/native.js';
import type { Device } from '../../lib/device.js';
import { devicesUnderTest } from '../devices.js';
import { randomNormal } from '../fixtures/random.js';
import { relativeError } from '../fixtures/semantic/cases.js';

const devices = await devicesUnderTest('linear classifiers');

function tensor(device: Device, values: Float32Array, rows: number): TensorHandle {
  const handle = device.addon.makeTensor(device.handle, [rows, values.length / rows]);
  device.addon.writeTensor(handle, values);
  return handle;
}

interface Problem {
  x: Float32Array;
  labels: Int32Array;
  weights: Float32Array;
  bias: Float32Array;
  dimension: number;
  classes: number;
  heads: number;
  rows?: Int32Array;
  unit?: boolean;
}

/** Plain float64 loops over one row after the other. */
function reference({ x, labels, weights, bias, dimension, classes, heads, rows, unit = false }: Problem) {
  const results: number[] = [];
  const dWeights = new Float64Array(weights.length);
  const dBias = new Float64Array(bias.length);
  const picked = rows ?? Int32Array.from({ length: x.length / dimension }, (_, i) => i);
  picked.forEach((row, i) => {
    const raw = Array.from(x.subarray(row * dimension, (row + 1) * dimension));
    const length = Math.hypot(...raw);
    const values = unit ? raw.map((value) => (length > 0 ? value / length : 0)) : raw;
    for (let h = 0; h < heads; h++) {
      const logits = Array.from({ length: classes }, (_, k) =>
        values.reduce(
          (sum, value, d) => sum + value * weights[(h * classes + k) * dimension + d]!,
          bias[h * classes + k]!,
        ),
      );
      const peak = Math.max(...logits);
      const sum = logits.reduce((total, logit) => total + Math.exp(logit - peak), 0);
      const label = labels[i]!;
      results.push(
        Math.log(sum) + peak - logits[label]!,
        logits.indexOf(peak),
        logits.filter((logit, k) => logit > logits[label]! || (logit === logits[label]! && k < label)).length,
      );
      logits.forEach((logit, k) => {
        const slope = Math.exp(logit - peak) / sum - (k === label ? 1 : 0);
        dBias[h * classes + k]! += slope;
        values.forEach((value, d) => (dWeights[(h * classes + k) * dimension + d]! += slope * value));
      });
    }
  });
  return { results, dWeights, dBias };
}

function makeProblem(rows: number, dimension: number, classes: number, heads: number): Problem {
  return {
    dimension,
    classes,
    heads,
    x: randomNormal(rows * dimension, 1),
    labels: Int32Array.from({ length: rows }, (_, i) => (i * 7) % classes),
    weights: randomNormal(heads * classes * dimension, 2).map((value) => 0.3 * value),
    bias: randomNormal(heads * classes, 3),
  };
}

describe.each(devices)('classifiers on $name', ({ device }) => {
  const { addon } = device;

  async function run(problem: Problem, scale: number) {
    const { x, labels, weights, bias, dimension, heads, rows, unit } = problem;
    const [outputs, count] = [bias.length, labels.length];
    const [dWeights, dBias] = [
      tensor(
        device,
        weights.map(() => NaN),
        outputs,
      ),
      tensor(
        device,
        bias.map(() => NaN),
        1,
      ),
    ];
    const results = addon.makeTensor(device.handle, [count, 3 * heads]);
    addon.classifierLoss({
      features: tensor(device, x, x.length / dimension),
      weights: tensor(device, weights, outputs),
      bias: tensor(device, bias, 1),
      dWeights,
      dBias,
      results,
      labels,
      rows,
      heads,
      unit,
      scale,
    });
    return {
      results: await addon.readTensor(results),
      dWeights: await addon.readTensor(dWeights),
      dBias: await addon.readTensor(dBias),
    };
  }

  test.each([
    ['one class', makeProblem(3, 5, 1, 1)],
    ['ragged sizes', makeProblem(37, 19, 11, 1)],
    ['three side by side', makeProblem(21, 66, 5, 3)],
    ['unit rows', { ...makeProblem(20, 9, 4, 2), unit: true }],
    [
      'some rows, one twice',
      {
        ...makeProblem(30, 8, 3, 2),
        rows: Int32Array.of(29, 4, 4, 0, 17),
        labels: Int32Array.of(2, 1, 0, 1, 2),
        unit: true,
      },
    ],
  ] as const)('loss, places and gradient are those of plain loops: %s', async (_, problem) => {
    const expected = reference(problem);
    const found = await run(problem, 0.5);
    const each = (values: ArrayLike<number>, part: number) => Array.from(values).filter((_, i) => i % 3 === part);
    expect(relativeError([...each(found.results, 0), 1], [...each(expected.results, 0), 1])).toBeLessThan(2e-6);
    expect(each(found.results, 1)).toEqual(each(expected.results, 1));
    expect(each(found.results, 2)).toEqual(each(expected.results, 2));
    expect(
      relativeError(
        [...found.dWeights, 1],
        [...expected.dWeights, 2].map((value) => 0.5 * value),
      ),
    ).toBeLessThan(2e-5);
    expect(
      relativeError(
        [...found.dBias, 1],
        [...expected.dBias, 2].map((value) => 0.5 * value),
      ),
    ).toBeLessThan(2e-5);
  });

  test('the cross entropy of logits has the slope p - y', async () => {
    const [batch, classes] = [6, 5];
    const logits = randomNormal(batch * classes, 4);
    const labels = Int32Array.of(0, 1, 2, 3, -1, 0); // -1 has no class
    const [dLogits, results] = [
      addon.makeTensor(device.handle, [batch, classes]),
      addon.makeTensor(device.handle, [batch, 3]),
    ];
    addon.softmaxLoss({ logits: tensor(device, logits, batch), labels, dLogits, results, scale: 2 });
    const [gradient, rows] = [await addon.readTensor(dLogits), await addon.readTensor(results)];
    for (let i = 0; i < batch; i++) {
      const row = Array.from(logits.subarray(i * classes, (i + 1) * classes));
      expect(rows[3 * i + 1]).toBe(row.indexOf(Math.max(...row)));
      if (labels[i] === -1) {
        expect([rows[3 * i], rows[3 * i + 2], ...gradient.subarray(i * classes, (i + 1) * classes)]).toEqual(
          Array.from({ length: 2 + classes }, () => 0),
        );
        continue;
      }
      const sum = row.reduce((total, logit) => total + Math.exp(logit), 0);
      expect(rows[3 * i]).toBeCloseTo(Math.log(sum) - row[labels[i]!]!, 5);
      row.forEach((logit, k) =>
        expect(gradient[i * classes + k]).toBeCloseTo(2 * (Math.exp(logit) / sum - (k === labels[i] ? 1 : 0)), 5),
      );
    }
  });

  test('logits that are no numbers make no row right', async () => {
    const [classes, labels] = [4, Int32Array.of(2, 2, 2)];
    const logits = Float32Array.of(NaN, NaN, NaN, NaN, 1, 0, NaN, -1, NaN, 0, 1, -1); // all, the right one, another one
    const results = addon.makeTensor(device.handle, [labels.length, 3]);
    addon.softmaxLoss({ logits: tensor(device, logits, labels.length), labels, results, scale: 1 });
    const found = await addon.readTensor(results);
    const each = (part: number) => [...found].filter((_, i) => i % 3 === part);
    expect(each(0)).toEqual([NaN, NaN, NaN]);
    for (const predicted of each(1)) expect(predicted).toBeLessThan(classes);
    expect(each(2)).toEqual([3, 3, 1]);
  });

  test("SGD on a part of a tensor is PyTorch's, and leaves the rest", async () => {
    const [value, gradient, velocity] = [
      [1, 2, 3, 4],
      [0.5, -1, 2, 1],
      [0, 0.25, 1, 1],
    ].map((row) => tensor(device, Float32Array.from(row), 1)) as [TensorHandle, TensorHandle, TensorHandle];
    addon.sgdTensor(value, {
      gradient,
      velocity,
      learningRate: 0.1,
      momentum: 0.9,
      weightDecay: 0.5,
      begin: 1,
      end: 3,
    });
    const v = [0.9 * 0.25 + (-1 + 0.5 * 2), 0.9 * 1 + (2 + 0.5 * 3)];
    expect(relativeError(await addon.readTensor(velocity), [0, v[0]!, v[1]!, 1])).toBeLessThan(1e-6);
    expect(relativeError(await addon.readTensor(value), [1, 2 - 0.1 * v[0]!, 3 - 0.1 * v[1]!, 4])).toBeLessThan(1e-6);
  });

  test('rows are written in place', async () => {
    const into = tensor(device, new Float32Array(12), 4);
    addon.writeRows(into, 1, Float32Array.of(1, 2, 3, 4, 5, 6));
    expect([...(await addon.readTensor(into))]).toEqual([0, 0, 0, 1, 2, 3, 4, 5, 6, 0, 0, 0]);
    expect(() => addon.writeRows(into, 3, new Float32Array(6))).toThrow(expect.objectContaining({ code: 'BAD_SHAPE' }));
  });

  test('what does not fit is refused before anything runs', () => {
    const { x, labels, weights, bias } = makeProblem(6, 4, 3, 1);
    const args = {
      features: tensor(device, x, 6),
      weights: tensor(device, weights, 3),
      bias: tensor(device, bias, 1),
      labels,
    };
    expect(() => addon.classifierLoss({ ...args, labels: Int32Array.of(0, 1, 2, 3, 0, 1) })).toThrow(
      expect.objectContaining({ code: 'BAD_OPTION' }),
    );
    expect(() => addon.classifierLoss({ ...args, labels: labels.subarray(1) })).toThrow(
      expect.objectContaining({ code: 'BAD_SHAPE' }),
    );
    expect(() => addon.classifierLoss({ ...args, rows: Int32Array.of(6), labels: Int32Array.of(0) })).toThrow(
      expect.objectContaining({ code: 'BAD_OPTION' }),
    );
    expect(() => addon.classifierLoss({ ...args, heads: 2 })).toThrow(expect.objectContaining({ code: 'BAD_SHAPE' }));
  });
});
