import type { Ask } from './ask.js';
import type { Terminal } from './terminal.js';

/** What every command works with. */
export interface Context {
  terminal: Terminal;
  /** Fires on the first Ctrl-C, SIGTERM, SIGUSR1, SIGUSR2, or SIGHUP of a terminal. */
  signal: AbortSignal;
  /** Asks the person at the terminal; undefined where there is none. */
  ask: Ask | undefined;
}

/** What a command does with its arguments; it returns an exit code, or nothing for 0. */
export type Action = (context: Context, ...args: unknown[]) => Promise<number | void>;

/** Makes an action a handler for commander. */
export type Bind = (action: Action) => (...args: unknown[]) => Promise<void>;
