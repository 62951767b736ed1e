// The golden steps once more, with so small a budget for scores that they do not fit it: float16 products keep none and
// form them twice, in chunks of one tile of anchors; float32 ones take the images three at a time. So do updates,
// searches and classifiers.
import { afterEach, describe, expect, test } from 'vitest';
import type { Device } from '../../lib/device.js';
import { bankLoss, bankUpdate } from '../../lib/semantic/index.js';
import { devicesUnderTest } from '../devices.js';
import { goldenCases, relativeError } from '../fixtures/semantic/cases.js';
import { randomNumbers } from '../fixtures/random.js';

const devices = await devicesUnderTest('the loss without room for its scores');
const cases = await goldenCases();
const modes = [
  { precision: 'float32', tolerance: 2e-5 },
  { precision: 'bfloat16', tolerance: 5e-3 },
] as const;
const keys = ['loss', 'lossVisual', 'lossTextual', 'klVisual', 'klTextual'] as const;

const table = devices.flatMap(({ name, device }) =>
  modes
    .filter(({ precision }) => precision === 'float32' || device.kind !== 'cpu')
    .map((mode) => ({ name, device, ...mode })),
);

afterEach(() => {
  delete process.env['LGDISTILL_SCORE_BYTES'];
});

/** @param anchors rows of all banks together */
function limitScores(precision: 'float32' | 'bfloat16', anchors: number): void {
  const bytesOfAnImage = 2 * 4 * Math.ceil(anchors / 4) * 4;
  process.env['LGDISTILL_SCORE_BYTES'] = String(precision === 'float32' ? 3 * bytesOfAnImage : 1);
}

describe.each(table)('without room for the scores on $name in $precision', ({ device, precision, tolerance }) => {
  test.each(cases)(
    '$name',
    async ({ dimension, use, studentTemperature, teacherTemperature, alpha, textual, visual, steps }) => {
      const limit = teacherTemperature < 1e-3 ? Math.max(tolerance, 2e-3) : tolerance;
      // The first step needs no update; with a queue alone the second, whose queue the first one left.
      const at = use.length === 1 && use[0] === 'queue' ? 1 : 0;
      const { student, teacher, ...expected } = steps[at]!;
      const queue = use.includes('queue') && at > 0 ? Float32Array.from(steps[at - 1]!.queueAfter!) : undefined;
      const banks = {
        textual: use.includes('textual') ? textual : undefined,
        visual: use.includes('visual') ? visual : undefined,
        queue,
      };
      limitScores(
        precision,
        Object.values(banks).reduce((sum, bank) => sum + (bank?.length ?? 0) / dimension, 0),
      );
      const found = await bankLoss(
        { student, teacher, ...banks, dimension, studentTemperature, teacherTemperature, alpha },
        { device, precision },
      );
      for (const key of keys) expect(relativeError([found[key]], [expected[key]]), key).toBeLessThan(limit);
      expect(relativeError(found.gradient, expected.gradient), 'gradient').toBeLessThan(limit);
    },
  );

  test.each([
    [1, 8, 1],
    [3, 40, 127],
    [33, 300, 129],
    [67, 200, 300],
  ])('%i images, %i values, %i categories', async (batch, dimension, categories) => {
    const random = randomNumbers(batch);
    const rows = (count: number) =>
      Float32Array.from({ length: count * dimension }, () => (2 * random() - 0.8) / Math.sqrt(dimension));
    const input = {
      student: rows(batch),
      teacher: rows(batch),
      textual: rows(categories),
      visual: rows(categories),
      queue: rows(5),
      dimension,
      alpha: 0.3,
      studentTemperature: 0.2,
      teacherTemperature: 0.02,
    };
    const expected = await bankLoss(input, { device: 'js' });
    limitScores(precision, 2 * categories + 5);
    const found = await bankLoss(input, { device, precision });
    const again = await bankLoss(input, { device, precision });
    for (const key of keys) expect(relativeError([found[key]], [expected[key]]), key).toBeLessThan(tolerance);
    expect(relativeError(found.gradient, expected.gradient), 'gradient').toBeLessThan(tolerance);
    expect(Buffer.from(again.gradient.buffer).equals(Buffer.from(found.gradient.buffer)), 'the same bits').toBe(true);
  });
});

/** Of 37 rows. */
const few: Record<
  string,
  {
    bytesOfARow: number;
    run: (device: Device, rows: (count: number) => Float32Array) => Promise<Record<string, ArrayLike<number>>>;
  }
> = {
  'an update': {
    bytesOfARow: 48,
    run: async (device, rows) => {
      const { visual, seen, assignment } = await bankUpdate(
        {
          teacher: rows(37),
          textual: rows(11),
          visual: rows(11),
          seen: new Uint8Array(11),
          dimension: 20,
          momentum: 0.9,
        },
        { device },
      );
      return { visual, seen, assignment };
    },
  },
  'a search': {
    bytesOfARow: 48,
    run: async ({ addon, handle }, rows) => ({ ...(await addon.topSimilar(handle, rows(37), rows(11), 20, 4)) }),
  },
  'a classifier': {
    bytesOfARow: 176,
    run: async ({ addon, handle }, rows) => {
      const tensor = (values: Float32Array, count: number) => {
        const made = addon.makeTensor(handle, [count, values.length / count]);
        addon.writeTensor(made, values);
        return made;
      };
      const [dWeights, dBias, results] = [
        [12, 20],
        [1, 12],
        [37, 6],
      ].map((shape) => addon.makeTensor(handle, shape)) as [never, never, never];
      addon.classifierLoss({
        features: tensor(rows(40), 40),
        weights: tensor(rows(12), 12),
        bias: tensor(rows(1).subarray(0, 12), 1),
        dWeights,
        dBias,
        results,
        heads: 2,
        unit: true,
        scale: 1,
        labels: Int32Array.from({ length: 37 }, (_, i) => i % 6),
        rows: Int32Array.from({ length: 37 }, (_, i) => (i * 11) % 40),
      });
      return {
        dWeights: await addon.readTensor(dWeights),
        dBias: await addon.readTensor(dBias),
        results: await addon.readTensor(results),
      };
    },
  },
};

describe.each(devices)('with room for ten rows on $name', ({ device }) => {
  test.each(Object.entries(few))('%s gives what it gives at once', async (_, { bytesOfARow, run }) => {
    const made = () => {
      const random = randomNumbers(4);
      return run(device, (count) => Float32Array.from({ length: 20 * count }, () => random() - 0.4));
    };
    const whole = await made();
    process.env['LGDISTILL_SCORE_BYTES'] = String(10 * bytesOfARow);
    for (const [name, values] of Object.entries(await made()))
      expect(relativeError(values, whole[name]!), name).toBeLessThan(1e-6);
  });
});
