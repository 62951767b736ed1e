import { join } from 'node:path';
import { counted } from '../counted.js';
import type { ZeroShotScore } from '../evaluate/score.js';
import type { Phase, PhaseProgress } from '../runs/phase.js';
import { shellWord } from '../shell.js';
import { describeStandstill, tellingOfWaits } from '../stall.js';
import type { DoneEvent, EvaluationEvent, InterruptedEvent, RunEvent, StartEvent, StepEvent } from '../train/events.js';
import { exitCodes } from './failure.js';
import { startProgress, type Progress } from './progress.js';
import { formatDuration, formatTable } from './table.js';
import type { Terminal } from './terminal.js';

/** What `--json` prints of a run. */
export const eventsHelp =
  '\nWith --json every event is a line of JSON on stdout: preflight (distill), start, step (those that are logged), waiting (a step or an evaluation that stands still), evaluation, checkpoint, and at the end done, interrupted or error. Of several students, studentName says which.';

/** What evaluations say of the option, which is a run's. */
export const stallHelp = {
  'log.stallMinutes': 'Minutes that nothing moves before it says so; again when they have doubled; 0: never',
};

const countedOtherwise: readonly Phase[] = ['text bank', 'linear probes', 'fine-tuning'];

/**
 * Shows the phases before training and of evaluations: a progress bar for each in turn.
 * @returns `onProgress`, and `during`, which gives what a promise gives and meanwhile tells of what stands still for so
 *   many minutes
 */
export function phaseReporter(
  terminal: Terminal,
  stallMinutes: number,
): { onProgress: (progress: PhaseProgress) => void; during: <Value>(work: Promise<Value>) => Promise<Value> } {
  let current: { phase: string; progress: Progress } | undefined;
  let [where, lastSign] = ['opening the files', performance.now()];
  return {
    async during(work) {
      const waits = tellingOfWaits(work, 'evaluation', stallMinutes, () => lastSign);
      try {
        for (;;) {
          const { done, value } = await waits.next();
          if (done) return value;
          (current?.progress.line ?? terminal.warn)(describeStandstill(where, value));
        }
      } finally {
        current?.progress.stop();
      }
    },
    onProgress({ phase, done, total }) {
      [where, lastSign] = [`${phase} ${done}/${total}`, performance.now()];
      if (current?.phase !== phase) {
        current?.progress.stop();
        // a teacher that is loaded is one thing
        current = {
          phase,
          progress: startProgress(
            terminal,
            phase,
            countedOtherwise.includes(phase) || total === 1 ? undefined : 'images',
          ),
        };
      }
      current.progress.update(done, total);
    },
  };
}

/**
 * Follows a run to its end: a progress bar (or a line every few seconds), evaluations as they come, a closing table.
 * With `--json` every event but unlogged steps is a line. Of one that fails it says where its checkpoint stands.
 * @param output the run folder
 * @returns what to exit with, and whether anything was left to do: a step, an evaluation or a checkpoint
 */
export async function reportRun(
  events: AsyncIterable<RunEvent>,
  terminal: Terminal,
  output: string,
): Promise<{ code: number; isChanged: boolean }> {
  const progress = startProgress(terminal, 'training');
  let lastStep = 0;
  let started = false;
  let [step, checkpoint] = [0, 0];
  const begun = new Map<string | undefined, number>();
  const evaluations = new Map<string | undefined, EvaluationEvent>();
  const of = (name: string | undefined) => (name === undefined ? '' : `${name}: `);
  let code: number = exitCodes.done;
  let isChanged = false;
  try {
    for await (const event of events) {
      if (['step', 'evaluation', 'checkpoint'].includes(event.type)) isChanged = true;
      if (event.type !== 'step' || event.logged) terminal.emit(event);
      switch (event.type) {
        case 'start':
          lastStep = event.lastStep;
          step = checkpoint = event.step;
          begun.set(event.studentName, event.step);
          if (started && event.step === 0) break; // the others begin alike
          started = true;
          terminal.say((event.step > 0 ? of(event.studentName) : '') + describeStart(event));
          for (const line of [event.choice, event.batchChoice, event.advice])
            if (line !== undefined) terminal.say(line);
          for (const remark of event.remarks ?? []) terminal.say(`${of(event.studentName)}${remark}`);
          break;
        case 'step':
          step = event.step;
          progress.update(event.step, lastStep, describeStep(event));
          break;
        case 'waiting':
          progress.line(event.message);
          break;
        case 'evaluation':
          evaluations.set(event.studentName, event);
          progress.line(`${of(event.studentName)}${describeEvaluation(event)}`);
          break;
        case 'checkpoint':
          checkpoint = event.step;
          break;
        case 'interrupted':
          progress.stop();
          terminal.say(
            `${of(event.studentName)}interrupted after step ${event.step}; continue with: lgdistill resume ${shellWord(runFolderOf(event))}`,
          );
          code = exitCodes.interrupted;
          break;
        case 'done':
          progress.stop();
          terminal.say(
            `${of(event.studentName)}${describeEnd(event, begun.get(event.studentName) ?? 0, evaluations.get(event.studentName))}`,
          );
          break;
      }
    }
  } catch (error) {
    progress.stop();
    if (checkpoint > 0)
      terminal.warn(
        `failed after step ${step}; its checkpoint of step ${checkpoint} goes on with: lgdistill resume ${shellWord(output)}`,
      );
    throw error;
  } finally {
    progress.stop();
  }
  return { code, isChanged };
}

