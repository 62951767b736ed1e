// Distils a network of your own, built of the operations that GraphBuilder has, and reads it back: npx tsx
// examples/own-student.ts --names names.txt --images photos
import { parseArgs } from 'node:util';
import {
  CategoryList,
  ClipTextEncoder,
  countParameters,
  Distiller,
  Encoder,
  GraphBuilder,
  ImageCache,
  loadStudent,
  loadTeacher,
  openDevice,
  openImageFolder,
  readViews,
  Student,
  TextualSemanticsBank,
  type Device,
  type Value,
} from 'lgdistill';

const { values: options } = parseArgs({
  options: {
    names: { type: 'string', default: 'names.txt' },
    images: { type: 'string', default: 'photos' },
    clip: { type: 'string', default: 'Xenova/clip-vit-base-patch32' },
    output: { type: 'string', default: 'runs/own-student' },
    epochs: { type: 'string', default: '90' },
    batch: { type: 'string', default: '64' },
  },
});

/**
 * MobileNetV1 (Howard et al. 2017, table 1) of a quarter of its width, with the embedding in the classifier's place.
 */
function makeStudent(device: Device, embeddingSize: number, seed = 0): Student {
  const g = new GraphBuilder('mobilenet_v1_025');
  const blocks = [
    [16, 1],
    [32, 2],
    [32, 1],
    [64, 2],
    [64, 1],
    [128, 2],
    [128, 1],
    [128, 1],
    [128, 1],
    [128, 1],
    [128, 1],
    [256, 2],
    [256, 1],
  ] as const;
  let x: Value = g.convNorm(g.images, 'features.0', { channels: 8, kernel: 3, stride: 2 }, 'relu');
  blocks.forEach(([channels, stride], i) => {
    const name = `features.${i + 1}`; // parameters are named by it: features.1.depthwise.0.weight
    x = g.convNorm(x, `${name}.depthwise`, { channels: x.channels, kernel: 3, stride, groups: x.channels }, 'relu');
    x = g.convNorm(x, `${name}.pointwise`, { channels }, 'relu');
  });
  const hidden = g.relu(g.linear(g.globalPool(x), 'head.0', { features: x.channels }));
  return new Student(
    g.name,
    device,
    embeddingSize,
    1,
    g.finish(g.linear(hidden, 'head.2', { features: embeddingSize })),
    seed,
  );
}

using device = await openDevice('auto');
await using encoder = await ClipTextEncoder.load(options.clip);
const tsb = await TextualSemanticsBank.build(await CategoryList.load(options.names), { encoder });
await using teacher = await loadTeacher(options.clip, { device });
const { embeddingSize, resolution, mean, std } = teacher;
using images = await ImageCache.build(await openImageFolder(options.images), { device, resolution });

const student = makeStudent(device, embeddingSize);
console.log(`${student.name}: ${countParameters(student.graph)} parameters`);
using distiller = new Distiller({
  device,
  teacher,
  student,
  tsb,
  images: images.length,
  config: {
    output: options.output,
    overwrite: true,
    train: { epochs: Number(options.epochs), batchSize: Number(options.batch) },
  },
});
for await (const event of distiller.run(images)) {
  if (event.type === 'step' && event.logged) console.log(`step ${event.step}: loss ${event.loss.toFixed(3)}`);
}

// The file has the weights and the graph: `lgdistill evaluate`, `lgdistill export --to onnx` and loadStudent read it as
// any student's.
const { student: read } = await loadStudent(options.output, { device });
using seen = new Encoder(read.compile({ batch: 1, resolution, training: false }));
const embedding = await seen.forward(
  await readViews(images, { images: Int32Array.of(0) }, { device, resolution, mean, std, augment: false }),
);
const cosines = tsb.names.map(
  (_, k) =>
    embedding.reduce((sum, value, d) => sum + value * tsb.data[k * embeddingSize + d]!, 0) / Math.hypot(...embedding),
);
console.log(`${images.ids[0]}: ${tsb.names[cosines.indexOf(Math.max(...cosines))]}`);
