import { mkdir, rmdir, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { systemErrorCode, writeError } from '../errors.js';
import { isFolder } from './folders.js';

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

/** Removes folders that {@link makeFolder} made, as far as nothing is in them. */
export async function removeMade(made: readonly string[]): Promise<void> {
  for (const folder of made.toReversed()) await rmdir(folder).catch(() => undefined);
}
