// Makes docs/benchmarks.md and its charts from the rows in bench/results/peers and the words in bench/page.md.
import { readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { barChart } from './chart.mjs';
import { aims, compared, comparedSize, readResults, sizeOf, titleOf } from './rows.mjs';

const here = dirname(fileURLToPath(import.meta.url));
const docs = join(here, '..', 'docs');
const ops = { bankLoss: 'bankLoss, forward and backward', bankUpdate: 'bankUpdate' };

/** Every file that the rows make: [path below docs/, text]. */
export function renderFiles() {
  const results = readResults();
  const page = readFileSync(join(here, 'page.md'), 'utf8')
    .replace(
      '<!-- generated -->',
      '<!-- Made by `npm run bench -- --render` from bench/results/peers and bench/page.md: edit those. -->',
    )
    .replace('<!-- rows -->', results.map(machineSection).join('\n\n'));
  return [['benchmarks.md', page], ...results.map(({ name, rows }) => [chartFile(name), chart(rows)])];
}

export function writePage() {
  for (const [file, text] of renderFiles()) writeFileSync(join(docs, file), text);
  process.stdout.write(
    `bench: wrote ${renderFiles()
      .map(([file]) => `docs/${file}`)
      .join(', ')}\n`,
  );
}

const chartFile = (name) => `benchmarks-${name}.svg`;

function machineSection({ name, rows }) {
  const { cpu, cores, gpu, os, node, date, commit, load } = rows[0];
  const versions = Object.assign({}, ...rows.map((row) => row.versions));
  const command = '`npm run bench`';
  return [
    `## ${cpu}, ${cores} cores${gpu ? `, ${gpu}` : ''}`,
    `${command} on ${date}, commit ${commit}, ${os}, Node ${node}, load ${load} when it began; ${Object.entries(
      versions,
    )
      .map(([key, value]) => `${key} ${value}`)
      .join(', ')}.`,
    `![Milliseconds at ${sizeOf(comparedSize)}, logarithmic](${chartFile(name)})`,
    aimTable(rows),
    ...Object.keys(ops).map(
      (op) => `### ${ops[op]}\nMilliseconds a call, median (20th to 80th percentile).\n\n${sizesTable(rows, op)}`,
    ),
    `### Checks and threads\nAt ${sizeOf(comparedSize)}: how far the results are from the float64 reference (norm of the difference over norm), and how much processor time a call took.\n\n${checksTable(rows)}`,
    `### Encoder training\n${encoderTable(rows)}`,
    absences(rows),
  ]
    .filter(Boolean)
    .join('\n\n');
}

function aimTable(rows) {
  const verdict = (factor, { wanted, atMost }) =>
    factor === undefined
      ? ''
      : `${factor.toPrecision(3)}, ${(atMost ? factor <= wanted : factor >= wanted) ? 'met' : '**missed**'}`;
  return table(
    [`Native CPU at ${sizeOf(comparedSize)}, all threads`, 'aimed at', 'public call', 'banks resident'],
    aims(rows).map((entry) => [
      `${entry.op}: ${entry.aim}`,
      `${entry.atMost ? 'at most' : 'at least'} ${entry.wanted}`,
      verdict(entry.call, entry),
      verdict(entry.resident, entry),
    ]),
  );
}

const milliseconds = (value) => (value >= 100 ? value.toFixed(0) : value.toPrecision(3));

function sizesTable(rows, op) {
  const ofOp = rows.filter((row) => row.op === op);
  const sizes = [...new Map(ofOp.map((row) => [sizeOf(row), row])).keys()];
  const names = [...new Set(ofOp.map(({ implementation }) => implementation))];
  return table(
    ['B x D x K', ...sizes],
    names.map((name) => {
      const own = ofOp.filter(({ implementation }) => implementation === name);
      return [titleOf(own[0]), ...sizes.map((size) => cell(own.find((row) => sizeOf(row) === size)))];
    }),
  );
}

function cell(row) {
  if (row === undefined) return '';
  if (row.notRun) return `not run: ${row.notRun.split(/[,:]/)[0]}`;
  return row.runs === 1
    ? `${milliseconds(row.p50)} (one run)`
    : `${milliseconds(row.p50)} (${milliseconds(row.p20)} to ${milliseconds(row.p80)})`;
}

function checksTable(rows) {
  const lines = ['bankLoss', 'bankUpdate']
    .flatMap((op) => compared(rows, op))
    .filter(({ kind }) => kind !== 'reference');
  return table(
    ['', 'operation', 'active', 'runs', 'processor ms', 'error', 'bound'],
    lines.map((row) => [
      row.title,
      row.op,
      row.detail,
      String(row.runs),
      milliseconds(row.cpuMs),
      row.checked ? row.checked.error.toExponential(1) : 'products alone',
      row.checked ? `${row.checked.bound}${row.checked.ok ? '' : ' **exceeded**'}` : '',
    ]),
  );
}

function encoderTable(rows) {
  const lines = rows.filter(({ op }) => op === 'encoder');
  if (lines.length === 0) return '';
  const { model, widthMultiplier, resolution, batch } = lines[0];
  return `One step (forward, backward, SGD with momentum) of ${model} x ${widthMultiplier} at ${resolution} px, batch ${batch}.\n\n${table(
    ['', 'active', 'images/s', 'ms a step', 'runs', 'losses: error, bound'],
    lines.map((row) =>
      row.notRun
        ? [row.title, row.detail, `not run: ${row.notRun}`, '', '', '']
        : [
            row.title,
            row.detail,
            row.imagesPerSecond.toPrecision(3),
            milliseconds(row.p50),
            String(row.runs),
            row.checked
              ? `${row.checked.error.toExponential(1)}, ${row.checked.bound}${row.checked.ok ? '' : ' **exceeded**'}`
              : 'the measure',
          ],
    ),
  )}`;
}

function absences(rows) {
  const lines = rows.filter(({ op }) => op === undefined);
  return lines.length > 0
    ? `Not on this machine:\n\n${lines.map(({ title, notRun }) => `- ${title}: ${notRun}`).join('\n')}`
    : '';
}

function table(head, lines) {
  const line = (cells) => `| ${cells.join(' | ')} |`;
  return [line(head), line(head.map(() => '---')), ...lines.map(line)].join('\n');
}

function chart(rows) {
  const groups = Object.entries(ops).map(([op, title]) => ({
    title: `${title}, ${sizeOf(comparedSize)}`,
    bars: compared(rows, op).map((row) => ({
      label: titleOf(row),
      value: row.p50,
      tone:
        row.kind === 'ours' || row.kind === 'reference'
          ? 'ours'
          : row.implementation.startsWith('sgemm')
            ? 'floor'
            : 'other',
    })),
  }));
  return barChart(
    groups.filter(({ bars }) => bars.length > 0),
    { unit: 'ms', note: 'logarithmic; shorter is faster' },
  );
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) writePage();
