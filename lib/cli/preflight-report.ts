import { counted } from '../counted.js';
import { LgdError } from '../errors.js';
import { preflight, type PreflightReport } from '../train/preflight.js';
import type { PreparedRun } from '../train/setup.js';
import { percent } from './run-report.js';
import { formatBytes, formatDuration, formatTable } from './table.js';
import type { Terminal } from './terminal.js';

/**
 * Measures a run before it starts and prints what it will take.
 * @param isAll whether nothing comes after it: the numbers of faulty steps are then an error, which the run itself
 *   would report with what replaying them takes
 */
export async function reportPreflight(
  { distiller, dataset }: PreparedRun,
  terminal: Terminal,
  { isAll, signal }: { isAll: boolean; signal: AbortSignal },
): Promise<void> {
  try {
    const report = await preflight(distiller, dataset, { signal });
    terminal.emit(report);
    if (isAll && report.batchChoice !== undefined) terminal.say(report.batchChoice); // else the run says it
    terminal.say(describePreflight(report));
  } catch (error) {
    if (isAll || !(error instanceof LgdError) || !['NON_FINITE', 'ZERO_EMBEDDING'].includes(error.code)) throw error;
    terminal.warn(`nothing was measured: ${error.message}`);
  }
}

function describePreflight({
  students,
  imagesPerSecond,
  effectiveBatch,
  hours,
  steps,
  memory,
  largestBatch,
  stages,
  bottleneck,
  advice,
}: PreflightReport): string {
  const [planned, used, peak, available] = [memory.planned, memory.used, memory.peak, memory.available].map(
    formatBytes,
  );
  const { batchSize, limit, bytes } = largestBatch;
  return [
    `${students.join(', ')}: ${imagesPerSecond.toPrecision(3)} images/s, ${counted(steps, 'step')} of ${counted(effectiveBatch, 'image')} in ` +
      `${formatDuration(3600 * hours)}, evaluations and checkpoints not counted`,
    `memory: ${planned} planned for students and teacher, ${used} in use while training, ${peak} at most, of ` +
      `${available}; the largest batch that fits is about ${batchSize}${limit === 'images' ? ', all images' : ''} ` +
      `(${formatBytes(bytes)})`,
    formatTable(
      ['part of a step', 'ms', 'share'],
      stages.map(({ stage, milliseconds, share }) => [stage, milliseconds.toFixed(1), percent(share)]),
    ),
    `bottleneck: ${bottleneck}. ${advice}`,
  ].join('\n');
}
