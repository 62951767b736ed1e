/** A teacher of a caller's own in training, which may throw whatever it likes, and stop when it is told to. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { TextualSemanticsBank } from '../../lib/banks/textual.js';
import type { ConfigInput } from '../../lib/config/config.js';
import { ImageCache } from '../../lib/data/cache.js';
import { imagesFromBuffers } from '../../lib/data/sources.js';
import { openDevice, type Device } from '../../lib/device.js';
import { LgdError } from '../../lib/errors.js';
import { ZeroShotEvaluation } from '../../lib/evaluate/zeroshot.js';
import { createStudent, GraphBuilder, Student, type CustomTeacherApi } from '../../lib/models/index.js';
import { readStudent } from '../../lib/runs/student-file.js';
import { Distiller } from '../../lib/train/distiller.js';
import type { RunEvent } from '../../lib/train/events.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { ownTeacher, plainPicture, smallCache } from '../fixtures/tiny.js';

const folder = temporaryFolder();
const size = 8;
const tsb = TextualSemanticsBank.fromEmbeddings(
  ['a', 'b', 'c'],
  Float32Array.from({ length: 3 * size }, (_, i) => Math.sin(i)),
  { encoderId: 'made up' },
);
let device: Device;
let images: ImageCache;
let runs = 0;

beforeAll(async () => {
  device = await openDevice('cpu', { threads: 1 });
  const pictures = await Promise.all(
    ['red', 'teal', 'gold', 'grey', 'pink', 'navy', 'lime', 'plum'].map(async (background) => ({
      id: background,
      bytes: await plainPicture(background),
    })),
  );
  images = await ImageCache.build(imagesFromBuffers(pictures), smallCache(device, folder));
});
afterAll(() => {
  for (const object of [images, device]) object.dispose();
});

/** @param before called with the number of the call from 1, before it answers */
function teacherThat(
  before: (call: number, signal: AbortSignal | undefined) => Promise<void> | void,
): CustomTeacherApi {
  let calls = 0;
  return ownTeacher({
    embeddingSize: size,
    embed: async (pixels, batch, { signal } = {}) => {
      await before(++calls, signal);
      return Float32Array.from({ length: batch * size }, (_, i) => pixels[i * 97]! + Math.cos(i));
    },
  });
}

function distillerOf(
  teacher: CustomTeacherApi,
  output: string,
  train: ConfigInput['train'] = {},
  log: ConfigInput['log'] = {},
): Distiller {
  const student = createStudent('mobilenet_v3_small', { device, embeddingSize: size, widthMultiplier: 0.25, seed: 0 });
  return new Distiller({
    device,
    teacher,
    student,
    tsb,
    config: {
      method: 'lgd',
      output,
      data: { resolution: 32 },
      train: { batchSize: 2, epochs: 2, learningRate: 0.05, ...train },
      log,
    },
  });
}

const output = () => join(folder, `run-${runs++}`);

async function eventsOf(run: AsyncIterable<RunEvent>): Promise<RunEvent[]> {
  const events: RunEvent[] = [];
  for await (const event of run) events.push(event);
  return events;
}

describe('a teacher that throws', () => {
  const thrown = (value: unknown) =>
    teacherThat((call) => {
      if (call === 2) throw value;
    });

  it.each([
    ['undefined', undefined, 'threw undefined.'],
    ['null', null, 'threw null.'],
    ['a text', 'too many requests', 'threw something that is no error. Found: "too many requests".'],
  ])('%s ends the run with an error of its own', async (_, value, words) => {
    const path = output();
    using distiller = distillerOf(thrown(value), path);
    const error: unknown = await eventsOf(distiller.run(images)).catch((caught: unknown) => caught);
    expect(error).toMatchObject({
      code: 'BAD_MODEL',
      option: 'teacher',
      message: expect.stringContaining(`the teacher own ${words}`) as unknown,
      mend: expect.stringContaining('embed()') as unknown,
    });
    expect(await readFile(join(path, 'log.txt'), 'utf8')).toContain(`failed: ${(error as Error).message}`);
  });

  it('an error of its own ends the run with that', async () => {
    const own = new RangeError('429');
    using distiller = distillerOf(thrown(own), output());
    await expect(eventsOf(distiller.run(images))).rejects.toBe(own);
  });
});

