/**
 * Batch size and learning rate that are left to `auto`: numbers from the first step on, wherever a run is looked at.
 */
import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import type { ConfigInput } from '../../lib/config/config.js';
import {
  BatchPlan,
  benchmark,
  compareRuns,
  createStudent,
  ImageCache,
  openDevice,
  openImageFolder,
  PrecomputedTeacher,
  writeReport,
} from '../../lib/index.js';
import { Distiller } from '../../lib/train/distiller.js';
import { preflight } from '../../lib/train/preflight.js';
import { prepareRun, resumeConfig } from '../../lib/train/setup.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { drawShapes, madeUpTeacher, ofType, smallCache, smallConfig, train } from '../fixtures/tiny.js';

const folder = temporaryFolder();
let runs = 0;
const output = () => join(folder, `run-${runs++}`);
let data: string;
let madeUp: Awaited<ReturnType<typeof madeUpTeacher>>;

beforeAll(async () => {
  data = await drawShapes(join(folder, 'data'), { count: 8, size: 32 });
  madeUp = await madeUpTeacher(join(folder, 'made-up'));
});

/** Of 32 images: epochs 3,200 are as many as make batches of 32 the choice, and one image fewer batches of 16. */
const auto = (path: string, more: ConfigInput = {}): ConfigInput =>
  smallConfig(data, path, {
    teacher: madeUp.teacher,
    bank: madeUp.bank,
    names: undefined,
    data: { resolution: 32, ...more.data },
    ...more,
    train: { batchSize: 'auto', learningRate: 'auto', epochs: 3200, maxSteps: 1, ...more.train },
  });
const recorded = async (run: string) => {
  const {
    train: { batchSize, learningRate },
  } = JSON.parse(await readFile(join(run, 'config.json'), 'utf8')) as { train: Record<string, unknown> };
  return [batchSize, learningRate];
};
const chosen =
  'batches of 32 at a learning rate of 0.3, by auto for 32 images and 3200 epochs: the published 256 would make no step';

describe('a run from a configuration', () => {
  it('has numbers in its events, its folder, its log, its report and beside other runs, and says why', async () => {
    const path = output();
    const { events } = await train(auto(path));
    expect(events[0]).toMatchObject({ type: 'start', effectiveBatch: 32, totalSteps: 3200, batchChoice: chosen });
    expect(events[0]).not.toHaveProperty('advice');
    expect(ofType(events, 'step')[0]!.learningRate).toBeCloseTo((0.3 * 32) / 256, 12); // its warm-up is one step
    expect(await recorded(path)).toEqual([32, 0.3]);
    expect(await readFile(join(path, 'log.txt'), 'utf8')).toContain(chosen);
    await writeReport({ runs: [path], models: false });
    expect(await readFile(join(path, 'report.html'), 'utf8')).toContain('train.batchSize');
  });

  it('has the same ones before it starts', async () => {
    await using run = await prepareRun(auto(output(), { train: { epochs: 200 } }));
    expect(
      [run.config, run.distiller.config].map(({ train: { batchSize, learningRate } }) => [batchSize, learningRate]),
    ).toEqual([
      [16, 0.3],
      [16, 0.3],
    ]);
    expect(await preflight(run.distiller, run.dataset, { seconds: 0.01 })).toMatchObject({
      effectiveBatch: 16,
      steps: 1,
      batchChoice: expect.stringContaining('for 32 images and 200 epochs'),
    });
  });

  it('of a vision transformer is by AdamW, and says so where it is by SGD', async () => {
    const path = output();
    const student = { name: 'vit_tiny_patch16_224', widthMultiplier: 1 };
    const { events } = await train(auto(path, { student }));
    expect(events[0]).toMatchObject({ batchChoice: expect.stringMatching(/^batches of 32 at .* for AdamW, by auto/u) });
    expect(events[0]).not.toHaveProperty('remarks');
    const { events: others } = await train(auto(output(), { student, train: { optimizer: 'sgd' } }));
    expect(others[0]).toMatchObject({
      batchChoice: chosen,
      remarks: [expect.stringMatching(/^vit_tiny_patch16_224 was published with AdamW, .*--optimizer adamw/u)],
    });
  });

  it.each<[string, ConfigInput['train'], string | undefined]>([
    ['0.3 with batches of 4', { learningRate: 0.3, batchSize: 4 }, 'is 9.4 times .* steps of 4 images, 0.032, '],
    ['0.3 with 8 of 4', { learningRate: 0.3, batchSize: 4, accumulate: 8 }, 'is 75 times .* 32 images, 0.004, '],
    ['the same with AdamW named', { learningRate: 0.3, batchSize: 32, optimizer: 'adamw' }, 'is 75 times'],
    ['four times the usual', { learningRate: 0.016, batchSize: 32 }, undefined],
    ['the same with SGD named', { learningRate: 0.3, batchSize: 32, optimizer: 'sgd' }, '^vit_tiny'],
  ])("a rate that is not AdamW's is warned of: %s", async (_, rates, words) => {
    const student = { name: 'vit_tiny_patch16_224', widthMultiplier: 1 };
    const input = auto(output(), { student, train: { ...rates, epochs: 1, warmupEpochs: 0 } });
    const { events } = await train(input);
    if (words === undefined) expect(events[0]).not.toHaveProperty('remarks');
    else expect(events[0]).toMatchObject({ remarks: [expect.stringMatching(words)] });
  });

  it('of several students has them in each folder', async () => {
    const path = output();
    await train(auto(path, { student: { name: 'mobilenet_v2,mobilenet_v3_small', widthMultiplier: 0.35 } }));
    expect(
      await Promise.all([path, join(path, 'mobilenet_v2'), join(path, 'mobilenet_v3_small')].map(recorded)),
    ).toEqual([
      [32, 0.3],
      [32, 0.3],
      [32, 0.3],
    ]);
    const { events } = await train(await resumeConfig(path, { 'train.maxSteps': 2 }), { resume: 'last' });
    expect(ofType(events, 'start').map(({ effectiveBatch, step }) => [effectiveBatch, step])).toEqual([
      [32, 1],
      [32, 1],
    ]);
  });

  it('leaves a number that is given as it is', async () => {
    const path = output();
    const { events } = await train(auto(path, { train: { batchSize: 4, epochs: 200, maxSteps: 1 } }));
    expect(events[0]).toMatchObject({
      effectiveBatch: 4,
      batchChoice: expect.stringMatching(/^a learning rate of 0.3, by auto for 32 images/u),
    });
    expect(await recorded(path)).toEqual([4, 0.3]);
    const both = output();
    const {
      events: [start],
    } = await train(auto(both, { train: { batchSize: 4, learningRate: 0.03, epochs: 200, maxSteps: 1 } }));
    expect(start).not.toHaveProperty('batchChoice');
    expect(await recorded(both)).toEqual([4, 0.03]);
    expect(
      (await compareRuns([path, both])).groups.map(({ differences }) => differences['train.learningRate']),
    ).toEqual(['0.3', '0.03']);
  });

  it('refuses a batch that the images cannot fill, and says that auto would', async () => {
    await expect(prepareRun(auto(output(), { train: { batchSize: 256 } }))).rejects.toMatchObject({
      code: 'BAD_CONFIG',
      option: 'train.batchSize',
      mend: expect.stringContaining('auto does'),
    });
  });
});

