/**
 * Makes tensors of 2 MiB and forgets them, in a process of its own whose garbage collector nobody calls. Prints the
 * most that the device held at a time, in MiB.
 */
import { setTimeout } from 'node:timers/promises';
import { openDevice } from '../../lib/device.js';

const device = await openDevice('cpu', { threads: 1 });
let most = 0;
for (let i = 0; i < 400; i++) {
  device.addon.makeTensor(device.handle, [512, 1024]);
  await setTimeout(1); // finalizers run between turns of the event loop
  most = Math.max(most, device.info.allocatedBytes / 2 ** 20);
}
process.stdout.write(`${most}\n`);