describe('a teacher that waits', () => {
  /** At its call of that number until its signal fires, which it then does at once. */
  const waiting = (at: number, controller: AbortController, reason: (signal: AbortSignal) => unknown) =>
    teacherThat((call, signal) => {
      if (call !== at) return undefined;
      setTimeout(() => controller.abort(), 10);
      return new Promise((_, reject) => signal?.addEventListener('abort', () => reject(reason(signal) as Error)));
    });

  it.each([
    ['one batch a step', { accumulate: 1 }, 4, (signal: AbortSignal) => signal.reason as unknown],
    ['in the second batch of a step, without a reason', { accumulate: 2 }, 4, () => undefined],
  ])(
    'for its signal ends a run that is stopped with a checkpoint, which goes on with the same bits: %s',
    async (_, train, at, reason) => {
      const [whole, broken] = [output(), output()];
      const willing = teacherThat(() => undefined);
      using unbroken = distillerOf(willing, whole, train);
      await eventsOf(unbroken.run(images));
      const controller = new AbortController();
      using stopped = distillerOf(waiting(at, controller, reason), broken, train);
      const last = (await eventsOf(stopped.run(images, { signal: controller.signal }))).at(-1)!;
      expect(last).toMatchObject({
        type: 'interrupted',
        step: (at - 1 - ((at - 1) % train.accumulate)) / train.accumulate,
      });
      using resumed = distillerOf(willing, broken, train);
      expect((await eventsOf(resumed.run(images, { resume: 'last' }))).at(-1)).toMatchObject({ type: 'done' });
      for (const file of ['model.safetensors', 'state.safetensors']) {
        const [a, b] = await Promise.all(
          [whole, broken].map((path) => readFile(join(path, 'checkpoints', 'last', file))),
        );
        expect(a!.equals(b!), file).toBe(true);
      }
    },
  );

  it('and never answers is not waited for', async () => {
    const controller = new AbortController();
    const deaf = teacherThat((call) =>
      call < 3 ? undefined : new Promise(() => setTimeout(() => controller.abort(), 10)),
    );
    using stopped = distillerOf(deaf, output());
    expect((await eventsOf(stopped.run(images, { signal: controller.signal }))).at(-1)).toMatchObject({
      type: 'interrupted',
      step: 2,
    });
  });

  it('nor is one that does not say what it is', async () => {
    const controller = new AbortController();
    const deaf = {
      ...teacherThat(() => undefined),
      fingerprint: () => new Promise<string>(() => setTimeout(() => controller.abort(), 10)),
    };
    using stopped = distillerOf(deaf, output());
    await expect(eventsOf(stopped.run(images, { signal: controller.signal }))).rejects.toMatchObject({
      code: 'ABORTED',
    });
  });
});

