// One training step of a student, or one forward pass of a teacher (cost.mjs): prints how long the report was before it.
import { statSync } from 'node:fs';
import { CompiledEncoder, createStudent, initialWeights, modifiedResNet, openDevice } from '../../dist/index.js';
import { teachers } from './cost.mjs';

const [report, name, sideArgument, batchArgument, precision] = process.argv.slice(2);
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
if (tower) {
  const graph = modifiedResNet({ ...tower, imageSize: resolution });
  const encoder = new CompiledEncoder(device, graph, { batch, resolution, training: false, precision });
  encoder.load(initialWeights(graph, 1));
  const images = await writeImages(encoder);
  process.stdout.write(String(statSync(report).size));
  encoder.forwardTensor(images);
} else {
  const encoder = createStudent(name, { device, embeddingSize: 1024 }).compile({ batch, resolution, training: true, precision });
  const dOutput = addon.makeTensor(handle, [batch, encoder.info.outputSize]);
  addon.writeTensor(dOutput, noise(batch * encoder.info.outputSize, 1e-3));
  const images = await writeImages(encoder);
  process.stdout.write(String(statSync(report).size));
  encoder.zeroGradients();
  encoder.forwardTensor(images, { training: true });
  encoder.backwardTensor(dOutput);
  encoder.sgdStep({ learningRate: 1e-6 });
}
await device.synchronize();
process.exit(0); // nothing is left to lose, and the emulation's memory need not be taken apart
