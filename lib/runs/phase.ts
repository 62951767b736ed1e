/**
 * Phases before the first step, and of evaluations, that take long. Of `student` and `teacher` (once it is loaded),
 * images are embedded; of `images` a dense network's output is scored.
 */
export type Phase =
  | 'teacher'
  | 'text bank'
  | 'training images'
  | 'evaluation images'
  | 'features'
  | 'linear probes'
  | 'fine-tuning'
  | 'student'
  | 'images';

/**
 * How far a phase is: in images; of `text bank` in names, of `linear probes` in percent of each, of `fine-tuning` in
 * steps.
 */
export interface PhaseProgress {
  phase: Phase;
  done: number;
  total: number;
}

/** What tells of a phase, by its number of things done and to do. */
export function reporting(
  onProgress: ((progress: PhaseProgress) => void) | undefined,
  phase: Phase,
): (done: number, total: number) => void {
  return (done, total) => onProgress?.({ phase, done, total });
}
