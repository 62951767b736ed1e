import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeAll, describe, expect, test, vi } from 'vitest';
import { TextualSemanticsBank } from '../../lib/banks/textual.js';
import { ImageCache } from '../../lib/data/cache.js';
import { BatchPlan } from '../../lib/data/loader.js';
import { openImages } from '../../lib/data/open-images.js';
import { packImages } from '../../lib/data/pack/pack.js';
import { PackFile } from '../../lib/data/pack/reader.js';
import { openImageFolder } from '../../lib/data/image-folder.js';
import type { ImageSource } from '../../lib/data/sources.js';
import { readViews } from '../../lib/data/views.js';
import { FeatureSet } from '../../lib/evaluate/feature-set.js';
import { createStudent, loadTeacher } from '../../lib/models/index.js';
import { bankLoss } from '../../lib/semantic/index.js';
import type { Batch } from '../../lib/train/batch.js';
import { Distiller, type DistillerState } from '../../lib/train/distiller.js';
import { devicesUnderTest } from '../devices.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { drawShapes, madeUpTeacher, ownTeacher, sameBits, smallCache } from '../fixtures/tiny.js';

const folder = temporaryFolder();
const devices = await devicesUnderTest('two distillers');
let made: Awaited<ReturnType<typeof madeUpTeacher>>;

afterEach(() => vi.restoreAllMocks());
beforeAll(async () => {
  await drawShapes(join(folder, 'data'), { count: 8, size: 32 });
  made = await madeUpTeacher(join(folder, 'made-up'));
});

test.each(devices)('that share teacher, bank, images and $name train as each would alone', async ({ device }) => {
  await using teacher = await loadTeacher(made.teacher, { device });
  const tsb = await TextualSemanticsBank.load(made.bank);
  using images = await ImageCache.build(await openImageFolder(join(folder, 'data')), smallCache(device, folder));

  /** Steps one after the other, each read when the next one is queued; other distillers come in between. */
  async function distil(seed: number): Promise<DistillerState> {
    const student = createStudent('mobilenet_v3_small', {
      device,
      embeddingSize: teacher.embeddingSize,
      widthMultiplier: 0.1,
      seed,
    });
    using distiller = new Distiller({
      device,
      teacher,
      student,
      tsb,
      config: { seed, method: 'lgd', data: { resolution: 32 }, train: { batchSize: 4 } },
    });
    const plan = new BatchPlan(images, { batchSize: 4, seed });
    let before = await distiller.queueStep([{ ...plan.next(), dataset: images }], { step: 0, learningRate: 0.1 });
    for (let step = 1; step < 4; step++) {
      const ticket = await distiller.queueStep([{ ...plan.next(), dataset: images }], { step, learningRate: 0.1 });
      await distiller.readMetrics(before);
      before = ticket;
    }
    await distiller.readMetrics(before);
    return distiller.state();
  }

  const alone = [await distil(1), await distil(2)];
  const together = await Promise.all([distil(1), distil(2)]);
  for (const [i, { weights, semantic }] of together.entries()) {
    for (const [name, { data }] of Object.entries(weights))
      expect(sameBits(data, alone[i]!.weights[name]!.data), name).toBe(true);
    expect(sameBits(semantic.visual!, alone[i]!.semantic.visual!)).toBe(true);
  }
  expect(sameBits(together[0]!.weights['head.2.weight']!.data, together[1]!.weights['head.2.weight']!.data)).toBe(
    false,
  );
});

/** What differs between two states of a distiller, but for the steps that were counted. */
function differingState(a: DistillerState, b: DistillerState): string[] {
  const records = (['weights', 'momentum'] as const).flatMap((part) =>
    Object.entries(a[part]).flatMap(([name, { data }]) =>
      sameBits(data, b[part][name]!.data) ? [] : [`${part} ${name}`],
    ),
  );
  const banks = (['visual', 'queue'] as const).filter(
    (part) => a.semantic[part] && !sameBits(a.semantic[part], b.semantic[part]!),
  );
  return [...records, ...banks];
}

