import type { Stats } from 'node:fs';
import { lstat, readdir, readlink, realpath, stat } from 'node:fs/promises';
import { basename, dirname, extname, isAbsolute, join, relative } from 'node:path';
import { LgdError, unlessAbsent } from '../errors.js';

const mostLinks = 40; // as Linux follows

/** Is there a folder, or a link to one? */
export async function isFolder(path: string): Promise<boolean> {
  return stat(path).then(
    (found) => found.isDirectory(),
    () => false,
  );
}

/** Is there a file, or a link to one? */
export async function isFile(path: string): Promise<boolean> {
  return stat(path).then(
    (found) => found.isFile(),
    () => false,
  );
}

/** Is there a link that leads nowhere? A cache of which a part was removed has such. */
export async function isDangling(path: string): Promise<boolean> {
  const isLink = await lstat(path).then(
    (found) => found.isSymbolicLink(),
    () => false,
  );
  return (
    isLink &&
    stat(path).then(
      () => false,
      () => true,
    )
  );
}

/** The first of several things, such as paths, that passes a test. */
export async function firstWhere<T>(
  values: readonly T[],
  test: (value: T) => Promise<boolean>,
): Promise<T | undefined> {
  for (const value of values) if (await test(value)) return value;
  return undefined;
}

/**
 * Is an entry of a folder nobody's data: a hidden one, or what a file system has at its root (root's own, so that
 * others cannot read it)?
 */
export function isHidden(name: string): boolean {
  return name.startsWith('.') || name === 'lost+found';
}

/**
 * undefined: there is nothing, so that something may be made there.
 * @throws LgdError BAD_FILE: what cannot be looked at may be there
 */
export async function statIfThere(path: string): Promise<Stats | undefined> {
  return stat(path).catch(unlessAbsent(path, undefined));
}

/** A file; or of a folder the files with this ending, sorted. @throws LgdError FILE_NOT_FOUND, BAD_FILE */
export async function filesAt(path: string, ending: string): Promise<string[]> {
  const found = await statIfThere(path);
  if (found === undefined) throw new LgdError('FILE_NOT_FOUND', `there is no ${path}.`, { mend: 'Check the path' });
  if (!found.isDirectory()) return [path];
  const names = (await readdir(path)).filter((name) => extname(name) === ending);
  return names.sort().map((name) => join(path, name));
}

/**
 * Names of the folders right below one, links followed and hidden ones left out, sorted by code unit.
 * @throws what fs.readdir does
 */
export async function foldersIn(path: string): Promise<string[]> {
  const entries = (await readdir(path, { withFileTypes: true })).filter(({ name }) => !isHidden(name));
  const isOne = await Promise.all(
    entries.map((entry) => entry.isDirectory() || (entry.isSymbolicLink() && isFolder(join(path, entry.name)))),
  );
  return entries.flatMap(({ name }, i) => (isOne[i] ? [name] : [])).sort();
}

/**
 * Where a path leads by its links, of which a part may not be there yet: `link/../x` is beside what the link leads to, and
 * a link to nothing leads to what will be made there.
 * @param links that were followed
 */
export async function placeOf(path: string, links = 0): Promise<string> {
  const parent = dirname(path);
  return realpath(path).catch(async () => {
    if (parent === path) return path;
    const folder = await placeOf(parent, links);
    const target = links < mostLinks ? await readlink(path).catch(() => undefined) : undefined;
    if (target === undefined) return join(folder, basename(path));
    return placeOf(isAbsolute(target) ? target : `${folder}/${target}`, links + 1);
  });
}

/** The path of a place below a folder, links followed; '' of the folder itself, undefined of what is not in it. */
export async function placeIn(folder: string, path: string): Promise<string | undefined> {
  const place = relative(await placeOf(folder), await placeOf(path));
  return /^\.\.(?:[/\\]|$)/u.test(place) || isAbsolute(place) ? undefined : place;
}
