import cliProgress from 'cli-progress';
import { formatDuration } from './table.js';
import type { Terminal } from './terminal.js';

/**
 * How far a long call is: a bar where a person watches, a plain line every few seconds elsewhere. Both go to stderr.
 */
export interface Progress {
  /** `details`, such as the loss, stand beside the bar. */
  update(done: number, total: number, details?: string): void;
  /** Prints a line without breaking the bar. */
  line(text: string): void;
  stop(): void;
}

const secondsBetweenLines = 5;

/**
 * @param label what is being done, one or two words
 * @param unit what is counted, where a rate is to be shown: 'images'
 */
export function startProgress(terminal: Terminal, label: string, unit?: string): Progress {
  return terminal.interactive ? startBar(terminal, label, unit) : startLines(terminal, label, unit);
}

/** Shows how far work is as long as it goes on, so that what is printed of its result stands below. */
export async function withProgress<Result>(
  terminal: Terminal,
  label: string,
  work: (progress: Progress) => Promise<Result>,
): Promise<Result> {
  const progress = startProgress(terminal, label);
  try {
    return await work(progress);
  } finally {
    progress.stop();
  }
}

function startBar(terminal: Terminal, label: string, unit: string | undefined): Progress {
  let bar: cliProgress.SingleBar | undefined;
  const clock = startClock(unit);
  const stop = () => {
    bar?.stop();
    bar = undefined;
  };
  return {
    update(done, total, details = '') {
      const payload = { details, left: clock.left(done, total) };
      if (bar === undefined) {
        bar = new cliProgress.SingleBar(
          {
            format: `${label} {bar} {percentage}% | {value}/{total} | {details}{left}`,
            // Ctrl-C is the program's to handle
            hideCursor: true,
            barsize: 24,
            stream: process.stderr,
            gracefulExit: false,
          },
          cliProgress.Presets.shades_classic,
        );
        bar.start(total, done, payload);
      } else {
        bar.setTotal(total);
        bar.update(done, payload);
      }
    },
    line(text) {
      stop(); // the next update draws a new bar below the line
      terminal.warn(text);
    },
    stop,
  };
}

function startLines(terminal: Terminal, label: string, unit: string | undefined): Progress {
  const clock = startClock(unit);
  let printed = performance.now();
  return {
    update(done, total, details = '') {
      const now = performance.now();
      const left = clock.left(done, total); // the first update starts the clock, printed or not
      if (now - printed < secondsBetweenLines * 1000) return;
      printed = now;
      terminal.warn(`${label} ${done}/${total} | ${details}${left}`.replace(/ \| $/u, ''));
    },
    line: (text) => terminal.warn(text),
    stop: () => undefined,
  };
}

/**
 * Time left at the pace since the first update, which a resumed run starts above zero; before it the pace itself, where
 * a unit is given.
 */
function startClock(unit: string | undefined): { left(done: number, total: number): string } {
  let first: { done: number; at: number } | undefined;
  return {
    left(done, total) {
      first ??= { done, at: performance.now() };
      const pace = (done - first.done) / (performance.now() - first.at);
      if (!(pace > 0)) return '';
      const rate = unit === undefined ? '' : `${(1000 * pace).toFixed(0)} ${unit}/s | `;
      return `${rate}${formatDuration((total - done) / pace / 1000)} left`;
    },
  };
}
