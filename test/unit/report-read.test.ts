import { chmod, mkdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { thin } from '../../lib/report/charts.js';
import { chooseRuns, readRuns } from '../../lib/report/read-run.js';
import { configDifferences, summarise } from '../../lib/report/summary.js';
import { findStudentFile } from '../../lib/runs/student-file.js';
import { asUser, temporaryFolder } from '../fixtures/folder.js';
import { allRuns } from '../fixtures/runs.js';

const folder = temporaryFolder();

/** A run folder as a run leaves it before its first checkpoint. */
async function makeRun(path: string, config: object, metrics: string, log = ''): Promise<string> {
  const run = join(folder, path);
  await mkdir(run, { recursive: true });
  await Promise.all(
    [
      ['config.json', JSON.stringify(config)],
      ['metrics.jsonl', metrics],
      ['log.txt', log],
    ].map(([name, text]) => writeFile(join(run, name!), text!)),
  );
  return run;
}

const score = (top1: number) => ({
  top1,
  top5: 0.9,
  topK: 5,
  images: 10,
  classes: 10,
  correct1: 10 * top1,
  correct5: 9,
  interval1: [0, 1],
  interval5: [0, 1],
});
const step = (n: number, more: object = {}) =>
  JSON.stringify({
    type: 'step',
    step: n,
    epoch: n / 10,
    loss: 4 - n / 10,
    imagesPerSecond: 100,
    dataWait: 0.25,
    time: 1e12 + 1000 * n,
    ...more,
  });

describe('metrics', () => {
  it('are read as steps and evaluations; what is torn is counted, lines of other kinds are passed over', async () => {
    const lines = [
      step(1),
      '{"type":"step","loss":1}',
      'null',
      step(2, { loss: null }),
      JSON.stringify({ type: 'evaluation', step: 2, student: score(0.5) }),
      '{"type":"later","step":2}',
      '',
      '{"type":"step","st',
    ];
    const { steps, evaluations, badLines } = (await allRuns([await makeRun('metrics', {}, lines.join('\n'))]))[0]!;
    expect(badLines).toBe(3);
    expect([...steps.step]).toEqual([1, 2]);
    expect([...steps.loss]).toEqual([3.9, NaN]);
    expect([...steps.klVisual]).toEqual([NaN, NaN]);
    expect(evaluations).toMatchObject([{ step: 2, epoch: NaN, student: { top1: 0.5 }, teacher: undefined }]);
  });
});

describe('readRuns', () => {
  it('is given paths, whatever callers without types give', async () => {
    for (const paths of [undefined, 'run', {}, [5, 6], ['run', null], [, 'run'], Promise.resolve(['run'])]) {
      await expect(chooseRuns(paths as never)).rejects.toMatchObject({
        code: 'BAD_OPTION',
        option: expect.stringMatching(/^runs/u) as string,
      });
    }
  });

  it('tells what is no run folder, and how to mend it', async () => {
    await expect(allRuns([])).rejects.toMatchObject({ code: 'BAD_OPTION' });
    await expect(allRuns([join(folder, 'nowhere')])).rejects.toMatchObject({
      code: 'FILE_NOT_FOUND',
      mend: expect.stringContaining('run folder') as unknown,
    });
    await mkdir(join(folder, 'empty'));
    await expect(allRuns([join(folder, 'empty')])).rejects.toMatchObject({
      code: 'FILE_NOT_FOUND',
      message: expect.stringContaining('no config.json') as unknown,
    });
    await expect(allRuns([await makeRun('list', [], '')])).rejects.toMatchObject({ code: 'BAD_FILE' });
  });

  it('says what it may not look at, in the place of passing it over', async () => {
    const run = await makeRun('closed', {}, step(1));
    const checkpoints = join(run, 'checkpoints');
    await mkdir(join(checkpoints, 'step-00000001'), { recursive: true });
    await mkdir(join(checkpoints, 'last'));
    await writeFile(join(checkpoints, 'last', 'model.safetensors'), '');
    await symlink('step-00000001', join(checkpoints, 'best'));
    for (const path of [folder, run]) await chmod(path, 0o711);
    await chmod(join(checkpoints, 'step-00000001'), 0o600);
    await asUser(async () => {
      await expect(allRuns([run])).rejects.toMatchObject({
        code: 'BAD_FILE',
        message: expect.stringContaining(`cannot read the folder ${run}`) as unknown,
      });
      await expect(findStudentFile(run)).rejects.toMatchObject({
        code: 'BAD_FILE',
        message: expect.stringContaining('best') as unknown,
      });
    });
  });

  it('reads no run before the one before it was taken: a million lines of metrics of each are 150 MB', async () => {
    const [one, other] = [await makeRun('one-by-one/x', {}, step(1)), await makeRun('one-by-one/other/x', {}, '')];
    const runs = readRuns([one, other]);
    expect((await runs.next()).value).toMatchObject({ name: 'one-by-one/x', badLines: 0 });
    await writeFile(join(other, 'metrics.jsonl'), `${step(1)}\n${step(2)}\n`);
    expect(await runs.next()).toMatchObject({
      done: false,
      value: { name: 'other/x', steps: { step: Float64Array.of(1, 2) } },
    });
  });

  it('but tells of a path that is no run before it reads the first', async () => {
    const one = await makeRun('told/x', {}, step(1));
    await expect(readRuns([one, join(folder, 'told/nowhere')]).next()).rejects.toMatchObject({
      code: 'FILE_NOT_FOUND',
    });
    await expect(readRuns([one, await makeRun('told/list', [], '')]).next()).rejects.toMatchObject({
      code: 'BAD_FILE',
    });
  });

  it('reads a run that has just started, and gives each of several a name of its own', async () => {
    const paths = [await makeRun('a/x', {}, ''), await makeRun('b/x', {}, ''), await makeRun('c', {}, '')];
    const runs = await allRuns([...paths, paths[2]!]);
    expect(runs.map(({ name }) => name)).toEqual(['a/x', 'b/x', 'c']);
    expect(runs[0]).toMatchObject({
      student: undefined,
      studentProblem: 'it has no checkpoint yet',
      log: { outcome: 'unfinished' },
    });
    expect(summarise(runs[0]!)).toMatchObject({ steps: 0, loss: undefined, top1: undefined, time: [] });
  });
});

describe('summarise', () => {
  it('takes the best evaluation, the last tenth of the losses, and parts the time', async () => {
    const metrics = [
      ...Array.from({ length: 20 }, (_, i) => step(i + 1)),
      JSON.stringify({ type: 'evaluation', step: 10, seconds: 1, student: score(0.75), teacher: score(0.8) }),
      JSON.stringify({ type: 'evaluation', step: 20, seconds: 1, student: score(0.5), teacher: score(0.8) }),
    ];
    const log =
      '2026-01-01T00:00:00.000Z start at step 0 of 20, 50 images, 0 broken ones left out; lgdistill 0.1.0 on CPU, 2 threads\n2026-01-01T00:00:10.000Z done at step 20\n';
    const [run] = await allRuns([
      await makeRun('timed', { train: { batchSize: 30, accumulate: 1 } }, metrics.join('\n'), log),
    ]);
    const summary = summarise(run!);
    expect(summary).toMatchObject({
      outcome: 'done',
      steps: 20,
      epochs: 2,
      seconds: 10,
      images: 50,
      device: 'CPU, 2 threads',
      version: '0.1.0',
      imagesPerSecond: 100,
      top1: 0.75,
      teacherTop1: 0.8,
    });
    expect(summary.loss).toBeCloseTo((4 - 1.9 + 4 - 2) / 2, 9);
    // 20 steps of 30 images at 100 a second are 6 s, a quarter of them away from the device; 2 s went to evaluations, 2
    // to the rest.
    expect(Object.fromEntries(summary.time.map(({ label, seconds }) => [label, Number(seconds.toFixed(6))]))).toEqual({
      'training on the device': 4.5,
      'preparing batches': 1.5,
      evaluation: 2,
      'checkpoints and the rest': 2,
    });
  });
});

it('the rate of a run is the median of those that its lines tell', async () => {
  const rates = [null, null, 97, 105, 93].map((imagesPerSecond, i) => step(i + 1, { imagesPerSecond }));
  const [some, one] = await allRuns([
    await makeRun('rates', {}, rates.join('\n')),
    await makeRun('rate', {}, rates.slice(0, 3).join('\n')),
  ]);
  expect([summarise(some!).imagesPerSecond, summarise(one!).imagesPerSecond]).toEqual([97, 97]);
});

describe('configDifferences', () => {
  it('compares one run with the defaults, several with each other', async () => {
    const runs = await allRuns([
      await makeRun('one', { seed: 3, output: 'x', loss: { alpha: 0.5 }, older: 1 }, ''),
      await makeRun('two', { seed: 3, output: 'y', loss: { alpha: 0.25 } }, ''),
    ]);
    const alone = configDifferences(runs.slice(0, 1));
    expect(alone.find(({ path }) => path === 'seed')).toMatchObject({ values: ['3'] });
    expect(alone.some(({ path }) => path === 'loss.alpha')).toBe(false);
    expect(configDifferences(runs).map(({ path, values }) => [path, values])).toEqual([
      ['loss.alpha', ['0.5', '0.25']],
      ['older', ['1', undefined]],
    ]);
  });
});

describe('thin', () => {
  it('keeps short columns, and takes means of long ones', () => {
    expect(thin(Float64Array.of(1, NaN, 3))).toEqual([1, NaN, 3]);
    const long = thin(Float64Array.from({ length: 4500 }, (_, i) => i));
    expect(long).toHaveLength(1500);
    expect(long.slice(0, 2)).toEqual([1, 4]);
    expect(long.at(-1)).toBe(4498);
  });
});
