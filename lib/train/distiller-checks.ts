/** Whether the parts that a distiller is made of fit each other: looked at before anything is allocated. */
import type { TextualSemanticsBank } from '../banks/textual.js';
import type { BatchChoice, RunConfig } from '../config/batch.js';
import { parseConfig, worksWithoutNames, type ChosenMethod, type Config, type ConfigInput } from '../config/config.js';
import type { Device } from '../device.js';
import { LgdError } from '../errors.js';
import type { AnyTeacher } from '../models/index.js';
import { checkGrid } from '../models/position-tables.js';
import type { Student } from '../models/student.js';
import { thoseOfAdamw } from '../models/students/registry.js';
import { checkNormalisation } from '../models/teachers/preprocessor.js';

/** The optimiser, where none is given, is that of the students that there are, whatever the configuration calls them. */
export function parseFor(students: readonly Student[], input: ConfigInput): Config {
  const parsed = parseConfig(input);
  const [one] = thoseOfAdamw(students.map(({ name }) => name));
  return one === undefined ? parsed : parseConfig({ ...input, student: { ...input.student, name: one.name } });
}

/**
 * The run folder tells of the students that there are, whatever the configuration says, and of what `auto` chose in its
 * place.
 */
export function configFor(
  students: readonly Student[],
  config: Config,
  { batchSize, learningRate }: BatchChoice,
  method: ChosenMethod,
): RunConfig {
  const widthMultiplier = students.length === 1 ? students[0]!.widthMultiplier : config.student.widthMultiplier;
  const name = students.length === 0 ? config.student.name : students.map((student) => student.name).join(',');
  return {
    ...config,
    method,
    train: { ...config.train, batchSize, learningRate },
    student: { ...config.student, name, widthMultiplier },
  };
}

/** What is on another device would be found out by the first step, in words about tensors. */
export function checkDevices(device: Device, teacher: AnyTeacher, students: readonly Student[]): void {
  const others = [
    ...students.map((student) => ({ option: 'student', device: student.device })),
    ...(teacher.kind === 'native' ? [{ option: 'teacher', device: teacher.device }] : []),
  ];
  const other = others.find((one) => one.device !== device);
  if (other === undefined) return;
  throw new LgdError('BAD_OPTION', `the ${other.option} is on another device than the distiller.`, {
    option: other.option,
    allowed: 'one on the same device',
    mend: 'Open one device, and give it to teacher, student and distiller',
  });
}

/** A teacher may be a caller's own. @throws LgdError BAD_OPTION */
export function checkTeacherNumbers(teacher: AnyTeacher): void {
  for (const option of teacher.kind === 'precomputed'
    ? (['embeddingSize'] as const)
    : (['embeddingSize', 'resolution'] as const)) {
    const found = teacher[option];
    if (!Number.isSafeInteger(found) || found < 1)
      throw new LgdError('BAD_OPTION', 'not a size.', {
        option: `teacher.${option}`,
        found,
        allowed: 'a whole number from 1',
      });
  }
  checkNormalisation(teacher, 'teacher.');
}

export function checkStudents({ embeddingSize }: AnyTeacher, students: readonly Student[]): void {
  if (students.length === 0)
    throw new LgdError('BAD_OPTION', 'there is no student.', {
      option: 'student',
      allowed: 'one, or several of different names',
    });
  const names = students.map(({ name }) => name);
  const twice = names.find((name, i) => names.indexOf(name) !== i);
  if (twice !== undefined)
    throw new LgdError('BAD_OPTION', 'two students have the same name, and so the same folder.', {
      option: 'student',
      found: twice,
      allowed: 'students of different names',
      mend: 'Give each once',
    });
  for (const student of students) {
    if (student.embeddingSize === embeddingSize) continue;
    throw new LgdError(
      'BAD_SHAPE',
      `the student's embeddings have ${student.embeddingSize} values, the teacher's ${embeddingSize}.`,
      { option: 'student', mend: "Create the student with the teacher's embedding size" },
    );
  }
}

/**
 * Looks whether the students are for images of this side, as far as they have positions for them.
 * @throws LgdError BAD_OPTION
 */
export function checkSides(students: readonly Student[], resolution: number, { data }: Config): void {
  for (const { graph } of students)
    checkGrid(graph, resolution, data.resolution === undefined ? 'teacher.resolution' : 'data.resolution');
}

export function checkBank(
  { embeddingSize }: AnyTeacher,
  tsb: TextualSemanticsBank | undefined,
  { method }: Config,
): void {
  if (tsb === undefined && !worksWithoutNames(method)) {
    throw new LgdError('BAD_CONFIG', 'this method needs a text bank.', {
      option: 'method',
      found: method,
      mend: 'Give names or bank, or choose seed or feature',
    });
  }
  if (tsb !== undefined && tsb.embeddingSize !== embeddingSize) {
    throw new LgdError(
      'BAD_BANK',
      `the text bank's embeddings have ${tsb.embeddingSize} values, the teacher's ${embeddingSize}.`,
      { option: 'bank', found: tsb.encoderId, mend: "Build the bank with the teacher's own text tower" },
    );
  }
  if (tsb !== undefined && tsb.data.byteLength !== 4 * tsb.size * embeddingSize) {
    throw new LgdError('BAD_BANK', 'the rows of the text bank are gone: its array was transferred.', {
      option: 'bank',
      found: tsb.data,
      allowed: `a Float32Array [${tsb.size},${embeddingSize}]`,
      mend: 'Transfer a copy of it',
    });
  }
}
