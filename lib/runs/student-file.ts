/** A student as one file: its weights under its graph's names, and in the metadata all that is needed to use it. */
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { checkArgument, checkOptions, checkText } from '../arguments.js';
import type { Device } from '../device.js';
import { LgdError, meansAbsent, readError, systemErrorCode } from '../errors.js';
import { checkpointsOf, findCheckpoint, followed } from '../files/checkpoint-folders.js';
import { isFolder } from '../files/folders.js';
import { readListed } from '../files/manifest.js';
import { writeSafetensors } from '../files/safetensors.js';
import { studentContent, studentFormat, studentMetadata, type StudentInfo } from '../models/student-info.js';
import { graphOf, Student } from '../models/student.js';
import type { WeightRecord } from '../models/weights.js';
import { version } from '../package.js';
import { groupMembers } from './group-folder.js';

export type { StudentInfo } from '../models/student-info.js';

/** The student's file in a checkpoint folder. */
export const studentFile = 'model.safetensors';

/** @throws LgdError NOT_WRITABLE */
export async function writeStudent(file: string, info: StudentInfo, weights: WeightRecord): Promise<void> {
  await writeSafetensors(file, Object.entries(weights), { format: studentFormat, version, ...studentMetadata(info) });
}

/**
 * Reads a student's file; also one for torchvision, timm and the like, which has no embeddings where its head was
 * dropped.
 * @param path the file, a checkpoint folder, or a run folder (its best checkpoint, or its last where there is no best)
 * @throws LgdError FILE_NOT_FOUND, BAD_FILE, BAD_MODEL, BAD_CHECKPOINT (not what the manifest of its checkpoint says;
 *   an exported file has none)
 */
export async function readStudent(path: string): Promise<{ file: string; info: StudentInfo; weights: WeightRecord }> {
  const file = await findStudentFile(path);
  return { file, ...studentContent(await readListed(file), file) };
}

/** Finds the file that {@link readStudent} reads. @throws LgdError FILE_NOT_FOUND, BAD_FILE */
export async function findStudentFile(path: string): Promise<string> {
  checkText(path, 'student', 'a run folder, a checkpoint folder, or a file');
  const place = await followed(path);
  if (path.endsWith('.onnx') && (await isThere(place)))
    throw new LgdError('BAD_FILE', `${path} is a network for other programs, not a student's file.`, {
      option: 'student',
      allowed: 'a run folder, a checkpoint folder, or a .safetensors file',
      mend: 'Give what it was exported from; lgdistill evaluate takes it as --teacher beside that',
    });
  for (const file of [place, join(place, studentFile)]) if (await isThere(file)) return file;
  if (await isFolder(path))
    for (const which of ['best', 'last'] as const) {
      const linked = join(checkpointsOf(path), which, studentFile);
      if (await isThere(linked)) return linked;
      const folder = await findCheckpoint(path, which);
      if (folder !== undefined && (await isThere(join(folder, studentFile)))) return join(folder, studentFile);
    }
  const members = await groupMembers(path);
  if (members.length > 0) {
    throw new LgdError('FILE_NOT_FOUND', `${path} holds several students.`, {
      allowed: members.map((name) => join(path, name)).join(', '),
      mend: 'Name one of them',
    });
  }
  throw new LgdError('FILE_NOT_FOUND', `there is no student in ${path}.`, {
    allowed: 'a model.safetensors, a checkpoint folder or a run folder',
    mend: 'Check the path',
  });
}

/** @throws LgdError BAD_FILE: it cannot be seen whether it is there, and the next candidate is another student */
async function isThere(file: string): Promise<boolean> {
  const found = await stat(file).catch((cause: unknown) => {
    if (meansAbsent(cause) || ['ELOOP', 'ENAMETOOLONG'].includes(systemErrorCode(cause) ?? '')) return undefined;
    throw readError(file, cause);
  });
  return found !== undefined && !found.isDirectory(); // whoever reads it refuses what is no regular file
}

/** Reads a student's file and makes the student on a device. @throws as {@link readStudent} */
export async function loadStudent(
  path: string,
  options: { device: Device },
): Promise<{ student: Student; info: StudentInfo }> {
  checkOptions(options, 'loadStudent()', { device: 'needed' });
  const { device } = options;
  checkArgument('device', device);
  const content = await readStudent(path);
  return { student: studentOf(content, device), info: content.info };
}

/** The student of a file that was read, on a device. @throws LgdError BAD_MODEL */
export function studentOf(
  { info, weights }: { info: StudentInfo; weights: Readonly<WeightRecord> },
  device: Device,
): Student {
  const student = new Student(info.architecture, device, info.embeddingSize, info.widthMultiplier, graphOf(info), 0);
  student.load(weights);
  return student;
}
