/**
 * Trains in a process of its own, so that it can be killed: node child.mjs <configuration file> [resume]. Prints a line
 * for each event.
 */
import { readFileSync } from 'node:fs';
import type { ConfigInput } from '../../lib/config/config.js';
import { prepareRun } from '../../lib/train/setup.js';

const [, , file, resume] = process.argv;
const run = await prepareRun(JSON.parse(readFileSync(file!, 'utf8')) as ConfigInput, { resume });
for await (const { type, step } of run.run()) process.stdout.write(`${type} ${step}\n`);
await run.dispose();
