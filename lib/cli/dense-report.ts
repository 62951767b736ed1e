import type { Command } from 'commander';
import type { Config } from '../config/config.js';
import { counted } from '../counted.js';
import type { DenseTrainingEvent } from '../dense/training.js';
import type { Bind } from './command.js';
import { tellNeedless, type Needless } from './needless.js';
import { readConfig } from './options.js';
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

const needlessInTraining: readonly Needless<Config>[] = [
  {
    options: ['dense.epochs'],
    when: ({ dense }) => dense.maxSteps !== undefined,
    where: 'dense.maxSteps says how long the schedule is',
  },
];
const needlessInScoring: readonly Needless<Config>[] = [
  {
    options: ['data', 'dense.data'],
    when: ({ dense }) => dense.evaluationData !== undefined,
    where: 'dense.evaluationData says what to evaluate on',
  },
  {
    options: ['annotations', 'dense.annotations'],
    when: ({ dense }) => dense.evaluationAnnotations !== undefined,
    where: 'dense.evaluationAnnotations has the boxes to evaluate on',
  },
  {
    options: ['bank'],
    when: ({ evaluate }) => evaluate.bank !== undefined,
    where: 'evaluate.bank has the texts of the names',
  },
];

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

/** The configuration of a command, which has short names for two of its options. */
async function readDenseConfig(command: Command): Promise<Config> {
  const { data, annotations } = command.opts<{ data?: string; annotations?: string }>();
  return readConfig(command, { 'dense.data': data, 'dense.annotations': annotations });
}

type Report<Score> = (terminal: Terminal, score: Score) => void;
type Events<Score> = AsyncGenerator<DenseTrainingEvent<Score, { layout?: string; remarks?: string[] }>, void>;

/**
 * Has a command run a training to its end and show it. `short` puts a score on a line, `report` prints the best one.
 */
export function trainBy<Score>(
  command: Command,
  bind: Bind,
  train: (options: { student: string; output: string; config: Config; signal: AbortSignal }) => Events<Score>,
  short: (score: Score) => string,
  report: Report<Score>,
): Command {
  return command.action(
    bind(async ({ terminal, signal }) => {
      const { student, output } = command.opts<{ student: string; output: string }>();
      const config = await readDenseConfig(command);
      tellNeedless(terminal, command, config, needlessInTraining);
      const events = train({ student, output, config, signal });
      await showTraining(terminal, watchedFromTheStart(events, terminal, config.log.stallMinutes), short, report);
    }),
  );
}

async function showTraining<Score>(
  terminal: Terminal,
  events: Events<Score>,
  short: (score: Score) => string,
  report: Report<Score>,
): Promise<void> {
  const progress = startProgress(terminal, 'training');
  let total = 0;
  try {
    for await (const event of events) {
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
          report(terminal, event.score);
        }
      }
    }
  } finally {
    progress.stop();
  }
}

/** Has a command wait for a score, telling of the images that it is taken on, and show it. */
export function scoreBy<Score>(
  command: Command,
  bind: Bind,
  evaluate: (options: {
    config: Config;
    signal: AbortSignal;
    onProgress: (done: number, total: number) => void;
  }) => Promise<Score>,
  report: Report<Score>,
): Command {
  return command.action(
    bind(async ({ terminal, signal }) => {
      const config = await readDenseConfig(command);
      tellNeedless(terminal, command, config, needlessInScoring);
      const phases = phaseReporter(terminal, config.log.stallMinutes);
      const onProgress = (done: number, total: number) => phases.onProgress({ phase: 'images', done, total });
      const score = await phases.during(evaluate({ config, signal, onProgress }));
      terminal.emit(score);
      report(terminal, score);
    }),
  );
}

/** A share that may be of nothing. */
export function shareOf(value: number | null): string {
  return value === null ? '-' : percent(value);
}
