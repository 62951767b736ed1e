/**
 * The distiller's step against the same step put together from its parts: encoders, the semantic functions in plain
 * TypeScript, and the optimisers written out.
 */
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { TextualSemanticsBank } from '../../lib/banks/textual.js';
import { parseConfig } from '../../lib/config/config.js';
import { ImageCache } from '../../lib/data/cache.js';
import { openImageFolder } from '../../lib/data/image-folder.js';
import { BatchPlan } from '../../lib/data/loader.js';
import { openDevice, type Device } from '../../lib/device.js';
import { LgdError } from '../../lib/errors.js';
import {
  createStudent,
  loadTeacher,
  type AnyTeacher,
  type CompiledEncoder,
  type WeightRecord,
} from '../../lib/models/index.js';
import { bankLoss, bankUpdate } from '../../lib/semantic/index.js';
import { Distiller, type DistillerState } from '../../lib/train/distiller.js';
import { differing } from '../fixtures/differing.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { drawShapes, madeUpTeacher, ownTeacher, sameBits, shapeNames, smallCache, tinyClip } from '../fixtures/tiny.js';

const folder = temporaryFolder();
const [K, B] = [shapeNames.length, 4];
let device: Device;
let teacher: AnyTeacher;
let dataset: ImageCache;
let tsb: TextualSemanticsBank;
beforeAll(async () => {
  device = await openDevice('cpu');
  teacher = await loadTeacher(tinyClip, { device });
  const source = await openImageFolder(await drawShapes(join(folder, 'data'), { count: 4 }));
  dataset = await ImageCache.build(source, smallCache(device, folder, 64));
  tsb = TextualSemanticsBank.fromEmbeddings(
    shapeNames,
    Float32Array.from({ length: K * 256 }, (_, i) => Math.sin(1 + i * i)),
    { encoderId: 'made up' },
  );
});
afterAll(async () => {
  dataset.dispose();
  await teacher.dispose();
  device.dispose();
});

const norm = (values: Float32Array) => Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));

/** Norm of the difference over norm, over all tensors together. */
function distance(a: WeightRecord, b: WeightRecord): number {
  let [apart, size] = [0, 0];
  for (const [name, { data }] of Object.entries(a)) {
    const other = b[name]!.data;
    for (let i = 0; i < data.length; i++) {
      apart += (data[i]! - other[i]!) ** 2;
      size += data[i]! ** 2;
    }
  }
  return Math.sqrt(apart / size);
}

function difference(a: WeightRecord, b: WeightRecord): WeightRecord {
  return Object.fromEntries(
    Object.entries(a).map(([name, { shape, data }]) => [
      name,
      { shape, data: data.map((value, i) => value - b[name]!.data[i]!) },
    ]),
  );
}

interface Moved {
  weights: WeightRecord;
  momentum: WeightRecord;
  secondMoment?: WeightRecord;
}

/**
 * What a step of PyTorch's optimisers leaves, written out: of SGD v <- 0.9 v + g / accumulated + decay w; w <- w - lr
 * v.
 */
async function optimised(
  encoder: CompiledEncoder,
  before: DistillerState,
  {
    adamw,
    lr,
    accumulated,
    decay,
    decayNorms,
  }: { adamw: boolean; lr: number; accumulated: number; decay: number; decayNorms: boolean },
): Promise<Moved> {
  // running statistics have moved
  const [weights, momentum, secondMoment]: WeightRecord[] = [await encoder.state(), {}, {}];
  const t = before.steps! + 1;
  for (const [name, { shape, data: gradient }] of Object.entries(await encoder.gradients())) {
    const { decay: decays } = encoder.graph.parameters.find((parameter) => parameter.name === name)!;
    const [w, was, decayed] = [
      before.weights[name]!.data,
      before.momentum[name]!.data,
      decays || decayNorms ? decay : 0,
    ];
    if (adamw) {
      const m = was.map((value, i) => 0.8 * value + (0.2 * gradient[i]!) / accumulated);
      const v = before.secondMoment![name]!.data.map(
        (value, i) => 0.99 * value + 0.01 * (gradient[i]! / accumulated) ** 2,
      );
      [momentum![name], secondMoment![name]] = [
        { shape, data: m },
        { shape, data: v },
      ];
      weights![name]!.data = w.map(
        (value, i) =>
          value - lr * decayed * value - (lr * m[i]!) / (1 - 0.8 ** t) / (Math.sqrt(v[i]! / (1 - 0.99 ** t)) + 1e-3),
      );
    } else {
      const v = was.map((value, i) => 0.9 * value + gradient[i]! / accumulated + decayed * w[i]!);
      momentum![name] = { shape, data: v };
      weights![name]!.data = w.map((value, i) => value - lr * v[i]!);
    }
  }
  return { weights: weights!, momentum: momentum!, ...(adamw && { secondMoment: secondMoment! }) };
}

