import { describe, expect, test } from 'vitest';
import { featureLoss } from '../../lib/semantic/index.js';
import { devicesUnderTest } from '../devices.js';
import { randomNormal } from '../fixtures/random.js';
import { relativeError } from '../fixtures/semantic/cases.js';

const devices = await devicesUnderTest('feature regression');
const shapes = [
  [1, 1],
  [3, 6],
  [7, 257],
  [33, 64],
] as const;

/** Mean of 1 - cosine, formed apart. */
function loss(student: ArrayLike<number>, teacher: Float32Array, dimension: number): number {
  let sum = 0;
  const batch = teacher.length / dimension;
  for (let i = 0; i < batch; i++) {
    let [xy, xx, yy] = [0, 0, 0];
    for (let d = i * dimension; d < (i + 1) * dimension; d++) {
      xy += student[d]! * teacher[d]!;
      xx += student[d]! ** 2;
      yy += teacher[d]! ** 2;
    }
    sum += 1 - xy / Math.sqrt(xx * yy);
  }
  return sum / batch;
}

describe('in plain TypeScript', () => {
  test('the loss is 1 - cosine, and the gradient its slope', async () => {
    const [student, teacher, dimension] = [randomNormal(18, 1), randomNormal(18, 2), 6];
    const found = await featureLoss({ student, teacher, dimension }, { device: 'js' });
    expect(found.loss).toBeCloseTo(loss(student, teacher, dimension), 12);
    const step = 1e-5;
    const slopes = Array.from(student, (_, i) => {
      const [up, down] = [Float64Array.from(student), Float64Array.from(student)];
      up[i]! += step;
      down[i]! -= step;
      return (loss(up, teacher, dimension) - loss(down, teacher, dimension)) / (2 * step);
    });
    expect(relativeError(found.gradient, slopes)).toBeLessThan(1e-6);
  });
});

describe.each(devices)('on $name', ({ device }) => {
  test.each(shapes)('agrees with plain TypeScript: %i x %i', async (batch, dimension) => {
    const input = {
      student: randomNormal(batch * dimension, 3).map((x) => 5 * x + 1),
      teacher: randomNormal(batch * dimension, 4).map((x) => 0.1 * x + 0.1),
      dimension,
    };
    const expected = await featureLoss(input, { device: 'js' });
    const found = await featureLoss(input, { device });
    expect(found.loss).toBeCloseTo(expected.loss, 6);
    if (dimension > 1) expect(relativeError(found.gradient, expected.gradient)).toBeLessThan(2e-5);
    else expect([...found.gradient].every((value) => Math.abs(value) < 1e-6)).toBe(true); // a line has no direction to turn to
  });

  test.each([
    ['student', 'ZERO_EMBEDDING', 0],
    ['teacher', 'NON_FINITE', Infinity],
  ] as const)('names a %s row that cannot be used: %s', async (who, code, value) => {
    const input = { student: randomNormal(12, 5), teacher: randomNormal(12, 6), dimension: 4 };
    input[who].fill(value, 4, 8);
    for (const where of [device, 'js'] as const) {
      await expect(featureLoss(input, { device: where })).rejects.toMatchObject({
        code,
        option: who,
        message: expect.stringContaining('row 1') as string,
      });
    }
  });

  test.each([0, 5])(
    'a head of it trains with %i names beside it: loss, gradient, agreement and the bank',
    async (categories) => {
      const { addon, handle } = device;
      const [batch, dimension] = [9, 40];
      const [student, teacher] = [randomNormal(batch * dimension, 7), randomNormal(batch * dimension, 8)];
      const tensors = [student, teacher, new Float32Array(batch * dimension)].map((values) => {
        const tensor = addon.makeTensor(handle, [batch, dimension]);
        addon.writeTensor(tensor, values);
        return tensor;
      });
      const [s, t, d] = tensors as [(typeof tensors)[0], (typeof tensors)[0], (typeof tensors)[0]];
      const expected = await featureLoss({ student, teacher, dimension }, { device: 'js' });
      for (const bfloat16 of device.kind === 'cpu' ? [false] : [false, true]) {
        const head = addon.makeSemanticHead(handle, {
          dimension,
          categories,
          useTextual: false,
          useVisual: false,
          feature: true,
          bfloat16,
        });
        const textual = randomNormal(categories * dimension, 9);
        for (let k = 0; k < categories; k++) {
          const row = textual.subarray(k * dimension, (k + 1) * dimension);
          row.set(row.map((value) => value / Math.hypot(...row)));
        }
        if (categories > 0)
          addon.writeSemanticState(head, { textual, visual: textual, seen: new Uint8Array(categories) });
        addon.headLoss(head, s, t, d, 3, 2);
        addon.headUpdate(head, [t], 2);
        const metrics = await addon.readMetrics(handle, head, 2);
        expect(metrics.loss).toBeCloseTo(expected.loss, 6);
        expect([metrics.lossVisual, metrics.lossTextual]).toEqual([0, 0]);
        expect(
          relativeError(
            await addon.readTensor(d),
            expected.gradient.map((value) => 3 * value),
          ),
        ).toBeLessThan(2e-5);
        const nearest = async (rows: Float32Array) => [
          ...(await addon.topSimilar(handle, rows, textual, dimension, 1)).indices,
        ];
        if (categories === 0) continue;
        const [ofStudent, ofTeacher] = [await nearest(student), await nearest(teacher)];
        expect(metrics.agreement).toBeCloseTo(ofStudent.filter((name, i) => name === ofTeacher[i]).length / batch, 12);
        expect(metrics.categoriesHit).toBe(new Set(ofTeacher).size);
      }
      expect(() => addon.makeSemanticHead(handle, { dimension, categories: 4, feature: true })).toThrow(
        expect.objectContaining({ code: 'BAD_OPTION' }),
      );
    },
  );
});
