import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { chromium, type Browser, type Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseConfig, writeReport } from '../../lib/index.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { noteSkip } from '../shared.js';
import { hostileNames, makeReportRuns } from './report-fixture.js';

const executablePath = [process.env['LGDISTILL_CHROMIUM'], '/usr/bin/chromium'].find(
  (path) => path !== undefined && existsSync(path),
);
if (executablePath === undefined)
  noteSkip('reports in a browser', 'there is no Chromium; LGDISTILL_CHROMIUM names one');

const folder = temporaryFolder();
let browser: Browser;
let one: string;
let both: string;

interface Opened {
  page: Page;
  /** Errors and warnings of the console, dialogs, and requests beyond the file itself. */
  complaints: string[];
}

async function open(file: string, { width, dark = false }: { width: number; dark?: boolean }): Promise<Opened> {
  const page = await browser.newPage({ viewport: { width, height: 800 }, colorScheme: dark ? 'dark' : 'light' });
  const complaints: string[] = [];
  const url = pathToFileURL(file).href;
  page.on('console', (message) => ['error', 'warning'].includes(message.type()) && complaints.push(message.text()));
  page.on('pageerror', (error) => complaints.push(String(error)));
  page.on('dialog', (dialog) => {
    complaints.push(`dialog ${dialog.message()}`);
    void dialog.dismiss();
  });
  page.on(
    'request',
    (request) =>
      request.url() !== url && !request.url().startsWith('data:') && complaints.push(`request ${request.url()}`),
  );
  await page.goto(url);
  return { page, complaints };
}

/** Of each chart and map: how many colours its canvas holds. Curves, axes and letters make more than a few. */
function coloursDrawn(page: Page): Promise<{ name: string; colours: number }[]> {
  return page.evaluate(`[...document.querySelectorAll('[data-chart], [data-map]')].map((element) => {
    const canvas = element.querySelector('canvas');
    const pixels = canvas === null ? [] : new Uint32Array(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.buffer);
    return { name: element.dataset.chart ?? 'map ' + element.dataset.map, colours: new Set(pixels).size };
  })`);
}

const overflow = (page: Page): Promise<number> =>
  page.evaluate('document.documentElement.scrollWidth - document.documentElement.clientWidth');
const value = (page: Page, expression: string): Promise<unknown> => page.evaluate(expression);

