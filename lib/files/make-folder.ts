import { mkdir, readdir, rm, rmdir, stat, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { LgdError, systemErrorCode, writeError } from '../errors.js';
import { isFolder } from './folders.js';
import { takeLock } from './process-lock.js';
import { uniqueMark } from './temporary-name.js';

/** Milliseconds after which a probe is no longer being written. */
const settledAfter = 5000;

/**
 * Makes a folder and those above it. Unlike fs.mkdir's `recursive`, it ends where the file system says ENOENT about a
 * folder whose parent is there (/proc does, and so do some network mounts): there fs.mkdir tries for ever.
 * @param made gets the folders that were not there, the outermost first, also where it then fails
 * @throws LgdError NOT_WRITABLE
 */
export async function makeFolder(path: string, made: string[] = []): Promise<void> {
  try {
    await mkdir(path);
    made.push(path);
  } catch (cause) {
    const code = systemErrorCode(cause);
    const parent = dirname(path);
    if (code === 'ENOENT' && parent !== path && !(await isFolder(parent))) {
      await makeFolder(parent, made);
      await mkdir(path).then(
        () => made.push(path),
        async (error: unknown) => {
          if (!(await isFolder(path))) throw writeError(path, error);
        },
      );
      return;
    }
    const found = await stat(path).catch((error: unknown) => {
      // and cannot be looked at, on a failing disk or in a loop of links
      const isThere = code === 'EEXIST' && systemErrorCode(error) !== 'ENOENT';
      throw writeError(path, isThere ? error : cause);
    });
    if (!found.isDirectory()) throw writeError(path, cause);
  }
}

/** Is an entry of a folder a probe of {@link tryFolder}, or what stands beside one while it is taken? */
export function isProbe(entry: string): boolean {
  return /^\.probe-[0-9a-f]{12}(?:-[0-9a-f]{12})*$/u.test(entry);
}

/**
 * Sees, before anything takes long, that files can be written to a folder: makes it, writes a probe and removes that.
 * @param options hold: a probe stays until the folder is removed, so that nobody else who made the folder does that,
 *   and those of processes that are gone are cleared away; option: what named the folder
 * @returns what removes the folder again, and those above it, as far as they were made here and nothing is in them
 * @throws LgdError NOT_WRITABLE
 */
export async function tryFolder(
  path: string,
  { hold = false, option }: { hold?: boolean; option?: string } = {},
): Promise<() => Promise<void>> {
  const made: string[] = [];
  const probe = join(path, `.probe-${uniqueMark()}`);
  let removeProbe = async () => rm(probe, { force: true }); // whoever locks a run folder clears probes away, too
  const remove = async () => {
    await removeProbe().catch(() => undefined);
    await removeMade(made);
  };
  try {
    await makeFolder(path, made);
    if (hold) {
      // tells whose it is
      const lock = await takeLock(probe).catch((error: LgdError) => {
        throw writeError(path, error.cause);
      });
      if ('release' in lock) removeProbe = lock.release;
      await clearProbes(path, probe);
    } else {
      await writeFile(probe, 'x');
      await removeProbe();
    }
  } catch (cause) {
    await remove();
    const error = writeError(path, cause);
    if (option === undefined) throw error;
    const { code, message, mend } = error;
    throw new LgdError(code, message.split(` ${mend}`)[0]!, { option, found: path, mend, cause });
  }
  return remove;
}

/**
 * Removes the probes of processes that were killed. What is as new as the own probe may be on its way to become one, and
 * to wait for that takes a second each: it is left to the next who tries the folder.
 */
async function clearProbes(folder: string, own: string): Promise<void> {
  const timeOf = async (path: string) => (await stat(path).catch(() => undefined))?.mtimeMs;
  const now = (await timeOf(own)) ?? 0; // by the clock of the disk, which may be another machine's
  for (const name of (await readdir(folder).catch(() => [])).filter(isProbe)) {
    const path = join(folder, name);
    if (((await timeOf(path)) ?? now) > now - settledAfter) continue;
    const lock = await takeLock(path).catch(() => undefined); // of one that lives it is not to be had
    if (lock !== undefined && 'release' in lock) await lock.release().catch(() => undefined);
  }
}

/** Removes folders that {@link makeFolder} made, as far as nothing is in them. */
export async function removeMade(made: readonly string[]): Promise<void> {
  for (const folder of made.toReversed()) await rmdir(folder).catch(() => undefined);
}
