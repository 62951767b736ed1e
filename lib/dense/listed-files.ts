/** Are the files there that a list names? Found out before anything is trained on them. */
import { readdir, stat } from 'node:fs/promises';
import { join, posix } from 'node:path';
import { LgdError, meansAbsent, throwIfAborted } from '../errors.js';
import { isFolder } from '../files/folders.js';

/** Which list names the files, and the option that says where they lie. */
export interface FileList {
  /** The file, as it stands in a message. */
  list: string;
  option: string;
  signal?: AbortSignal | undefined;
}

const mostNamed = 3;

/** @throws LgdError FILE_NOT_FOUND, which counts the missing files and names the first of them; ABORTED */
export async function checkListed(
  folder: string,
  files: readonly string[],
  { list, option, signal }: FileList,
): Promise<void> {
  if (!(await isFolder(folder)))
    throw new LgdError('FILE_NOT_FOUND', `there is no folder ${folder}.`, {
      option,
      mend: 'Check the path; it is relative to the current folder',
    });
  const entries = new Map<string, ReadonlySet<string> | undefined>();
  const missing: string[] = [];
  for (const file of new Set(files)) {
    throwIfAborted(signal, 'the search for files');
    const { dir, base } = posix.parse(file);
    if (!entries.has(dir)) entries.set(dir, await entriesOf(join(folder, dir)));
    const found = entries.get(dir);
    if (found === undefined || (!found.has(base) && !(await isThere(join(folder, file))))) missing.push(file);
  }
  if (missing.length === 0) return;
  const total = new Set(files).size;
  const named = missing.slice(0, mostNamed).join(', ');
  const more = missing.length > mostNamed ? ` and ${missing.length - mostNamed} more` : '';
  throw new LgdError(
    'FILE_NOT_FOUND',
    `${missing.length} of the ${total} files that ${list} names ${missing.length === 1 ? 'is' : 'are'} not in ${folder}: ${named}${more}.`,
    {
      option,
      mend: `Give the folder that the names in ${list} start from, add the files, or take them out of it`,
    },
  );
}

/** Names in a folder, none where they may not be listed; undefined: there is no such folder. */
async function entriesOf(folder: string): Promise<ReadonlySet<string> | undefined> {
  try {
    return new Set(await readdir(folder));
  } catch (error) {
    return meansAbsent(error) ? undefined : new Set();
  }
}

/** File systems that know a name in other spellings too are asked. */
async function isThere(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}
