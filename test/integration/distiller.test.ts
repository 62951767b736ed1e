/** A distiller: its states, its teachers outside the device, and what it refuses. */
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { TextualSemanticsBank } from '../../lib/banks/textual.js';
import { parseConfig } from '../../lib/config/config.js';
import { BatchPlan } from '../../lib/data/loader.js';
import { LgdError } from '../../lib/errors.js';
import { createStudent, loadTeacher, type AnyTeacher } from '../../lib/models/index.js';
import { Distiller, type DistillerState } from '../../lib/train/distiller.js';
import { differing } from '../fixtures/differing.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { madeUpTeacher, ownTeacher, sameBits } from '../fixtures/tiny.js';
import { B, dataset, device, K, stepParts, teacher, tsb } from './train-step-fixture.js';

const folder = temporaryFolder();
stepParts(folder);

describe('Distiller', () => {
  it('goes on from a state exactly as it would have', async () => {
    const config = parseConfig({ seed: 2, method: 'lgd', train: { batchSize: B } });
    const make = () =>
      new Distiller({
        device,
        teacher,
        student: createStudent('mobilenet_v2', { device, embeddingSize: 256, widthMultiplier: 0.35, seed: 1 }),
        tsb,
        config,
      });
    using first = make();
    using second = make();
    const plan = new BatchPlan(dataset, { batchSize: B, seed: 2 });
    const batches = [0, 1, 2, 3].map(() => [{ ...plan.next(), dataset }]);
    for (const step of [0, 1]) await first.queueStep(batches[step]!, { step, learningRate: 0.1 });
    second.restore(await first.state());
    for (const step of [2, 3])
      for (const distiller of [first, second]) await distiller.queueStep(batches[step]!, { step, learningRate: 0.1 });
    const [a, b] = [await first.state(), await second.state()];
    for (const part of ['weights', 'momentum'] as const) {
      for (const [name, { data }] of Object.entries(a[part]))
        expect(sameBits(data, b[part][name]!.data), name).toBe(true);
    }
    expect(sameBits(a.semantic.visual!, b.semantic.visual!)).toBe(true);
    expect(b.semantic.seen).toEqual(a.semantic.seen);
  });

  describe('with a teacher outside the device', () => {
    const sameWeights = (a: DistillerState, b: DistillerState) =>
      Object.entries(a.weights)
        .filter(([name, { data }]) => !sameBits(data, b.weights[name]!.data))
        .map(([name]) => name);

    let calls = 0; // of the latest teacher

    /** Sums pixels, the later calls in less time; the call of number `failing` is refused. */
    function slowTeacher(failing?: number): AnyTeacher {
      const { embeddingSize, mean, std } = teacher;
      calls = 0;
      const embed = async (pixels: Float32Array, batch: number) => {
        const call = calls++;
        await new Promise((done) => setTimeout(done, Math.max(0, 60 - 10 * call)));
        if (call === failing) throw new LgdError('DEVICE_ERROR', 'the teacher is tired.', { mend: 'Let it rest' });
        const embeddings = new Float32Array(batch * embeddingSize);
        const [image, cell] = [pixels.length / batch, pixels.length / embeddings.length];
        pixels.forEach(
          (value, i) => (embeddings[Math.floor(i / image) * embeddingSize + Math.floor((i % image) / cell)]! += value),
        );
        return embeddings;
      };
      return ownTeacher({ embeddingSize, mean, std, embed });
    }

    async function distil(
      failing: number | undefined,
      accumulate: number,
      isAwaited: boolean,
    ): Promise<{ state: DistillerState; losses: unknown[] }> {
      const student = createStudent('mobilenet_v2', { device, embeddingSize: 256, widthMultiplier: 0.35, seed: 1 });
      using distiller = new Distiller({
        device,
        teacher: slowTeacher(failing),
        student,
        tsb,
        config: { seed: 2, method: 'lgd', data: { resolution: 32 }, train: { batchSize: B, accumulate } },
      });
      const plan = new BatchPlan(dataset, { batchSize: B, seed: 2 });
      const queued = [];
      for (const step of [0, 1, 2]) {
        const [batches, options] = [
          Array.from({ length: accumulate }, () => ({ ...plan.next(), dataset })),
          { step, learningRate: 0.1 },
        ];
        queued.push(distiller.queueStep(batches, options));
        if (!isAwaited) [batches.length, options.learningRate] = [0, 100]; // they are the caller's again
        // the third is asked for while the second is under way
        if (isAwaited || step === 1) await Promise.allSettled(isAwaited ? queued : queued.slice(0, 1));
      }
      const tickets = await Promise.allSettled(queued);
      const losses = await Promise.all(
        tickets.map(async (ticket) =>
          ticket.status === 'fulfilled'
            ? (await distiller.readMetrics(ticket.value)).loss
            : (ticket.reason as LgdError).code,
        ),
      );
      return { state: await distiller.state(), losses };
    }

    it.each([
      ['one batch', undefined, 1],
      ['two batches', undefined, 2],
      ['one of them failing', 1, 1],
    ] as const)('queues steps that are not awaited one after the other: %s', async (_, failing, accumulate) => {
      const [inTurn, atOnce] = [await distil(failing, accumulate, true), await distil(failing, accumulate, false)];
      expect(calls).toBe(3 * accumulate);
      expect(inTurn.losses[1]).toEqual(failing === undefined ? expect.any(Number) : 'DEVICE_ERROR');
      expect(atOnce.losses).toEqual(inTurn.losses);
      expect(sameWeights(atOnce.state, inTurn.state)).toEqual([]);
    });

    it('refuses steps that wait for their turn when it is disposed of', async () => {
      const student = createStudent('mobilenet_v2', { device, embeddingSize: 256, widthMultiplier: 0.35, seed: 1 });
      const distiller = new Distiller({
        device,
        teacher: slowTeacher(),
        student,
        tsb,
        config: { seed: 2, method: 'lgd', data: { resolution: 32 }, train: { batchSize: B } },
      });
      const plan = new BatchPlan(dataset, { batchSize: B, seed: 2 });
      const steps = Promise.allSettled(
        [0, 1, 2].map((step) => distiller.queueStep([{ ...plan.next(), dataset }], { step, learningRate: 0.1 })),
      );
      distiller.dispose();
      const disposed = { status: 'rejected', reason: { code: 'DISPOSED' } };
      expect(await steps).toMatchObject([{ status: 'fulfilled' }, disposed, disposed]);
      await device.synchronize();
    });
  });

  describe('with a teacher of embeddings', () => {
    const labels = new Int32Array(4 * K);

    /** A distiller with an online probe, the batches of its steps, and what takes one. */
    async function make(accumulate = 1, students = ['mobilenet_v3_small'], optimizer: 'sgd' | 'adamw' = 'sgd') {
      const made = await madeUpTeacher(join(folder, 'made-up'));
      const known = await loadTeacher(made.teacher, { device });
      const student = students.map((name) =>
        createStudent(name, { device, embeddingSize: 16, widthMultiplier: 0.1, seed: 1 }),
      );
      const config = {
        method: 'hybrid' as const,
        loss: { queueSize: 6 },
        data: { resolution: 32 },
        train: { batchSize: B, accumulate, optimizer },
      };
      const distiller = new Distiller({
        device,
        teacher: known,
        student,
        tsb: await TextualSemanticsBank.load(made.bank),
        config,
        onlineClasses: 2,
      });
      const { length, ids, sourceIndex, store } = dataset;
      const plan = new BatchPlan(dataset, { batchSize: B, seed: 2 });
      const batches = (named = ids) =>
        Array.from({ length: accumulate }, (_, place) => ({
          ...plan.next(),
          dataset: { length, ids: place === accumulate - 1 ? named : ids, sourceIndex, store, labels },
        }));
      return {
        distiller,
        batches,
        take: async (step: number) => distiller.queueStep(batches(), { step, learningRate: 0.1 }),
      };
    }

    it('reads a state that has nothing of a step queued after it was asked for', async () => {
      const { distiller, take } = await make();
      await take(0);
      const expected = await distiller.state();
      const asked = distiller.state();
      await take(1);
      expect(differing(await asked, expected)).toEqual([]);
      distiller.dispose();
    });

    it('has not moved where the teacher does not know an image of the second batch', async () => {
      const { distiller, batches, take } = await make(2);
      await take(0);
      const before = await distiller.state();
      await expect(
        distiller.queueStep(batches(dataset.ids.map((id) => `un${id}`)), { step: 1, learningRate: 0.1 }),
      ).rejects.toMatchObject({ code: 'BAD_DATASET' });
      expect(differing(await distiller.state(), before)).toEqual([]);
      distiller.dispose();
    });

    it('teaches its online probe the labels of the last batch, whose embeddings are at hand', async () => {
      const { distiller, batches } = await make(2);
      const two = batches().map((batch, place) => ({
        ...batch,
        dataset: { ...batch.dataset, labels: labels.slice().fill(place) },
      }));
      await distiller.queueStep(two, { step: 0, learningRate: 0.1 });
      const { bias } = (await distiller.state()).online!;
      expect(bias[1]).toBeGreaterThan(bias[0]!);
      distiller.dispose();
    });

    it('has not moved where a state does not fit', async () => {
      const { distiller, take } = await make();
      await take(0);
      const [before, first] = [await distiller.state(), await distiller.state()];
      await take(1);
      const now = await distiller.state();
      const unfits = [
        { semantic: { ...first.semantic, queue: new Float32Array(16) } },
        { momentum: first.weights },
        { secondMoment: first.momentum },
        { steps: -1 },
        { weights: first.momentum },
        { online: { ...first.online!, biasMomentum: new Float32Array(3) } },
      ];
      for (const unfit of unfits) {
        expect(() => distiller.restore({ ...first, ...unfit })).toThrow(LgdError);
        expect(differing(await distiller.state(), now), Object.keys(unfit).join()).toEqual([]);
      }
      distiller.restore(before);
      expect(differing(await distiller.state(), before)).toEqual([]);
      distiller.dispose();
    });

    it('goes on by AdamW from a state that says of how many steps it is, and from no other', async () => {
      const { distiller, take } = await make(1, undefined, 'adamw');
      await take(0);
      const first = await distiller.state();
      await take(1);
      const second = await distiller.state();
      for (const unfit of [{ steps: undefined }, { secondMoment: undefined }]) {
        expect(() => distiller.restore({ ...first, ...unfit } as DistillerState)).toThrow(
          expect.objectContaining({ code: 'BAD_OPTION', option: Object.keys(unfit)[0] }) as Error,
        );
        expect(differing(await distiller.state(), second)).toEqual([]);
      }
      distiller.restore(first);
      expect(differing(await distiller.state(), first)).toEqual([]);
      expect(distiller.stepsOf(0)).toBe(1);
      distiller.dispose();
    });

    it('tells the numbers of the students that a step was of, and takes none of them twice', async () => {
      const { distiller, batches } = await make(1, ['mobilenet_v3_small', 'mobilenet_v3_large']);
      const take = async (students: number[]) =>
        distiller.queueStep(batches(), { step: 0, learningRate: 0.1, students });
      const ticket = await take([1]);
      expect((await distiller.readMetrics(ticket, 1)).loss).toBeGreaterThan(0);
      await expect(distiller.readMetrics(ticket)).rejects.toMatchObject({
        code: 'BAD_OPTION',
        option: 'student',
        found: 0,
        allowed: '1',
      });
      for (const students of [[0, 0], []])
        await expect(take(students)).rejects.toMatchObject({ code: 'BAD_OPTION', option: 'students' });
      expect([distiller.stepsOf(0), distiller.stepsOf(1)]).toEqual([0, 1]);
      distiller.dispose();
    });
  });

  it('refuses parts that do not fit', () => {
    const student = createStudent('mobilenet_v2', { device, embeddingSize: 128, widthMultiplier: 0.35 });
    const fitting = createStudent('mobilenet_v2', { device, embeddingSize: 256, widthMultiplier: 0.35 });
    const small = TextualSemanticsBank.fromEmbeddings(['a'], Float32Array.of(1, 0), { encoderId: 'x' });
    const config = { train: { batchSize: 2 } };
    const code = (make: () => Distiller) => {
      try {
        make().dispose();
      } catch (error) {
        return (error as { code: string }).code;
      }
      return 'none';
    };
    expect(code(() => new Distiller({ device, teacher, student, tsb, config }))).toBe('BAD_SHAPE');
    expect(code(() => new Distiller({ device, teacher, student: fitting, tsb: small, config }))).toBe('BAD_BANK');
    expect(code(() => new Distiller({ device, teacher, student: fitting, config }))).toBe('BAD_CONFIG');
    expect(
      code(() => new Distiller({ device, teacher, student: fitting, tsb, config: { train: { batchSize: 0 } } })),
    ).toBe('BAD_OPTION');
    expect(
      code(() => new Distiller({ device, teacher, student: fitting, config: { ...config, method: 'seed' } })),
    ).toBe('none');
  });
});
