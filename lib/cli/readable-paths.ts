import { isUtf8 } from 'node:buffer';
import { readFileSync, statSync } from 'node:fs';
import { LgdError } from '../errors.js';

/** What Node puts in the place of bytes that are not UTF-8. */
const replacement = '\uFFFD';

/**
 * Node has paths as text. Where bytes of one are not UTF-8, the text names another place, in which a command would
 * look, and write.
 * @param args of the command line
 * @throws LgdError BAD_OPTION naming the argument, or the folder in which this was started
 */
export function checkPathsAreReadable(args: readonly string[]): void {
  const lost = args.find((arg) => arg.includes(replacement));
  if (lost !== undefined && !isCommandLineUtf8()) {
    throw new LgdError('BAD_OPTION', `an argument is not UTF-8: ${JSON.stringify(lost)}.`, {
      mend: 'Give it in UTF-8: rename the file or folder, or make a symbolic link to it',
    });
  }
  const folder = workingFolder();
  if (folder?.includes(replacement) && !isWorkingFolder(folder)) {
    throw new LgdError('BAD_OPTION', `the path of the folder in which this was started is not UTF-8: "${folder}".`, {
      mend: 'Rename it, or start this in another folder',
    });
  }
}

/** A name may also have the replacement itself. */
function isCommandLineUtf8(): boolean {
  try {
    return isUtf8(readFileSync('/proc/self/cmdline'));
  } catch {
    return true; // without /proc nobody can tell
  }
}

/** Undefined where it is gone: what needs it says so. */
function workingFolder(): string | undefined {
  try {
    return process.cwd();
  } catch {
    return undefined;
  }
}

function isWorkingFolder(path: string): boolean {
  const found = statSync(path, { throwIfNoEntry: false });
  const started = statSync('.');
  return found?.ino === started.ino && found.dev === started.dev;
}
