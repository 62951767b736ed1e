/** What a teacher outside the device is asked for, which may be a caller's own and throw whatever it likes. */
import { LgdError } from '../../errors.js';
import { orAborted } from '../../turn.js';
import type { CustomTeacherApi } from './types.js';

/**
 * Its embeddings of some pixels.
 * @throws LgdError ABORTED where it ends because of the signal, BAD_MODEL where it throws what is no error; its own errors as they are
 */
export async function askTeacher(teacher: Pick<CustomTeacherApi, 'id' | 'embed'>, pixels: Float32Array, batch: number, signal: AbortSignal | undefined): Promise<Float32Array> {
  try {
    return await orAborted(Promise.resolve(teacher.embed(pixels, batch, { signal })), `the teacher ${teacher.id}`, signal);
  } catch (cause) {
    if (cause instanceof LgdError) throw cause;
    if (signal?.aborted) throw new LgdError('ABORTED', `the teacher ${teacher.id} was stopped.`, { cause });
    if (cause instanceof Error) throw cause;
    const what = cause === undefined || cause === null ? String(cause) : 'something that is no error';
    throw new LgdError('BAD_MODEL', `the teacher ${teacher.id} threw ${what}.`, { option: 'teacher', found: cause ?? undefined, mend: 'Let its embed() throw an Error that says what went wrong', cause });
  }
}