describe('a run that goes on', () => {
  /** A run of one step on 40 images, of which one is gone by then: auto would be 16 instead of 32 now. */
  async function begun(): Promise<{ path: string; config: ConfigInput }> {
    const images = await drawShapes(join(folder, `images-${runs}`), { count: 10, size: 32 });
    const path = output();
    const config = smallConfig(images, path, {
      data: { resolution: 32, margin: 1 },
      student: { name: 'mobilenet_v3_small' },
      train: { batchSize: 'auto', learningRate: 'auto', epochs: 2600, maxSteps: 1 },
    });
    await train(config);
    expect(await recorded(path)).toEqual([32, 0.3]);
    await rm(join(images, 'circle', '3.png'));
    return { path, config };
  }

  it('keeps its numbers, by its folder and by a configuration that leaves them to auto', async () => {
    const { path, config } = await begun();
    const later = await train(await resumeConfig(path, { 'train.maxSteps': 2, 'train.batchSize': 'auto' }), {
      resume: 'last',
    });
    expect(later.events[0]).toMatchObject({ step: 1, effectiveBatch: 32, lastStep: 2 });
    const last = await train({ ...config, train: { ...config.train, maxSteps: 3 } }, { resume: 'last' });
    expect(last.events[0]).toMatchObject({ step: 2, effectiveBatch: 32, lastStep: 3 });
    expect(last.events[0]).not.toHaveProperty('batchChoice');
    expect(await recorded(path)).toEqual([32, 0.3]);
    await expect(
      prepareRun({ ...config, output: output() }).then(
        async (run) => [run.config.train.batchSize, await run.dispose()][0],
      ),
    ).resolves.toBe(16);
  });

  it('goes on with the numbers of a version that had no auto, 256 and 0.03 among them', async () => {
    const { path, config } = await begun();
    const file = join(path, 'config.json');
    const before = JSON.parse(await readFile(file, 'utf8')) as { train: { learningRate: number } };
    await writeFile(file, JSON.stringify({ ...before, train: { ...before.train, learningRate: 0.03 } }));
    await using run = await prepareRun({ ...config, train: { ...config.train, maxSteps: 2 } }, { resume: 'last' });
    expect([
      run.config.train.learningRate,
      run.distiller.config.train.learningRate,
      run.distiller.batchChoice.byAuto,
    ]).toEqual([0.03, 0.03, []]);
  });
});

