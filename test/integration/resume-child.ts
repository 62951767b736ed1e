/**
 * Trains in a process of its own, so that it can be killed: node child.mjs <configuration file> [<resume>]. Prints a line
 * for each event. With $KILL_AT=lines,milliseconds it kills itself that long after so many lines, and waits for it four
 * lines later.
 */
import { readFileSync } from 'node:fs';
import type { ConfigInput } from '../../lib/config/config.js';
import { prepareRun } from '../../lib/train/setup.js';

const [, , file, resume] = process.argv;
const run = await prepareRun(JSON.parse(readFileSync(file!, 'utf8')) as ConfigInput, { resume });
const [killAt = Infinity, delay] = (process.env['KILL_AT'] ?? '').split(',').filter(Boolean).map(Number);
let lines = 0;
for await (const { type, step } of run.run()) {
  process.stdout.write(`${type} ${step}\n`);
  if (++lines === killAt) setTimeout(() => process.kill(process.pid, 'SIGKILL'), delay);
  if (lines === killAt + 4) await new Promise(() => undefined);
}
await run.dispose();
