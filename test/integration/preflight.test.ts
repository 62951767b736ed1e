import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { beforeAll, describe, expect, it } from 'vitest';
import type { ConfigInput } from '../../lib/config/config.js';
import type { ImageCache } from '../../lib/data/cache.js';
import { createStudent } from '../../lib/models/index.js';
import { largestBatch } from '../../lib/train/batch-memory.js';
import { Distiller } from '../../lib/train/distiller.js';
import { preflight, type PreflightReport } from '../../lib/train/preflight.js';
import { prepareRun, type PreparedRun } from '../../lib/train/setup.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { drawShapes, ofType, ownTeacher, sameBits, smallConfig } from '../fixtures/tiny.js';

const folder = temporaryFolder();
let data: string;
let count = 0;
beforeAll(async () => {
  data = await drawShapes(join(folder, 'data'), { count: 8, size: 48 });
});

const config = (more: ConfigInput = {}): ConfigInput =>
  smallConfig(data, join(folder, `run-${count++}`), {
    ...more,
    data: { resolution: 48, ...more.data },
    student: { name: 'mobilenet_v3_small', widthMultiplier: 0.25, ...more.student },
    train: { epochs: 2, ...more.train },
  });

async function withRun<Result>(more: ConfigInput, use: (run: PreparedRun) => Promise<Result>): Promise<Result> {
  await using run = await prepareRun(config(more));
  return await use(run);
}

const measure = (run: PreparedRun) => preflight(run.distiller, run.dataset, { seconds: 0.05 });

describe('what a run will take', () => {
  let report: PreflightReport;
  beforeAll(async () => {
    report = await withRun({}, measure);
  });

  it('is told in steps, images a second and hours that belong together', () => {
    expect(report).toMatchObject({ type: 'preflight', students: ['mobilenet_v3_small'], effectiveBatch: 8, steps: 8 });
    expect(report.hours).toBeCloseTo((8 * 8) / report.imagesPerSecond / 3600, 10);
  });

  it('has the share of every part of a step, and the largest is the bottleneck', () => {
    expect(report.stages.map(({ stage }) => stage)).toEqual([
      'data',
      'augment',
      'teacher',
      'student forward',
      'loss',
      'backward',
      'optimiser',
    ]);
    expect(report.stages.reduce((sum, { share }) => sum + share, 0)).toBeCloseTo(1, 10);
    for (const { stage, milliseconds } of report.stages)
      if (stage !== 'data') expect(milliseconds, stage).toBeGreaterThan(0);
    const largest = report.stages.toSorted((a, b) => b.milliseconds - a.milliseconds)[0]!;
    expect(report.bottleneck).toBe(largest.stage);
    expect(report.advice).toMatch(/^[A-Z].{20,}\.$/u);
  });

  it("says of a slow teacher of the caller's own what would shorten it", async () => {
    await withRun({}, async ({ device, teacher, student, tsb, config: { train, data }, dataset }) => {
      const { id, embeddingSize, resolution, mean, std } = teacher;
      const embed = (_: Float32Array, batch: number) =>
        new Promise<Float32Array>((done) => setTimeout(done, 1000, new Float32Array(batch * embeddingSize).fill(1)));
      const slow = ownTeacher({ id, embeddingSize, resolution, mean, std, embed });
      using own = new Distiller({
        device,
        teacher: slow,
        student: createStudent('mobilenet_v3_small', {
          device,
          embeddingSize,
          widthMultiplier: student.widthMultiplier,
        }),
        tsb,
        config: { method: 'lgd', train, data },
      });
      expect(await preflight(own, dataset, { seconds: 0.05 })).toMatchObject({
        bottleneck: 'teacher',
        advice: expect.stringContaining('teacherCache.views') as unknown,
      });
    });
  });

  it('counts accumulated batches, other students, and epochs whose embeddings are cached', async () => {
    const more = await withRun({ train: { accumulate: 2, epochs: 10 }, teacherCache: { views: 1 } }, measure);
    expect(more).toMatchObject({ effectiveBatch: 16, steps: 20 });
    const teacher = more.stages.find(({ stage }) => stage === 'teacher')!.share;
    expect(more.hours).toBeCloseTo(((2 + 18 * (1 - teacher)) * 16) / more.imagesPerSecond / 3600, 10);
    expect((await withRun({ student: { name: 'mobilenet_v3_small,mobilenet_v2' } }, measure)).students).toEqual([
      'mobilenet_v3_small',
      'mobilenet_v2',
    ]);
  });
});