describe('a run that stands still', () => {
  const stallMinutes = 0.02 / 60;
  const sleep = (milliseconds: number) => new Promise<void>((resolve) => setTimeout(resolve, milliseconds));
  const waitsOf = (events: readonly RunEvent[]) =>
    events.filter((event) => event.type === 'waiting').map(({ step, for: what }) => `${step} ${what}`);

  it('says what it waits for, in its log too, and goes on', async () => {
    const path = output();
    using distiller = distillerOf(
      teacherThat((call) => (call === 3 ? sleep(100) : undefined)),
      path,
      {},
      { stallMinutes },
    );
    const readMetrics = vi.spyOn(distiller, 'readMetrics').mockImplementationOnce(async (...given) => {
      await sleep(100);
      readMetrics.mockRestore();
      return distiller.readMetrics(...given);
    });
    const events = await eventsOf(distiller.run(images));
    expect(events.at(-1)).toMatchObject({ type: 'done', step: 8 });
    expect(waitsOf(events)).toEqual(expect.arrayContaining(['0 device', '2 teacher']));
    expect(await readFile(join(path, 'log.txt'), 'utf8')).toMatch(
      /step 3 has waited \d+ seconds for the teacher: does the teacher answer\?/u,
    );
  });

  it('for images that never come can be left, and leaves its folder', async () => {
    const path = output();
    const { length, ids, sourceIndex, store } = images;
    let batches = 0;
    const silent = {
      length,
      ids,
      sourceIndex,
      store,
      prepare: async () =>
        ++batches === 2 ? new Promise<never>(() => undefined) : { store, release: () => undefined },
    };
    using distiller = distillerOf(
      teacherThat(() => undefined),
      path,
      {},
      { stallMinutes },
    );
    let wait: RunEvent | undefined;
    for await (const event of distiller.run(silent)) {
      // of a busy machine the first step may stand still, too
      if (event.type !== 'waiting' || event.step === 0) continue;
      wait = event;
      break;
    }
    expect(wait).toMatchObject({ step: 1, for: 'images', seconds: expect.any(Number) as number });
    using again = distillerOf(
      teacherThat(() => undefined),
      path,
      {},
      { stallMinutes: 0 },
    );
    expect((await eventsOf(again.run(images, { resume: 'last' }))).at(-1)).toMatchObject({ type: 'done', step: 8 });
  });

  it('for a teacher that never answers can be left: its step ends, and no batch is kept', async () => {
    const { length, ids, sourceIndex, store } = images;
    const kept = new Set<object>();
    const counted = {
      length,
      ids,
      sourceIndex,
      store,
      prepare: () => {
        const batch = { store, release: () => void kept.delete(batch) };
        kept.add(batch);
        return batch;
      },
    };
    let asked: AbortSignal | undefined;
    using distiller = distillerOf(
      teacherThat((call, signal) => {
        if (call < 3) return undefined;
        asked = signal;
        return new Promise(() => undefined);
      }),
      output(),
      {},
      { stallMinutes },
    );
    const queued: Promise<unknown>[] = [];
    const queueStep = distiller.queueStep.bind(distiller);
    vi.spyOn(distiller, 'queueStep').mockImplementation((...given) => {
      queued.push(queueStep(...given));
      return queued.at(-1) as ReturnType<typeof queueStep>;
    });
    for await (const event of distiller.run(counted))
      if (event.type === 'waiting' && event.for === 'teacher' && event.step === 2) break;
    expect(asked?.aborted).toBe(true);
    await expect(queued[2]).rejects.toMatchObject({ code: 'ABORTED' });
    expect(kept.size).toBe(0);
  });

  it('in an evaluation says so, too, and can be left there', async () => {
    const { length, ids, store } = images;
    const classNames = ['a', 'b', 'c'];
    let asked = 0;
    // four batches of two, of which one is ahead
    const prepare = async () =>
      ++asked < 3 ? { store, release: () => undefined } : new Promise<never>(() => undefined);
    const evaluation = new ZeroShotEvaluation({
      device,
      images: { length, ids, store, prepare, classNames, labels: Int32Array.from(ids, (_, i) => i % 3) },
      bank: tsb,
      mean: [0.5, 0.5, 0.5],
      std: [0.5, 0.5, 0.5],
    });
    const path = output();
    using distiller = distillerOf(
      teacherThat(() => undefined),
      path,
      {},
      { stallMinutes },
    );
    const waits: RunEvent[] = [];
    for await (const event of distiller.run(images, { evaluation })) {
      if (event.type === 'waiting' && event.for === 'evaluation') waits.push(event);
      if (waits.length === 2) break;
    }
    expect(waits).toMatchObject([
      { step: 4, for: 'evaluation' },
      { step: 4, for: 'evaluation' },
    ]);
    expect(await readFile(join(path, 'log.txt'), 'utf8')).toMatch(
      /the evaluation after step 4 has stood still for \d+ seconds: do the disk/u,
    );
  });
});

