/**
 * Trains many small steps in a process of its own: node --expose-gc child.mjs <configuration file> <samples>. Prints a
 * line of JSON: memory in KiB, taken at even distances, once everything that can be collected has been.
 */
import { readFileSync } from 'node:fs';
import { setImmediate } from 'node:timers/promises';
import type { ConfigInput } from '../../lib/config/config.js';
import { prepareRun } from '../../lib/train/setup.js';

const [, , file, samples] = process.argv;
const run = await prepareRun(JSON.parse(readFileSync(file!, 'utf8')) as ConfigInput);
const memory: { step: number; resident: number; heap: number; external: number }[] = [];
let every = Infinity;
for await (const event of run.run()) {
  if (event.type === 'start') every = Math.floor(event.lastStep / Number(samples));
  if (event.type !== 'step' || event.step % every !== 0) continue;
  for (let i = 0; i < 4; i++) {
    globalThis.gc!();
    await setImmediate(); // finalizers run between turns
  }
  const { rss, heapUsed, external } = process.memoryUsage();
  memory.push({ step: event.step, resident: rss / 1024, heap: heapUsed / 1024, external: external / 1024 });
}
await run.dispose();
console.log(JSON.stringify(memory));