describe('memory', () => {
  it('is foreseen for another batch within a tenth of what that batch then takes', async () => {
    await withRun({ train: { batchSize: 16 } }, async ({ distiller, dataset, device, teacher, tsb }) => {
      const { memory } = await measure({ distiller, dataset } as PreparedRun);
      expect(memory.planned).toBeLessThan(memory.used);
      expect(memory.used).toBeLessThanOrEqual(memory.peak);
      const held = device.info.allocatedBytes;
      const student = createStudent('mobilenet_v3_small', {
        device,
        embeddingSize: teacher.embeddingSize,
        widthMultiplier: 0.25,
      });
      using larger = new Distiller({
        device,
        teacher,
        student,
        tsb,
        config: { ...distiller.config, train: { ...distiller.config.train, batchSize: 32 } },
      });
      await measure({ distiller: larger, dataset } as PreparedRun);
      const taken = device.info.allocatedBytes - held;
      const foreseen = largestBatch(distiller, { used: memory.used, available: 1e12, most: 32 });
      expect(foreseen.batchSize).toBe(32);
      expect(foreseen.bytes / taken).toBeGreaterThan(0.9);
      expect(foreseen.bytes / taken).toBeLessThan(1.1);
    });
  });

  it('bounds the largest batch, as the number of images does', async () => {
    await withRun({}, async ({ distiller }) => {
      const { used } = distiller.memory;
      const [small, large] = [1, 4].map((times) =>
        largestBatch(distiller, { used, available: times * used, most: 1e6 }),
      );
      expect(small!.batchSize).toBeLessThan(8); // nine tenths of what eight images need
      expect(large!.batchSize).toBeGreaterThan(8);
      expect(large!.bytes).toBeLessThanOrEqual(0.9 * 4 * used);
      expect([small!.limit, large!.limit]).toEqual(['memory', 'memory']);
      expect(largestBatch(distiller, { used, available: 1e12, most: 20 })).toMatchObject({
        batchSize: 20,
        limit: 'images',
      });
    });
  });
});

it.each(['all', 'stream'] as const)(
  'leaves no trace, with images decoded %s: the run after it has the bits of one without it, dropout, momentum, banks and queue included',
  async (cache) => {
    const more: ConfigInput = {
      method: 'hybrid',
      loss: { queueSize: 20 },
      data: { cache },
      train: { epochs: 1, accumulate: 2 },
    };
    const [plain, measured] = await Promise.all(
      [false, true].map((first) =>
        withRun(more, async (run) => {
          if (first) await measure(run);
          const events = [];
          for await (const event of run.run()) events.push(event);
          const losses = ofType(events, 'step').map(({ loss, categoriesSeen }) => [loss, categoriesSeen]);
          return { losses, weights: run.student.weights };
        }),
      ),
    );
    expect(measured!.losses).toEqual(plain!.losses);
    for (const [name, { data: values }] of Object.entries(plain!.weights))
      expect(sameBits(values, measured!.weights[name]!.data), name).toBe(true);
  },
);

it('is told of a run whose rate would lead more steps than it has astray', async () => {
  const report = await withRun(
    { train: { epochs: 1, warmupEpochs: 0, learningRate: 1e9, maxSteps: 1 } },
    async ({ distiller, dataset }) => preflight(distiller, dataset, { seconds: 1 }),
  );
  expect(report).toMatchObject({ steps: 1 });
});

it('refuses what the run would', async () => {
  await withRun({}, async ({ device, teacher, tsb, dataset, config: { train, data } }) => {
    const { embeddingSize } = teacher;
    using distiller = new Distiller({
      device,
      teacher,
      student: createStudent('mobilenet_v3_small', { device, embeddingSize, widthMultiplier: 0.25 }),
      tsb,
      config: { method: 'lgd', data, train: { ...train, epochs: 1, warmupEpochs: 0, accumulate: 5 } },
    });
    const refusal = { code: 'BAD_CONFIG', option: 'train.accumulate', found: 5 };
    await expect(preflight(distiller, dataset)).rejects.toMatchObject(refusal);
    await expect(distiller.run(dataset).next()).rejects.toMatchObject(refusal);
  });
});

it('stops when it is told to', async () => {
  await withRun({}, async ({ distiller, dataset }) => {
    await expect(preflight(distiller, dataset, { signal: AbortSignal.abort() })).rejects.toMatchObject({
      code: 'ABORTED',
    });
  });
});

it.each([1, 2])('gives all batches back where it is stopped in a step of %i', async (accumulate) => {
  await withRun({ train: { accumulate } }, async ({ device, dataset, config: { data, train } }) => {
    const stop = new AbortController();
    let [calls, out] = [0, 0];
    const embed = async (_: Float32Array, batch: number) => {
      if (++calls === 2) {
        stop.abort();
        await new Promise(() => undefined);
      }
      return new Float32Array(16 * batch).fill(1);
    };
    using distiller = new Distiller({
      device,
      teacher: ownTeacher({ embed }),
      student: createStudent('mobilenet_v3_small', { device, embeddingSize: 16, widthMultiplier: 0.25 }),
      config: { method: 'feature', data: { resolution: data.resolution }, train },
    });
    const { length, ids, sourceIndex, store } = dataset as ImageCache;
    const prepare = () => {
      out++;
      return { store, release: () => void out-- };
    };
    await expect(
      preflight(distiller, { length, ids, sourceIndex, store, prepare }, { seconds: 60, signal: stop.signal }),
    ).rejects.toMatchObject({ code: 'ABORTED' });
    await setImmediate(); // what was read ahead comes back by itself
    expect(out).toBe(0);
  });
});
