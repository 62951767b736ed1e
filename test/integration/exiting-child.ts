/**
 * Ends itself while a device works on what was queued, without waiting: node child.mjs cpu|cuda promised|silent
 * <milliseconds after it began>. promised: an environment that ends waits for what has a promise; silent: for the rest
 * it does not.
 */
import { openDevice, type DeviceKind } from '../../lib/device.js';
import { bankLoss } from '../../lib/semantic/index.js';

const [, , kind, queued, milliseconds] = process.argv as [string, string, DeviceKind, string, string];
const device = await openDevice(kind);
if (queued === 'promised') {
  const [images, categories, dimension] = kind === 'cpu' ? [256, 4000, 128] : [64, 500, 128];
  const rows = (count: number): Float32Array =>
    Float32Array.from({ length: count * dimension }, (_, i) => Math.sin(i * 12.9898));
  const [student, teacher, textual] = [rows(images), rows(images), rows(categories)];
  for (let i = 0; i < 40; i++)
    void bankLoss(
      { student, teacher, textual, dimension, alpha: 0, studentTemperature: 0.2, teacherTemperature: 0.05 },
      { device },
    );
} else {
  const [from, to] = [0, 1].map(() => device.addon.makeTensor(device.handle, [64, 64]));
  for (let i = 0; i < 100_000; i++) device.addon.copyTensor(from!, to!);
}
setTimeout(() => process.exit(0), Number(milliseconds));
