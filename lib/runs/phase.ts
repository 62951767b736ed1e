/** Phases before the first step, and of evaluations, that take long. */
export type Phase = 'teacher' | 'text bank' | 'training images' | 'evaluation images' | 'features' | 'fine-tuning';

/** How far a phase is. */
export interface PhaseProgress {
  phase: Phase;
  done: number;
  total: number;
}
