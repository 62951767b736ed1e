import { describe, expect, it } from 'vitest';
import { curvesOf, makeCharts } from '../../lib/report/charts.js';
import { chartFigures, mapSection } from '../../lib/report/section-markup.js';
import { Metrics, type RunRecord } from '../../lib/report/read-run.js';
import { summarise } from '../../lib/report/summary.js';
import { headline, summaryTable } from '../../lib/report/tables.js';

const parts = ['visual bank', 'queue', 'textual bank'] as const;
type Part = (typeof parts)[number];

/** What each method's loss compares over (docs/concepts.md). */
const methods: Record<string, readonly Part[]> = {
  lgd: ['visual bank', 'textual bank'],
  text: ['textual bank'],
  visual: ['visual bank'],
  seed: ['queue'],
  hybrid: ['visual bank', 'queue'],
  combined: ['visual bank', 'queue', 'textual bank'],
  feature: [],
};

/** A run of a method, with the metrics that such a run writes: zero in parts that it has not. */
function runOf(
  method: string,
  {
    name = method,
    topK = 5,
    classes = 9,
    names = 3,
  }: { name?: string; topK?: number; classes?: number; names?: number } = {},
): RunRecord {
  const over = methods[method] ?? parts;
  const visual = over.some((part) => part !== 'textual bank') ? 1 : 0;
  const textual = over.includes('textual bank') ? 1 : 0;
  const step = (n: number) =>
    JSON.stringify({
      type: 'step',
      step: n,
      epoch: n,
      loss: 2,
      lossVisual: 2 * visual,
      lossTextual: 2 * textual,
      klVisual: visual,
      klTextual: textual,
      entropyVisual: visual,
      entropyTextual: textual,
      ownMass: 0.9 * visual,
      agreement: names > 0 ? 0.5 : 0,
      categoriesHit: names,
      categoriesSeen: names,
      learningRate: 0.1,
      imagesPerSecond: 100,
      dataWait: 0.1,
      teacherWait: 0,
      time: 1e12 + n,
    });
  const score = {
    top1: 0.5,
    top5: 0.9,
    topK,
    images: 10,
    classes,
    correct1: 5,
    correct5: 9,
    interval1: [0, 1],
    interval5: [0, 1],
  };
  const metrics = new Metrics();
  for (const line of [
    step(1),
    step(2),
    JSON.stringify({ type: 'evaluation', step: 2, epoch: 2, time: 1e12, seconds: 1, student: score, teacher: score }),
  ])
    metrics.add(line);
  return {
    name,
    path: `/runs/${name}`,
    config: { method },
    ...metrics.columns(),
    log: { outcome: 'done', seconds: 1, sessions: [], images: 9, device: 'CPU', version: '0.1.0' },
    student: undefined,
    studentProblem: 'none',
  };
}

/** All that curves and summary say of runs. */
function reportOn(...runs: RunRecord[]): string {
  const summaries = runs.map(summarise);
  return [headline(summaries)?.text, summaryTable(summaries).text, chartFigures(chartsOf(...runs)).text].join('\n');
}

const chartsOf = (...runs: RunRecord[]) => makeCharts(runs, runs.map(curvesOf));
const hintOf = (id: string, ...runs: RunRecord[]) => chartsOf(...runs).charts.find((chart) => chart.id === id)?.hint;
const labelsOf = (id: string, ...runs: RunRecord[]) =>
  chartsOf(...runs)
    .charts.find((chart) => chart.id === id)
    ?.lines.map(({ label }) => label);

