/**
 * Where the checkpoints of a run lie, and which of them is the last and the best: `last` and `best` are links, or, where
 * the file system has none (exFAT, shares of Windows, mounted buckets), files with the folder's name. A copy of a run may
 * lack them, or have folders in their place; then `last` is the newest whole checkpoint, and `best` the one that its
 * manifest tells of.
 */
import { lstat, readdir, readFile, readlink, rename, rm, symlink } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { unlessAbsent } from '../errors.js';
import { isDiskFull } from './disk-full.js';
import { statIfThere } from './folders.js';
import { manifestFile, manifestIn } from './manifest.js';
import { syncFolder } from './sync.js';
import { uniqueMark } from './temporary-name.js';
import { writeFileAtomically } from './write-file.js';

export const checkpointsOf = (runFolder: string): string => join(runFolder, 'checkpoints');

export const folderName = /^step-(\d+)(?:\.(\d+))?$/u;

/** The step in a folder's name. */
export const stepOf = (folder: string): number => Number(folderName.exec(basename(folder))?.[1]);

/** Folders of whole checkpoints, oldest first. @throws LgdError BAD_FILE */
export async function listCheckpoints(runFolder: string): Promise<string[]> {
  const folder = checkpointsOf(runFolder);
  const found: string[] = [];
  for (const name of await readdir(folder).catch(unlessAbsent<string[]>(folder, []))) {
    if (folderName.test(name) && (await isWhole(join(folder, name)))) found.push(name);
  }
  return found.sort(byAge).map((name) => join(folder, name));
}

/** Is there a checkpoint in a run folder? @throws LgdError BAD_FILE */
export async function hasCheckpoint(runFolder: string): Promise<boolean> {
  return (await listCheckpoints(runFolder)).length > 0;
}

/** The folder of the last or the best checkpoint, or undefined where there is none. @throws LgdError BAD_FILE */
export async function findCheckpoint(runFolder: string, which: 'last' | 'best'): Promise<string | undefined> {
  const path = join(checkpointsOf(runFolder), which);
  const name = (await readlink(path).catch(unlessAbsent(path, undefined))) ?? (await nameIn(path));
  if (name !== undefined) return join(checkpointsOf(runFolder), basename(name));
  if (which === 'best' && (await isWhole(path))) return path;
  const all = await listCheckpoints(runFolder);
  const last = all.at(-1);
  if (which === 'last' || last === undefined) return last;
  const manifest = await manifestIn(last).catch(() => undefined); // what is wrong with it, reading it says
  const step = manifest?.best?.step;
  return all.findLast((folder) => stepOf(folder) === step);
}

/** A path to a checkpoint, or to a file in it, as the system follows it where `last` and `best` are links. */
export async function followed(path: string): Promise<string> {
  const isPointer = (place: string) => ['last', 'best'].includes(basename(place));
  const [pointer, file] = isPointer(path) ? [path, ''] : [dirname(path), basename(path)];
  if (!isPointer(pointer)) return path;
  const folder = dirname(pointer);
  const name = await nameIn(join(folder, basename(pointer))); // without a slash at its end
  return name === undefined ? path : join(folder, name, file);
}

/** The name of a checkpoint's folder that a file holds, or undefined. */
async function nameIn(path: string): Promise<string | undefined> {
  const isFile = await lstat(path).then(
    (found) => found.isFile() && found.size < 100,
    () => false,
  );
  const name = isFile ? (await readFile(path, 'utf8').catch(() => '')).trim() : '';
  return folderName.test(name) ? name : undefined;
}

/** Points `last` or `best` at a checkpoint, at one stroke. @throws what the system does; LgdError NOT_WRITABLE */
export async function pointTo(runFolder: string, which: 'last' | 'best', name: string): Promise<void> {
  const folder = checkpointsOf(runFolder);
  const path = join(folder, which);
  const temporary = join(folder, `.${which}-${uniqueMark()}`);
  const isLinked = await symlink(name, temporary).then(
    () => true,
    (cause: unknown) => {
      if (isDiskFull(cause)) throw cause;
      return false; // whatever else is wrong with the folder, writing the file says
    },
  );
  try {
    if (!isLinked) await writeFileAtomically(temporary, `${name}\n`); // through a link in its place it would go on
    // a copy of a checkpoint where its link should be
    if (await isRealFolder(path)) await rm(path, { recursive: true });
    await rename(temporary, path);
  } catch (cause) {
    await rm(temporary, { force: true }).catch(() => undefined);
    throw cause;
  }
  await syncFolder(folder);
}

async function isRealFolder(path: string): Promise<boolean> {
  return lstat(path).then(
    (found) => found.isDirectory(),
    () => false,
  );
}

/** Is this the folder of a checkpoint that was finished? @throws LgdError BAD_FILE: that cannot be seen */
export async function isWhole(folder: string): Promise<boolean> {
  return (await statIfThere(join(folder, manifestFile))) !== undefined;
}

/** Oldest first. */
export function byAge(a: string, b: string): number {
  const [, stepA = 0, copyA = 0] = folderName.exec(a) ?? [];
  const [, stepB = 0, copyB = 0] = folderName.exec(b) ?? [];
  return Number(stepA) - Number(stepB) || Number(copyA) - Number(copyB);
}