describe.skipIf(executablePath === undefined)('a report in a browser', () => {
  beforeAll(async () => {
    const runs = await makeReportRuns(join(folder, 'runs'));
    one = (await writeReport({ runs: [runs.hostile], device: 'cpu' })).file;
    both = (await writeReport({ runs: [runs.hostile, runs.plain], device: 'cpu', output: join(folder, 'both.html') }))
      .file;
    browser = await chromium.launch({
      executablePath,
      args: ['--no-sandbox', '--disable-gpu', '--disable-background-networking'],
    });
  }, 300_000);
  afterAll(() => browser?.close());

  it.each([
    ['on a phone', 360, false],
    ['on a phone in the dark', 360, true],
    ['on a desktop', 1280, false],
    ['on a desktop in the dark', 1280, true],
  ])('is drawn %s without a complaint, a request or a sideways scroll', async (_, width, dark) => {
    for (const file of [one, both]) {
      const { page, complaints } = await open(file, { width, dark });
      const drawn = await coloursDrawn(page);
      expect(drawn.length).toBeGreaterThanOrEqual(10);
      for (const { name, colours } of drawn) expect(colours, name).toBeGreaterThan(10);
      expect(await overflow(page)).toBe(0);
      await value(page, "document.querySelectorAll('details').forEach((details) => { details.open = true; })");
      expect(await overflow(page)).toBe(0);
      expect(complaints).toEqual([]);
      await page.close();
    }
  });

  it('shows names as they are, and pictures that load', async () => {
    const { page, complaints } = await open(one, { width: 1280 });
    const titles = await page.locator('.gallery h4').allTextContents();
    expect(titles.length).toBeGreaterThan(0);
    for (const title of titles)
      expect(
        hostileNames.some((name) => title.startsWith(name)),
        title,
      ).toBe(true);
    expect(await page.locator('h1').textContent()).toBe('<b> "run" & one');
    expect(
      await value(
        page,
        "[...document.querySelectorAll('.gallery img')].every((image) => image.complete && image.naturalWidth === 96)",
      ),
    ).toBe(true);
    await page.locator('[data-gallery-find]').fill('no such name');
    expect(await page.locator('.gallery article').count()).toBe(0);
    // a long word does not push the accuracies out of sight
    const wider = `(() => {
      const table = document.querySelector('.confusion');
      for (const name of table.querySelectorAll('tbody th, .taken span')) name.textContent = 'x'.repeat(200);
      return table.scrollWidth - table.parentElement.clientWidth;
    })()`;
    expect(await value(page, wider)).toBe(0);
    expect(complaints).toEqual([]);
    await page.close();
  });

  it('answers its controls', async () => {
    const { page, complaints } = await open(both, { width: 1280 });
    const legend = () => page.locator('[data-chart=loss] .u-legend').textContent();
    expect(await legend()).toContain('plain, total');
    await page.locator('[data-toggle="1"]').uncheck();
    expect(await legend()).not.toContain('plain, total');
    await page.locator('#log-y').check();
    await page.locator('#log-x').check();
    await page.locator('#axis').selectOption('hours');
    await page.locator('#smooth').fill('0');
    await page.locator('#log-x').uncheck();
    for (const { name, colours } of await coloursDrawn(page)) expect(colours, name).toBeGreaterThan(10);
    await page.locator('[data-chart=loss] .u-over').hover();
    expect(await legend()).toMatch(/^training time[\d.]+ s/u);
    expect(complaints).toEqual([]);
    await page.close();
  });

  it('writes steps of an axis that are close to each other with all their digits', async () => {
    const run = join(folder, 'close');
    mkdirSync(run);
    writeFileSync(join(run, 'config.json'), JSON.stringify(parseConfig({ method: 'lgd', output: run })));
    const steps = [0, 1, 2].map((i) => ({ step: i + 1, epoch: i, ownMass: 1 - 1e-4 * i, learningRate: 1.2e-4 * i }));
    writeFileSync(
      join(run, 'metrics.jsonl'),
      steps.map((step) => `${JSON.stringify({ type: 'step', loss: 1, time: 1, ...step })}\n`).join(''),
    );
    const { file } = await writeReport({ runs: [run], models: false });
    const page = await browser.newPage({ viewport: { width: 1280, height: 800 } });
    await page.addInitScript(`{
      const { fillText } = CanvasRenderingContext2D.prototype;
      CanvasRenderingContext2D.prototype.fillText = function (text, ...place) {
        ((window.texts ??= new Map()).get(this.canvas) ?? window.texts.set(this.canvas, new Set()).get(this.canvas)).add(text);
        fillText.call(this, text, ...place);
      };
    }`);
    await page.goto(pathToFileURL(file).href);
    const texts = (await value(
      page,
      "[...document.querySelectorAll('[data-chart]')].flatMap((chart) => [...(window.texts.get(chart.querySelector('canvas')) ?? [])])",
    )) as string[];
    expect(texts).toEqual(expect.arrayContaining(['99.985 %', '99.995 %', '1.5e-4', '2.5e-4']));
    await page.close();
  });

  it('tells the category under the pointer on the map', async () => {
    const { page, complaints } = await open(one, { width: 1280 });
    // The pointer goes over the map row by row.
    const names = (await value(
      page,
      `(() => {
      const over = document.querySelector('[data-map="0"] .u-over');
      over.scrollIntoView();
      const { left, top, width, height } = over.getBoundingClientRect();
      const tip = document.getElementById('tip');
      const names = new Set();
      for (let y = 6; y < height; y += 12) {
        for (let x = 6; x < width; x += 12) {
          over.dispatchEvent(new PointerEvent('pointermove', { clientX: left + x, clientY: top + y }));
          if (!tip.hidden) names.add(tip.textContent.replace(/ \\(unseen\\)$/u, ''));
        }
      }
      return [...names];
    })()`,
    )) as string[];
    expect([...names].sort()).toEqual([...hostileNames].sort());
    expect(complaints).toEqual([]);
    await page.close();
  });
});
