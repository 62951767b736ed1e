#!/usr/bin/env node
/**
 * The program's entry. It is no module, because modules are read by libuv's threads, and how many there are, for
 * decoding images too, is settled when the first one starts.
 */
import os = require('node:os'); // eslint-disable-line @typescript-eslint/no-require-imports -- this is CommonJS

process.env['UV_THREADPOOL_SIZE'] ??= String(Math.max(4, os.availableParallelism()));
void import('./main.js').catch((error: NodeJS.ErrnoException) => {
  if (error.code !== 'EMFILE' && error.code !== 'ENFILE') throw error;
  process.stderr.write(
    `error BAD_FILE\n  too many open files to start: ${error.message}.\n  -> Allow this process more of them: ulimit -n 1024\n`,
  );
  process.exitCode = 1;
});
