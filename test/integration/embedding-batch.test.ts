import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { ImageCache } from '../../lib/data/cache.js';
import { openImages } from '../../lib/data/open-images.js';
import { openDevice, type Device } from '../../lib/device.js';
import { teacherEmbedder } from '../../lib/evaluate/embed.js';
import { ImageFeatures } from '../../lib/evaluate/features.js';
import { initialWeights } from '../../lib/models/initialise.js';
import { loadTeacher } from '../../lib/models/index.js';
import { studentGraph } from '../../lib/models/student.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { drawShapes, sameBits, smallCache } from '../fixtures/tiny.js';

// How many images an evaluation embeds at once follows from their pixels.

const dinov2 = fileURLToPath(new URL('../vectors/towers/transformers-dinov2', import.meta.url));
const many = 256;
const folder = temporaryFolder();
const data = join(folder, 'images');

async function teacherOf(device: Device, resolution: number) {
  const teacher = await loadTeacher(dinov2, { device, resolution });
  if (teacher.kind !== 'native') throw new Error(`a native teacher, found ${teacher.kind}`);
  return teacher;
}

/** Bytes of the device that embedding with so large images takes. */
async function bytesAt(
  resolution: number,
  make: (device: Device, resolution: number) => Promise<Disposable>,
): Promise<number> {
  using device = await openDevice('cpu');
  using embedder = await make(device, resolution);
  expect(embedder).toBeDefined();
  return device.info.allocatedBytes;
}

it.each([
  [
    'a teacher',
    async (device: Device, resolution: number) =>
      teacherEmbedder(device, await teacherOf(device, resolution), { batch: many }),
  ],
  [
    'a student',
    async (device: Device, resolution: number) => {
      const graph = studentGraph('mobilenet_v3_small', { embeddingSize: 8 });
      const [mean, std] = [
        [0, 0, 0],
        [1, 1, 1],
      ] as const;
      return ImageFeatures.ofStudent({
        device,
        graph,
        weights: initialWeights(graph, 1),
        batch: many,
        resolution,
        precision: undefined,
        mean,
        std,
      });
    },
  ],
])('%s takes about the same memory for 518 pixels a side as for 224', async (_, make) => {
  const [large, usual] = [await bytesAt(518, make), await bytesAt(224, make)];
  expect(large).toBeGreaterThan(0.8 * usual); // no fewer images than fit
  expect(large).toBeLessThan(1.1 * usual);
});

it('the bits of an embedding do not depend on how many are made at once', async () => {
  using device = await openDevice('cpu');
  await drawShapes(data, { count: 3 });
  using images = await ImageCache.build(await openImages(data, { labels: 'folders' }), smallCache(device, folder));
  const teacher = await teacherOf(device, 28);
  const rowsBy = async (batch: number) => {
    using features = ImageFeatures.ofTeacher(device, teacher, { batch, precision: undefined, signal: undefined });
    return (await features.all(images, {})).rows;
  };
  const whole = await rowsBy(many);
  expect(whole.length).toBe(12 * teacher.embeddingSize);
  expect(sameBits(await rowsBy(5), whole)).toBe(true);
});
