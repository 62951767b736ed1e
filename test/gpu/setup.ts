/** A distillation without files: images, names and teachers that are made up, the same at every call. */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { TextualSemanticsBank } from '../../lib/banks/textual.js';
import type { Device } from '../../lib/device.js';
import { writeSafetensors } from '../../lib/files/safetensors.js';
import { initialWeights, modifiedResNet } from '../../lib/models/index.js';
import type { Dataset } from '../../lib/train/batch.js';
import { randomNormal, randomNumbers } from '../fixtures/random.js';

/** Square images of smooth colour under a little noise, in host memory. The caller releases the store. */
export function madeUpImages({ addon }: Device, count: number, side: number): Dataset {
  const store = addon.makePixelStore({ memoryLimitBytes: 1e11, spillFolder: '' });
  const random = randomNumbers(11);
  const noise = Uint8Array.from({ length: 3 * side * side }, () => 16 * random());
  const pixels = new Uint8Array(3 * side * side);
  for (let image = 0; image < count; image++) {
    const [fx, fy] = [random() / 5, random() / 5];
    const waves = Array.from({ length: side }, (_, x) => 100 * Math.sin(fx * x + image));
    for (let y = 0, at = 0; y < side; y++) {
      const wave = Math.cos(fy * y);
      for (let x = 0; x < side; x++) for (let c = 0; c < 3; c++, at++) pixels[at] = 120 + waves[x]! * wave * (1 - 0.3 * c) + noise[at]!;
    }
    addon.appendPixels(store, side, side, pixels);
  }
  return { length: count, ids: Array.from({ length: count }, (_, i) => String(i)), sourceIndex: Int32Array.from({ length: count }, (_, i) => i), store };
}

export function madeUpBank(categories: number, dimension: number): TextualSemanticsBank {
  const names = Array.from({ length: categories }, (_, i) => `category ${i}`);
  return TextualSemanticsBank.fromEmbeddings(names, randomNormal(categories * dimension, 3), { encoderId: 'made up' });
}

export interface Tower {
  layers: number[];
  width: number;
  heads: number;
  outputDim: number;
}

/** CLIP RN50's image tower, and one that an emulated GPU runs within seconds. */
export const towers = {
  resnet50: { layers: [3, 4, 6, 3], width: 64, heads: 32, outputDim: 1024 },
  tiny: { layers: [1, 1, 1, 1], width: 2, heads: 4, outputDim: 16 },
} satisfies Record<string, Tower>;

/** Writes a teacher of this size with start weights, and returns its folder. */
export async function writeTeacher(folder: string, { layers, width, heads, outputDim }: Tower, imageSize: number): Promise<string> {
  await mkdir(folder, { recursive: true });
  await writeFile(join(folder, 'config.json'), JSON.stringify({ vision_config: { layers, width, heads, output_dim: outputDim, image_size: imageSize } }));
  const weights = initialWeights(modifiedResNet({ layers, width, heads, outputDim, imageSize }), 1);
  await writeSafetensors(join(folder, 'visual.safetensors'), Object.entries(weights), {});
  return folder;
}
