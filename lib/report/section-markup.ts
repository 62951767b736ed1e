/** The markup of curves, map, gallery and confusion; the page's script draws into it. */
import { counted } from '../counted.js';
import type { ChartSpec } from './chart-specs.js';
import type { Charts, RunCurves } from './charts.js';
import type { ClassConfusion } from './confusion.js';
import { idleBanks } from './loss-parts.js';
import { html, type Html } from './markup.js';
import type { RunSections } from './section.js';
import { percent } from './tables.js';

const rowsShown = 12;

export function chartFigures({ charts, runs }: Charts): Html {
  if (charts.length === 0) return html`<p class="note">No step was logged yet.</p>`;
  const toggle = ({ name }: RunCurves, i: number) =>
    html`<label><input type="checkbox" data-toggle="${i}" checked><span class="key" data-run="${i}"></span>${name}</label>`;
  const toggles =
    runs.length > 1 ? html`<fieldset class="runs"><legend>runs</legend>${runs.map(toggle)}</fieldset>` : undefined;
  const thinned = runs.some((run) => run.thinned) ? ' Long runs are shown as means over short stretches of steps.' : '';
  return html`<div class="toolbar" id="controls" hidden>
  <label>over <select id="axis">
    <option value="step">steps</option><option value="epoch">epochs</option><option value="hours">training time</option>
  </select></label>
  <label>smoothing <input id="smooth" type="range" min="0" max="0.98" step="0.02" value="0.6"></label>
  <label><input id="log-x" type="checkbox"> log x</label><label><input id="log-y" type="checkbox"> log y</label>
  ${toggles}</div>
<p class="muted">Point at a curve to read its values, drag to zoom in, double-click to zoom out.${thinned}</p>
<div class="grid">${charts.map((chart) => figure(chart, runs))}</div>`;
}

function figure(chart: ChartSpec, runs: readonly RunCurves[]): Html {
  const { id, title, hint, unit, lines, source } = chart;
  const write = (value: number | null | undefined) =>
    value === null || value === undefined
      ? '–'
      : unit === 'share'
        ? percent(value)
        : unit === 'count'
          ? Math.round(value).toLocaleString('en')
          : value.toPrecision(4);
  const many = runs.length > 1;
  const rowsOf = (run: RunCurves) => {
    const { x, y } = run[source];
    const name = many ? html`<th scope="row">${run.name}</th>` : undefined;
    const values = (i: number) => lines.map(({ key }) => html`<td>${write(y[key]![i])}</td>`);
    return sampled(x.step.length).map((i) => html`<tr>${name}<td>${x.step[i]!}</td>${values(i)}</tr>`);
  };
  const head = [...(many ? ['run'] : []), 'step', ...lines.map(({ label }) => label)];
  const ends = runs.map((run) => {
    const values = run[source].y[lines[0]!.key]!.filter((value) => value !== null);
    return `${run.name} from ${write(values[0])} to ${write(values.at(-1))}`;
  });
  return html`<figure aria-labelledby="title-${id}"><figcaption><h3 id="title-${id}">${title}</h3><p>${hint}</p></figcaption>
<div class="chart" data-chart="${id}" role="img" aria-label="${`${title}, ${lines[0]!.label}: ${ends.join('; ')}`}"></div>
<details><summary>Numbers</summary><div class="scroll"><table>
<thead><tr>${head.map((label) => html`<th scope="col">${label}</th>`)}</tr></thead>
<tbody>${runs.map(rowsOf)}</tbody>
</table></div></details></figure>`;
}

/** Indices of at most a dozen rows, the first and the last among them. */
function sampled(length: number): number[] {
  if (length <= rowsShown) return Array.from({ length }, (_, i) => i);
  return Array.from({ length: rowsShown }, (_, i) => Math.round((i * (length - 1)) / (rowsShown - 1)));
}

function runTitle({ name }: RunSections, many: boolean): Html | undefined {
  return many ? html`<h3 class="run">${name}</h3>` : undefined;
}

const missing = (why: string): Html => html`<p class="note">Not shown: ${why}</p>`;

export function mapSection(run: RunSections, index: number, many: boolean, method: string): Html {
  const { map } = run;
  if ('missing' in map) return html`${runTitle(run, many)}${missing(map.missing)}`;
  const { step, names, seen, spread, meanCosine, pairCosine } = map.data;
  const cosines =
    seen === 0
      ? ''
      : ` Cosine between a category’s two anchors: ${pairCosine.toFixed(2)} on average; between the means of the banks: ${meanCosine.toFixed(2)}.`;
  const idle = idleBanks(method);
  const shares = `${percent(spread[0], 0)} and ${percent(spread[1], 0)}`;
  const dots = ['textual', 'visual', ...(seen < names.length ? ['unseen'] : [])];
  return html`${runTitle(run, many)}<figure><figcaption><p>Textual and visual anchor of each category after step ${step},
joined by a line, on the two leading principal axes (${shares} of the spread; each bank is centred on its own mean).
${seen} of ${names.length} categories were seen.${cosines}${idle === undefined ? '' : ` ${idle}`}</p></figcaption>
<div class="toolbar">
<label>find <input type="search" data-map-find="${index}" placeholder="a category" autocomplete="off"></label>
<ul class="legend">${dots.map((kind) => html`<li><i class="dot ${kind}"></i>${kind}</li>`)}</ul>
</div>
<div class="map" data-map="${index}" role="img" aria-label="${`Map of ${names.length} categories`}"></div></figure>`;
}

