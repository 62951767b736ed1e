import { counted } from '../counted.js';
import type { DenseTrainingEvent } from '../dense/training.js';
import { startProgress } from './progress.js';
import { percent, phaseReporter } from './run-report.js';
import { formatDuration } from './table.js';
import type { Terminal } from './terminal.js';

/** Options of a configuration that both tasks take, to score and to train. */
export const scoringOptions: readonly string[] = [
  'device',
  'threads',
  'dense.data',
  'dense.evaluationData',
  'train.precision',
  'log.stallMinutes',
];
export const trainingOptions: readonly string[] = [
  ...scoringOptions,
  'seed',
  'overwrite',
  'dense.resolution',
  'dense.batchSize',
  'dense.epochs',
  'dense.maxSteps',
  'dense.learningRate',
  'dense.momentum',
  'dense.weightDecay',
  'dense.scaleMin',
  'dense.scaleMax',
  'dense.flipProbability',
  'dense.everyEpochs',
  'log.everySteps',
];
/** What training says of them. */
export const trainingHelp = { overwrite: 'Empty the folder of --to first when it holds an earlier run' };

/** The events; what is opened before the first is told of, too, where it stands still for so many minutes. */
async function* watchedFromTheStart<Event>(
  events: AsyncGenerator<Event, void>,
  terminal: Terminal,
  stallMinutes: number,
): AsyncGenerator<Event, void> {
  try {
    const first = await phaseReporter(terminal, stallMinutes).during(events.next());
    if (first.done) return;
    yield first.value;
    yield* events;
  } finally {
    await events.return();
  }
}

/** Runs a training to its end and shows it. `short` puts a score on a line, `report` prints the best one. */
export async function showTraining<Score>(
  terminal: Terminal,
  events: AsyncGenerator<DenseTrainingEvent<Score, { layout?: string; remarks?: string[] }>, void>,
  {
    stallMinutes,
    short,
    report,
  }: { stallMinutes: number; short: (score: Score) => string; report: (score: Score) => void },
): Promise<void> {
  const progress = startProgress(terminal, 'training');
  let total = 0;
  try {
    for await (const event of watchedFromTheStart(events, terminal, stallMinutes)) {
      terminal.emit(event);
      if (event.type === 'start') {
        total = event.totalSteps;
        const layout = event.layout === undefined ? '' : ` (${event.layout})`;
        terminal.say(
          `${counted(event.images, 'image')} of ${counted(event.classes, 'class', 'classes')}${layout}, ${counted(total, 'step')}; ${event.evaluationImages === 0 ? 'nothing apart to evaluate on' : `${counted(event.evaluationImages, 'image')} to evaluate on`}`,
        );
        for (const remark of event.remarks ?? []) terminal.say(remark);
      } else if (event.type === 'step') progress.update(event.step, total, `loss ${event.loss.toFixed(3)} | `);
      else if (event.type === 'waiting') progress.line(event.message);
      else if (event.type === 'evaluation')
        progress.line(`step ${event.step}: ${short(event.score)}${event.best ? ', the best so far' : ''}`);
      else {
        progress.stop();
        terminal.say(`done: ${counted(event.step, 'step')} in ${formatDuration(event.seconds)}; ${event.folder}`);
        if (event.score !== undefined) {
          terminal.say(`best ${short(event.score)} at step ${event.bestStep}:\n`);
          report(event.score);
        }
      }
    }
  } finally {
    progress.stop();
  }
}

/** Waits for a score, telling of the images that it is taken on, and shows it. */
export async function showScore<Score>(
  terminal: Terminal,
  stallMinutes: number,
  evaluate: (onProgress: (done: number, total: number) => void) => Promise<Score>,
  report: (terminal: Terminal, score: Score) => void,
): Promise<void> {
  const phases = phaseReporter(terminal, stallMinutes);
  const score = await phases.during(evaluate((done, total) => phases.onProgress({ phase: 'images', done, total })));
  terminal.emit(score);
  report(terminal, score);
}

/** A share that may be of nothing. */
export function shareOf(value: number | null): string {
  return value === null ? '-' : percent(value);
}
