import { describe, expect, test } from 'vitest';
import { devicesUnderTest } from '../devices.js';
import { randomNormal, randomNumbers } from '../fixtures/random.js';
import { relativeError } from '../fixtures/semantic/cases.js';

const devices = await devicesUnderTest('the loss of a detector');
const classes = 35; // more than a warp
const levels = [40, 12, 3];
const locations = 55;
const scales = { classScale: 0.5, boxScale: 0.7, centreScale: 0.3 };

const random = randomNumbers(4);
const output = randomNormal(locations * (classes + 5), 3);
output[1] = 30; // where a sigmoid is one, and another zero
output[2] = -40;
const labels = Int32Array.from({ length: locations }, (_, i) =>
  i % 5 === 0 ? -2 : i % 3 === 0 ? (i * 7) % classes : -1,
);
const boxes = Float32Array.from({ length: 4 * locations }, () => 0.1 + 4 * random());

/** Where a location's scores and box stand in the output. */
function places(location: number): { scores: number; box: number } {
  let [first, at] = [0, 0];
  for (const count of levels) {
    if (location < first + count)
      return { scores: at + (location - first) * classes, box: at + count * classes + (location - first) * 5 };
    first += count;
    at += count * (classes + 5);
  }
  throw new Error('no such location');
}

/** The three losses of a location by their definitions, in float64. */
function reference(values: ArrayLike<number>, location: number): [number, number, number] {
  const { scores, box } = places(location);
  const label = labels[location]!;
  let focal = 0;
  for (let k = 0; k < classes && label !== -2; k++) {
    const p = 1 / (1 + Math.exp(-values[scores + k]!));
    focal +=
      k === label
        ? -0.25 * (1 - p) ** 2 * Math.log(p)
        : -0.75 * p ** 2 * (-values[scores + k]! - Math.log1p(Math.exp(-values[scores + k]!)));
  }
  if (label < 0) return [focal, 0, 0];
  const [l, t, r, b] = boxes.subarray(4 * location, 4 * location + 4) as unknown as [number, number, number, number];
  const [dl, dt, dr, db] = [0, 1, 2, 3].map((i) => Math.exp(values[box + i]!)) as [number, number, number, number];
  const centre = Math.sqrt((Math.min(l, r) / Math.max(l, r)) * (Math.min(t, b) / Math.max(t, b)));
  const intersection = (Math.min(l, dl) + Math.min(r, dr)) * (Math.min(t, dt) + Math.min(b, db));
  const hull = (Math.max(l, dl) + Math.max(r, dr)) * (Math.max(t, dt) + Math.max(b, db));
  const union = (l + r) * (t + b) + (dl + dr) * (dt + db) - intersection;
  const giou = intersection / union - (hull - union) / hull;
  const z = 1 / (1 + Math.exp(-values[box + 4]!));
  return [focal, centre * (1 - giou), -centre * Math.log(z) - (1 - centre) * Math.log(1 - z)];
}

const total = (values: ArrayLike<number>, location: number) => {
  const [focal, box, centre] = reference(values, location);
  return scales.classScale * focal + scales.boxScale * box + scales.centreScale * centre;
};

describe.each(devices)('on $name', ({ device }) => {
  const { addon, handle } = device;
  const run = async (change: Partial<Parameters<typeof addon.detectionLoss>[0]> = {}, written = output) => {
    const [values, dOutput, results] = [
      addon.makeTensor(handle, [1, output.length]),
      addon.makeTensor(handle, [1, output.length]),
      addon.makeTensor(handle, [locations, 3]),
    ];
    try {
      addon.writeTensor(values, written);
      addon.writeTensor(dOutput, new Float32Array(output.length).fill(NaN)); // every value has to be written
      addon.detectionLoss({ output: values, dOutput, results, levels, classes, labels, boxes, ...scales, ...change });
      return { gradient: await addon.readTensor(dOutput), results: await addon.readTensor(results) };
    } finally {
      for (const tensor of [values, dOutput, results]) addon.release(tensor);
    }
  };

  test('losses are those of the definitions, and the gradient their slope', async () => {
    const { gradient, results } = await run();
    expect(
      relativeError(
        results,
        Float32Array.from({ length: locations }, (_, i) => i).reduce<number[]>(
          (all, i) => [...all, ...reference(output, i)],
          [],
        ),
      ),
    ).toBeLessThan(1e-5);
    const slopes = new Float64Array(output.length);
    for (let location = 0; location < locations; location++) {
      const { scores, box } = places(location);
      const own = [
        ...Array.from({ length: classes }, (_, k) => scores + k),
        ...Array.from({ length: 5 }, (_, k) => box + k),
      ];
      for (const at of own) {
        const values = Float64Array.from(output);
        const width = 1e-4;
        values[at] = output[at]! + width;
        const above = total(values, location);
        values[at] = output[at]! - width;
        slopes[at] = (above - total(values, location)) / (2 * width);
      }
    }
    expect(relativeError(gradient, slopes)).toBeLessThan(1e-4);
    // does not count
    expect(gradient.subarray(places(0).scores, places(0).scores + classes).every((value) => value === 0)).toBe(true);
  });

  test('a distance that is no number shows in the loss', async () => {
    const location = labels.findIndex((label) => label >= 0);
    const broken = output.slice();
    broken[places(location).box + 2] = NaN;
    const { results } = await run({}, broken);
    expect([...results].flatMap((value, i) => (Number.isNaN(value) ? [i] : []))).toEqual([3 * location + 1]);
  });

  test.each([
    ['a class past the end', { labels: labels.map(() => classes) }, 'BAD_OPTION', 'there are 35 classes'],
    ['a location outside of its box', { boxes: boxes.map(() => 0) }, 'BAD_OPTION', 'lies inside of its box'],
    ['levels of another size', { levels: [40, 12, 4] }, 'BAD_SHAPE', 'output'],
  ])('%s is refused', async (_, change, code, message) => {
    await expect(run(change)).rejects.toMatchObject({ code, message: expect.stringContaining(message) as string });
  });
});