// of an epsilon that keeps gradients that cancel, which are roundings, from being all that counts
const adamwNumbers = { optimizer: 'adamw', adamwBeta1: 0.8, adamwBeta2: 0.99, adamwEpsilon: 1e-3 } as const;

describe.each([
  ['one batch a step', 1, true, false],
  ['two batches a step, no decay of norms', 2, false, false],
  ['one batch a step of AdamW', 1, true, true],
  ['two batches a step of AdamW, no decay of norms', 2, false, true],
])('%s', (_, accumulate, decayNormAndBias, adamw) => {
  it('equals the step put together from its parts', async () => {
    const config = parseConfig({
      seed: 11,
      method: 'lgd',
      loss: { alpha: 0.3, momentum: 0.9 },
      train: { batchSize: B, accumulate, weightDecay: 0.01, decayNormAndBias, ...(adamw && adamwNumbers) },
    });
    const student = createStudent('mobilenet_v2', { device, embeddingSize: 256, widthMultiplier: 0.35, seed: 4 });
    using distiller = new Distiller({ device, teacher, student, tsb, config });
    using encoder = student.compile({ batch: B, resolution: 64, training: true });
    if (teacher.kind !== 'native') throw new Error('the tiny CLIP runs natively');
    using tower = teacher.compile({ batch: B });
    const { addon } = device;
    const images = encoder.makeImages();
    const dOutput = addon.makeTensor(device.handle, [B, 256]);
    const recipe = { ...config.augment, train: true, mean: teacher.mean, std: teacher.std };
    const plan = new BatchPlan(dataset, { batchSize: B, seed: config.seed });
    const keys: Parameters<CompiledEncoder['forwardTensor']>[1][] = []; // of dropout, which this student has not
    const { encoder: own } = distiller;
    const forward = own.forwardTensor.bind(own);
    own.forwardTensor = (input, options) => forward(input, keys[keys.push(options) - 1]);

    for (let step = 0; step < 3; step++) {
      // Every step starts from the distiller's own state: with batches of four, roundings grow from step to step until
      // nothing can be compared.
      const before = await distiller.state();
      const batches = Array.from({ length: accumulate }, () => ({ ...plan.next(), dataset }));
      const lr = (adamw ? 0.005 : 0.05) / (step + 1);
      const ticket = await distiller.queueStep(batches, { step, learningRate: lr });
      const [metrics, after] = [await distiller.readMetrics(ticket), await distiller.state()];

      encoder.load(before.weights);
      const losses: number[] = [];
      const embeddings: number[] = [];
      encoder.zeroGradients();
      for (const [place, batch] of batches.entries()) {
        addon.augment(dataset.store, recipe, batch, images);
        tower.forwardTensor(images);
        encoder.forwardTensor(images, { training: true, seed: config.seed, step: step * accumulate + place });
        const zT = await addon.readTensor(tower.output);
        const { loss, gradient } = await bankLoss(
          {
            student: await addon.readTensor(encoder.output),
            teacher: zT,
            textual: tsb.data,
            visual: before.semantic.visual,
            dimension: 256,
            alpha: 0.3,
            studentTemperature: 0.2,
            teacherTemperature: 0.01,
          },
          { device: 'js' },
        );
        addon.writeTensor(dOutput, gradient);
        encoder.backwardTensor(dOutput);
        losses.push(loss);
        embeddings.push(...zT);
      }
      expect(metrics.loss).toBeCloseTo(losses.reduce((a, b) => a + b) / accumulate, 5);
      const { momentum, secondMoment, weights } = await optimised(encoder, before, {
        adamw,
        lr,
        accumulated: accumulate,
        decay: 0.01,
        decayNorms: decayNormAndBias,
      });
      expect(distance(momentum, after.momentum)).toBeLessThan(1e-4);
      expect(Object.keys(after.secondMoment ?? {})).toEqual(Object.keys(secondMoment ?? {}));
      if (secondMoment !== undefined) expect(distance(secondMoment, after.secondMoment!)).toBeLessThan(1e-4);
      expect(after.steps).toBe(step + 1);
      expect(distance(difference(weights, before.weights), difference(after.weights, before.weights))).toBeLessThan(
        1e-4,
      );

      const { visual, seen } = before.semantic as { visual: Float32Array; seen: Uint8Array };
      const moved = await bankUpdate(
        { teacher: Float32Array.from(embeddings), textual: tsb.data, visual, seen, dimension: 256, momentum: 0.9 },
        { device: 'js' },
      );
      expect(after.semantic.seen).toEqual(moved.seen);
      expect(metrics.categoriesSeen).toBe(moved.seen.reduce((a, b) => a + b, 0));
      expect(
        norm(moved.visual.map((value, i) => value - after.semantic.visual![i]!)) / norm(moved.visual),
      ).toBeLessThan(1e-5);
    }
    expect(keys).toEqual(
      Array.from({ length: 3 * accumulate }, (_unused, step) => ({ training: true, seed: 11, step })),
    );
    for (const tensor of [images, dOutput]) addon.release(tensor);
  });
});

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
