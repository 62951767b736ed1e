/** What a step of training is called with, by programs without types. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import * as api from '../../lib/index.js';
import {
  batch,
  config,
  device,
  distiller,
  folder,
  images,
  other,
  prepareCalls,
  refusal,
  refused,
  size,
  student,
  teacher,
  tsb,
  type Anything,
} from '../fixtures/calls.js';

prepareCalls();

describe('a step', () => {
  const queue = (batches: unknown, more: object = {}) =>
    (distiller as Anything).queueStep(batches, { step: 0, learningRate: 0.1, ...more });

  it('refuses what would make every weight NaN, and leaves them as they are', async () => {
    const before = await distiller.state();
    await refused(
      'BAD_OPTION',
      'learningRate',
      Object.fromEntries(
        [NaN, undefined, '0.1', -1, Infinity].map((learningRate) => [
          String(learningRate),
          () => queue([batch()], { learningRate }),
        ]),
      ),
    );
    await refused('BAD_OPTION', 'step', {
      none: () => queue([batch()], { step: undefined }),
      text: () => queue([batch()], { step: '1' }),
      part: () => queue([batch()], { step: 0.5 }),
    });
    expect(await distiller.state()).toEqual(before);
    using encoder = await api.createEncoder('mobilenet_v3_small', {
      device,
      outputs: 2,
      resolution: 32,
      batch: 2,
      widthMultiplier: 0.25,
    });
    await refused('BAD_OPTION', 'learningRate', { nan: () => encoder.optimizerStep({ learningRate: NaN }) });
    await refused('BAD_OPTION', 'momentum', {
      'not of a step': () => encoder.optimizerStep({ learningRate: 0.1, momentum: 0.9 } as Anything),
    });
    await refused('BAD_OPTION', 'weightDecay', {
      negative: () => encoder.optimizerStep({ learningRate: 0.1, weightDecay: -1 }),
    });
  });

  it('refuses a batch that is not whole, before any of it is queued', async () => {
    const [some, before] = [Int32Array.of(0), await distiller.state()];
    await refused('BAD_SHAPE', 'images', { short: () => queue([{ ...batch(), images: some, drawIds: some }]) });
    await refused('BAD_SHAPE', 'drawIds', { short: () => queue([{ ...batch(), drawIds: some }]) });
    await refused('BAD_OPTION', 'seed', { none: () => queue([{ ...batch(), seed: undefined }]) });
    await refused('BAD_OPTION', 'epoch', { text: () => queue([{ ...batch(), epoch: '1' }]) });
    expect(await distiller.state()).toEqual(before);
  });

  it('may have fewer batches than train.accumulate, and is then that of one with so many', async () => {
    const weightsOf = async (accumulate: number, count: number) => {
      using own = new api.Distiller({
        device,
        teacher,
        student,
        tsb,
        config: { ...config, train: { batchSize: 2, accumulate } },
      });
      await own.queueStep(Array.from({ length: count }, batch), { step: 0, learningRate: 0.1 });
      return (await own.state()).weights;
    };
    expect(await weightsOf(3, 2)).toEqual(await weightsOf(2, 2));
    expect(await weightsOf(2, 1)).not.toEqual(await weightsOf(2, 2));
  });

  it('takes no more batches than train.accumulate says: embeddings of more would overwrite each other', async () => {
    await refused('BAD_SHAPE', 'batches', {
      two: () => queue([batch(), batch()]),
      none: () => queue([]),
      alone: () => queue(batch()),
    });
    await refused('BAD_OPTION', 'batch', {
      planned: () => queue([new api.BatchPlan(images, { batchSize: 2, seed: 0 }).next()]),
    });
  });

  it('has numbers until so many others are queued, and not those of a later one', async () => {
    using own = new api.Distiller({ device, teacher, student, tsb, config });
    const first = await own.queueStep([batch()], { step: 0, learningRate: 0.01 });
    for (let step = 1; step < 64; step++) await own.queueStep([batch()], { step, learningRate: 0.01 });
    expect((await own.readMetrics(first)).loss).toBeGreaterThan(0);
    await own.queueStep([batch()], { step: 64, learningRate: 0.01 });
    await refused('BAD_OPTION', 'ticket', { late: () => own.readMetrics(first) });
  });

  it('has its numbers from its own distiller alone: those of another stand in the same slots', async () => {
    using own = new api.Distiller({ device, teacher, student, tsb, config });
    const ticket = await own.queueStep([batch()], { step: 0, learningRate: 0.01 });
    await refused('BAD_OPTION', 'ticket', {
      other: () => distiller.readMetrics(ticket),
      copy: () => own.readMetrics({ ...ticket }),
    });
    expect((await own.readMetrics(ticket)).loss).toBeGreaterThan(0);
  });

  it('needs a student whose graph gives one embedding', async () => {
    const graphs: Record<string, (g: api.GraphBuilder) => api.GraphSpec> = {
      short: (g) => g.finish(g.linear(g.globalPool(g.images), 'fc', { features: size - 1 })),
      two: (g) =>
        g.finish(
          ...(['a', 'b'].map((name) => g.linear(g.globalPool(g.images), name, { features: size })) as [
            api.Value,
            api.Value,
          ]),
        ),
      map: (g) => g.finish(g.conv(g.images, 'map', { channels: size, kernel: 3, stride: 2 })),
    };
    const make = (build: (g: api.GraphBuilder) => api.GraphSpec) => () =>
      new api.Distiller({
        device,
        teacher,
        student: new api.Student('mine', device, size, 1, build(new api.GraphBuilder('mine')), 0),
        tsb,
        config,
      });
    await refused(
      'BAD_MODEL',
      undefined,
      Object.fromEntries(Object.entries(graphs).map(([what, build]) => [what, make(build)])),
    );
  });

  it('needs a teacher with what its kind has', async () => {
    const make = (more: object) => () =>
      new api.Distiller({ device, teacher: { ...teacher, ...more } as Anything, student, tsb, config });
    await refused('BAD_OPTION', 'teacher.kind', { other: make({ kind: 'clip' }) });
    await refused('BAD_OPTION', 'teacher', { embeds: make({ kind: 'precomputed' }) });
    await refused('BAD_OPTION', 'teacher', {
      nameless: () =>
        new api.Distiller({
          device,
          teacher: Object.fromEntries(Object.entries(teacher).filter(([key]) => key !== 'fingerprint')) as Anything,
          student,
          tsb,
          config,
        }),
    });
  });

  it('leaves a run as it is that was to be begun anew with a teacher that fails', async () => {
    const run = async (more: object) => {
      using own = new api.Distiller({
        device,
        teacher: { ...teacher, ...more },
        student,
        tsb,
        config: { ...config, overwrite: true, train: { batchSize: 2, epochs: 1 } },
      });
      for await (const event of own.run(images)) expect(event.type).not.toBe('interrupted');
    };
    await run({});
    await expect(run({ fingerprint: () => Promise.reject(new Error('the server is away')) })).rejects.toThrow(
      'the server is away',
    );
    expect(existsSync(join(folder, 'run', 'checkpoints', 'last'))).toBe(true);
  });

  it('goes on with the teacher of its own that the run was begun with, and names it where another comes', async () => {
    const run = async (more: object, options: api.RunOptions) => {
      using own = new api.Distiller({
        device,
        teacher: { ...teacher, ...more } as Anything,
        student,
        tsb,
        config: {
          ...config,
          output: join(folder, 'same-teacher'),
          train: { batchSize: 2, epochs: 1, maxSteps: options.resume === undefined ? 1 : 2 },
        },
      });
      const steps: number[] = [];
      for await (const event of own.run(images, options)) if (event.type === 'step') steps.push(event.step);
      return steps;
    };
    expect(await run({}, {})).toEqual([1]);
    const { message } = await refusal(() => run({ fingerprint: async () => 'another' }, { resume: 'last' }));
    for (const words of [
      'own (custom), 8 values of 32 px, fingerprint another',
      'own (custom), 8 values of 32 px, fingerprint own',
    ])
      expect(message).toContain(words);
    expect(await run({}, { resume: 'last' })).toEqual([2]);
  });

  it('is all on one device', async () => {
    const elsewhere = api.createStudent('resnet18', { device: other, embeddingSize: size });
    await refused('BAD_OPTION', 'student', {
      student: () => new api.Distiller({ device, teacher, student: elsewhere, tsb, config }),
    });
  });

  it('learns from a teacher that is an object, whose embeddings are looked at', async () => {
    const metrics = await distiller.readMetrics(await distiller.queueStep([batch()], { step: 0, learningRate: 0.01 }));
    expect(metrics.loss).toBeGreaterThan(0);
    for (const embed of [async () => new Float32Array(3), async () => [1, 2]]) {
      using wrong = new api.Distiller({ device, teacher: { ...teacher, embed } as Anything, student, tsb, config });
      await refused('BAD_SHAPE', 'teacher', {
        embed: () => wrong.queueStep([batch()], { step: 0, learningRate: 0.1 }),
      });
    }
    const run = (own: Anything) => async () => {
      using wrong = new api.Distiller({
        device,
        teacher: own,
        student,
        tsb,
        config: { ...config, output: join(folder, 'own-answers') },
      });
      for await (const event of wrong.run(images)) expect(event.type).not.toBe('step');
    };
    const table = { ...teacher, kind: 'precomputed', has: () => true };
    await refused('BAD_SHAPE', 'teacher', {
      promise: run({ ...table, lookup: async (ids: string[]) => new Float32Array(ids.length * size) }),
      nothing: run({ ...table, lookup: () => undefined }),
    });
    const thrower = () => {
      throw 'gone';
    };
    await refused('BAD_MODEL', 'teacher', {
      lookup: run({ ...table, lookup: thrower }),
      fingerprint: run({ ...teacher, fingerprint: thrower }),
      unmarked: run({ ...teacher, fingerprint: async () => undefined }),
    });
  });
});
