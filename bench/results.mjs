// Rows of scripts/gpu-check: adds a run's to the file that is kept, and shows a run as Markdown.
//   node bench/results.mjs begin <rows of a run>             writes card, driver, commit and date, of which add makes
//     fields of every row; {"run":{...}} among the rows sets more, of those behind it
//   node bench/results.mjs add <rows of a run> <file> [note]
//   node bench/results.mjs table <file> [--all | --short]    the newest run; --short: fewer columns
import { appendFileSync, existsSync, readFileSync, writeFileSync } from 'node:fs';

const read = (file) =>
  readFileSync(file, 'utf8')
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line));

function begin(rows) {
  const { GPU_CHECK_CARD: card, GPU_CHECK_DRIVER: driver, GPU_CHECK_COMMIT: commit } = process.env;
  writeFileSync(rows, `${JSON.stringify({ run: { date: new Date().toISOString(), card, driver, commit } })}\n`);
}

/** Whole lines; a run that was killed may have written half of its last. */
function readWhole(file) {
  return readFileSync(file, 'utf8')
    .split('\n')
    .filter((line) => line !== '')
    .flatMap((line) => {
      try {
        return [JSON.parse(line)];
      } catch {
        console.log(`left out, since it is cut off: ${line}`);
        return [];
      }
    });
}

function add(rows, file, note) {
  let run = {};
  for (const { run: begun, ...row } of readWhole(rows)) {
    if (begun !== undefined) run = { ...run, ...begun };
    else appendFileSync(file, `${JSON.stringify({ ...run, note, ...row })}\n`);
  }
}

function markdown(header, rows) {
  const line = (cells) => `| ${cells.join(' | ')} |`;
  return [line(header), line(header.map((_, i) => (i === 0 ? '---' : '---:'))), ...rows.map(line)].join('\n');
}

const number = (value, digits) => (value === undefined || value === null ? '' : value.toFixed(digits));

const percent = (share) => `${(100 * share).toFixed(1)} %`;

function checksTable(rows) {
  const parts = groupBy(rows, ({ part }) => part);
  return markdown(
    ['checks', 'done', 'failed'],
    [...parts].map(([part, all]) => [
      part,
      all.filter(({ good }) => good !== undefined).length,
      all.filter(({ good }) => good === false).length,
    ]),
  );
}

function groupBy(values, key) {
  const groups = new Map();
  for (const value of values) groups.set(key(value), [...(groups.get(key(value)) ?? []), value]);
  return groups;
}

function kernelsTable(rows, short) {
  const target = ({ target, p50 }) => (target > 0 ? `${(target / p50).toFixed(2)} x` : '');
  const header = short
    ? ['kernel', 'us', 'share', 'of target']
    : [
        'kernel',
        'us',
        'p20',
        'p80',
        'TB/s',
        'TFLOP/s',
        'share of roofline',
        'bound',
        'bytes counted',
        'error',
        'of target',
      ];
  return markdown(
    header,
    rows.map((row) => {
      const share = `${(100 * row.share).toFixed(0)} %`;
      if (short) return [row.name, number(row.p50, 2), share, target(row)];
      const rate = (amount) => number(amount / row.p50 / 1e6, 2);
      return [
        row.name,
        number(row.p50, 2),
        number(row.p20, 2),
        number(row.p80, 2),
        rate(row.bytes),
        rate(row.operations),
        share,
        row.bound,
        row.model,
        row.error.toExponential(1),
        target(row),
      ];
    }),
  );
}

// A row of ours, and beside it the fastest of the comparison's rows for the same thing.
function stepsTable(rows) {
  const ours = rows.filter(({ framework }) => framework === 'lgdistill');
  const same = (a, b) =>
    a.what === b.what && a.student === b.student && a.resolution === b.resolution && a.batch === b.batch;
  const gigabytes = (bytes) => (bytes === undefined ? '' : (bytes / 1e9).toFixed(2));
  const known = ours.map((row) => {
    const others = rows.filter((other) => other.framework === 'pytorch' && same(row, other));
    const best = others.sort((a, b) => b.imagesPerSecond - a.imagesPerSecond)[0];
    return [
      `${row.student} ${row.resolution} px, ${row.what}`,
      number(row.p50, 3),
      number(row.imagesPerSecond, 0),
      row.target ? `${(row.imagesPerSecond / row.target).toFixed(2)} x` : '',
      gigabytes(row.peakBytes),
      best === undefined ? '' : `${number(best.imagesPerSecond, 0)} (${best.how})`,
      best === undefined ? '' : `${(row.imagesPerSecond / best.imagesPerSecond).toFixed(2)} x`,
      gigabytes(best?.peakBytes),
    ];
  });
  const alone = rows
    .filter((row) => row.framework === 'pytorch' && !ours.some((own) => same(own, row)))
    .map((row) => [
      `${row.student} ${row.resolution} px, ${row.what}`,
      '',
      '',
      '',
      '',
      `${number(row.imagesPerSecond, 0)} (${row.how})`,
      '',
      gigabytes(row.peakBytes),
    ]);
  return markdown(
    ['batch of images', 'ms', 'images/s', 'of target', 'peak GB', 'PyTorch, images/s', 'ratio', 'its peak GB'],
    [...known, ...alone],
  );
}

