import { CommanderError } from 'commander';
import { beginning, ending, LgdError, messageOf } from '../errors.js';
import type { Terminal } from './terminal.js';

/** What the process ends with. */
export const exitCodes = { done: 0, failed: 1, usage: 2, interrupted: 130 } as const;

/**
 * Errors that mean the command line or the configuration file is wrong, whatever the files and the machine are like.
 */
const usageCodes: ReadonlySet<string> = new Set(['BAD_OPTION', 'BAD_CONFIG']);

/**
 * Prints an error as one block (code, message, mend; the stack with `--debug`) and says what to exit with.
 * With `--json`, stdout gets `{"error": {code, message, ...}}`.
 */
export function reportFailure(error: unknown, terminal: Terminal): number {
  if (error instanceof CommanderError && error.exitCode === 0) return exitCodes.done; // --help, --version
  const { code, message, mend, details } = describe(error);
  const lines = [
    terminal.warnRed(`error ${code}`),
    ...shortened(message)
      .split('\n')
      .map((line) => `  ${line}`),
    `  -> ${shortened(mend)}`,
  ];
  if (terminal.debug) lines.push(...stacks(error));
  terminal.warn(lines.join('\n'));
  terminal.emit({ error: details });
  if (code === 'ABORTED') return exitCodes.interrupted;
  return usageCodes.has(code) ? exitCodes.usage : exitCodes.failed;
}

/** Without the middle of what is too long to be read, as a path may be; `--json` gives it whole. */
function shortened(text: string): string {
  return text.replace(/\S{400,}/gu, (word) => `${beginning(word, 150)}[...]${ending(word, 150)}`);
}

function describe(error: unknown): { code: string; message: string; mend: string; details: Record<string, unknown> } {
  if (error instanceof LgdError) {
    const { code, message, mend } = error;
    const tail = message.lastIndexOf(mend);
    return { code, message: tail > 0 ? message.slice(0, tail).trimEnd() : message, mend, details: error.toJSON() };
  }
  const { syscall, code, permission, resource } = (error ?? {}) as Partial<NodeJS.ErrnoException> & {
    permission?: string;
    resource?: string;
  };
  if (syscall === 'uv_cwd')
    return describe(
      new LgdError('FILE_NOT_FOUND', 'the folder in which this was started is gone.', {
        mend: 'Change to another one (cd), and run it again',
        cause: error,
      }),
    );
  if (code === 'ERR_ACCESS_DENIED') {
    const what = `Node's permission model does not allow ${[permission, resource].filter(Boolean).join(' of ')}.`;
    return describe(
      new LgdError('BAD_FILE', what, {
        mend: 'Allow Node more (--allow-fs-read, --allow-fs-write), or run it without --permission',
        cause: error,
      }),
    );
  }
  const message = messageOf(error);
  return {
    code: 'UNEXPECTED',
    message,
    mend: 'Run it again with --debug, and report what it prints',
    details: { code: 'UNEXPECTED', message },
  };
}

/** The stack of an error and of each error underneath. */
function stacks(error: unknown): string[] {
  const lines: string[] = [];
  for (let current: unknown = error; current instanceof Error; current = current.cause) {
    lines.push(...(lines.length > 0 ? ['caused by'] : []), current.stack ?? current.message);
  }
  return lines;
}
