#!/usr/bin/env node
import { exitCodes } from './failure.js';
import { runProgram } from './program.js';

// The first Ctrl-C lets the command finish its step and write a checkpoint; the second ends the process.
const controller = new AbortController();
let stopping = false;
for (const name of ['SIGINT', 'SIGTERM'] as const) {
  process.on(name, () => {
    if (stopping) process.exit(exitCodes.interrupted);
    stopping = true;
    process.stderr.write(`\n${name}: stopping; once more to stop at once\n`);
    controller.abort(new Error(name));
  });
}
// A reader that has gone (`lgdistill names list.txt | head`) is no failure.
process.stdout.on('error', (error: NodeJS.ErrnoException) => error.code === 'EPIPE' && process.exit(exitCodes.done));

process.exitCode = await runProgram(process.argv.slice(2), process, controller.signal);
