// Distils from a teacher that this package does not know, an object with a function that embeds pixels: npx tsx
// examples/own-teacher.ts --images photos
import { parseArgs } from 'node:util';
import { createStudent, Distiller, ImageCache, openDevice, openImageFolder, type CustomTeacherApi } from 'lgdistill';

const { values: options } = parseArgs({
  options: {
    images: { type: 'string', default: 'photos' },
    output: { type: 'string', default: 'runs/own-teacher' },
    epochs: { type: 'string', default: '90' },
    batch: { type: 'string', default: '64' },
    rate: { type: 'string', default: '0.03' },
  },
});

/** Mean colours of the cells of a grid: put your own model, or a request to a server, in their place. */
const [resolution, cells] = [64, 4];
const cell = resolution / cells;
const teacher: CustomTeacherApi = {
  kind: 'custom', // computed outside the device, whatever by
  id: 'colours',
  embeddingSize: 3 * cells * cells,
  resolution,
  mean: [0.5, 0.5, 0.5],
  std: [0.25, 0.25, 0.25],
  async embed(pixels, batch) {
    const embeddings = new Float32Array(batch * teacher.embeddingSize);
    pixels.forEach((value, i) => {
      // plane: image * 3 + channel
      const [x, y, plane] = [i % resolution, Math.floor(i / resolution) % resolution, Math.floor(i / resolution ** 2)];
      embeddings[(plane * cells + Math.floor(y / cell)) * cells + Math.floor(x / cell)]! += value / cell ** 2;
    });
    return embeddings;
  },
  fingerprint: async () => 'colours 4x4', // a model's: a hash of its weights
  dispose: async () => undefined,
  [Symbol.dispose]: () => undefined,
  [Symbol.asyncDispose]: async () => undefined,
};

using device = await openDevice('auto');
using images = await ImageCache.build(await openImageFolder(options.images), { device, resolution });
const student = createStudent('mobilenet_v2', { device, embeddingSize: teacher.embeddingSize });
// Without a text tower in the teacher's space there are no names: the methods seed and feature do without.
const train = { epochs: Number(options.epochs), batchSize: Number(options.batch), learningRate: Number(options.rate) };
using distiller = new Distiller({
  device,
  teacher,
  student,
  config: { method: 'feature', output: options.output, overwrite: true, train },
});
for await (const event of distiller.run(images)) {
  if (event.type === 'step') console.log(`step ${event.step}: 1 - cosine ${event.loss.toFixed(4)}`);
}
