import { mkdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import sharp from 'sharp';
import { initialWeights } from '../../lib/models/initialise.js';
import { studentGraph } from '../../lib/models/student.js';
import { writeStudent } from '../../lib/runs/student-file.js';
import { encodePng } from '../fixtures/png.js';
import { randomNumbers } from '../fixtures/random.js';

/** A student's file with start values: what training begins from where nothing was distilled. */
export async function untrainedStudent(file: string, { architecture = 'mobilenet_v2', widthMultiplier = 0.35, embeddingSize = 16, names = ['a', 'b'], seed = 1 } = {}): Promise<string> {
  const graph = studentGraph(architecture, { embeddingSize, widthMultiplier });
  await writeStudent(file, {
    architecture, widthMultiplier, embeddingSize, resolution: 64, mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25], names, templates: [], bankHash: '', textEncoder: 'made up', teacher: 'made up', method: 'lgd', step: 0, epoch: 0,
  }, initialWeights(graph, seed));
  return file;
}

/** A rectangle and a circle on a ground, each of a class of its own: pixels [height, width] of labels 0, 1, 2. */
export function drawScene(width: number, height: number, random: () => number): { svg: string; labels: Uint8Array; boxes: { label: number; box: [number, number, number, number] }[] } {
  const colour = (hue: number) => `hsl(${hue + 20 * random()} 80% ${40 + 20 * random()}%)`;
  const [w, h, r] = [Math.round(width * (0.25 + 0.15 * random())), Math.round(height * (0.3 + 0.2 * random())), Math.round(Math.min(width, height) * (0.16 + 0.06 * random()))];
  const [x, y] = [Math.round(width * 0.08 * random()), Math.round((height - h) * random())];
  const [cx, cy] = [Math.round(width - r - width * 0.08 * random()), Math.round(r + (height - 2 * r) * random())];
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}"><rect width="100%" height="100%" fill="${colour(100)}"/><rect x="${x}" y="${y}" width="${w}" height="${h}" fill="${colour(0)}"/><circle cx="${cx}" cy="${cy}" r="${r}" fill="${colour(220)}"/></svg>`;
  const labels = new Uint8Array(width * height);
  for (let py = 0; py < height; py++) {
    for (let px = 0; px < width; px++) {
      if (px >= x && px < x + w && py >= y && py < y + h) labels[py * width + px] = 1;
      if ((px + 0.5 - cx) ** 2 + (py + 0.5 - cy) ** 2 < r * r) labels[py * width + px] = 2;
    }
  }
  return { svg, labels, boxes: [{ label: 1, box: [x, y, w, h] }, { label: 2, box: [cx - r, cy - r, 2 * r, 2 * r] }] };
}

export const sceneClasses = ['ground', 'rectangle', 'circle'];

/** A folder of scenes with palette masks in the pairs layout; the last row of each mask is to be ignored. */
export async function drawScenes(folder: string, { count, sizes = [[96, 64], [64, 80]], seed = 3, split = '' }: { count: number; sizes?: [number, number][]; seed?: number; split?: string }): Promise<string> {
  const random = randomNumbers(seed);
  for (let i = 0; i < count; i++) {
    const [width, height] = sizes[i % sizes.length]!;
    const { svg, labels } = drawScene(width, height, random);
    labels.fill(255, width * (height - 1));
    const [image, mask] = [join(folder, 'images', split, `${i}.png`), join(folder, 'masks', split, `${i}.png`)];
    for (const file of [image, mask]) await mkdir(dirname(file), { recursive: true });
    await writeFile(image, await sharp(Buffer.from(svg)).png().toBuffer());
    await writeFile(mask, encodePng({ width, height, bits: 8, colour: 3, values: labels }));
  }
  await writeFile(join(folder, 'classes.txt'), `${sceneClasses.join('\n')}\n`);
  return folder;
}

/** A COCO file of one box in each of the first scenes of 64 px. */
export async function annotateScenes(file: string, count: number): Promise<string> {
  const images = Array.from({ length: count }, (_, id) => ({ id, file_name: `${id}.png`, width: 64, height: 64 }));
  const annotations = images.map(({ id }) => ({ id, image_id: id, category_id: 1, bbox: [8, 8, 24, 24], area: 576, iscrowd: 0 }));
  await writeFile(file, JSON.stringify({ images, annotations, categories: [{ id: 1, name: 'thing' }] }));
  return file;
}

/** What the smallest trainings need: a student, two scenes, and configurations of one step on their masks or boxes. */
export async function oneStepTrainings(folder: string) {
  const student = await untrainedStudent(join(folder, 'student.safetensors'));
  const scenes = await drawScenes(join(folder, 'scenes'), { count: 2, sizes: [[64, 64]] });
  const boxes = await annotateScenes(join(folder, 'boxes.json'), 2);
  const dense = { resolution: 64, batchSize: 2, maxSteps: 1, scaleMin: 1, scaleMax: 1, everyEpochs: 0 };
  const masked = () => ({ device: 'cpu', overwrite: true, dense: { ...dense, data: scenes } });
  const boxed = () => ({ device: 'cpu', overwrite: true, dense: { ...dense, data: join(scenes, 'images'), annotations: boxes, evaluationAnnotations: boxes } });
  return { student, scenes, boxes, dense, masked, boxed };
}
