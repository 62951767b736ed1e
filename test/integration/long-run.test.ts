import { execFile } from 'node:child_process';
import { mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { beforeAll, describe, expect, it, vi } from 'vitest';
import { addonPath } from '../../lib/addon/addon.js';
import type { ConfigInput } from '../../lib/config/config.js';
import { resumeConfig } from '../../lib/train/setup.js';
import { bundleChild } from '../fixtures/child.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { allRuns } from '../fixtures/runs.js';
import { drawShapes, madeUpTeacher, ofType, sameBits, smallConfig, train } from '../fixtures/tiny.js';
import { testsAll } from '../shared.js';

const folder = temporaryFolder();
const child = await bundleChild('test/integration/long-run-child.ts');
const reader = await bundleChild('test/integration/report-read-child.ts');
let config: (path: string, more?: ConfigInput) => ConfigInput;
beforeAll(async () => {
  const { teacher, bank } = await madeUpTeacher(join(folder, 'made-up'));
  const data = await drawShapes(join(folder, 'small'), { count: 8, size: 32 });
  const labelled = await drawShapes(join(folder, 'labelled'), { count: 1, size: 32, seed: 2 });
  config = (path, more = {}) => ({
    ...smallConfig(data, path, {
      teacher,
      bank,
      evaluate: { data: labelled, everyEpochs: 50 },
      ...more,
      train: { batchSize: 2, epochs: 4, ...more.train },
    }),
    names: undefined,
    student: { name: 'mobilenet_v3_small', widthMultiplier: 0.1 },
  });
});

/** Least-squares slope of a column over the steps. */
function slope(points: readonly { step: number }[], column: (point: never) => number): number {
  const mean = (values: number[]) => values.reduce((a, b) => a + b, 0) / values.length;
  const [steps, values] = [points.map(({ step }) => step), points.map((point) => column(point as never))];
  const [s, v] = [mean(steps), mean(values)];
  return (
    steps.reduce((sum, step, i) => sum + (step - s) * (values[i]! - v), 0) /
    steps.reduce((sum, step) => sum + (step - s) ** 2, 0)
  );
}

describe('memory', () => {
  const long = testsAll('memory over 8000 steps') ? it : it.skip;
  long(
    'stays as it is over thousands of steps, with metrics in several parts, checkpoints and evaluations',
    { timeout: 600_000 },
    async () => {
      const path = join(folder, 'long');
      const file = join(folder, 'long.json');
      const steps = 8000; // of half as many, chance alone made a slope of 157 bytes
      await writeFile(
        file,
        JSON.stringify(
          config(path, {
            train: { epochs: steps / 16, outlierFactor: 0 },
            checkpoint: { everyEpochs: 0, everySteps: 100 },
            log: { maxFileSize: 0.25 },
          }),
        ),
      );
      // One semispace and one libuv thread: what is measured is what the program keeps, not what allocators set aside.
      const { stdout } = await promisify(execFile)(
        process.execPath,
        ['--expose-gc', '--max-semi-space-size=1', child, file, '16'],
        { env: { ...process.env, LGDISTILL_ADDON: addonPath(), MALLOC_ARENA_MAX: '1' } },
      );
      // code is compiled and pools fill in the first quarter
      const points = (JSON.parse(stdout) as { step: number; resident: number; heap: number; external: number }[]).slice(
        4,
      );
      expect(points).toHaveLength(12);
      const perStep = {
        heap: slope(points, ({ heap }) => heap),
        external: slope(points, ({ external }) => external),
        resident: slope(points, ({ resident }) => resident),
      };
      console.log(
        `memory a step over steps ${points[0]!.step} to ${points.at(-1)!.step}, in bytes: ${Object.entries(perStep)
          .map(([name, value]) => `${name} ${Math.round(1024 * value)}`)
          .join(', ')}; resident at the end ${Math.round(points.at(-1)!.resident / 1024)} MiB`,
      );
      // A million steps of ImageNet may not fill a gigabyte.
      expect(perStep.heap).toBeLessThan(0.15);
      expect(perStep.external).toBeLessThan(0.05);
      expect(perStep.resident).toBeLessThan(1);

      const parts = (await readdir(path)).filter((name) => /^metrics-\d+\.jsonl$/u.test(name));
      expect(parts.length).toBeGreaterThan(3);
      for (const part of parts) expect((await stat(join(path, part))).size).toBeLessThanOrEqual(0.25 * 2 ** 20);
      const [run] = await allRuns([path]);
      expect([...run!.steps.step]).toEqual(Array.from({ length: steps }, (_, i) => i + 1));
      expect(run!.badLines).toBe(0);
      expect(run!.evaluations.map(({ step }) => step)).toEqual(Array.from({ length: 10 }, (_, i) => 800 * (i + 1)));
      expect((await readdir(join(path, 'checkpoints'))).length).toBeLessThanOrEqual(5); // two, the best, two links
    },
  );
});

describe('metrics in parts', () => {
  it('are cut at the checkpoint that a run goes on from, whatever part that is in, and end as the unbroken ones', async () => {
    const [whole, broken] = [join(folder, 'whole'), join(folder, 'broken')];
    const small = { log: { maxFileSize: 0.002 }, checkpoint: { everyEpochs: 0, everySteps: 20, keep: 2 } };
    await train(config(whole, small));
    await train(config(broken, { ...small, train: { maxSteps: 57 } }));
    await writeFile(join(broken, 'metrics.jsonl'), '{"type":"step","st', { flag: 'a' }); // torn by a kill
    const before = (await readdir(broken)).filter((name) => name.startsWith('metrics')).length;
    expect(before).toBeGreaterThan(5);
    expect((await allRuns([broken]))[0]!.badLines).toBe(1);
    const { events } = await train(await resumeConfig(broken, { 'train.maxSteps': 64 }), { resume: 'previous' });
    expect(events[0]).toMatchObject({ type: 'start', step: 40 });
    const [a, b] = await allRuns([whole, broken]);
    expect([...b!.steps.step]).toEqual([...a!.steps.step]);
    expect([...b!.steps.loss]).toEqual([...a!.steps.loss]);
    expect(b!.badLines).toBe(0);
  });

  it('are read in the memory of their numbers, not of their text', async () => {
    const [steps, parts] = [200_000, 10];
    const fields = [
      'lossVisual',
      'lossTextual',
      'klVisual',
      'klTextual',
      'entropyVisual',
      'entropyTextual',
      'ownMass',
      'agreement',
      'learningRate',
    ];
    const line = (n: number) =>
      JSON.stringify({
        type: 'step',
        step: n,
        epoch: n / 10,
        loss: 4,
        ...Object.fromEntries(fields.map((field, i) => [field, 1 / (3 + i)])),
        time: 1e12 + n,
      });
    const path = join(folder, 'many');
    await mkdir(path);
    await writeFile(join(path, 'config.json'), '{}');
    for (let part = 0; part < parts; part++) {
      const name = `metrics-${String(part + 1).padStart(6, '0')}.jsonl`;
      await writeFile(
        join(path, name),
        Array.from({ length: steps / parts }, (_, i) => `${line((part * steps) / parts + i + 1)}\n`).join(''),
      );
    }
    const { stdout } = await promisify(execFile)(process.execPath, ['--max-old-space-size=32', reader, path], {
      env: { ...process.env, LGDISTILL_ADDON: addonPath() },
    });
    expect(JSON.parse(stdout)).toEqual({ steps, last: steps, badLines: 0 });
  });
});

describe('clocks', () => {
  it('decide no bit of a run, only when its checkpoints are written', async () => {
    const plain = await train(config(join(folder, 'plain')));
    const { now } = Date;
    vi.spyOn(Date, 'now').mockImplementation(() => now() + 3e11);
    vi.spyOn(Math, 'random').mockImplementation(() => 0.5);
    // half an hour, after which there is a checkpoint in any case, is fifteen looks at the clock
    let clock = 1e7;
    vi.spyOn(performance, 'now').mockImplementation(() => (clock += 120_000));
    const other = await train(
      config(join(folder, 'other'), { checkpoint: { everyEpochs: 0 }, log: { stallMinutes: 0 } }),
    ).finally(() => vi.restoreAllMocks());
    expect(ofType(other.events, 'checkpoint').length).toBeGreaterThan(ofType(plain.events, 'checkpoint').length / 4);
    for (const [name, values] of Object.entries(plain.weights))
      expect(sameBits(values, other.weights[name]!), name).toBe(true);
    const losses = (outcome: typeof plain) => ofType(outcome.events, 'step').map(({ loss }) => loss);
    expect(losses(other)).toEqual(losses(plain));
    expect(await readFile(join(folder, 'other', 'metrics.jsonl'), 'utf8')).toContain(
      `"time":${String(now() + 3e11).slice(0, 4)}`,
    );
  });
});
