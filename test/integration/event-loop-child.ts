/**
 * Trains in a process of its own and watches its event loop: node child.mjs <configuration file>. Prints a line of
 * JSON: the delays of the main thread while the run goes on, checkpoints included, and meanwhile those of another
 * thread that does nothing, in milliseconds. What that one waits for is the machine's doing.
 */
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { Worker } from 'node:worker_threads';
import type { ConfigInput } from '../../lib/config/config.js';
import { prepareRun } from '../../lib/train/setup.js';

/**
 * The text of a function that a thread runs: it starts to measure at once, and answers the first message with what it
 * found.
 */
const idleThread = `
const { monitorEventLoopDelay } = require('node:perf_hooks');
const { parentPort } = require('node:worker_threads');
const delay = monitorEventLoopDelay({ resolution: 1 });
delay.enable();
parentPort.postMessage('ready');
parentPort.once('message', () => parentPort.postMessage({ p99: delay.percentile(99) / 1e6, samples: delay.count }));
`;

await using run = await prepareRun(JSON.parse(readFileSync(process.argv[2]!, 'utf8')) as ConfigInput);
const thread = new Worker(idleThread, { eval: true });
await once(thread, 'message');
const delay = monitorEventLoopDelay({ resolution: 1 });
delay.enable();
let steps = 0;
let checkpoints = 0;
for await (const event of run.run()) {
  if (event.type === 'step') steps++;
  if (event.type === 'checkpoint') checkpoints++;
}
const training = { p99: delay.percentile(99) / 1e6, max: delay.max / 1e6, samples: delay.count };
thread.postMessage('stop');
const [idle] = (await once(thread, 'message')) as [unknown];
process.stdout.write(`${JSON.stringify({ idle, training, steps, checkpoints })}\n`);
