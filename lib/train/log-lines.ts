/** What a run's log says to people alone; runs/run-log.ts has the lines that are read back. */
import { LgdError, messageOf } from '../errors.js';
import { otherProtocols } from '../evaluate/score.js';
import type { EvaluationEvent } from './events.js';
import type { MemoryUse } from './steps.js';

export function mebibytes(bytes: number): number {
  return Math.round(bytes / 2 ** 20);
}

function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}

export function memoryLine({ planned, used }: MemoryUse, students: number): string {
  return `device memory: planned ${mebibytes(planned)} MiB for the parameters and activations of ${students > 1 ? 'all students' : 'student'} and teacher, in use ${mebibytes(used)} MiB`;
}

/** What the first step turned out to need. */
export function memoryAfterLine({ planned, used, peak }: MemoryUse): string {
  return `device memory after the first step: in use ${mebibytes(used)} MiB, at most ${mebibytes(peak)} MiB (planned ${mebibytes(planned)} MiB)`;
}

export function evaluationLine({ step, student, teacher, best, ...also }: EvaluationEvent): string {
  const ofTeacher = teacher ? ` (teacher ${percent(teacher.top1)}, ${percent(teacher.top5)})` : '';
  const zeroShot = student
    ? [`zero-shot top-1 ${percent(student.top1)}, top-${student.topK} ${percent(student.top5)}${ofTeacher}`]
    : [];
  const others = otherProtocols.flatMap((name) => (also[name] ? [`${name} ${percent(also[name].top1)}`] : []));
  return `step ${step}: ${[...zeroShot, ...others, ...(best ? ['the best so far'] : [])].join(', ')}`;
}

/** What ended a run, what to do about it, and what there is to go on from. */
export function failureLines(error: unknown, step: number, last: { step: number; folder: string }): string[] {
  const mend = error instanceof LgdError && !error.message.includes(error.mend) ? ` -> ${error.mend}` : '';
  const from =
    last.folder === '' ? 'there is no checkpoint yet' : `the last checkpoint is of step ${last.step}: ${last.folder}`;
  return [`failed: ${messageOf(error)}${mend}`, `that was after step ${step}; ${from}`];
}