export function gallerySection(run: RunSections, index: number, many: boolean): Html {
  const { gallery } = run;
  if ('missing' in gallery) return html`${runTitle(run, many)}${missing(gallery.missing)}`;
  const { step, categories, seen, size, images, ofImages, unseen } = gallery.data;
  const some =
    categories.length < seen
      ? ` ${categories.length} of ${seen} seen categories are in this file, the most and the least hit.`
      : '';
  const left = size - seen;
  const which = images === ofImages ? `all ${images}` : `${images} of ${ofImages}, spread evenly,`;
  const never = `${left} of ${size} categories were never seen: ${unseen.join(', ')}${left > unseen.length ? ', ...' : ''}`;
  return html`${runTitle(run, many)}<p>The training images that lie nearest to each visual anchor after step ${step}, as
the teacher sees their middle: ${which} were looked at. “Hits” are the images whose nearest name it is.${some}</p>
<div class="toolbar">
<label>show <select data-gallery-order="${index}">
  <option value="most">most hit first</option><option value="least">least hit first</option><option value="name">by name</option>
</select></label>
<label>filter <input type="search" data-gallery-find="${index}" placeholder="a category" autocomplete="off"></label>
<span class="muted" data-gallery-count="${index}" role="status"></span>
</div>
<div class="gallery" data-gallery="${index}"><noscript>The pictures need JavaScript.</noscript></div>
<button type="button" data-gallery-more="${index}" hidden>Show more</button>
${left > 0 ? html`<p class="note">${never}</p>` : undefined}`;
}

export function confusionSection(run: RunSections, many: boolean): Html {
  const { confusion } = run;
  if ('missing' in confusion) return html`${runTitle(run, many)}${missing(confusion.missing)}`;
  const { step, worst, classes, images, top1, teacherProblem, histogram } = confusion.data;
  const hasTeacher = top1.teacher !== undefined;
  const taken = (other: ClassConfusion['confusions'][number]) =>
    html`<span style="--share:${other.share.toFixed(3)}">${other.name} <b>${percent(other.share, 0)}</b></span>`;
  const row = ({ name, images: count, student, teacher, confusions }: ClassConfusion) =>
    html`<tr><th scope="row">${name}</th><td>${count}</td><td>${meter(student)}</td>
${hasTeacher ? html`<td class="teacher">${meter(teacher ?? 0)}</td>` : undefined}
<td class="taken">${confusions.map(taken)}</td></tr>`;
  const head = ['class', 'images', 'student', ...(hasTeacher ? ['teacher'] : []), 'taken for'];
  const beside = hasTeacher ? `, the teacher ${percent(top1.teacher)}` : '';
  return html`${runTitle(run, many)}<p>The student of step ${step} on ${counted(images, 'evaluation image')} of ${classes} classes:
top-1 ${percent(top1.student)}${beside}. Below, the ${worst.length} classes with the lowest accuracy and what their images
are taken for.</p>
${teacherProblem === undefined ? undefined : html`<p class="note">Without the teacher: ${teacherProblem}</p>`}
${spreadChart(histogram.student, histogram.teacher)}
<div class="scroll" tabindex="0" role="region" aria-label="Worst classes"><table class="confusion">
<thead><tr>${head.map((label) => html`<th scope="col">${label}</th>`)}</tr></thead>
<tbody>${worst.map(row)}</tbody>
</table></div>`;
}

function meter(share: number): Html {
  return html`<span class="meter"><i style="width:${(100 * share).toFixed(1)}%"></i></span>${percent(share, 0)}`;
}

/** How many classes have which accuracy. */
function spreadChart(student: readonly number[], teacher: readonly number[] | undefined): Html {
  const most = Math.max(1, ...student, ...(teacher ?? []));
  const bin = (i: number) => {
    const label = `${10 * i} to ${10 * (i + 1)} %: student ${student[i]}${teacher === undefined ? '' : `, teacher ${teacher[i]}`}`;
    const bar = (who: string, value: number) =>
      html`<i class="${who}" style="height:${((100 * value) / most).toFixed(1)}%"></i>`;
    const bars = [bar('student', student[i]!), teacher && bar('teacher', teacher[i]!)];
    return html`<li title="${label}"><span class="bars">${bars}</span><small>${10 * i}</small></li>`;
  };
  const keys = teacher && html` <span class="key student"></span>student <span class="key teacher"></span>teacher`;
  return html`<figure class="spread" aria-label="Classes by accuracy">
<figcaption>Classes by accuracy, in tenths (tallest bar: ${most} classes)${keys}</figcaption>
<ol>${student.map((_, i) => bin(i))}</ol></figure>`;
}
