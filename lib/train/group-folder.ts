/** The folder of several students that are trained side by side: config.json, and a run folder for each, by its name. */
import { rmdir } from 'node:fs/promises';
import { join } from 'node:path';
import { studentNames, type Config } from '../config.js';
import { LgdError } from '../errors.js';
import { checkRunFolder, clearRunFolder, readRunConfig, writeRunConfig } from './run-folder.js';

/**
 * Makes the folder, or empties it of an earlier run where `overwrite` allows that.
 * @throws LgdError NOT_WRITABLE, BAD_CONFIG (not empty; a run of other students), BAD_OPTION (a checkpoint's folder, which belongs to one student)
 */
export async function openGroupFolder(config: Config, names: readonly string[], resume: string | undefined): Promise<void> {
  const { output, overwrite } = config;
  await checkRunFolder(output, { overwrite, resume: resume !== undefined });
  if (resume === undefined) {
    await clearRunFolder(output);
    return;
  }
  if (!['last', 'previous', 'best'].includes(resume)) {
    throw new LgdError('BAD_OPTION', 'a checkpoint belongs to one of the students.', { option: 'from', found: resume, allowed: 'last, previous or best', mend: "Resume that student alone, by its own folder in the run's" });
  }
  const before = await groupMembers(output);
  const unknown = names.filter((name) => !before.includes(name));
  if (unknown.length > 0 || before.length !== names.length) {
    throw new LgdError('BAD_CHECKPOINT', `${output} holds a run of other students.`, { option: 'student.name', found: names.join(','), allowed: before.join(','), mend: 'Resume with the students of that run' });
  }
}

/** Writes config.json of the whole. @throws LgdError NOT_WRITABLE */
export async function recordGroup(config: Config, names: readonly string[]): Promise<void> {
  await writeRunConfig(config.output, { ...config, student: { ...config.student, name: names.join(',') } });
}

/** Names of the students that were trained side by side in a folder, each in a run folder of its name; none where it is another folder. */
export async function groupMembers(path: string): Promise<string[]> {
  const config = (await readRunConfig(path).catch(() => undefined)) as { student?: { name?: unknown } } | null | undefined;
  const name = config?.student?.name;
  const names = typeof name === 'string' ? studentNames(name) : [];
  return names.length > 1 ? names : [];
}

/** Run folders that a path stands for: those of several students, or itself. */
export async function runFolders(path: string): Promise<string[]> {
  const members = await groupMembers(path);
  return members.length === 0 ? [path] : members.map((name) => join(path, name));
}

/** Removes what an earlier run of several students left in a folder. */
export async function clearGroup(path: string): Promise<void> {
  for (const name of await groupMembers(path)) {
    await clearRunFolder(join(path, name));
    await rmdir(join(path, name)).catch(() => undefined); // something else is in it
  }
}