function describeStart({ images, broken, effectiveBatch, step, lastStep }: StartEvent): string {
  const left = broken > 0 ? ` (${counted(broken, 'broken one')} left out, listed in the run folder)` : '';
  const steps = step > 0 ? `continuing after step ${step} of ${lastStep}` : `steps: ${lastStep}`;
  return `${counted(images, 'image')}${left}, ${effectiveBatch} a step, ${steps}`;
}

function describeStep({ loss, imagesPerSecond, dataWait }: StepEvent): string {
  return `loss ${loss.toFixed(3)} | ${imagesPerSecond.toFixed(0)} images/s | data wait ${percent(dataWait, 0)} | `;
}

function describeEvaluation({ epoch, student, teacher, knn, linear, online, best }: EvaluationEvent): string {
  const also = (
    [
      ['knn', knn],
      ['linear', linear],
      ['online probe', online],
    ] as const
  ).flatMap(([name, score]) => (score === undefined ? [] : [`${name} ${percent(score.top1)}`]));
  const against = teacher === undefined ? '' : ` (teacher ${percent(teacher.top1)}, ${percent(teacher.top5)})`;
  const zeroShot =
    student === undefined
      ? []
      : [`top-1 ${percent(student.top1)}, top-${student.topK} ${percent(student.top5)}${against}`];
  return `epoch ${epoch.toFixed(0)}: ${[...zeroShot, ...also, ...(best ? ['the best so far'] : [])].join(', ')}`;
}

/** @param begun steps that were done before */
function describeEnd(
  { step, seconds, folder, best }: DoneEvent,
  begun: number,
  evaluation: EvaluationEvent | undefined,
): string {
  const took =
    step === begun ? '' : `${begun > 0 ? `, the last ${step - begun} of them` : ''} in ${formatDuration(seconds)}`;
  const lines = [`done: ${counted(step, 'step')}${took}; ${folder}`];
  if (best !== null)
    lines.push(
      `best ${best.metric}: ${best.metric === 'loss' ? best.value.toFixed(4) : percent(best.value)} at step ${best.step}`,
    );
  if (evaluation !== undefined)
    lines.push(
      '',
      scoreTable([
        ['teacher', evaluation.teacher],
        ['student', evaluation.student],
        ['student, knn', evaluation.knn],
        ['student, linear', evaluation.linear],
        ['student, online probe', evaluation.online],
      ]),
    );
  return lines.join('\n');
}

/** Scores side by side, with their 95 % confidence intervals. */
export function scoreTable(rows: readonly (readonly [string, ZeroShotScore | undefined])[]): string {
  const present = rows.filter((row): row is readonly [string, ZeroShotScore] => row[1] !== undefined);
  const interval = ([low, high]: [number, number]) => `${(100 * low).toFixed(1)} to ${percent(high)}`;
  return formatTable(
    ['', 'top-1', '95 % interval', `top-${present[0]?.[1].topK ?? 5}`, '95 % interval', 'images', 'classes'],
    present.map(([name, score]) => [
      name,
      percent(score.top1),
      interval(score.interval1),
      percent(score.top5),
      interval(score.interval5),
      String(score.images),
      String(score.classes),
    ]),
  );
}

/** 0.123 -> '12.3 %'. */
export function percent(share: number, digits = 1): string {
  return `${(100 * share).toFixed(digits)} %`;
}

/** What to resume: the run folder of `run/checkpoints/step-N`, or, of one of several students, the folder above. */
function runFolderOf({ folder, studentName }: InterruptedEvent): string {
  return studentName === undefined ? join(folder, '..', '..') : join(folder, '..', '..', '..');
}
