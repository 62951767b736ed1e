/**
 * Starts threads that use a device of their own, and ends them in the middle of it: node child.mjs <kind>. Prints how
 * often the addon is mapped when threads alone have had it; then the main thread has it, too.
 */
import { readFileSync } from 'node:fs';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { openDevice, type DeviceKind } from '../../lib/device.js';
import { bankLoss } from '../../lib/semantic/index.js';

const [dimension, names, calls] = [16, 40, 8];
const rows = (count: number): Float32Array =>
  Float32Array.from({ length: count * dimension }, (_, i) => Math.sin(i * 12.9898));

async function endInTheMiddle(
  kind: DeviceKind,
  { rounds, threads }: { rounds: number; threads: number },
): Promise<void> {
  for (let round = 0; round < rounds; round++) {
    const workers = Array.from(
      { length: threads },
      () => new Worker(fileURLToPath(import.meta.url), { workerData: kind }),
    );
    await Promise.all(
      workers.map((worker) => new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject))),
    );
    await setTimeout(3 * Math.random());
    await Promise.all(workers.map((worker) => worker.terminate()));
  }
}

if (isMainThread) {
  const kind = process.argv[2] as DeviceKind;
  await endInTheMiddle(kind, { rounds: 6, threads: 2 });
  process.stdout.write(
    `${
      readFileSync('/proc/self/maps', 'utf8')
        .split('\n')
        .filter((line) => line.endsWith('/lgdistill.node')).length
    }\n`,
  );
  using device = await openDevice(kind, { threads: 1 });
  await endInTheMiddle(kind, { rounds: 8, threads: 8 });
  await device.synchronize();
} else {
  const device = await openDevice(workerData as DeviceKind, { threads: 1 });
  const [student, teacher, textual] = [rows(2), rows(2), rows(names)];
  const loss = () =>
    bankLoss(
      { student, teacher, textual, dimension, alpha: 0, studentTemperature: 0.2, teacherTemperature: 0.1 },
      { device },
    );
  parentPort!.postMessage('ready');
  for (;;) await Promise.all([...Array.from({ length: calls }, () => device.synchronize()), loss()]);
}
