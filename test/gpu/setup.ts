/** Teachers without files of anybody's: towers with start weights, the same at every call. */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { writeSafetensors } from '../../lib/files/safetensors.js';
import { initialWeights, modifiedResNet } from '../../lib/models/index.js';

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
export async function writeTeacher(
  folder: string,
  { layers, width, heads, outputDim }: Tower,
  imageSize: number,
): Promise<string> {
  await mkdir(folder, { recursive: true });
  await writeFile(
    join(folder, 'config.json'),
    JSON.stringify({ vision_config: { layers, width, heads, output_dim: outputDim, image_size: imageSize } }),
  );
  const weights = initialWeights(modifiedResNet({ layers, width, heads, outputDim, imageSize }), 1);
  await writeSafetensors(join(folder, 'visual.safetensors'), Object.entries(weights), {});
  return folder;
}
