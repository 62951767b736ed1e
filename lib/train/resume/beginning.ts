/**
 * What a run begins with: a student that has taken no step, and, where it stopped before its first checkpoint and
 * begins again, the same as before.
 */
import { LgdError } from '../../errors.js';
import { hasCheckpoint } from '../../files/checkpoint-folders.js';
import type { Student } from '../../models/student.js';
import { hashWeights } from '../../models/teachers/fingerprint.js';
import { readBatchNumbers, readStart } from '../../runs/run-folder.js';
import type { StepTaker } from '../step-taker.js';

/**
 * What tells the student that a run begins with from any other: SHA-256 of its graph and its weights.
 * @throws LgdError ABORTED
 */
export async function hashStart({ graph, weights }: Student, signal: AbortSignal | undefined): Promise<string> {
  return hashWeights(graph, weights, signal, 'reading the student');
}

/**
 * A run that stopped before its first checkpoint begins again with the student that it was begun with: another program
 * cannot know the network that one made itself, or weights that it loaded.
 * @throws LgdError BAD_CHECKPOINT, BAD_FILE, ABORTED
 */
export async function checkStart(runFolder: string, student: Student, signal: AbortSignal | undefined): Promise<void> {
  if (await hasCheckpoint(runFolder)) return;
  const begun = await readStart(runFolder);
  if (begun === undefined || begun === (await hashStart(student, signal))) return;
  throw new LgdError(
    'BAD_CHECKPOINT',
    `${runFolder} has no checkpoint yet, and was begun with another student than ${student.name} as it is here: with a network of its own, or other start weights.`,
    {
      option: 'student',
      found: student.name,
      mend: 'Resume it by the program that began it, with the same student; or begin a new run',
    },
  );
}

/** Where nothing is continued, the student must be what the configuration begins with. @throws LgdError BAD_OPTION */
export async function checkBeginning(
  distiller: StepTaker,
  student: number,
  runFolder: string,
  resume: string | undefined,
): Promise<void> {
  const steps = distiller.stepsOf(student);
  if (
    steps === 0 ||
    (resume !== undefined && resume !== 'last') ||
    (resume === 'last' && (await hasCheckpoint(runFolder)))
  )
    return;
  const none = resume === undefined ? '' : `${runFolder} has no checkpoint to continue from, and `;
  throw new LgdError(
    'BAD_OPTION',
    `${none}a run from the start begins before any step, but this Distiller has taken ${steps}.`,
    {
      option: 'resume',
      found: resume,
      mend: `Make a new Distiller with a new student for a run from the start${resume === undefined ? ", or resume from a checkpoint: resume: 'last'" : ''}`,
    },
  );
}

/**
 * What `auto` chose must be what the run was begun with; what is given is the caller's.
 * @throws LgdError BAD_CHECKPOINT, BAD_FILE
 */
export async function checkAsBegun({ batchChoice }: StepTaker, runFolder: string): Promise<void> {
  const begun = await readBatchNumbers(runFolder);
  for (const option of batchChoice.byAuto) {
    const [before, here] = [begun[option], batchChoice[option]];
    if (before === undefined || before === here) continue;
    throw new LgdError(
      'BAD_CHECKPOINT',
      `the run in ${runFolder} was begun with another number than auto chooses now.`,
      { option: `train.${option}`, found: here, allowed: String(before), mend: `Give train.${option}: ${before}` },
    );
  }
}
