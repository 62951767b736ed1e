/** What a teacher outside the device is asked for, which may be a caller's own and throw whatever it likes. */
import { checkRows } from '../../arguments.js';
import { LgdError, thrownBy, throwIfAborted } from '../../errors.js';
import { orAborted } from '../../turn.js';
import type { CustomTeacherApi, PrecomputedTeacherApi } from './types.js';

/**
 * Its embeddings of some pixels.
 * @returns [batch,D]
 * @throws LgdError BAD_SHAPE for anything else, ABORTED where it ends because of the signal, BAD_MODEL where it throws
 *   what is no error; its own errors as they are
 */
export async function askTeacher(
  teacher: Pick<CustomTeacherApi, 'id' | 'embed' | 'embeddingSize'>,
  pixels: Float32Array,
  batch: number,
  signal: AbortSignal | undefined,
): Promise<Float32Array> {
  const giver = `the teacher ${teacher.id}`;
  throwIfAborted(signal, giver); // it may have fired while the device was waited for, and nobody takes the answer
  let given: unknown;
  try {
    given = await orAborted(Promise.resolve(teacher.embed(pixels, batch, { signal })), giver, signal);
  } catch (cause) {
    if (cause instanceof LgdError) throw cause;
    if (signal?.aborted) throw new LgdError('ABORTED', `${giver} was stopped.`, { cause });
    throw thrownBy(cause, 'BAD_MODEL', { giver, call: 'embed', option: 'teacher' });
  }
  return checkRows(given, giver, { option: 'teacher', rows: batch, size: teacher.embeddingSize });
}

/**
 * What a teacher says that it computes with.
 * @throws LgdError BAD_MODEL where it says nothing or throws what is no error; its own errors as they are
 */
export async function fingerprintOf(
  teacher: Pick<CustomTeacherApi, 'id' | 'fingerprint'>,
  signal: AbortSignal | undefined,
): Promise<string> {
  const asked = Promise.resolve()
    .then(() => teacher.fingerprint(signal))
    .catch((cause: unknown) => {
      throw thrownBy(cause, 'BAD_MODEL', {
        giver: `the teacher ${teacher.id}`,
        call: 'fingerprint',
        option: 'teacher',
      });
    });
  const found: unknown = await orAborted(asked, `the teacher ${teacher.id}`, signal);
  if (typeof found === 'string' && found !== '') return found;
  throw new LgdError('BAD_MODEL', `fingerprint() of the teacher ${teacher.id} did not give a text.`, {
    option: 'teacher',
    found,
    mend: 'Let it give what tells this teacher from others, such as a hash of its weights',
  });
}

/**
 * A table's embeddings of images.
 * @returns [ids.length,D]
 * @throws LgdError BAD_SHAPE for anything else, BAD_MODEL where it throws what is no error; its own errors as they are
 */
export function lookUp(
  teacher: Pick<PrecomputedTeacherApi, 'id' | 'lookup' | 'embeddingSize'>,
  ids: readonly string[],
): Float32Array {
  const giver = `the teacher ${teacher.id}`;
  let given: unknown;
  try {
    given = teacher.lookup(ids);
  } catch (cause) {
    throw thrownBy(cause, 'BAD_MODEL', { giver, call: 'lookup', option: 'teacher' });
  }
  return checkRows(given, giver, { option: 'teacher', rows: ids.length, size: teacher.embeddingSize });
}
