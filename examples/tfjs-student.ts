// Trains a TensorFlow.js model of your own with bankLoss as its loss: npx tsx examples/tfjs-student.ts --names
// names.txt --images photos
import { parseArgs } from 'node:util';
import * as tf from '@tensorflow/tfjs';
import {
  bankLoss,
  BatchPlan,
  bankUpdate,
  CategoryList,
  ClipTextEncoder,
  ImageCache,
  loadTeacher,
  openDevice,
  openImageFolder,
  readViews,
  TextualSemanticsBank,
  VisualSemanticsBank,
} from 'lgdistill';

const { values: options } = parseArgs({
  options: {
    names: { type: 'string', default: 'names.txt' },
    images: { type: 'string', default: 'photos' },
    clip: { type: 'string', default: 'Xenova/clip-vit-base-patch32' },
    side: { type: 'string', default: '64' },
    batch: { type: 'string', default: '32' },
    steps: { type: 'string', default: '1000' },
  },
});
const [side, batchSize, steps] = [Number(options.side), Number(options.batch), Number(options.steps)];

using device = await openDevice('auto');
await using encoder = await ClipTextEncoder.load(options.clip);
const tsb = await TextualSemanticsBank.build(await CategoryList.load(options.names), { encoder });
const teacher = await loadTeacher(options.clip, { device, batch: batchSize });
if (teacher.kind === 'precomputed') throw new Error('this example shows the teacher the same views as the student');
const dimension = teacher.embeddingSize;
using images = await ImageCache.build(await openImageFolder(options.images), {
  device,
  resolution: Math.max(side, teacher.resolution),
});

// A patch embedding and two dense layers: TensorFlow.js trains convolutions slowly on a CPU.
const patch = 8;
const patches = side / patch;
const kernelInitializer = (seed: number) => tf.initializers.glorotNormal({ seed });
const model = tf.sequential({
  layers: [
    tf.layers.reshape({ inputShape: [side, side, 3], targetShape: [patches, patch, patches, patch * 3] }),
    tf.layers.permute({ dims: [1, 3, 2, 4] }),
    tf.layers.reshape({ targetShape: [patches * patches, patch * patch * 3] }),
    tf.layers.dense({ units: 32, activation: 'relu', kernelInitializer: kernelInitializer(1) }),
    tf.layers.flatten(),
    tf.layers.dense({ units: 128, activation: 'relu', kernelInitializer: kernelInitializer(2) }),
    tf.layers.dense({ units: dimension, kernelInitializer: kernelInitializer(3) }),
  ],
});
const optimizer = tf.train.adam(0.003);

/**
 * bankLoss as an operation that TensorFlow.js can differentiate. The loss is computed natively and so in a promise,
 * which a gradient tape cannot wait for: it is computed first, from the embeddings of a forward pass, and the tape is
 * then given its value and its gradient. Both passes see the same batch, so they give the same embeddings.
 */
const lossAt = (loss: number, gradient: tf.Tensor) =>
  tf.customGrad(() => ({ value: tf.scalar(loss), gradFunc: (dLoss) => gradient.mul(dLoss as tf.Tensor) }));

let { data: visual, seen } = VisualSemanticsBank.random(tsb.size, dimension, 0);
const plan = new BatchPlan(images, { batchSize, seed: 0 });
for (let step = 1; step <= steps; step++) {
  // The same draws for both: one crop, at the student's resolution and at the teacher's.
  const batch = plan.next();
  const views = (resolution: number) =>
    readViews(images, batch, { device, resolution, mean: teacher.mean, std: teacher.std });
  const zTeacher = await teacher.embed(await views(teacher.resolution), batchSize);
  const pixels = tf.tensor4d(await views(side), [batchSize, 3, side, side]).transpose<tf.Tensor4D>([0, 2, 3, 1]);

  const forward = () => model.apply(pixels, { training: true }) as tf.Tensor;
  const embeddings = tf.tidy(forward);
  const { loss, klTextual, gradient } = await bankLoss(
    {
      student: (await embeddings.data()) as Float32Array,
      teacher: zTeacher,
      textual: tsb.data,
      visual,
      dimension,
      studentTemperature: 0.2,
      teacherTemperature: 0.01,
      alpha: 0.5,
    },
    { device },
  );
  const dLoss = tf.tensor(gradient, [batchSize, dimension]);
  optimizer.minimize(() => lossAt(loss, dLoss)(forward()) as tf.Scalar);
  tf.dispose([pixels, embeddings, dLoss]);

  ({ visual, seen } = await bankUpdate(
    { teacher: zTeacher, textual: tsb.data, visual, seen, dimension, momentum: 0.99 },
    { device },
  ));
  if (step === 1 || step % 10 === 0) console.log(JSON.stringify({ step, loss, klTextual }));
}
await teacher.dispose();
