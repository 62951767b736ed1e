/**
 * Images, names and a teacher that are made up, the same at every call: what measurements and comparisons of devices
 * train on where nobody has given any.
 */
import { TextualSemanticsBank } from '../banks/textual.js';
import { VisualSemanticsBank } from '../banks/visual.js';
import { PhiloxStream } from '../data/philox.js';
import type { Device } from '../device.js';
import { clipMean, clipStd } from '../models/teachers/preprocessor.js';
import type { CustomTeacherApi } from '../models/teachers/types.js';
import type { Dataset } from './batch.js';

/** Square images of smooth colour under a little noise, in host memory. The caller releases the store. */
export function madeUpImages({ addon }: Device, count: number, side: number): Dataset {
  const store = addon.makePixelStore({ memoryLimitBytes: 1e11, spillFolder: '' });
  const random = new PhiloxStream(11n, 0n);
  const noise = Uint8Array.from({ length: 3 * side * side }, () => 16 * random.next());
  const pixels = new Uint8Array(3 * side * side);
  for (let image = 0; image < count; image++) {
    const [fx, fy] = [random.next() / 5, random.next() / 5];
    const waves = Array.from({ length: side }, (_, x) => 100 * Math.sin(fx * x + image));
    for (let y = 0, at = 0; y < side; y++) {
      const wave = Math.cos(fy * y);
      for (let x = 0; x < side; x++)
        for (let c = 0; c < 3; c++, at++) pixels[at] = 120 + waves[x]! * wave * (1 - 0.3 * c) + noise[at]!;
    }
    addon.appendPixels(store, side, side, pixels);
  }
  return {
    length: count,
    ids: Array.from({ length: count }, (_, i) => String(i)),
    sourceIndex: Int32Array.from({ length: count }, (_, i) => i),
    store,
  };
}

/** K unit rows of D values that mean nothing. */
export function madeUpBank(categories: number, dimension: number): TextualSemanticsBank {
  const names = Array.from({ length: categories }, (_, i) => `category ${i}`);
  return TextualSemanticsBank.fromEmbeddings(names, VisualSemanticsBank.random(categories, dimension, 3).data, {
    encoderId: 'made up',
  });
}

/** Mean colours of a 4 x 4 grid, times a matrix that means nothing: computed on the host. */
export function madeUpTeacher(dimension: number, resolution: number): CustomTeacherApi {
  const cells = 4;
  const matrix = VisualSemanticsBank.random(dimension, 3 * cells * cells, 5).data;
  const nothing = async () => undefined;
  return {
    kind: 'custom',
    id: 'made up',
    embeddingSize: dimension,
    resolution,
    mean: clipMean,
    std: clipStd,
    embed: async (pixels, batch) => {
      const colours = new Float32Array(batch * 3 * cells * cells);
      pixels.forEach((value, i) => {
        const [x, y, plane] = [
          i % resolution,
          Math.floor(i / resolution) % resolution,
          Math.floor(i / resolution ** 2),
        ];
        colours[
          (plane * cells + Math.floor((y * cells) / resolution)) * cells + Math.floor((x * cells) / resolution)
        ]! += value;
      });
      const size = 3 * cells * cells;
      return Float32Array.from({ length: batch * dimension }, (_, at) => {
        const [image, row] = [Math.floor(at / dimension) * size, (at % dimension) * size];
        let sum = 0;
        for (let i = 0; i < size; i++) sum += colours[image + i]! * matrix[row + i]!;
        return sum;
      });
    },
    fingerprint: async () => `made up ${dimension}`,
    dispose: nothing,
    [Symbol.dispose]: () => undefined,
    [Symbol.asyncDispose]: nothing,
  };
}
