// Statistics of the draws, read off images whose pixels tell where they come from: red is the column, green is the row.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { loadAddon } from '../../lib/addon/addon.js';
import type { NativeAugmentRecipe, PixelStoreHandle } from '../../lib/addon/native.js';
import { openDevice, type Device } from '../../lib/device.js';
import { augmentBatch, readAugmentFixture, storeOf } from './augment-fixture.js';

const addon = loadAddon();
const [width, height] = [160, 96];
const count = 6000;
const side = 8;
const nothing: NativeAugmentRecipe = {
  flipProbability: 0,
  jitterProbability: 0,
  brightness: 0,
  contrast: 0,
  saturation: 0,
  hue: 0,
  greyProbability: 0,
  blurProbability: 0,
};

let device: Device;
let map: PixelStoreHandle;
let flat: PixelStoreHandle;
afterAll(() => device.dispose());
beforeAll(async () => {
  device = await openDevice('cpu', { threads: 2 });
  const places = new Uint8Array(width * height * 3);
  for (let y = 0; y < height; ++y) for (let x = 0; x < width; ++x) places.set([x, y, 0], (y * width + x) * 3);
  map = storeOf(addon, [{ width, height, pixels: places }]);
  const colour = new Uint8Array(width * height * 3);
  for (let i = 0; i < colour.length; i += 3) colour.set([120, 60, 30], i);
  flat = storeOf(addon, [{ width, height, pixels: colour }]);
});

function draw(store: PixelStoreHandle, recipe: NativeAugmentRecipe, seed: number): Promise<Float32Array> {
  const images = Array<number>(count).fill(0);
  return augmentBatch(device, store, {
    recipe: { ...nothing, ...recipe },
    height: side,
    width: side,
    seed,
    epoch: 2,
    images,
    drawIds: images.map((_, i) => i),
  });
}

/**
 * Kolmogorov-Smirnov distance of a sample to a distribution given by equally spaced quantiles (values that repeat count
 * as steps).
 */
function distance(sample: Float64Array, quantiles: Float32Array): number {
  const sorted = sample.toSorted();
  const share = (values: ArrayLike<number>, bound: number): number => {
    let low = 0;
    let high = values.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (values[middle]! <= bound) low = middle + 1;
      else high = middle;
    }
    return low / values.length;
  };
  return Math.max(...Array.from(quantiles, (value) => Math.abs(share(sorted, value) - share(quantiles, value))));
}

describe('random crops', () => {
  it("are distributed as torchvision's RandomResizedCrop", async () => {
    const views = await draw(map, {}, 11);
    const rows = Array.from({ length: 6 }, () => new Float64Array(count));
    const area = side * side;
    for (let i = 0; i < count; ++i) {
      // Inside, an antialiased bilinear resize keeps a ramp: sample k sits at scale (k + 1/2) - 1/2 of the crop.
      const at = (channel: number, pixel: number): number => views[(i * 3 + channel) * area + pixel]! * 255;
      const scaleX = (at(0, 30) - at(0, 25)) / 5;
      const scaleY = (at(1, 51) - at(1, 11)) / 5;
      const [cropWidth, cropHeight] = [Math.round(scaleX * side), Math.round(scaleY * side)];
      const left = Math.round(at(0, 25) - 1.5 * scaleX + 0.5);
      const top = Math.round(at(1, 11) - 1.5 * scaleY + 0.5);
      expect(left >= 0 && top >= 0 && left + cropWidth <= width && top + cropHeight <= height).toBe(true);
      [
        top,
        left,
        cropHeight,
        cropWidth,
        (cropHeight * cropWidth) / (width * height),
        Math.log(cropWidth / cropHeight),
      ].forEach((value, row) => {
        rows[row]![i] = value;
      });
    }
    const { cropQuantiles } = await readAugmentFixture();
    // Two samples of 6,000 and 40,000 from one distribution are further apart than 0.027 once in 1,000
    // (Kolmogorov-Smirnov); 201 quantiles add 0.005.
    rows.forEach((row, i) =>
      expect(distance(row, cropQuantiles.subarray(i * 201, (i + 1) * 201)), `row ${i}`).toBeLessThan(0.033),
    );
  });
});

describe('random flags', () => {
  const sigmas = 4.5;
  it.each([0.2, 0.5, 0.9])('flips with probability %s', async (probability) => {
    const views = await draw(map, { flipProbability: probability }, 3);
    let flips = 0;
    for (let i = 0; i < count; ++i) flips += views[i * 192]! > views[i * 192 + side - 1]! ? 1 : 0;
    expect(Math.abs(flips / count - probability)).toBeLessThan(
      sigmas * Math.sqrt((probability * (1 - probability)) / count),
    );
  });

  it('turns grey, and jitters, as often as asked and independently', async () => {
    const views = await draw(flat, { jitterProbability: 0.8, brightness: 0.4, greyProbability: 0.2 }, 4);
    const [r, g, b] = [120 / 255, 60 / 255, 30 / 255];
    const luma = 0.2989 * r + 0.587 * g + 0.114 * b;
    let [greys, jitters, both] = [0, 0, 0];
    for (let i = 0; i < count; ++i) {
      const red = views[i * 192]!;
      const grey = Math.abs(red - views[i * 192 + 64]!) < 1e-5;
      const jitter = Math.abs(red - (grey ? luma : r)) > 1e-6;
      greys += grey ? 1 : 0;
      jitters += jitter ? 1 : 0;
      both += grey && jitter ? 1 : 0;
    }
    expect(Math.abs(greys / count - 0.2)).toBeLessThan((sigmas * 0.4) / Math.sqrt(count));
    expect(Math.abs(jitters / count - 0.8)).toBeLessThan((sigmas * 0.4) / Math.sqrt(count));
    expect(Math.abs(both / count - 0.16)).toBeLessThan(sigmas * Math.sqrt((0.16 * 0.84) / count));
  });

  it('draws brightness evenly within its range', async () => {
    const views = await draw(flat, { jitterProbability: 1, brightness: 0.4 }, 5);
    const factors = Float64Array.from({ length: count }, (_, i) => views[i * 192]! / (120 / 255)).toSorted();
    expect(factors[0]).toBeGreaterThanOrEqual(0.6 - 1e-6);
    expect(factors.at(-1)).toBeLessThanOrEqual(1.4 + 1e-6);
    const worst = Math.max(...Array.from(factors, (factor, i) => Math.abs((factor - 0.6) / 0.8 - i / count)));
    expect(worst).toBeLessThan(2 / Math.sqrt(count)); // Kolmogorov-Smirnov, once in 1,500
  });

  it('leaves all other draws as they were when one option changes', async () => {
    const plain = await draw(map, {}, 6);
    const flipped = await draw(map, { flipProbability: 1, jitterProbability: 1, greyProbability: 0 }, 6);
    for (let i = 0; i < count; i += 97) {
      for (let y = 0; y < side; ++y) {
        for (let x = 0; x < side; ++x)
          expect(flipped[i * 192 + y * side + x]).toBe(plain[i * 192 + y * side + side - 1 - x]);
      }
    }
  });
});
