import type { Config } from '../config/config.js';
import type { Device } from '../device.js';
import { LgdError } from '../errors.js';
import { loadTeacher, type AnyTeacher } from '../models/index.js';

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
  return loadTeacher(source, options).catch((error: unknown) => {
    if (!(error instanceof LgdError) || error.option !== 'resolution') throw error;
    const { code, message, found, allowed, mend } = error;
    const option = 'teacherResolution';
    // the message has what was found, what is allowed and what to do in it
    const renamed = new LgdError(code, message.replace(/^resolution: /u, ''), { option, cause: error });
    throw Object.assign(renamed, { found, allowed, mend });
  });
}
