import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { parseConfig, type ConfigInput } from '../../lib/config/config.js';
import { makeScore } from '../../lib/evaluate/score.js';
import { compareRuns, spreadOf } from '../../lib/report/compare.js';
import { lgdistill } from '../cli/program.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { untrainedStudent } from '../fixtures/student.js';

const folder = temporaryFolder();

/** A run folder whose evaluations got so many of 40 images right. */
function makeRun(name: string, config: ConfigInput, correct: number[], loss = 2): string {
  const path = join(folder, name);
  mkdirSync(path);
  writeFileSync(join(path, 'config.json'), JSON.stringify(parseConfig({ method: 'lgd', ...config, output: path })));
  const steps = [1, 2, 3, 4].map((step) => ({
    type: 'step',
    step,
    epoch: step / 2,
    loss: loss + 1 / step,
    klVisual: 0,
    klTextual: 0,
    imagesPerSecond: 100 + step,
    dataWait: 0,
    time: 1,
  }));
  const evaluations = correct.map((right, i) => ({
    type: 'evaluation',
    step: 2 * i + 2,
    epoch: i + 1,
    student: makeScore({ correct1: right, correct5: 39, images: 40, classes: 8, topK: 5 }),
    seconds: 1,
    time: 1,
  }));
  writeFileSync(
    join(path, 'metrics.jsonl'),
    [...steps, ...evaluations].map((line) => `${JSON.stringify(line)}\n`).join(''),
  );
  writeFileSync(
    join(path, 'log.txt'),
    '2026-01-01T00:00:00.000Z start at step 0 of 4, 9 images, 0 broken ones left out; lgdistill 0.1.0 on a CPU, 2 threads\n2026-01-01T00:00:09.000Z done at step 4\n',
  );
  return path;
}

const lgd = [makeRun('a', { seed: 1 }, [20, 30]), makeRun('b', { seed: 2 }, [36, 10], 4)];
const seed = makeRun('c', { method: 'seed', seed: 1 }, [8, 12]);
const bare = makeRun('d', { method: 'feature', loss: { alpha: 0.1 } }, []);

