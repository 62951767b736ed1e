/**
 * The folder of several students that are trained side by side: config.json, and a run folder for each, by its name.
 */
import { rmdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { RunConfig } from '../config/batch.js';
import { studentNames } from '../config/config.js';
import { LgdError } from '../errors.js';
import { isFolder } from '../files/folders.js';
import { endedBy } from '../lifetime.js';
import {
  checkRunFolder,
  clearRunFolder,
  lockRunFolder,
  readRunConfig,
  readRunConfigIfThere,
  writeRunConfig,
} from './run-folder.js';

/**
 * Makes the folder, or empties it of an earlier run where `overwrite` allows that, and locks it; the students' own
 * folders are locked by their runs. One that begins has its config.json from here on: a run that is killed while its
 * students' folders are made can be resumed.
 * @returns what unlocks it
 * @throws LgdError NOT_WRITABLE, BAD_CONFIG (not empty; a run of other students; another process writes to it),
 *   BAD_OPTION (a checkpoint's folder, which belongs to one student)
 */
export async function openGroupFolder(
  config: RunConfig,
  names: readonly string[],
  resume: string | undefined,
): Promise<() => Promise<void>> {
  const { output, overwrite, data } = config;
  await checkRunFolder(output, { overwrite, resume: resume !== undefined, spillFolder: data.spillFolder });
  const unlock = await lockRunFolder(config.output);
  try {
    if (resume === undefined) {
      await clearMembers(config.output);
      await clearRunFolder(config.output);
      await recordGroup(config, names);
    } else await checkMembers(config.output, names, resume);
    return unlock;
  } catch (error) {
    await unlock().catch(() => undefined);
    throw error;
  }
}

/** Do a run's students continue as they began? @throws LgdError BAD_OPTION, BAD_CHECKPOINT */
async function checkMembers(output: string, names: readonly string[], resume: string): Promise<void> {
  if (!['last', 'previous', 'best'].includes(resume)) {
    throw new LgdError('BAD_OPTION', 'a checkpoint belongs to one of the students.', {
      option: 'from',
      found: resume,
      allowed: 'last, previous or best',
      mend: "Resume that student alone, by its own folder in the run's",
    });
  }
  const before = await groupMembers(output);
  const unknown = names.filter((name) => !before.includes(name));
  if (unknown.length > 0 || before.length !== names.length) {
    throw new LgdError('BAD_CHECKPOINT', `${output} holds a run of other students.`, {
      option: 'student.name',
      found: names.join(','),
      allowed: before.join(','),
      mend: 'Resume with the students of that run',
    });
  }
}

/** Writes config.json of the whole. @throws LgdError NOT_WRITABLE */
export async function recordGroup(config: RunConfig, names: readonly string[]): Promise<void> {
  await writeRunConfig(config.output, { ...config, student: { ...config.student, name: names.join(',') } });
}

/**
 * Names of the students that were trained side by side in a folder, each in a run folder of its name; none where it is
 * another folder.
 */
export async function groupMembers(path: string): Promise<string[]> {
  return membersIn(await readRunConfig(path).catch(() => undefined));
}

function membersIn(config: unknown): string[] {
  const name = (config as { student?: { name?: unknown } } | null | undefined)?.student?.name;
  const names = typeof name === 'string' ? studentNames(name) : [];
  return names.length > 1 ? names : [];
}

/**
 * Run folders that a path stands for: those of several students, or itself.
 * @throws LgdError BAD_FILE: a configuration that cannot be read
 */
export async function runFolders(path: string): Promise<string[]> {
  const members = membersIn(await readRunConfigIfThere(path));
  return members.length === 0 ? [path] : members.map((name) => join(path, name));
}

/**
 * Removes what an earlier run of several students left in their folders below another, so that a run of one student can
 * take its place.
 * @throws LgdError NOT_WRITABLE; BAD_CONFIG when another process is writing to any of them: then nothing is removed
 */
export async function clearGroup(path: string): Promise<void> {
  if ((await groupMembers(path)).length === 0) return;
  await endedBy(await lockRunFolder(path), () => clearMembers(path));
}

/** The same where the folder itself is locked already. All of them are locked before the first is touched. */
export async function clearMembers(path: string): Promise<void> {
  const folders: string[] = [];
  for (const name of await groupMembers(path)) {
    const folder = join(path, name);
    if (await isFolder(folder)) folders.push(folder);
  }
  const unlocks: (() => Promise<void>)[] = [];
  const unlock = async () => {
    const ended = await Promise.allSettled(unlocks.map((unlockOne) => unlockOne())); // one that fails keeps none locked
    const failed = ended.find((result) => result.status === 'rejected');
    if (failed !== undefined) throw failed.reason;
  };
  await endedBy(unlock, async () => {
    for (const folder of folders) unlocks.push(await lockRunFolder(folder));
    for (const folder of folders) await clearRunFolder(folder);
  });
  for (const folder of folders) await rmdir(folder).catch(() => undefined); // something else is in it
}
