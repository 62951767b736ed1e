/** Names of files that are not whole yet. */
import { randomBytes } from 'node:crypto';
import { basename, dirname, join } from 'node:path';

/** What tells a temporary file from every other one that is written beside it: by another call, thread, process or machine. */
export function uniqueMark(): string {
  return randomBytes(6).toString('hex');
}

/** Where a file is written that takes the place of another once it is whole. A kill may leave it. */
export function temporaryPath(path: string): string {
  return join(dirname(path), `.${basename(path)}.${uniqueMark()}.tmp`);
}

/** The name of the file that such a name stands for: `config.json` of `.config.json.0123456789ab.tmp`; undefined for any other name. */
export function temporaryOf(entry: string): string | undefined {
  return /^\.(?<name>.+)\.[0-9a-f]{12}\.tmp$/u.exec(entry)?.groups?.['name'];
}
