/** Whether the students that a configuration names can be what it asks of them: told before anything is opened. */
import { checkPatches, checkWidth, findStudent } from '../models/students/registry.js';
import type { Config } from './schema.js';

type Asked = Pick<Config, 'student' | 'data' | 'teacherResolution'>;

/**
 * Looks at names, width and, as far as the configuration tells it, the side of the input; {@link checkSide} takes one
 * that the teacher tells.
 * @param names of the students that the package is to build
 * @throws LgdError BAD_OPTION
 */
export function checkKnownStudents(config: Asked, names: readonly string[]): void {
  for (const name of names) checkWidth(findStudent(name, 'student.name'), config.student.widthMultiplier, widthOption);
  const side = config.data.resolution ?? config.teacherResolution;
  if (side !== undefined) checkSide(config, side, names);
}

const widthOption = 'student.widthMultiplier';

/**
 * Refuses a side of the input in pixels, `data.resolution` or the teacher's in its place, that is no multiple of the
 * students' patches.
 * @throws LgdError BAD_OPTION
 */
export function checkSide({ data, teacherResolution }: Asked, side: number, names: readonly string[]): void {
  if (data.resolution !== undefined) checkPatches(names, side, { option: 'data.resolution' });
  else
    checkPatches(names, side, {
      option: teacherResolution === undefined ? 'teacher' : 'teacherResolution',
      mend: (nearest) => `Give data.resolution, the side of the student's input in pixels, such as ${nearest}`,
    });
}
