import { exitCodes } from './failure.js';
import { runProgram } from './program.js';

// The first Ctrl-C lets the command finish its step and write a checkpoint; the second ends the process. npx and timeout pass on a signal that the terminal has
// sent already, so what comes right after the first is the same one.
const echoMilliseconds = 500;
const controller = new AbortController();
let stopping: number | undefined;
for (const name of ['SIGINT', 'SIGTERM'] as const) {
  process.on(name, () => {
    if (stopping !== undefined && performance.now() - stopping < echoMilliseconds) return;
    if (stopping !== undefined) process.exit(exitCodes.interrupted);
    stopping = performance.now();
    process.stderr.write(`\n${name}: stopping; once more to stop at once\n`);
    controller.abort(new Error(name));
  });
}
// A reader that has gone (`lgdistill names list.txt | head`) is no failure.
process.stdout.on('error', (error: NodeJS.ErrnoException) => error.code === 'EPIPE' && process.exit(exitCodes.done));

process.exitCode = await runProgram(process.argv.slice(2), process, controller.signal);
