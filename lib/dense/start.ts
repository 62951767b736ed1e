/** The student that a dense network starts from. */
import { realpath } from 'node:fs/promises';
import { LgdError } from '../errors.js';
import { hashIfReadable } from '../files/hash-file.js';
import type { WeightRecord } from '../models/weights.js';
import type { DenseInfo, DenseTask } from '../runs/network-file.js';
import { findStudentFile, readStudent, type StudentInfo } from '../runs/student-file.js';
import type { DenseConfig } from './trainer.js';

export interface StartStudent {
  /** Absolute, without the links of a run folder, which move while the run goes on. */
  file: string;
  /** Of the file; undefined where a run that goes on has removed it since. */
  sha256: string | undefined;
  info: StudentInfo;
  weights: WeightRecord;
}

/** @throws LgdError FILE_NOT_FOUND, BAD_FILE, BAD_MODEL as readStudent */
export async function readStart(path: string): Promise<StartStudent> {
  const file = await findStudentFile(path);
  // a link that has moved since is for readStudent to tell of
  const content = await readStudent(await realpath(file).catch(() => file));
  const { file: found, info } = content;
  if (info.graph !== undefined)
    throw new LgdError(
      'BAD_MODEL',
      `the network in ${found}, ${info.architecture}, is one of your own, whose stages nobody knows here.`,
      { option: 'student', mend: 'Start from a student of this package' },
    );
  return { ...content, sha256: await hashIfReadable(content.file) };
}

/** What the network is that grows from a student: of these class names, with the head and the input of `dense`. */
export function infoOf(
  task: DenseTask,
  { info: { architecture, widthMultiplier, mean, std } }: StartStudent,
  { head, outputStride, resolution }: Pick<DenseConfig, 'head' | 'outputStride' | 'resolution'>,
  names: readonly string[],
): Omit<DenseInfo, 'step'> {
  return { task, architecture, widthMultiplier, head, outputStride, resolution, mean, std, names };
}
