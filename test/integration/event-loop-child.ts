/**
 * Trains in a process of its own and watches the event loop: node child.mjs <configuration file>. Prints a line of JSON: the delays in milliseconds
 * while nothing happens and while the run goes on, checkpoints included.
 */
import { readFileSync } from 'node:fs';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { setTimeout } from 'node:timers/promises';
import type { ConfigInput } from '../../lib/config.js';
import { prepareRun } from '../../lib/train/setup.js';

const delay = monitorEventLoopDelay({ resolution: 1 });
const milliseconds = (nanoseconds: number) => nanoseconds / 1e6;
const measured = () => ({ p50: milliseconds(delay.percentile(50)), p99: milliseconds(delay.percentile(99)), max: milliseconds(delay.max), samples: delay.count });

await using run = await prepareRun(JSON.parse(readFileSync(process.argv[2]!, 'utf8')) as ConfigInput);
delay.enable();
await setTimeout(1500);
const idle = measured();
let steps = 0;
let checkpoints = 0;
delay.reset();
for await (const event of run.run()) {
  if (event.type === 'step') steps++;
  if (event.type === 'checkpoint') checkpoints++;
}
process.stdout.write(`${JSON.stringify({ idle, training: measured(), steps, checkpoints })}\n`);
