/** The tables of the summary. */
import { counted } from '../counted.js';
import { otherProtocols, type OtherProtocol } from '../evaluate/score.js';
import { lossParts } from './loss-parts.js';
import { html, type Html } from './markup.js';
import type { OptionRow, RunSummary } from './summary.js';

const absent = '–';

export function percent(share: number | undefined, digits = 1): string {
  return share === undefined ? absent : `${(100 * share).toFixed(digits)}\u00a0%`;
}

/** 1234567 -> '1,234,567'. */
function count(value: number | undefined): string {
  return value === undefined ? absent : Math.round(value).toLocaleString('en');
}

function digits(value: number | undefined): string {
  return value === undefined ? absent : value.toPrecision(4);
}

function duration(seconds: number): string {
  if (seconds === 0) return absent;
  if (seconds < 120) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  return seconds < 7200 ? `${(seconds / 60).toFixed(1)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

/** The numbers that people ask for first, of a report on one run. */
export function headline(summaries: readonly RunSummary[]): Html | undefined {
  const [run] = summaries;
  if (run === undefined || summaries.length > 1) return undefined;
  const { top1, teacherTop1 } = run;
  const tiles: [name: string, value: string, note: string][] = [];
  if (top1 !== undefined) {
    const teacher = teacherTop1 === undefined ? '' : `; teacher ${percent(teacherTop1)}`;
    tiles.push(['student top-1', percent(top1), `its best${teacher}`]);
    if (teacherTop1)
      tiles.push([
        'of the teacher’s top-1',
        percent(top1 / teacherTop1, 0),
        `top-${mostRanked(summaries)}: ${percent(run.top5)} of ${percent(run.teacherTop5)}`,
      ]);
  } else
    for (const name of protocolsOf(summaries))
      tiles.push([`${protocolNames[name]} top-1`, percent(run.others[name]), 'at its best evaluation']);
  tiles.push(
    ['loss', digits(run.loss), 'mean of the last tenth'],
    [
      'training',
      duration(run.seconds),
      `${counted(count(run.steps), 'step')}, ${counted(run.epochs.toFixed(0), 'epoch')}`,
    ],
    ['images a second', count(run.imagesPerSecond), run.device ?? ''],
    ['parameters', run.parameters === undefined ? absent : `${(run.parameters / 1e6).toFixed(2)} M`, run.student],
  );
  return html`<dl class="tiles">${tiles.map(([name, value, note]) => html`<div><dt>${name}</dt><dd><b>${value}</b><span>${note}</span></dd></div>`)}</dl>`;
}

type Row = readonly [label: string, cell: (run: RunSummary) => string];

function rowsOf(summaries: readonly RunSummary[]): Row[] {
  const { visual, textual } = lossParts(summaries.map(({ method }) => method));
  const most = mostRanked(summaries);
  const protocols = protocolsOf(summaries);
  const zeroShot = protocols.length === 0 || summaries.some(({ top1 }) => top1 !== undefined);
  const ranked = (value: number | undefined, topK: number | undefined) =>
    `${percent(value)}${value === undefined || topK === most ? '' : ` (top-${topK})`}`;
  const rows: Row[] = [
    ['outcome', ({ outcome }) => outcome],
    ['student', ({ student }) => student || absent],
    ['teacher', ({ teacher }) => teacher || absent],
    ['method', ({ method }) => method || absent],
    ['training images', ({ images }) => count(images)],
    [
      'categories (seen)',
      ({ categories, categoriesSeen }) =>
        categories === undefined ? absent : `${count(categories)} (${count(categoriesSeen)})`,
    ],
    ['steps', ({ steps }) => count(steps)],
    ['epochs', ({ epochs }) => epochs.toFixed(1)],
    ['time', ({ seconds }) => duration(seconds)],
    ['images/s, median', ({ imagesPerSecond }) => count(imagesPerSecond)],
    ['parameters', ({ parameters }) => count(parameters)],
    ['loss', ({ loss }) => digits(loss)],
  ];
  if (visual !== undefined) rows.push([`KL, ${visual}`, ({ klVisual }) => digits(klVisual)]);
  if (textual) rows.push(['KL, textual bank', ({ klTextual }) => digits(klTextual)]);
  rows.push(['agreement', ({ agreement }) => percent(agreement)]);
  if (zeroShot)
    rows.push(
      ['student top-1, best', ({ top1 }) => percent(top1)],
      [`student top-${most} there`, ({ top5, topK }) => ranked(top5, topK)],
      ['teacher top-1', ({ teacherTop1 }) => percent(teacherTop1)],
      [`teacher top-${most}`, ({ teacherTop5, topK }) => ranked(teacherTop5, topK)],
    );
  for (const name of protocols)
    rows.push([`${protocolNames[name]} top-1 there`, ({ others }) => percent(others[name])]);
  rows.push(
    ['device', ({ device }) => device ?? absent],
    ['lgdistill', ({ version }) => version ?? absent],
    ['folder', ({ path }) => path],
  );
  return rows;
}

const protocolNames: Readonly<Record<OtherProtocol, string>> = {
  knn: 'nearest neighbours',
  linear: 'linear classifier',
  online: 'online probe',
};

/** Protocols besides zero-shot that any of the runs has. */
function protocolsOf(summaries: readonly RunSummary[]): OtherProtocol[] {
  return otherProtocols.filter((name) => summaries.some(({ others }) => others[name] !== undefined));
}

/** The K of top-K: five, or the most that any run has. */
function mostRanked(summaries: readonly RunSummary[]): number {
  return Math.max(0, ...summaries.flatMap(({ topK }) => topK ?? [])) || 5;
}

export function summaryTable(summaries: readonly RunSummary[]): Html {
  const methods = new Set(summaries.map(({ method }) => method));
  const bad = summaries.filter(({ badLines }) => badLines > 0);
  const head = summaries.map(
    ({ name }, i) => html`<th scope="col"><span class="key" data-run="${i}"></span>${name}</th>`,
  );
  const row = ([label, cell]: Row) =>
    html`<tr><th scope="row">${label}</th>${summaries.map((run) => html`<td>${cell(run)}</td>`)}</tr>`;
  const apart = methods.size > 1 ? ' Losses and KL of different methods do not compare.' : '';
  const note = ({ name, badLines: lines }: RunSummary) =>
    html`<p class="note">${name}: ${lines === 1 ? '1 line' : `${lines} lines`} of metrics.jsonl could not be read and
${lines === 1 ? 'is' : 'are'} left out.</p>`;
  const table = html`<div class="scroll" tabindex="0" role="region" aria-label="Runs"><table class="facts">
<thead><tr><th scope="col"></th>${head}</tr></thead>
<tbody>${rowsOf(summaries).map(row)}</tbody>
</table></div>
<p class="muted">Loss, KL and agreement are means over the last tenth of the logged steps.${apart}</p>
${bad.map(note)}`;
  return summaries.length > 1 ? table : html`<details><summary>All numbers of the run</summary>${table}</details>`;
}

/** A bar a run: where its seconds went. */
export function timeBars(summaries: readonly RunSummary[]): Html | undefined {
  const timed = summaries.filter(({ time }) => time.length > 0);
  if (timed.length === 0) return undefined;
  const labels = [...new Set(timed.flatMap(({ time }) => time.map(({ label }) => label)))];
  const place = (label: string) => labels.indexOf(label);
  const bar = ({ name, time }: RunSummary) => {
    const total = time.reduce((sum, { seconds }) => sum + seconds, 0);
    const text = time.map(({ label, seconds }) => `${label} ${percent(seconds / total, 0)}`).join(', ');
    const part = ({ label, seconds }: RunSummary['time'][number]) => {
      const title = `${label}: ${duration(seconds)}, ${percent(seconds / total, 0)}`;
      const share = (seconds / total).toFixed(4);
      return html`<i data-part="${place(label)}" style="flex-grow:${share}" title="${title}"></i>`;
    };
    const run = timed.length > 1 ? html`<span class="run">${name}</span>` : undefined;
    return html`<div class="timed">${run}<div class="bar" role="img" aria-label="${text}">${time.map(part)}</div></div>`;
  };
  const legend = (label: string) => {
    const only = timed.length === 1 ? timed[0]!.time.find((part) => part.label === label) : undefined;
    return html`<li><i data-part="${place(label)}"></i>${label}${only === undefined ? undefined : ` ${duration(only.seconds)}`}</li>`;
  };
  return html`<h3>Where the time went</h3>${timed.map(bar)}<ul class="legend">${labels.map(legend)}</ul>`;
}

export function differenceTable(differences: readonly OptionRow[], summaries: readonly RunSummary[]): Html {
  const one = summaries.length === 1;
  const title = one ? 'Options that differ from the defaults' : 'Options that differ between the runs';
  if (differences.length === 0) return html`<h3>${title}</h3><p>None.</p>`;
  const head = one ? html`<th scope="col">value</th>` : summaries.map(({ name }) => html`<th scope="col">${name}</th>`);
  const cell = (value: OptionRow['values'][number]) =>
    html`<td>${value === undefined ? absent : abbreviate(value)}</td>`;
  const body = differences.map(
    ({ path, help, values }) =>
      html`<tr><th scope="row" title="${help}"><code>${path}</code></th>${values.map(cell)}</tr>`,
  );
  const table = html`<div class="scroll" tabindex="0" role="region" aria-label="${title}"><table class="facts">
<thead><tr><th scope="col">option</th>${head}</tr></thead>
<tbody>${body}</tbody>
</table></div>`;
  return one
    ? html`<details><summary>${title} (${differences.length})</summary>${table}</details>`
    : html`<h3>${title}</h3>${table}`;
}

function abbreviate(json: string): string {
  const text = json.startsWith('"') ? (JSON.parse(json) as string) : json;
  return text.length > 120 ? `${text.slice(0, 117)}...` : text;
}