describe.each(devices)('a fault on $name', ({ device }) => {
  const size = 16;
  const batchOf = (dataset: ImageCache): Batch => ({
    ...new BatchPlan(dataset, { batchSize: 4, seed: 1 }).next(),
    dataset,
  });
  const damagedError = { code: 'BAD_FILE', message: expect.stringContaining('damaged.pack') as string };

  /** Raw pixels of which some are not what was written: found when they are first augmented, on the device's thread. */
  async function damagedImages(): Promise<ImageSource> {
    const { file } = await packImages(await openImageFolder(join(folder, 'data')), {
      output: join(folder, 'damaged.pack'),
      as: 'raw',
      shortSide: 32,
      overwrite: true,
    });
    const {
      index: { offsets },
    } = await PackFile.open(file);
    const pack = await open(file, 'r+');
    for (const offset of offsets) {
      const at = { position: offset };
      const { buffer } = await pack.read(Buffer.alloc(1), { ...at, length: 1 });
      await pack.write(Buffer.of(buffer[0]! ^ 255), 0, 1, offset);
    }
    await pack.close();
    return openImages(file);
  }

  /** Queues work that fails, in the place of the next call of this function. */
  function failAt(name: 'writeRows' | 'classifierLoss', damaged: ImageCache): void {
    const { addon, handle } = device;
    const views = addon.makeImages(handle, 1, 32, 32, false);
    vi.spyOn(addon, name as 'writeRows').mockImplementationOnce(() => {
      const [images, drawIds] = [Int32Array.of(0), Int32Array.of(0)];
      addon.augment(
        damaged.store,
        { train: false, resize: 32, mean: [0, 0, 0], std: [1, 1, 1] },
        { images, drawIds, seed: 0, epoch: 0 },
        views,
      );
      addon.release(views);
    });
  }

  const student = (seed: number) =>
    createStudent('mobilenet_v3_small', { device, embeddingSize: size, widthMultiplier: 0.1, seed });
  const config = { method: 'lgd' as const, data: { resolution: 32 }, train: { batchSize: 4 } };

  test.each([
    ['reads first', 0],
    ['reads later', 1],
  ] as const)(
    'of one distiller costs the other a step and is told to both, each whose it is: the one at fault %s',
    async (_, turn) => {
      await using teacher = await loadTeacher(made.teacher, { device });
      const bank = await TextualSemanticsBank.load(made.bank);
      using images = await ImageCache.build(await openImageFolder(join(folder, 'data')), smallCache(device, folder));
      using damaged = await ImageCache.build(await damagedImages(), smallCache(device, folder));
      const make = (seed: number) => new Distiller({ device, teacher, student: student(seed), tsb: bank, config });
      using faulty = make(1);
      using other = make(2);
      const tickets = [
        await faulty.queueStep([batchOf(damaged)], { step: 0, learningRate: 0.1 }),
        await other.queueStep([batchOf(images)], { step: 0, learningRate: 0.1 }),
      ] as const;
      const others = 'a step was not taken, as other work on its device had failed: ';
      const order = [
        [faulty, tickets[0], expect.not.stringContaining(others)],
        [other, tickets[1], expect.stringContaining(others)],
      ] as const;
      const before = await other.student.weights;
      for (const [distiller, ticket, message] of turn === 0 ? order : [...order].reverse()) {
        const error: unknown = await distiller.readMetrics(ticket).catch((reason: unknown) => reason);
        expect(error).toMatchObject(damagedError);
        expect(error).toMatchObject({ message });
      }
      // It was said, and both go on; the step is lost to both.
      const { weights } = await other.state();
      expect(sameBits(weights['head.2.weight']!.data, before['head.2.weight']!.data)).toBe(true);
      for (const distiller of [faulty, other]) {
        const ticket = await distiller.queueStep([batchOf(images)], { step: 1, learningRate: 0.1 });
        expect((await distiller.readMetrics(ticket)).loss).toBeGreaterThan(0);
      }
    },
  );

  test('beside a step that is queued piece by piece is told to its distiller; a question that fails beside it costs nothing', async () => {
    await using teacher = await loadTeacher(made.teacher, { device });
    const bank = await TextualSemanticsBank.load(made.bank);
    using images = await ImageCache.build(await openImageFolder(join(folder, 'data')), smallCache(device, folder));
    using damaged = await ImageCache.build(await damagedImages(), smallCache(device, folder));
    /** A second step, which a GPU holds back until it is whole, with something in its middle. */
    async function stepAround(
      between: () => Promise<void>,
    ): Promise<{ distiller: Distiller; before: DistillerState; loss: () => Promise<number> }> {
      const distiller = new Distiller({ device, teacher, student: student(3), tsb: bank, config });
      await distiller.queueStep([batchOf(images)], { step: 0, learningRate: 0.1 });
      const before = await distiller.state();
      const ticket = await distiller.queueStep([batchOf(images)], {
        step: 1,
        learningRate: 0.1,
        after: (stage) => (stage === 'student forward' ? between() : Promise.resolve()),
      });
      return { distiller, before, loss: async () => (await distiller.readMetrics(ticket)).loss };
    }
    const view = { device, resolution: 32, mean: [0, 0, 0], std: [1, 1, 1], augment: false } as const;
    const rows = Float32Array.from({ length: 2 * size }, (_, i) => (i === 3 ? Infinity : 1));
    const input = {
      student: rows,
      teacher: rows,
      textual: rows,
      dimension: size,
      studentTemperature: 1,
      teacherTemperature: 1,
      alpha: 0,
    };
    const lost = await stepAround(() =>
      expect(readViews(damaged, { images: Int32Array.of(0) }, view)).rejects.toMatchObject(damagedError),
    );
    const whole = await stepAround(async () => undefined);
    const asked = await stepAround(() =>
      expect(bankLoss(input, { device })).rejects.toMatchObject({ code: 'NON_FINITE' }),
    );
    const message = expect.stringMatching(
      /a step is not whole, as work on its device failed meanwhile: .*damaged\.pack/u,
    ) as string;
    await expect(lost.loss()).rejects.toMatchObject({ code: 'BAD_FILE', message });
    expect(await asked.loss()).toBe(await whole.loss());
    const [a, b] = [await asked.distiller.state(), await whole.distiller.state()];
    for (const [name, { data }] of Object.entries(a.weights))
      expect(sameBits(data, b.weights[name]!.data), name).toBe(true);
    expect(differingState(await lost.distiller.state(), lost.before)).toEqual([]);
    for (const { distiller } of [lost, whole, asked]) distiller.dispose();
  });

  test('of an online probe is told to its distiller, though another waits first, and leaves all as it was', async () => {
    await using teacher = await loadTeacher(made.teacher, { device });
    const bank = await TextualSemanticsBank.load(made.bank);
    const source = await openImageFolder(join(folder, 'data'), { labels: 'folders' });
    using images = await ImageCache.build(source, smallCache(device, folder));
    using damaged = await ImageCache.build(await damagedImages(), smallCache(device, folder));
    using distiller = new Distiller({
      device,
      teacher,
      student: student(1),
      tsb: bank,
      config,
      onlineClasses: images.classNames!.length,
    });
    const before = await distiller.state();
    failAt('classifierLoss', damaged);
    const ticket = await distiller.queueStep([batchOf(images)], { step: 0, learningRate: 0.1 });
    await expect(device.synchronize()).rejects.toMatchObject(damagedError);
    await expect(distiller.readMetrics(ticket)).rejects.toMatchObject(damagedError);
    expect(differingState(await distiller.state(), before)).toEqual([]);
  });

  test('of features that are sent in pieces is told to their sender, though another waits in between', async () => {
    using damaged = await ImageCache.build(await damagedImages(), smallCache(device, folder));
    failAt('writeRows', damaged);
    let sent = false;
    const other = async () => {
      while (!sent) await Promise.all([device.synchronize().catch(() => undefined), new Promise(setImmediate)]);
    };
    const dimension = 2 ** 20; // a row a piece
    const scale = { mean: new Float32Array(dimension), deviation: new Float32Array(dimension).fill(1) };
    const waiting = other();
    try {
      await expect(
        FeatureSet.make(device, new Float32Array(3 * dimension), new Int32Array(3), scale),
      ).rejects.toMatchObject(damagedError);
    } finally {
      sent = true;
      await waiting;
    }
  });

  test('of a teacher outside the device gives up the step of its distiller alone, batch norms included', async () => {
    const bank = await TextualSemanticsBank.load(made.bank);
    using images = await ImageCache.build(await openImageFolder(join(folder, 'data')), smallCache(device, folder));
    let [answer, fail] = [(): void => undefined, (): void => undefined];
    const asked = new Promise<void>((resolve) => (answer = resolve));
    const failed = new Promise<void>((_, reject) => (fail = () => reject(new Error('gone'))));
    failed.catch(() => undefined); // it may not be waited for yet
    const slow = (until: Promise<void>) =>
      ownTeacher({
        embeddingSize: size,
        embed: async (pixels, batch) => {
          await until;
          return pixels.slice(0, batch * size).map((pixel) => pixel + 2);
        },
      });
    const make = (until: Promise<void>) =>
      new Distiller({ device, teacher: slow(until), student: student(1), tsb: bank, config });
    const take = (distiller: Distiller) => distiller.queueStep([batchOf(images)], { step: 0, learningRate: 0.1 });
    using alone = make(Promise.resolve());
    await take(alone);
    using whole = make(asked);
    using stopped = make(failed);
    const before = await stopped.state();
    const [taken, given] = [take(whole), take(stopped)]; // the second begins while the first waits
    answer();
    await taken;
    fail();
    await expect(given).rejects.toThrow('gone');
    expect(differingState(await whole.state(), await alone.state())).toEqual([]);
    expect(differingState(await stopped.state(), before)).toEqual([]);
  });

  test('that gives up a step around another leaves batch norms as they were on the CPU', async () => {
    await using teacher = await loadTeacher(made.teacher, { device });
    const bank = await TextualSemanticsBank.load(made.bank);
    using images = await ImageCache.build(await openImageFolder(join(folder, 'data')), smallCache(device, folder));
    const make = (seed: number) => new Distiller({ device, teacher, student: student(seed), tsb: bank, config });
    using stopped = make(1);
    using other = make(2);
    const before = await stopped.state();
    const given = stopped.queueStep([batchOf(images)], {
      step: 0,
      learningRate: 0.1,
      after: async (stage) => {
        if (stage !== 'backward') return;
        await other.queueStep([batchOf(images)], { step: 0, learningRate: 0.1 });
        throw new Error('told to stop');
      },
    });
    await expect(given).rejects.toThrow('told to stop');
    if (device.kind === 'cpu') expect(differingState(await stopped.state(), before)).toEqual([]);
    expect(differingState(await other.state(), before)).not.toEqual([]);
  });

  test('in the second batch of a step leaves all as it was before the step, batch norms included', async () => {
    await using teacher = await loadTeacher(made.teacher, { device });
    const bank = await TextualSemanticsBank.load(made.bank);
    using images = await ImageCache.build(await openImageFolder(join(folder, 'data')), smallCache(device, folder));
    using damaged = await ImageCache.build(await damagedImages(), smallCache(device, folder));
    const train = { ...config.train, accumulate: 2 };
    using distiller = new Distiller({ device, teacher, student: student(1), tsb: bank, config: { ...config, train } });
    const take = async (step: number, second: ImageCache) =>
      distiller.readMetrics(await distiller.queueStep([batchOf(images), batchOf(second)], { step, learningRate: 0.1 }));
    await take(0, images);
    await take(1, images);
    const before = await distiller.state();
    await expect(take(2, damaged)).rejects.toMatchObject(damagedError);
    expect(differingState(await distiller.state(), before)).toEqual([]);
    const failing = distiller.queueStep([batchOf(images), batchOf(images)], {
      step: 2,
      learningRate: 0.1,
      after: (stage) => (stage === 'student forward' ? Promise.reject(new Error('told to stop')) : Promise.resolve()),
    });
    await expect(failing).rejects.toThrow('told to stop');
    if (device.kind === 'cpu') expect(differingState(await distiller.state(), before)).toEqual([]);
    await take(2, images);
    expect(differingState(await distiller.state(), before)).not.toEqual([]);
  });
});