describe('a report says what the loss of its method is over', () => {
  it.each(Object.entries(methods))('%s', (method, over) => {
    const text = reportOn(runOf(method));
    for (const part of parts) expect(text.includes(part), part).toBe(over.includes(part));
    expect(text.includes('both parts')).toBe(method === 'lgd' || method === 'combined');
    expect(text.includes('nats')).toBe(method !== 'feature');
    expect(text.includes('rises while')).toBe(over.includes('queue'));
  });

  it('names a part as the method has it, in curves and table alike', () => {
    expect(labelsOf('loss', runOf('seed'))).toEqual(['loss']); // the queue alone is all of it
    for (const id of ['kl', 'entropy']) expect(labelsOf(id, runOf('seed')), id).toEqual(['queue']);
    expect(labelsOf('loss', runOf('combined'))).toEqual(['total', 'visual bank and queue', 'textual bank']);
    expect(hintOf('own', runOf('seed'))).toContain('the queue');
    expect(hintOf('loss', runOf('feature'))).toMatch(/cosine.*towards zero/u);
    expect(summaryTable([summarise(runOf('seed'))]).text).toContain('KL, queue');
  });

  it('finds words that fit all runs, and draws no part that a run has not', () => {
    const charts = chartsOf(runOf('seed'), runOf('lgd'));
    expect(charts.charts.find(({ id }) => id === 'kl')!.lines.map(({ label }) => label)).toEqual([
      'visual part',
      'textual bank',
    ]);
    expect(charts.runs.map(({ steps }) => steps.y['klTextual'])).toEqual([
      [null, null],
      [1, 1],
    ]);
    expect(hintOf('loss', runOf('feature'), runOf('lgd'))).toContain('Of method feature it is one less the cosine');
    expect(reportOn(runOf('seed'), runOf('lgd'))).toContain('different methods do not compare');
    expect(reportOn(runOf('lgd'), runOf('lgd', { name: 'again' }))).not.toContain('do not compare');
    // not chosen before the first checkpoint
    expect(labelsOf('kl', runOf('auto'))).toEqual(['visual part', 'textual bank']);
    expect(labelsOf('kl', runOf('of a later version'))).toEqual(['visual part', 'textual bank']);
  });

  it('says of the map which banks took no part', () => {
    const map = {
      data: {
        step: 1,
        names: ['a', 'b'],
        seen: 2,
        spread: [0.5, 0.5],
        meanCosine: 0,
        pairCosine: 0,
        textual: { x: [], y: [] },
        visual: { x: [], y: [] },
      },
    } as never;
    const text = (method: string) =>
      mapSection({ name: 'run', map, gallery: { missing: '' }, confusion: { missing: '' } }, 0, false, method).text;
    expect(text('seed')).toContain('Neither bank takes part in the loss of method seed.');
    expect(text('text')).toContain('The visual bank takes no part in the loss of method text.');
    expect(text('hybrid')).toContain('The textual bank takes no part');
    for (const method of ['lgd', 'combined', 'auto']) expect(text(method)).not.toContain('part in the loss');
  });

  it('has no agreement without names', () => {
    expect(summarise(runOf('seed', { names: 0 })).agreement).toBeUndefined();
    expect(summarise(runOf('seed')).agreement).toBe(0.5);
  });
});

describe('fewer classes than five', () => {
  it('are counted in every heading', () => {
    const text = reportOn(runOf('lgd', { topK: 3, classes: 3 }));
    expect(text).not.toContain('top-5');
    for (const part of [
      'Zero-shot top-3',
      'among the three nearest, which are all there are',
      'student top-3 there',
      'teacher top-3',
      'top-3: 90.0',
    ])
      expect(text).toContain(part);
  });

  it('stand beside more in one table', () => {
    const runs = [runOf('lgd'), runOf('lgd', { name: 'few', topK: 3, classes: 3 })];
    expect(hintOf('top5', ...runs)).toContain('among the five nearest, or among all where there are fewer');
    expect(summaryTable(runs.map(summarise)).text).toMatch(
      /student top-5 there<\/th><td>90\.0\u00a0%<\/td><td>90\.0\u00a0% \(top-3\)</u,
    );
    expect(hintOf('top5', runOf('lgd'))).toMatch(/among the five nearest\.$/u);
    expect(chartsOf(runOf('lgd', { topK: 1, classes: 1 })).charts.map(({ id }) => id)).not.toContain('top5');
  });
});

it('curves over time leave out the pauses of a run that was stopped and went on', () => {
  const run = runOf('lgd');
  const hour = 3_600_000;
  const time = Float64Array.of(1e12 + hour, 1e12 + 21 * hour);
  const sessions = [
    { from: 1e12, to: 1e12 + 2 * hour },
    { from: 1e12 + 20 * hour, to: 1e12 + 22 * hour },
  ];
  const evaluations = run.evaluations.map((point) => ({ ...point, time: 1e12 + 22 * hour }));
  const { steps, evaluations: judged } = curvesOf({
    ...run,
    steps: { ...run.steps, time },
    evaluations,
    log: { ...run.log, sessions },
  });
  expect(steps.x.hours).toEqual([1, 3]);
  expect(judged.x.hours).toEqual([4]);
});
