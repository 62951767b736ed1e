// What the scripts start programs by.
import { spawnSync } from 'node:child_process';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = join(dirname(fileURLToPath(import.meta.url)), '..');

/** The path of a program that a development dependency brings. */
export const bin = (name) => join(root, 'node_modules', '.bin', name);

/**
 * Runs a program to its end.
 * @param options of spawnSync; the folder is the checkout's unless it says another
 * @returns what it printed
 * @throws Error with all that it printed, unless it ended with 0
 */
export function run(command, args, options = {}) {
  const { status, stdout, stderr, error } = spawnSync(command, args, {
    cwd: root,
    encoding: 'utf8',
    maxBuffer: 1 << 28,
    ...options,
  });
  if (status !== 0)
    throw new Error(`${command} ${args.join(' ')} failed: ${error?.message ?? `${stdout ?? ''}${stderr ?? ''}`}`);
  return stdout ?? '';
}
