/** Names of files that are not whole yet. */
import { randomBytes } from 'node:crypto';
import { readdir, rm, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';

/**
 * What tells a temporary file from every other one that is written beside it: by another call, thread, process or
 * machine.
 */
export function uniqueMark(): string {
  return randomBytes(6).toString('hex');
}

/** Where a file or folder is written that takes the place of another once it is whole. A kill may leave it. */
export function temporaryPath(path: string): string {
  return join(dirname(path), `.${basename(path)}.${uniqueMark()}.tmp`);
}

/**
 * The name of the file that such a name stands for: `config.json` of `.config.json.0123456789ab.tmp`; undefined for any
 * other name.
 */
export function temporaryOf(entry: string): string | undefined {
  return /^\.(?<name>.+)\.[0-9a-f]{12}\.tmp$/u.exec(entry)?.groups?.['name'];
}

const deadAfter = 3_600_000; // ms without a change, by clocks of several machines

/**
 * Removes what was to take the place of a file or folder and was left by a kill, with what was to take a place in it.
 * What has changed within the last hour may be another process's.
 */
export async function removeLeft(path: string): Promise<void> {
  for (const entry of await readdir(dirname(path)).catch(() => [])) {
    let name = temporaryOf(entry);
    if (name !== undefined) name = temporaryOf(name) ?? name;
    if (name !== basename(path)) continue;
    const left = join(dirname(path), entry);
    const changed = (await stat(left).catch(() => undefined))?.mtimeMs ?? Infinity;
    if (Date.now() - changed > deadAfter) await rm(left, { recursive: true, force: true }).catch(() => undefined);
  }
}