describe("a network of one's own by the name of a known student", () => {
  const graphOf = (activation: 'relu' | 'silu') => {
    const g = new GraphBuilder('resnet18');
    return g.finish(
      g.linear(
        g.globalPool(g.convNorm(g.images, 'stem', { channels: 8, kernel: 3, stride: 2 }, activation)),
        'head.0',
        { features: size },
      ),
    );
  };
  const of = (activation: 'relu' | 'silu', path: string, maxSteps?: number) =>
    new Distiller({
      device,
      teacher: teacherThat(() => undefined),
      student: new Student('resnet18', device, size, 1, graphOf(activation), 0),
      tsb,
      config: {
        method: 'lgd',
        output: path,
        data: { resolution: 32 },
        train: { batchSize: 2, epochs: 2, learningRate: 0.05, maxSteps },
      },
    });

  it('goes on as itself, and not as another of the same parameters', async () => {
    const [path, whole] = [output(), output()];
    using begun = of('relu', path, 3);
    await eventsOf(begun.run(images));
    using other = of('silu', path);
    await expect(eventsOf(other.run(images, { resume: 'last' }))).rejects.toMatchObject({
      code: 'BAD_CHECKPOINT',
      message: expect.stringContaining('another graph by the name of resnet18') as string,
    });
    using same = of('relu', path);
    expect((await eventsOf(same.run(images, { resume: 'last' }))).at(-1)).toMatchObject({ type: 'done', step: 8 });
    using atOnce = of('relu', whole);
    await eventsOf(atOnce.run(images));
    const [resumed, straight] = await Promise.all(
      [path, whole].map(async (run) => readStudent(join(run, 'checkpoints', 'last'))),
    );
    expect(resumed!.info.graph).toEqual(JSON.parse(JSON.stringify(graphOf('relu'))));
    expect(resumed!.weights).toEqual(straight!.weights);
  });

  it('begins again as itself where it stopped before its first checkpoint, and is not begun as the known one', async () => {
    const path = output();
    // which writes no checkpoint
    const stop = async (run: AsyncGenerator<RunEvent>) => {
      for await (const event of run) if (event.type === 'step') break;
    };
    using begun = of('relu', path);
    await stop(begun.run(images));
    const refusal = {
      code: 'BAD_CHECKPOINT',
      message: expect.stringContaining('another student than resnet18') as string,
    };
    using known = new Distiller({
      device,
      teacher: teacherThat(() => undefined),
      student: createStudent('resnet18', { device, embeddingSize: size }),
      tsb,
      config: { ...begun.config, output: path },
    });
    await expect(eventsOf(known.run(images, { resume: 'last' }))).rejects.toMatchObject(refusal);
    const loaded = new Student('resnet18', device, size, 1, graphOf('relu'), 0);
    loaded.load(new Student('resnet18', device, size, 1, graphOf('relu'), 1).weights);
    using others = new Distiller({
      device,
      teacher: teacherThat(() => undefined),
      student: loaded,
      tsb,
      config: begun.config,
    });
    await expect(eventsOf(others.run(images, { resume: 'last' }))).rejects.toMatchObject(refusal);
    for (const again of [1, 2]) {
      using same = of('relu', path);
      if (again === 1) await stop(same.run(images, { resume: 'last' }));
      else
        expect((await eventsOf(same.run(images, { resume: 'last' }))).at(-1)).toMatchObject({ type: 'done', step: 8 });
    }
  });
});

