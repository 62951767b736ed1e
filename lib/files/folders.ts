import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';

/** Is there a folder, or a link to one? */
export async function isFolder(path: string): Promise<boolean> {
  return stat(path).then((found) => found.isDirectory(), () => false);
}

/** Is an entry of a folder nobody's data: a hidden one, or what a file system has at its root (root's own, so that others cannot read it)? */
export function isHidden(name: string): boolean {
  return name.startsWith('.') || name === 'lost+found';
}

/** Names of the folders right below one, links followed and hidden ones left out, sorted by code unit. @throws what fs.readdir does */
export async function foldersIn(path: string): Promise<string[]> {
  const entries = (await readdir(path, { withFileTypes: true })).filter(({ name }) => !isHidden(name));
  const isOne = await Promise.all(entries.map((entry) => entry.isDirectory() || (entry.isSymbolicLink() && isFolder(join(path, entry.name)))));
  return entries.flatMap(({ name }, i) => (isOne[i] ? [name] : [])).sort();
}
