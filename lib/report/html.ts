/** The page: one file that needs nothing else. */
import { createHash } from 'node:crypto';
import { counted } from '../counted.js';
import type { Assets } from './assets.js';
import type { Charts } from './charts.js';
import { embedJson, html, Html } from './markup.js';
import { chartFigures, confusionSection, gallerySection, mapSection } from './section-markup.js';
import type { RunSections } from './section.js';
import type { OptionRow, RunSummary } from './summary.js';
import { differenceTable, headline, summaryTable, timeBars } from './tables.js';

export interface Page {
  title: string;
  /** ISO 8601. */
  made: string;
  version: string;
  summaries: readonly RunSummary[];
  differences: readonly OptionRow[];
  charts: Charts;
  /** One a run. */
  sections: readonly RunSections[];
}

/** The whole document. */
export function renderPage(page: Page, { styles, scripts, licence }: Assets): string {
  const { title, made, version, summaries, differences, charts, sections } = page;
  const data = {
    charts,
    maps: sections.map(({ map }) => ('data' in map ? map.data : null)),
    galleries: sections.map(({ gallery }) => ('data' in gallery ? gallery.data : null)),
  };
  const many = sections.length > 1;
  const map = (one: RunSections, i: number) => html`<div>${mapSection(one, i, many, summaries[i]?.method ?? '')}</div>`;
  return html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="${policy(scripts)}">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="lgdistill ${version}">
<title>${title}</title>
<style>${new Html(styles)}</style>
</head>
<body>
<header>
  <h1>${title}</h1>
  ${runs(summaries)}
  <p class="muted">Written ${made.slice(0, 16).replace('T', ' ')} UTC by lgdistill ${version}</p>
  <nav aria-label="Sections">
    <a href="#summary">Summary</a><a href="#curves">Curves</a><a href="#map">Map of the banks</a>
    <a href="#gallery">Anchor gallery</a><a href="#confusion">Confusion</a>
  </nav>
</header>
<main>
<section id="summary"><h2>Summary</h2>
${headline(summaries)}${summaryTable(summaries)}${timeBars(summaries)}${differenceTable(differences, summaries)}</section>
<section id="curves"><h2>Curves</h2>${chartFigures(charts)}</section>
<section id="map"><h2>Map of both banks</h2><div class="maps">${sections.map(map)}</div></section>
<section id="gallery"><h2>Anchor gallery</h2>${sections.map((one, i) => gallerySection(one, i, many))}</section>
<section id="confusion"><h2>Confusion</h2>${sections.map((one) => confusionSection(one, many))}</section>
</main>
<div id="tip" role="status" hidden></div>
<script type="application/json" id="data">${embedJson(data)}</script>
${new Html(`<!-- The curves are drawn by uPlot.\n${licence.replaceAll('--', '- -')}-->`)}
${scripts.map((script) => new Html(`<script>${script}</script>\n`))}</body>
</html>
`.text;
}

/** What was trained, in a line. */
function runs(summaries: readonly RunSummary[]): Html | undefined {
  const [run] = summaries;
  if (run === undefined || summaries.length > 1) return undefined;
  const { student, teacher, method, categories, images } = run;
  const facts = [
    `${student} taught by ${teacher}`,
    `method ${method}`,
    ...(categories === undefined ? [] : [counted(categories, 'category', 'categories')]),
    ...(images === undefined ? [] : [counted(images, 'unlabelled image')]),
  ];
  return html`<p>${facts.join(', ')}</p>`;
}

/** Nothing is fetched, and no script runs but those that came with the page. */
function policy(scripts: readonly string[]): string {
  const hashes = scripts.map((script) => `'sha256-${createHash('sha256').update(script).digest('base64')}'`).join(' ');
  return `default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src ${hashes}`;
}