describe('members that are something else', () => {
  const odd: readonly unknown[] = [5, 'x', Object.create(null), Symbol('x')];

  it.each(['prepare', 'broken', 'length'])('%s of a data set is named, with what was found', async (member) => {
    const { length, ids, sourceIndex, store } = images;
    for (const value of member === 'length' ? odd.slice(1) : odd) {
      using distiller = distillerOf(
        teacherThat(() => undefined),
        output(),
      );
      const dataset = { length, ids, sourceIndex, store, [member]: value } as unknown as ImageCache;
      await expect((async () => eventsOf(distiller.run(dataset)))()).rejects.toMatchObject({
        code: 'BAD_DATASET',
        option: `dataset.${member}`,
        found: value,
      });
    }
  });

  it('of a teacher, and of the run, too', async () => {
    for (const value of odd) {
      for (const member of ['embed', 'fingerprint'])
        expect(() => distillerOf({ ...teacherThat(() => undefined), [member]: value }, output())).toThrow(
          expect.objectContaining({ code: 'BAD_OPTION', option: `teacher.${member}` }) as Error,
        );
      using distiller = distillerOf(
        teacherThat(() => undefined),
        output(),
      );
      expect(() => distiller.run(images, { evaluation: value as never })).toThrow(
        expect.objectContaining({ code: 'BAD_OPTION', option: 'evaluation' }) as Error,
      );
    }
  });

  it('what a release() or a read() throws that is no error is told of', async () => {
    const { length, ids, sourceIndex, store } = images;
    for (const thrown of [null, undefined, Object.create(null)] as unknown[]) {
      const path = output();
      using distiller = distillerOf(
        teacherThat(() => undefined),
        path,
      );
      const fail = () => {
        throw thrown;
      };
      await expect(
        eventsOf(distiller.run({ length, ids, sourceIndex, store, prepare: async () => ({ store, release: fail }) })),
      ).rejects.toMatchObject({ code: 'BAD_DATASET', message: expect.stringContaining('release()') as string });
      using again = distillerOf(
        teacherThat(() => undefined),
        path,
      );
      // the folder was closed
      expect((await eventsOf(again.run(images, { resume: 'last' }))).at(-1)).toMatchObject({ type: 'done' });
      const source = { root: 'own', ids: ['a'], read: async () => fail() };
      await expect(ImageCache.build(source, smallCache(device, folder))).rejects.toMatchObject({ code: 'BAD_DATASET' });
    }
  });
});

describe('a distiller that cannot be made', () => {
  const teacher = teacherThat(() => undefined);

  it.each([
    ['resolution', 0],
    ['resolution', 32.5],
    ['embeddingSize', NaN],
    ['std', [0, 1, 1]],
    ['mean', Float32Array.of(0, 0, 0)],
  ] as const)("for the teacher's %s %s says so", (option, value) => {
    expect(() => distillerOf({ ...teacher, [option]: value }, output())).toThrow(
      expect.objectContaining({ code: 'BAD_OPTION', option: `teacher.${option}`, found: value }) as Error,
    );
  });

  it('leaves no device memory taken, whichever part fails', async () => {
    await device.synchronize();
    const before = device.info.allocatedBytes;
    expect(() => distillerOf({ ...teacher, resolution: 2 ** 40 }, output())).toThrow(LgdError);
    await device.synchronize();
    expect(device.info.allocatedBytes).toBe(before);
  });
});

it('a teacher is asked for nothing once a step was stopped, also where that waits for the device', async () => {
  const asked = vi.fn();
  using distiller = distillerOf(teacherThat(asked), output());
  const stop = new AbortController();
  const batch = {
    dataset: images,
    images: Int32Array.of(0, 1),
    drawIds: Int32Array.of(0, 1),
    seed: 0,
    epoch: 0,
    step: 0,
  };
  const queued = distiller.queueStep([batch], { step: 0, learningRate: 0.01, signal: stop.signal });
  stop.abort();
  await expect(queued).rejects.toMatchObject({ code: 'ABORTED' });
  await device.synchronize();
  expect(asked).not.toHaveBeenCalled();
});
