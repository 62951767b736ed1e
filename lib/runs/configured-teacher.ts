import type { Config } from '../config/config.js';
import type { Device } from '../device.js';
import { LgdError } from '../errors.js';
import { loadTeacher, type AnyTeacher } from '../models/index.js';
import { lookAtTeacher, type TeacherLook } from '../models/teachers/load.js';

/**
 * The teacher of a configuration.
 * @param source its `teacher`
 * @throws LgdError as {@link loadTeacher}, of the options' names
 */
export async function configuredTeacher(
  source: string,
  { teacherResolution, offline }: Pick<Config, 'teacherResolution' | 'offline'>,
  { device, signal }: { device: Device; signal?: AbortSignal | undefined },
): Promise<AnyTeacher> {
  const options = { device, resolution: teacherResolution, localFilesOnly: offline, signal };
  return loadTeacher(source, options).catch(byConfiguration);
}

/**
 * What is known of the teacher of a configuration before its weights are read; undefined where it would have to be
 * fetched first.
 * @throws as {@link configuredTeacher}
 */
export async function lookAtConfiguredTeacher(
  source: string,
  { teacherResolution, offline }: Pick<Config, 'teacherResolution' | 'offline'>,
  signal: AbortSignal | undefined,
): Promise<TeacherLook | undefined> {
  const options = { resolution: teacherResolution, localFilesOnly: offline, signal };
  return lookAtTeacher(source, options).catch(byConfiguration);
}

/** The option's name in a configuration. */
function byConfiguration(error: unknown): never {
  if (!(error instanceof LgdError) || error.option !== 'resolution') throw error;
  const { code, message, found, allowed, mend } = error;
  const option = 'teacherResolution';
  // the message has what was found, what is allowed and what to do in it
  const renamed = new LgdError(code, message.replace(/^resolution: /u, ''), { option, cause: error });
  throw Object.assign(renamed, { found, allowed, mend });
}
