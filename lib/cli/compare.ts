import { Command, Option } from 'commander';
import { compareRuns, type RunComparison, type ShareWithInterval, type Spread } from '../report/compare.js';
import type { Bind } from './command.js';
import { percent } from './run-report.js';
import { formatTable } from './table.js';

export function compareCommand(bind: Bind): Command {
  const command = new Command('compare')
    .description(
      'print a table of runs: accuracy with 95 % intervals, loss, speed; seeds of one configuration as mean and deviation',
    )
    .argument('<runs...>', 'run folders')
    .addOption(
      new Option('--at <which>', "which evaluation counts: a run's best, or its last")
        .choices(['best', 'last'])
        .default('best'),
    );
  return command.action(
    bind(async ({ terminal }, runs) => {
      const { at } = command.opts<{ at: 'best' | 'last' }>();
      const comparison = await compareRuns(runs as string[], { at });
      terminal.emit(comparison);
      terminal.say(describe(comparison));
    }),
  );
}

function describe({ runs, groups, remarks }: RunComparison): string {
  const others = (['knn', 'linear', 'online'] as const).filter((name) =>
    runs.some((run) => run.others[name] !== undefined),
  );
  // a column of runs without names would be empty
  const zeroShot = others.length === 0 || runs.some(({ top1 }) => top1 !== undefined);
  const topK = Math.min(5, ...runs.flatMap(({ classes }) => (classes === undefined ? [] : [classes])));
  const parts = [
    formatTable(
      [
        'run',
        'method',
        'student',
        'seed',
        'steps',
        ...(zeroShot ? ['top-1', '95 % interval', `top-${topK}`, '95 % interval'] : []),
        ...others.flatMap((name) => [`${name} top-1`, '95 % interval']),
        'last loss',
        'images/s',
      ],
      runs.map((run) => [
        run.name,
        run.method,
        run.student,
        String(run.seed ?? '-'),
        String(run.steps),
        ...(zeroShot ? [...shareCells(run.top1), ...shareCells(run.top5)] : []),
        ...others.flatMap((name) => shareCells(run.others[name])),
        run.loss?.toFixed(4) ?? '-',
        run.imagesPerSecond?.toFixed(0) ?? '-',
      ]),
    ),
  ];
  if (groups.some(({ seeds }) => seeds > 1)) {
    parts.push(
      '',
      'mean (standard deviation) over seeds',
      formatTable(
        [
          'method',
          'student',
          'runs',
          'seeds',
          'steps',
          ...(zeroShot ? ['top-1', `top-${topK}`] : []),
          ...others.map((name) => `${name} top-1`),
          'last loss',
          'images/s',
          'otherwise',
        ],
        groups.map((group) => [
          group.method,
          group.student,
          String(group.runs.length),
          String(group.seeds),
          String(group.steps),
          ...(zeroShot
            ? [group.top1, group.top5].map((spread) => spreadCell(spread, (share) => (100 * share).toFixed(1)))
            : []),
          ...others.map((name) => spreadCell(group.others[name], (share) => (100 * share).toFixed(1))),
          spreadCell(group.loss, (value) => value.toFixed(4)),
          spreadCell(group.imagesPerSecond, (value) => value.toFixed(0)),
          Object.entries(group.differences)
            .map(([path, value]) => `${path} ${value}`)
            .join(', ') || '-',
        ]),
      ),
    );
  }
  return [...parts, ...(remarks.length > 0 ? ['', ...remarks] : [])].join('\n');
}

function shareCells(found: ShareWithInterval | undefined): [string, string] {
  if (found === undefined) return ['-', '-'];
  const [low, high] = found.interval;
  return [percent(found.share), `${(100 * low).toFixed(1)} to ${percent(high)}`];
}

function spreadCell(spread: Spread | undefined, format: (value: number) => string): string {
  if (spread === undefined) return '-';
  return Number.isNaN(spread.deviation) ? format(spread.mean) : `${format(spread.mean)} (${format(spread.deviation)})`;
}
