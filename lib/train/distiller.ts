import { checkArgument, checkOptions, checkText, checkTexts } from '../arguments.js';
import { checkSignal } from '../errors.js';
import { checkDataset, type Dataset } from './batch.js';
import { runOptions, type RunOptions } from './course.js';
import type { RunEvent } from './events.js';
import { runDistillation } from './loop.js';
import { StepTaker } from './step-taker.js';

export type { DistillerOptions } from './step-taker.js';
export type { DistillerState } from './student-trainer.js';

/**
 * Language-guided distillation (Li et al. 2024, arXiv 2406.11689): the student learns to place images among the banks'
 * anchors as the teacher does. {@link queueStep} is the step; {@link run} is the loop around it. While it trains, the
 * weights are its own: in a loop of your own, `student.load((await distiller.state()).weights)` gives them to the
 * student.
 *
 * Several students share the images, their augmented views and the teacher's pass; everything else is each one's own,
 * so that each ends with the bits that it would have alone.
 */
export class Distiller extends StepTaker {
  /**
   * Trains: the whole schedule over a data set, with evaluations and checkpoints in the run folder `config.output`. The
   * student has the final weights after it. To stop earlier, abort `options.signal`: a checkpoint is written and the
   * last event is `interrupted` (before the start event it throws ABORTED instead). Leaving the loop by `break` or an
   * error writes none; run folder and student are then as the last checkpoint left them. The distiller has gone on by
   * then: with `resume` it goes back to a checkpoint, but a run from the start needs a distiller and a student that
   * have taken no step.
   * @throws LgdError ABORTED (before the start), BAD_CONFIG, BAD_OPTION (from the start, after steps), BAD_DATASET,
   *   NOT_WRITABLE, NON_FINITE (with a replay folder), BAD_CHECKPOINT, and faults of device and teacher
   */
  run(dataset: Dataset, options: RunOptions = {}): AsyncGenerator<RunEvent, void, undefined> {
    this.checkAlive();
    checkDataset(dataset);
    checkOptions(options, 'run(dataset, ...)', runOptions);
    for (const option of ['evaluation', 'frozen', 'online'] as const)
      if (options[option] !== undefined) checkArgument(option, options[option]);
    if (options.remarks !== undefined) checkTexts(options.remarks, 'remarks', 'a line');
    if (options.resume !== undefined)
      checkText(options.resume, 'resume', "'last', 'previous', 'best', or a checkpoint's folder");
    checkSignal(options.signal);
    return runDistillation(this, dataset, options);
  }
}
