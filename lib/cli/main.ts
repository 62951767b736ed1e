import { setImmediate as nextTurn } from 'node:timers/promises';
import { LgdError } from '../errors.js';
import { exitCodes, reportFailure } from './failure.js';
import { runProgram } from './program.js';
import { openTerminal } from './terminal.js';

// The first Ctrl-C lets the command finish its step and write a checkpoint; the second ends the process. npx and
// timeout pass on a signal that the terminal has sent already, so what comes right after the first is the same one. A
// terminal that closes does as Ctrl-C does; a process that has no terminal, as with nohup, goes on: Node takes nohup's
// protection away. SIGUSR1 and SIGUSR2 are how batch systems warn of the end; unheard, the first opens Node's debugger
// and the second kills.
const echoMilliseconds = 500;
const controller = new AbortController();
let stopping: number | undefined;
for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGUSR1', 'SIGUSR2'] as const) {
  process.on(name, () => {
    if (name === 'SIGHUP' && ![process.stdin, process.stdout, process.stderr].some(({ isTTY }) => isTTY)) return;
    if (stopping !== undefined && performance.now() - stopping < echoMilliseconds) return;
    if (stopping !== undefined) process.exit(exitCodes.interrupted);
    stopping = performance.now();
    process.stderr.write(`\n${name}: stopping; once more to stop at once\n`);
    controller.abort(new Error(name));
  });
}
// A reader that has gone (`lgdistill names list.txt | head`, `lgdistill distill | tee log` whose tee was killed) or a
// closed terminal is no failure: the command goes on, and what it prints is dropped. A run has its own log. What cannot
// be written for another reason, a full disk, is one.
let unwritten: Error | undefined;
for (const stream of [process.stdout, process.stderr]) {
  stream.on('error', (error: NodeJS.ErrnoException) => {
    const isGone =
      error.code === 'EPIPE' || error.code === 'ERR_STREAM_DESTROYED' || (error.code === 'EIO' && stream.isTTY);
    if (!isGone) unwritten = error;
  });
}

process.exitCode = await runProgram(process.argv.slice(2), process, controller.signal);
await nextTurn(); // in which streams tell of their last writes
if (unwritten !== undefined && process.exitCode === exitCodes.done) {
  const error = new LgdError('NOT_WRITABLE', `what the command printed is not whole: ${unwritten.message}.`, {
    mend: 'Make room where its output goes, and run it again',
    cause: unwritten,
  });
  process.exitCode = reportFailure(error, openTerminal(process, { json: false, debug: false }));
}
