/**
 * Runs without category names are evaluated by what needs none: nearest neighbours, a linear classifier, the online
 * probe.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import type { ConfigInput } from '../../lib/config/config.js';
import { compareRuns } from '../../lib/report/compare.js';
import { encodeEvents } from '../../lib/report/event-file.js';
import { readRuns } from '../../lib/report/read-run.js';
import { writeReport } from '../../lib/report/report.js';
import type { EvaluationEvent, RunEvent } from '../../lib/train/events.js';
import { prepareRun } from '../../lib/train/setup.js';
import { lgdistill } from '../cli/program.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { drawShapes, ofType, smallConfig, train } from '../fixtures/tiny.js';

const folder = temporaryFolder();
const at = (...parts: string[]) => join(folder, ...parts);

beforeAll(async () => {
  await drawShapes(at('train'), { count: 6, size: 32, telling: true });
  await drawShapes(at('test'), { count: 3, size: 32, seed: 2, telling: true });
});

const config = (output: string, evaluate: ConfigInput['evaluate'], more: ConfigInput = {}): ConfigInput =>
  smallConfig(at('train'), at(output), {
    method: 'seed',
    names: undefined,
    train: { epochs: 1, batchSize: 8, warmupEpochs: 0 },
    loss: { queueSize: 32 },
    checkpoint: { everyEpochs: 0 },
    evaluate: { data: at('test'), everyEpochs: 0, everySteps: 1, neighbours: 5, probeEpochs: 3, ...evaluate },
    ...more,
  });

describe('a run of method seed without names', () => {
  let evaluations: EvaluationEvent[];

  beforeAll(async () => {
    const { events } = await train(config('run', { train: at('train'), also: 'both', online: true }));
    evaluations = ofType(events, 'evaluation');
    expect(ofType(events, 'done')[0]!.best!.metric).toBe('knn');
    const [first] = evaluations.filter(({ knn }) => knn!.top1 === Math.max(...evaluations.map((one) => one.knn!.top1)));
    expect(ofType(events, 'done')[0]!.best).toEqual({ metric: 'knn', value: first!.knn!.top1, step: first!.step });
    expect(
      ofType(events, 'checkpoint')
        .filter(({ best }) => best)
        .at(-1)!.step,
    ).toBe(first!.step);
  });

  it('has scores of what was asked for, and none of zero-shot', () => {
    expect(evaluations.map(({ step }) => step)).toEqual([1, 2, 3]);
    for (const { student, teacher, knn, linear, online } of evaluations) {
      expect([student, teacher]).toEqual([undefined, undefined]);
      for (const score of [knn, linear, online]) expect(score).toMatchObject({ images: 12, classes: 4 });
    }
    expect(readFileSync(at('run', 'log.txt'), 'utf8')).toMatch(
      / step 1: knn [\d.]+ %, linear [\d.]+ %, online [\d.]+ %, the best so far$/mu,
    );
  });

  it('shows them in the report, the comparison and the event file', async () => {
    const best = Math.max(...evaluations.map(({ knn }) => knn!.top1));
    const {
      runs: [summary],
    } = await writeReport({ runs: [at('run')], models: false, output: at('report.html') });
    expect(summary).toMatchObject({ top1: undefined, badLines: 0, others: { knn: best } });
    const page = readFileSync(at('report.html'), 'utf8');
    expect(page).toContain('Top-1 by labelled images');
    expect(page).not.toContain('Zero-shot top-1');
    expect(page).not.toContain('teacher top-1');
    const { stdout } = await lgdistill(['compare', at('run')]);
    expect(stdout).toMatch(/steps +knn top-1/u);
    expect((await compareRuns([at('run')])).runs[0]).toMatchObject({
      top1: undefined,
      images: 12,
      classes: 4,
      others: { knn: { share: best } },
    });
    for await (const run of readRuns([at('run')])) {
      const bytes = Buffer.concat([...encodeEvents(run)].map((record) => record.bytes)).toString('latin1');
      for (const protocol of ['knn', 'linear', 'online']) expect(bytes).toContain(`${protocol}/student_top1`);
      expect(bytes).not.toContain('zero_shot');
    }
  });

  it('has no text bank to export, but takes one', async () => {
    const { stderr } = await lgdistill(['export', at('run'), '--to', 'onnx', '--out', at('x.onnx'), '--classifier']);
    expect(stderr).toMatch(/was trained without names[^]*--classifier names\.safetensors/u);
    const bank = await lgdistill(['export', at('run'), '--to', at('x.safetensors'), '--bank', at('bank.safetensors')]);
    expect(bank.stderr).toMatch(/was trained without names/u);
  });

  it('goes on, and knows other evaluation images for what they are', async () => {
    const remarksOf = async (evaluate: ConfigInput['evaluate']) => {
      const { events } = await train(
        config(
          'short',
          { train: at('train'), also: 'knn', ...evaluate },
          { train: { epochs: 2, batchSize: 8, warmupEpochs: 0, maxSteps: evaluate!.everySteps! } },
        ),
        { resume: 'last' },
      );
      return ofType(events, 'start')[0]!.remarks ?? [];
    };
    await train(
      config(
        'short',
        { train: at('train'), also: 'knn' },
        { train: { epochs: 2, batchSize: 8, warmupEpochs: 0, maxSteps: 1 } },
      ),
    );
    expect(await remarksOf({ everySteps: 2 })).toEqual([]);
    expect(await remarksOf({ everySteps: 3, data: at('train') })).toEqual([
      `evaluate.train and evaluate.data are the same images, ${at('train')}: each is judged by its own label, so these scores say nothing of other images`,
      expect.stringMatching(/^evaluation images or names are others than before/u),
    ]);
  });
});

it.each([
  ['linear', { also: 'linear', train: 'train' }],
  ['online', { online: true }],
] as const)(
  'auto takes %s where that is all there is',
  async (metric, { train: learnt, ...evaluate }: { train?: string; also?: 'linear'; online?: true }) => {
    const { events } = await train(
      config(`only-${metric}`, { everySteps: 3, ...(learnt !== undefined && { train: at(learnt) }), ...evaluate }),
    );
    expect(ofType(events, 'done')[0]!.best!.metric).toBe(metric);
  },
);

it('says so where an online probe is judged on the images that it learns from', async () => {
  const { events } = await train(config('by-heart', { everySteps: 3, data: at('train'), online: true }));
  expect(ofType(events, 'start')[0]!.remarks).toContainEqual(
    expect.stringContaining('data.train and evaluate.data are the same images') as string,
  );
});

it('there is none by an online probe that the distiller has not', async () => {
  await using run = await prepareRun(config('no-probe', { also: 'knn', train: at('train') }));
  const { images: test, mean, std } = { images: run.frozen!.options.test, ...run.frozen!.options };
  const events: RunEvent[] = [];
  for await (const event of run.distiller.run(run.dataset, {
    online: { images: test, labels: test.labels!, mean, std },
  }))
    events.push(event);
  expect(ofType(events, 'evaluation')).toEqual([]);
  expect(ofType(events, 'done')[0]!.best!.metric).toBe('loss');
});

it('is told on the command line', async () => {
  const { code, stdout, stderr } = await lgdistill([
    'distill',
    '--device',
    'cpu',
    '--method',
    'seed',
    '--teacher',
    smallConfig('', '').teacher as string,
    '--student',
    'mobilenet_v2',
    '--width-multiplier',
    '0.35',
    '--data',
    at('train'),
    '--evaluate',
    at('test'),
    '--evaluate.train',
    at('train'),
    '--also',
    'knn',
    '--neighbours',
    '5',
    '--epochs',
    '1',
    '--batch-size',
    '8',
    '--data.resolution',
    '32',
    '--output',
    at('cli'),
    '--no-preflight',
    '--no-report',
  ]);
  expect(stderr).not.toContain('error');
  expect(code).toBe(0);
  expect(stdout + stderr).toMatch(/epoch 1: knn [\d.]+ %, the best so far/u);
  expect(stdout).toMatch(/best knn: [\d.]+ % at step 3/u);
  expect(stdout).toMatch(/^student, knn +[\d.]+ %/mu);
});

it('refuses what cannot be had without names, and says what can', async () => {
  await expect(train(config('refused', {}))).rejects.toMatchObject({
    code: 'BAD_CONFIG',
    option: 'evaluate.also',
    mend: expect.stringContaining('evaluate.names'),
  });
  await expect(train(config('refused', { also: 'knn', train: at('train'), metric: 'top1' }))).rejects.toMatchObject({
    code: 'BAD_CONFIG',
    option: 'evaluate.metric',
  });
  await expect(
    train(config('refused', { also: 'knn', train: at('train'), mapping: at('mapping.json') })),
  ).rejects.toMatchObject({ code: 'BAD_CONFIG', option: 'evaluate.mapping' });
});
