/** Folders as exports: which may be taken, and how a finished one gets to its place. */
import { readdir, rename, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { LgdError, systemErrorCode, writeError } from '../errors.js';
import { placeIn } from '../files/folders.js';
import { membersOf, parsed } from '../files/json.js';
import { readFile } from '../files/open.js';
import { statPlace } from '../files/replaceable.js';
import { temporaryPath } from '../files/temporary-name.js';
import { yamlMark } from './tool-config.js';

/** The place for a program is the option `to`, which on the command line names the program. */
export const placeFlag = '(on the command line: --output)';

/**
 * A folder that an export may take: none yet, an empty one, or an earlier export.
 * @param spared what must not go with an earlier export: what the new one is made from, the current folder
 * @throws LgdError BAD_OPTION, NOT_WRITABLE
 */
export async function checkFolder(folder: string, spared: readonly string[]): Promise<void> {
  const found = await statPlace(folder);
  if (found === undefined) return;
  for (const path of spared) {
    if ((await placeIn(folder, path)) !== undefined)
      throw new LgdError('BAD_OPTION', `to replace this folder would remove ${path}.`, {
        option: 'to',
        found: folder,
        mend: `Choose another place ${placeFlag}`,
      });
  }
  if (found.dev !== (await statPlace(dirname(folder)))?.dev)
    throw new LgdError('BAD_OPTION', 'a mounted disk or volume cannot be replaced.', {
      option: 'to',
      found: folder,
      mend: `Choose a folder in it ${placeFlag}`,
    });
  if (await isOurs(folder)) return;
  // an empty one stays until the new one is whole: a link may lead to it
  const entries = await readdir(folder).catch((cause: unknown) => cause);
  if (Array.isArray(entries) && entries.length === 0) return;
  throw new LgdError('BAD_OPTION', 'there is something else already.', {
    option: 'to',
    found: folder,
    allowed: 'a new folder, an empty one, or an earlier export',
    mend: `Choose another place ${placeFlag}`,
    ...(!Array.isArray(entries) && { cause: entries }),
  });
}

/**
 * Puts a finished folder in its place; an earlier export there is replaced.
 * @throws LgdError NOT_WRITABLE; BAD_OPTION where something else came there meanwhile
 */
export async function placeFolder(from: string, to: string): Promise<void> {
  await checkFolder(to, []);
  const old = temporaryPath(to); // a later export removes what a kill leaves
  const failure = await rename(to, old).then(
    () => undefined,
    (cause: unknown) => systemErrorCode(cause) ?? 'unknown',
  );
  const moved = failure === undefined;
  try {
    // an overlay, such as a container's root, does not rename a folder of a layer below
    if (failure === 'EXDEV') await rm(to, { recursive: true });
    await rename(from, to);
  } catch (cause) {
    if (moved) await rename(old, to).catch(() => undefined);
    throw writeError(to, cause);
  }
  if (moved) await rm(old, { recursive: true, force: true });
}

async function isOurs(folder: string): Promise<boolean> {
  const text = (name: string) => readFile(join(folder, name), 'utf8').catch(() => '');
  if ((await text('config.yaml')).startsWith(yamlMark)) return true;
  return 'lgdistill' in membersOf(parsed(await text('config.json')));
}

/** Bytes of a folder's files. */
export async function sizeOfFolder(folder: string): Promise<number> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  const sizes = await Promise.all(
    entries
      .filter((entry) => entry.isFile())
      .map(async (entry) => (await stat(join(entry.parentPath, entry.name))).size),
  );
  return sizes.reduce((sum, size) => sum + size, 0);
}
