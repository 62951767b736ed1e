#!/usr/bin/env node
/**
 * The program's entry. It is no module, because modules are read by libuv's threads, and how many there are, for
 * decoding images too, is settled when the first one starts.
 */
import os = require('node:os'); // eslint-disable-line @typescript-eslint/no-require-imports -- this is CommonJS

interface Refusal {
  code: string;
  message: string;
  mend: string;
}

process.env['UV_THREADPOOL_SIZE'] ??= String(Math.max(4, os.availableParallelism()));
void import('./main.js').catch((error: NodeJS.ErrnoException & { permission?: string; resource?: string }) => {
  const refusal = describe(error);
  if (refusal === undefined) throw error;
  const { code, message, mend } = refusal;
  process.stderr.write(`error ${code}\n  ${message}\n  -> ${mend}\n`);
  if (process.argv.includes('--json')) process.stdout.write(`${JSON.stringify({ error: refusal })}\n`);
  process.exitCode = 1;
});

/** Says why the program's own files cannot be read; what has words for all other errors is among them. */
function describe(error: NodeJS.ErrnoException & { permission?: string; resource?: string }): Refusal | undefined {
  const { code, message, permission, resource } = error;
  if (code === 'EMFILE' || code === 'ENFILE')
    return {
      code: 'BAD_FILE',
      message: `too many open files to start: ${message}.`,
      mend: 'Allow this process more of them: ulimit -n 1024',
    };
  if (code === 'ERR_ACCESS_DENIED')
    return {
      code: 'BAD_FILE',
      message: `Node's permission model does not allow ${[permission, resource].filter(Boolean).join(' of ')}.`,
      mend: 'Allow Node to read the packages (--allow-fs-read, with their node_modules), or run it without --permission',
    };
  if (code === 'EACCES' || code === 'EPERM')
    return { code: 'BAD_FILE', message: `cannot read the program itself: ${message}.`, mend: 'Check its permissions' };
  if (code === 'ERR_MODULE_NOT_FOUND' || code === 'MODULE_NOT_FOUND')
    return {
      code: 'DEPENDENCY_MISSING',
      message: `the installation is not whole: ${message.split('\n')[0]!.replace(/\.$/u, '')}.`,
      mend: 'Install lgdistill again',
    };
  return undefined;
}