describe("a distiller of one's own", () => {
  async function parts() {
    const device = await openDevice('cpu');
    const teacher = await PrecomputedTeacher.load(madeUp.teacher);
    const images = await ImageCache.build(await openImageFolder(data), smallCache(device, folder));
    const student = createStudent('mobilenet_v3_small', {
      device,
      embeddingSize: teacher.embeddingSize,
      widthMultiplier: 0.25,
    });
    const transformer = createStudent('vit_tiny_patch16_224', {
      device,
      embeddingSize: teacher.embeddingSize,
      resolution: 32,
    });
    const make = (count: number | undefined, config: ConfigInput, students = [student]) =>
      new Distiller({
        device,
        teacher,
        student: students,
        tsb: undefined,
        images: count,
        config: { method: 'feature', data: { resolution: 32 }, ...config },
      });
    return {
      images,
      make,
      students: [student, transformer],
      [Symbol.dispose]: () => [images, teacher, device].forEach((object) => object[Symbol.dispose]()),
    };
  }

  it('follows the number that it is told, and takes the published one where nobody knows it', async () => {
    using made = await parts();
    const numbers = (count: number | undefined, config: ConfigInput = {}) => {
      using distiller = made.make(count, config);
      const { batchSize, learningRate } = distiller.config.train;
      return [batchSize, learningRate, distiller.encoder.batch];
    };
    expect([numbers(32), numbers(100_000), numbers(undefined), numbers(1_281_167, { train: { epochs: 1 } })]).toEqual([
      [16, 0.3, 16],
      [256, 0.03, 256],
      [256, 0.03, 256],
      [256, 0.03, 256],
    ]);
    expect([numbers(32, { train: { batchSize: 8 } }), numbers(undefined, { train: { batchSize: 8 } })]).toEqual([
      [8, 0.3, 8],
      [8, 0.03, 8],
    ]);
    expect(() => made.make(0, {})).toThrow(expect.objectContaining({ code: 'BAD_OPTION', option: 'images' }));
  });

  it('takes the optimiser of the students that it is given, whatever the configuration names', async () => {
    using made = await parts();
    const optimizerOf = (students: typeof made.students, config: ConfigInput = {}) => {
      using distiller = made.make(32, config, students);
      return [distiller.config.train.optimizer, distiller.config.train.weightDecay];
    };
    const named = { student: { name: 'mobilenet_v2', widthMultiplier: 0.5 } };
    expect(optimizerOf(made.students.slice(0, 1), named)).toEqual(['sgd', 1e-4]);
    expect(optimizerOf(made.students, named)).toEqual(['adamw', 0.05]);
    expect(optimizerOf(made.students.slice(1), { train: { optimizer: 'sgd' } })).toEqual(['sgd', 1e-4]);
  });

  it('tells a plan and a step what they need, and a run what it would have been told', async () => {
    using made = await parts();
    using distiller = made.make(made.images.length, { output: output() });
    const { batchSize } = distiller.config.train;
    const batch = { ...new BatchPlan(made.images, { batchSize, seed: 0 }).next(), dataset: made.images };
    expect(
      (await distiller.readMetrics(await distiller.queueStep([batch], { step: 0, learningRate: 0.01 }))).loss,
    ).toBeGreaterThan(0);
    const path = output();
    using untold = made.make(undefined, { output: path, train: { batchSize: 8, maxSteps: 1 } });
    for await (const event of untold.run(made.images)) {
      if (event.type === 'start')
        expect(event).toMatchObject({
          batchChoice: expect.stringContaining('was not told'),
          advice: expect.stringMatching(
            /^with images: 32 in the options of Distiller it would be a learning rate of 0.3, /u,
          ),
        });
    }
    expect(await recorded(path)).toEqual([8, 0.03]);
    using published = made.make(undefined, { output: output() });
    for (const call of [() => published.run(made.images).next(), () => preflight(published, made.images)])
      await expect(call()).rejects.toMatchObject({
        code: 'BAD_OPTION',
        option: 'train.batchSize',
        mend: expect.stringContaining('images: 32'),
      });
  });

  it('refuses to go on with other numbers than the run was begun with', async () => {
    using made = await parts();
    const path = output();
    const drain = async (count: number, resume?: string) => {
      using distiller = made.make(count, {
        output: path,
        train: { epochs: 3200, maxSteps: resume === undefined ? 1 : 2 },
      });
      for await (const event of distiller.run(made.images, { resume }))
        if (event.type === 'start') return event.effectiveBatch;
      return undefined;
    };
    expect(await drain(32)).toBe(32);
    await expect(drain(31, 'last')).rejects.toMatchObject({
      code: 'BAD_CHECKPOINT',
      option: 'train.batchSize',
      found: 16,
      allowed: '32',
      mend: 'Give train.batchSize: 32',
    });
    expect(await recorded(path)).toEqual([32, 0.3]);
    expect(await drain(32, 'last')).toBe(32);
  });
});

it('a benchmark without images takes the published batch', async () => {
  using device = await openDevice('cpu');
  const rows = benchmark(
    { student: { name: 'mobilenet_v3_small', widthMultiplier: 0.25 }, data: { resolution: 32 } },
    { device, categories: 2, dimension: 8, seconds: 0.01 },
  );
  expect((await rows.next()).value).toMatchObject({ batch: 256 });
  await rows.return(undefined);
});
