/**
 * What a checkpoint says of the teacher it was trained against, so that a run goes on with the same one, wherever that
 * lies and whatever it is called by then.
 */
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { checkDistinctIds } from '../../data/image-id.js';
import { LgdError } from '../../errors.js';
import type { AnyTeacher } from '../../models/index.js';
import { fingerprintOf, lookUp } from '../../models/teachers/ask.js';
import { studentFile } from '../../runs/student-file.js';

/** Embeddings that stand for a whole file of them: another encoder changes them all. */
const rowsKept = 32;

export interface TeacherMark {
  kind: AnyTeacher['kind'];
  id: string;
  embeddingSize: number;
  resolution: number;
  mean: readonly number[];
  std: readonly number[];
  /** Of what it computes with: a SHA-256, or whatever a caller's own teacher gives. */
  fingerprint?: string;
  /**
   * In its place for precomputed embeddings: SHA-256 of some images' rows, by image, so that a file that has grown or
   * comes in another order is the same.
   */
  rows?: Record<string, string>;
}

/**
 * @param ids the images of the run.
 * @throws LgdError BAD_DATASET (two of one id, and embeddings that are looked up by it), ABORTED
 */
export async function markOf(teacher: AnyTeacher, ids: readonly string[], signal?: AbortSignal): Promise<TeacherMark> {
  const { kind, id, embeddingSize, resolution, mean, std } = teacher;
  const mark: TeacherMark = { kind, id, embeddingSize, resolution, mean, std };
  if (teacher.kind !== 'precomputed') return { ...mark, fingerprint: await fingerprintOf(teacher, signal) };
  await checkDistinctIds(ids, signal);
  const count = Math.min(rowsKept, ids.length);
  // one that is never shown may have none
  const some = Array.from({ length: count }, (_, i) => ids[Math.floor((i * ids.length) / count)]!).filter((image) =>
    teacher.has(image),
  );
  return { ...mark, rows: Object.fromEntries(some.map((image) => [image, hashRow(teacher, image)])) };
}

function hashRow(teacher: Extract<AnyTeacher, { kind: 'precomputed' }>, image: string): string {
  return createHash('sha256')
    .update(lookUp(teacher, [image]))
    .digest('hex');
}

/**
 * Looks whether a checkpoint's teacher is the one at hand.
 * @param here the mark of `teacher`
 * @throws LgdError BAD_CHECKPOINT, which says what both are
 */
export function checkTeacher(folder: string, before: TeacherMark, here: TeacherMark, teacher: AnyTeacher): void {
  const otherRow =
    teacher.kind === 'precomputed'
      ? Object.entries(before.rows ?? {}).find(
          ([image, hash]) => teacher.has(image) && hashRow(teacher, image) !== hash,
        ) // an image that is gone may have no embedding any more
      : undefined;
  const shape = ({ kind, embeddingSize, resolution, mean, std, fingerprint }: TeacherMark) =>
    JSON.stringify([kind, embeddingSize, resolution, mean, std, fingerprint]);
  if (shape(before) === shape(here) && otherRow === undefined) return;
  const isChosen = here.kind === 'native' || here.kind === 'onnx'; // by teacherResolution
  const atResolution =
    isChosen && before.resolution !== here.resolution ? ` at ${before.resolution} px (teacherResolution)` : '';
  throw new LgdError(
    'BAD_CHECKPOINT',
    `${folder} was made with another teacher${otherRow === undefined ? '' : `: the embedding of ${otherRow[0]} is not what it was`}.`,
    {
      option: 'teacher',
      found: describe(here, before),
      allowed: describe(before, here),
      mend: `Give the teacher of that run (--teacher)${atResolution}, or begin a new run from its student: --weights ${join(folder, studentFile)}`,
    },
  );
}

/** A teacher's name and size, and what else it differs in from the other. */
function describe(mark: TeacherMark, other: TeacherMark): string {
  const { kind, id, embeddingSize, resolution, fingerprint } = mark;
  const differs = (key: 'mean' | 'std') =>
    String(mark[key]) === String(other[key]) ? [] : [`${key} ${mark[key].join(' ')}`];
  const hash =
    fingerprint === undefined || fingerprint === other.fingerprint
      ? []
      : [`fingerprint ${/^[0-9a-f]{64}$/u.test(fingerprint) ? fingerprint.slice(0, 12) : fingerprint}`];
  return [
    `${id} (${kind})`,
    `${embeddingSize} values of ${resolution} px`,
    ...differs('mean'),
    ...differs('std'),
    ...hash,
  ].join(', ');
}
