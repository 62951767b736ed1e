/**
 * Ends itself while a device works on what was queued, without waiting: node child.mjs cpu|cuda <milliseconds after it
 * began>.
 */
import { openDevice, type DeviceKind } from '../../lib/device.js';
import { bankLoss } from '../../lib/semantic/index.js';

const [, , kind, milliseconds] = process.argv as [string, string, DeviceKind, string];
const [images, categories, dimension] = kind === 'cpu' ? [256, 4000, 128] : [64, 500, 128];
const rows = (count: number): Float32Array =>
  Float32Array.from({ length: count * dimension }, (_, i) => Math.sin(i * 12.9898));
const [student, teacher, textual] = [rows(images), rows(images), rows(categories)];
const device = await openDevice(kind);
for (let i = 0; i < 40; i++)
  void bankLoss(
    { student, teacher, textual, dimension, alpha: 0, studentTemperature: 0.2, teacherTemperature: 0.05 },
    { device },
  );
setTimeout(() => process.exit(0), Number(milliseconds));