describe('compareRuns', () => {
  test('takes the best evaluation with its Wilson interval, or the last', async () => {
    const {
      runs: [run],
    } = await compareRuns([lgd[1]!]);
    expect(run).toMatchObject({
      method: 'lgd',
      student: 'mobilenet_v2',
      seed: 2,
      steps: 4,
      evaluatedAt: 2,
      top1: { share: 0.9 },
      images: 40,
      classes: 8,
      loss: 4.25,
      imagesPerSecond: 103,
    });
    // (p + z^2/2n -+ z sqrt(p (1 - p) / n + z^2 / 4 n^2)) / (1 + z^2/n) with p = 0.9, n = 40, worked by hand
    expect(run!.top1!.interval[0]).toBeCloseTo(0.76949, 4);
    expect(run!.top1!.interval[1]).toBeCloseTo(0.96038, 4);
    expect((await compareRuns([lgd[1]!], { at: 'last' })).runs[0]).toMatchObject({
      evaluatedAt: 4,
      top1: { share: 0.25 },
    });
  });

  test('tells the width of a student that no checkpoint has yet', async () => {
    const path = makeRun('narrow', { student: { widthMultiplier: 0.5 } }, []);
    expect((await compareRuns([path])).runs[0]!.student).toBe('mobilenet_v2 x 0.5');
  });

  test('takes seeds of one configuration together', async () => {
    const { groups, remarks } = await compareRuns([...lgd, seed, bare]);
    expect(groups.map(({ method, runs, seeds }) => [method, runs.length, seeds])).toEqual([
      ['lgd', 2, 2],
      ['seed', 1, 1],
      ['feature', 1, 1],
    ]);
    expect(groups[0]!.top1!.mean).toBeCloseTo((0.75 + 0.9) / 2, 12);
    expect(groups[0]!.top1!.deviation).toBeCloseTo(0.15 / Math.SQRT2, 12);
    expect(groups[1]!.top1!.deviation).toBeNaN();
    expect(groups[2]).toMatchObject({ top1: undefined, differences: { 'loss.alpha': '0.1' } });
    expect(remarks).toEqual([]);
  });

  test('takes a run whose configuration has auto by the method that it came to', async () => {
    const auto = makeRun('auto', { method: 'auto', seed: 3 }, [24]);
    const told = makeRun('told', { seed: 4 }, [20]);
    for (const path of [auto, told]) await untrainedStudent(join(path, 'model.safetensors'));
    const { groups } = await compareRuns([auto, told]);
    expect(groups.map(({ method, seeds, differences }) => [method, seeds, differences])).toEqual([['lgd', 2, {}]]);
  });

  test('takes runs of one seed as one, and says so', async () => {
    const again = makeRun('again', { seed: 1 }, [24]);
    const {
      groups: [alone],
      remarks,
    } = await compareRuns([lgd[0]!, again]);
    expect([alone!.runs.length, alone!.seeds, alone!.top1]).toEqual([2, 1, { mean: (0.75 + 0.6) / 2, deviation: NaN }]);
    expect(remarks).toEqual(['2 runs of seed 1, which count as one: a, again']);
    const { stdout } = await lgdistill(['compare', lgd[0]!, again]);
    expect(stdout).toContain(remarks[0]);
    expect(stdout).not.toContain('over seeds');

    const {
      groups: [both],
    } = await compareRuns([lgd[0]!, again, lgd[1]!]);
    expect([both!.runs.length, both!.seeds]).toEqual([3, 2]);
    expect(both!.top1!.mean).toBeCloseTo((0.675 + 0.9) / 2, 12);
    expect(both!.top1!.deviation).toBeCloseTo(0.225 / Math.SQRT2, 12);
    expect((await lgdistill(['compare', lgd[0]!, again, lgd[1]!])).stdout).toMatch(
      /lgd +mobilenet_v2 +3 +2 +4 +78\.8 \(15\.9\)/u,
    );
  });

  test('says what does not compare', async () => {
    const open = makeRun('e', {}, [3]);
    writeFileSync(join(open, 'log.txt'), '');
    const other = makeRun('f', { seed: 9 }, []);
    writeFileSync(
      join(other, 'metrics.jsonl'),
      `${JSON.stringify({ type: 'evaluation', step: 2, epoch: 1, student: makeScore({ correct1: 1, correct5: 2, images: 4, classes: 2, topK: 2 }) })}\n`,
    );
    const { remarks } = await compareRuns([open, other]);
    expect(remarks).toEqual([
      'not at their end: e (unfinished)',
      'evaluated on different sets: 40 images of 8 classes; 4 images of 2 classes',
    ]);
  });

  test('passes over what is no run folder among several paths, and says so', async () => {
    const [empty, file] = [join(folder, 'empty'), join(folder, 'notes.txt')];
    mkdirSync(empty);
    writeFileSync(file, '');
    const { runs, remarks } = await compareRuns([empty, lgd[0]!, file, seed]);
    expect(runs.map(({ name }) => name)).toEqual(['a', 'c']);
    expect(remarks).toEqual([`passed over, as they are no run folders (no config.json): ${empty}, ${file}`]);
    const { code, stdout } = await lgdistill(['compare', empty, seed]);
    expect([code, stdout.trimEnd().split('\n').at(-1)]).toEqual([
      0,
      `passed over, as it is no run folder (no config.json): ${empty}`,
    ]);
    await expect(compareRuns([empty])).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
    await expect(compareRuns([empty, file])).rejects.toMatchObject({
      code: 'FILE_NOT_FOUND',
      message: expect.stringContaining('none of the 2 paths is a run folder') as unknown,
    });
    await expect(compareRuns([seed, join(folder, 'mistyped')])).rejects.toMatchObject({
      code: 'FILE_NOT_FOUND',
      message: expect.stringContaining('mistyped') as unknown,
    });

    const report = await lgdistill([
      'report',
      empty,
      seed,
      '--no-models',
      '--tensorboard',
      join(folder, 'events'),
      '--json',
    ]);
    expect([report.code, report.documents()[0]]).toEqual([
      0,
      expect.objectContaining({
        file: join(seed, 'report.html'),
        remarks: [expect.stringContaining(empty)],
        tensorboard: [expect.objectContaining({ run: 'c' })],
      }),
    ]);
  });

  test("tells what other protocols found, and takes the best by the run's own metric", async () => {
    const run = makeRun('g', { evaluate: { data: folder, train: folder, also: 'knn', metric: 'knn' } }, []);
    const scoreOf = (correct1: number) => makeScore({ correct1, correct5: 39, images: 40, classes: 8, topK: 5 });
    const lines = [
      [30, 10],
      [20, 24],
      [25, 18],
    ].map(([zeroshot, knn], i) => ({
      type: 'evaluation',
      step: i + 1,
      epoch: i,
      student: scoreOf(zeroshot!),
      knn: scoreOf(knn!),
      seconds: 1,
      time: 1,
    }));
    writeFileSync(join(run, 'metrics.jsonl'), lines.map((line) => `${JSON.stringify(line)}\n`).join(''));
    const { runs, groups } = await compareRuns([run, lgd[0]!]);
    expect(runs[0]).toMatchObject({ evaluatedAt: 2, top1: { share: 0.5 }, others: { knn: { share: 0.6 } } });
    expect(runs[0]!.others.knn!.interval[0]).toBeCloseTo(0.446, 3);
    expect(runs[1]!.others).toEqual({});
    expect(groups.map(({ others }) => others.knn?.mean)).toEqual([0.6, undefined]);
    const { stdout } = await lgdistill(['compare', run, lgd[0]!]);
    expect(stdout).toContain('knn top-1');
    expect(stdout).toContain('60.0 %');
  });

  test('a spread is that of a sample', () => {
    expect(spreadOf([1, 2, 3, 4])).toEqual({ mean: 2.5, deviation: Math.sqrt(5 / 3) });
    expect(spreadOf([1, undefined])).toBeUndefined();
  });
});

describe('lgdistill compare', () => {
  test('prints both tables', async () => {
    const { code, stdout } = await lgdistill(['compare', ...lgd, seed, bare]);
    expect(code).toBe(0);
    expect(stdout).toContain('76.9 to 96.0 %');
    expect(stdout).toMatch(/lgd +mobilenet_v2 +2 +2 +4 +82\.5 \(10\.6\)/u);
    expect(stdout).toMatch(/feature .* loss\.alpha 0\.1/u);
  });

  test('prints JSON', async () => {
    const { stdout } = await lgdistill(['compare', seed, '--json', '--at', 'last']);
    expect(JSON.parse(stdout)).toMatchObject({
      runs: [{ method: 'seed', top1: { share: 0.3 } }],
      groups: [{ runs: [{ name: 'c' }] }],
      remarks: [],
    });
    expect((await lgdistill(['compare', join(folder, 'none')])).code).toBe(1);
  });
});
