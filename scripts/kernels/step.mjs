// One training step of a student (cost.mjs): prints how long the report was before it.
import { statSync } from 'node:fs';
import { createStudent, openDevice } from '../../dist/index.js';

const [report, name, resolution, batch, precision] = process.argv.slice(2);
const device = await openDevice('cuda');
const { addon, handle } = device;
const student = createStudent(name, { device, embeddingSize: 1024 });
const encoder = student.compile({ batch: Number(batch), resolution: Number(resolution), training: true, precision });
const noise = (count, scale) => Float32Array.from({ length: count }, (_, i) => scale * Math.sin(i * 12.9898));
const images = encoder.makeImages();
const dOutput = addon.makeTensor(handle, [Number(batch), encoder.info.outputSize]);
addon.writeImages(images, noise(Number(batch) * 3 * Number(resolution) ** 2, 2));
addon.writeTensor(dOutput, noise(Number(batch) * encoder.info.outputSize, 1e-3));
await device.synchronize();
process.stdout.write(String(statSync(report).size));
encoder.zeroGradients();
encoder.forwardTensor(images, { training: true });
encoder.backwardTensor(dOutput);
encoder.sgdStep({ learningRate: 1e-6 });
await device.synchronize();
process.exit(0); // nothing is left to lose, and the emulation's memory need not be taken apart
