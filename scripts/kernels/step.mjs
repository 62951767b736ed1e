// One training step of a student, one forward pass of a teacher, or the augmented views of a step (cost.mjs): prints
// how long the report was before it.
import { statSync } from 'node:fs';
import {
  CompiledEncoder,
  createStudent,
  initialWeights,
  modifiedResNet,
  openDevice,
  parseConfig,
} from '../../dist/index.js';
import { teachers } from './cost.mjs';

const [report, name, sideArgument, batchArgument, precision, clipNorm] = process.argv.slice(2);
const [resolution, batch, tower] = [Number(sideArgument), Number(batchArgument), teachers[name]];
const device = await openDevice('cuda');
const { addon, handle } = device;
const noise = (count, scale) => Float32Array.from({ length: count }, (_, i) => scale * Math.sin(i * 12.9898));
const writeImages = async (encoder) => {
  const images = encoder.makeImages();
  addon.writeImages(images, noise(batch * 3 * resolution ** 2, 2));
  await device.synchronize();
  return images;
};
if (name === 'views') {
  // images are kept somewhat larger than the views that are cropped from them
  const side = Math.round((resolution * 8) / 7);
  const store = addon.makePixelStore({ memoryLimitBytes: 1e9, spillFolder: '' });
  for (let image = 0; image < batch; image++)
    addon.appendPixels(
      store,
      side,
      side,
      Uint8Array.from({ length: 3 * side * side }, (_, i) => 128 + 100 * Math.sin(i * 0.001 * (image + 1))),
    );
  const images = addon.makeImages(handle, batch, resolution, resolution, precision === 'bfloat16');
  const numbers = Array.from({ length: batch }, (_, i) => i);
  const recipe = { ...parseConfig({}).augment, train: true, mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25] };
  const augment = () => addon.augment(store, recipe, { images: numbers, drawIds: numbers, seed: 1, epoch: 0 }, images);
  augment();
  await device.synchronize(); // now there is a report
  process.stdout.write(String(statSync(report).size));
  augment();
} else if (tower) {
  const graph = modifiedResNet({ ...tower, imageSize: resolution });
  const encoder = new CompiledEncoder(device, graph, { batch, resolution, training: false, precision });
  encoder.load(initialWeights(graph, 1));
  const images = await writeImages(encoder);
  process.stdout.write(String(statSync(report).size));
  encoder.forwardTensor(images);
} else {
  const encoder = createStudent(name, { device, embeddingSize: 1024, resolution }).compile({
    batch,
    resolution,
    training: true,
    precision,
  });
  const dOutput = addon.makeTensor(handle, [batch, encoder.info.outputSize]);
  addon.writeTensor(dOutput, noise(batch * encoder.info.outputSize, 1e-3));
  const images = await writeImages(encoder);
  process.stdout.write(String(statSync(report).size));
  encoder.zeroGradients();
  encoder.forwardTensor(images, { training: true });
  encoder.backwardTensor(dOutput);
  encoder.optimizerStep({ learningRate: 1e-6, clipNorm: Number(clipNorm) });
}
await device.synchronize();
process.exit(0); // nothing is left to lose, and the emulation's memory need not be taken apart
