/**
 * Makes tensors of 2 MiB and forgets them, in a process of its own whose garbage collector nobody calls. Prints the
 * most that the device held at a time, in MiB, and how many times the whole heap was collected.
 */
import { constants, PerformanceObserver } from 'node:perf_hooks';
import { setTimeout } from 'node:timers/promises';
import { openDevice } from '../../lib/device.js';

const device = await openDevice('cpu', { threads: 1 });
const held = () => device.info.allocatedBytes / 2 ** 20;
let [most, collections] = [0, 0];
const observer = new PerformanceObserver((list) => {
  for (const { detail } of list.getEntries() as unknown as { detail: { kind: number } }[])
    collections += Number(detail.kind === constants.NODE_PERFORMANCE_GC_MAJOR);
});
observer.observe({ entryTypes: ['gc'] });
// A collection that has begun takes its time on a machine with other work. One that nothing but idling brings takes
// eight seconds to begin: of those there is time for two.
let patience = 800;
for (let i = 0; i < 400; i++) {
  device.addon.makeTensor(device.handle, [512, 1024]);
  await setTimeout(1); // finalizers run between turns of the event loop
  most = Math.max(most, held());
  for (; held() > 150 && patience > 0; patience--) await setTimeout(20);
}
await setTimeout(0); // for what the observer is still to be told
process.stdout.write(JSON.stringify({ most, collections }));