const wayName = ({ programmatic, inOrder, oneCarveout }) =>
  `${programmatic ? 'early' : 'serialized'}, teacher ${inOrder ? 'before' : 'beside'}${oneCarveout ? ', one carve-out' : ''}`;

/** Milliseconds of a step's graph in each way; in bold the one that stayed. */
function waysTable(rows) {
  const names = [...new Set(rows.flatMap(({ ways }) => ways.map(wayName)))];
  return markdown(
    ['graph of a whole step, ms', ...names],
    rows.map(({ student, resolution, what, way, ways }) => [
      `${student} ${resolution} px, ${what}`,
      ...names.map((name) => {
        const time = number(ways.find((one) => wayName(one) === name)?.milliseconds, 3);
        return name === wayName(way) ? `**${time}**` : time;
      }),
    ]),
  );
}

function profileTable(rows) {
  return markdown(
    ['steps', 'operations', 'us', 'busy', 'gaps over 5 us', 'longest gap, us'],
    rows.map(({ student, resolution, operations, length, busy, overLimit, longest }) => [
      `${student} ${resolution} px`,
      operations,
      number(length, 0),
      `${((100 * busy) / length).toFixed(1)} %`,
      overLimit,
      number(longest.microseconds, 1),
    ]),
  );
}

function show(rows, short) {
  const { date, card, driver, commit, note } = rows[0];
  const { products, launches } = rows.find((row) => row.products !== undefined) ?? {};
  const of = (part) => rows.filter((row) => row.part === part);
  const sections = [
    `${card}, driver ${driver}, commit ${commit}, ${date}${products === undefined ? '' : `, products by ${products}, launches ${launches}`}${note ? `, ${note}` : ''}: \`scripts/gpu-check run\``,
    checksTable(rows.filter(({ good }) => good !== undefined)),
    of('kernels').some(({ p50 }) => p50) &&
      kernelsTable(
        of('kernels').filter(({ p50 }) => p50),
        short,
      ),
    of('steps').some(({ framework }) => framework) && stepsTable(of('steps').filter(({ framework }) => framework)),
    of('steps').some(({ ways }) => ways?.length > 0) && waysTable(of('steps').filter(({ ways }) => ways?.length > 0)),
    of('profile').some(({ length }) => length) && profileTable(of('profile').filter(({ length }) => length)),
    ...of('demo').map(
      ({ summary }) =>
        `demo, ${summary.preset}, ${summary.precision}: student ${percent(summary.studentTop1)}, teacher ${percent(summary.teacherTop1)}, ${number(summary.seconds, 0)} s`,
    ),
    ...of('pytorch')
      .filter(({ value, good }) => value !== undefined && good === undefined)
      .map(({ name, value }) => `- PyTorch, ${name}: ${value}`),
    ...rows
      .filter(({ good }) => good === false)
      .map(({ part, name, value, error }) => `- failed: ${part} ${name}: ${value ?? `error ${error}`}`),
  ];
  return sections.filter(Boolean).join('\n\n');
}

const [command, file, ...rest] = process.argv.slice(2);
if (command === 'begin' && file !== undefined) {
  begin(file);
} else if (command === 'add' && rest.length >= 1) {
  add(file, ...rest);
} else if (command === 'table' && file !== undefined) {
  if (!existsSync(file)) {
    console.log(`${file} is not there: no run was kept`);
    process.exit(1);
  }
  const runs = [...groupBy(read(file), ({ date, card, commit }) => `${date} ${card} ${commit}`).values()];
  console.log(
    (rest.includes('--all') ? runs : runs.slice(-1)).map((rows) => show(rows, rest.includes('--short'))).join('\n\n'),
  );
} else {
  console.error('node bench/results.mjs begin <rows> | add <rows> <file> [note] | table <file> [--all] [--short]');
  process.exit(2);
}
