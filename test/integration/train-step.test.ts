/**
 * The distiller's step against the same step put together from its parts: encoders, the semantic functions in plain
 * TypeScript, and the optimisers written out.
 */
import { describe, expect, it } from 'vitest';
import { parseConfig } from '../../lib/config/config.js';
import { BatchPlan } from '../../lib/data/loader.js';
import { createStudent, type CompiledEncoder, type WeightRecord } from '../../lib/models/index.js';
import { bankLoss, bankUpdate } from '../../lib/semantic/index.js';
import { Distiller, type DistillerState } from '../../lib/train/distiller.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { B, dataset, device, stepParts, teacher, tsb } from './train-step-fixture.js';

stepParts(temporaryFolder());

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
  /** Of the gradient, before it is clipped. */
  gradientNorm: number;
}

/**
 * What a step of PyTorch's optimisers leaves, written out: of SGD v <- 0.9 v + g / accumulated + decay w; w <- w - lr
 * v. The gradient is first clipped to a norm, which 0 does not.
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
    clipNorm,
  }: { adamw: boolean; lr: number; accumulated: number; decay: number; decayNorms: boolean; clipNorm: number },
): Promise<Moved> {
  // running statistics have moved
  const [weights, momentum, secondMoment]: WeightRecord[] = [await encoder.state(), {}, {}];
  const t = before.steps! + 1;
  const gradients = await encoder.gradients();
  const gradientNorm = Math.hypot(...Object.values(gradients).map(({ data }) => norm(data))) / accumulated;
  const scale = (clipNorm > 0 ? Math.min(1, clipNorm / (gradientNorm + 1e-6)) : 1) / accumulated;
  for (const [name, { shape, data: gradient }] of Object.entries(gradients)) {
    const { decay: decays } = encoder.graph.parameters.find((parameter) => parameter.name === name)!;
    const [w, was, decayed] = [
      before.weights[name]!.data,
      before.momentum[name]!.data,
      decays || decayNorms ? decay : 0,
    ];
    if (adamw) {
      const m = was.map((value, i) => 0.8 * value + 0.2 * scale * gradient[i]!);
      const v = before.secondMoment![name]!.data.map((value, i) => 0.99 * value + 0.01 * (scale * gradient[i]!) ** 2);
      [momentum![name], secondMoment![name]] = [
        { shape, data: m },
        { shape, data: v },
      ];
      weights![name]!.data = w.map(
        (value, i) =>
          value - lr * decayed * value - (lr * m[i]!) / (1 - 0.8 ** t) / (Math.sqrt(v[i]! / (1 - 0.99 ** t)) + 1e-3),
      );
    } else {
      const v = was.map((value, i) => 0.9 * value + scale * gradient[i]! + decayed * w[i]!);
      momentum![name] = { shape, data: v };
      weights![name]!.data = w.map((value, i) => value - lr * v[i]!);
    }
  }
  return { gradientNorm, weights: weights!, momentum: momentum!, ...(adamw && { secondMoment: secondMoment! }) };
}

// of an epsilon that keeps gradients that cancel, which are roundings, from being all that counts
const adamwNumbers = { optimizer: 'adamw', adamwBeta1: 0.8, adamwBeta2: 0.99, adamwEpsilon: 1e-3 } as const;

describe.each([
  ['one batch a step', 1, true, false, 0],
  ['two batches a step, no decay of norms', 2, false, false, 0],
  ['two batches a step, clipped', 2, true, false, 0.02],
  ['one batch a step of AdamW', 1, true, true, 0],
  ['two batches a step of AdamW, no decay of norms', 2, false, true, 0],
  ['two batches a step of AdamW, clipped', 2, true, true, 0.02],
])('%s', (_, accumulate, decayNormAndBias, adamw, clipNorm) => {
  it('equals the step put together from its parts', async () => {
    const config = parseConfig({
      seed: 11,
      method: 'lgd',
      loss: { alpha: 0.3, momentum: 0.9 },
      train: { batchSize: B, accumulate, weightDecay: 0.01, decayNormAndBias, clipNorm, ...(adamw && adamwNumbers) },
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
      const { momentum, secondMoment, weights, gradientNorm } = await optimised(encoder, before, {
        adamw,
        lr,
        accumulated: accumulate,
        decay: 0.01,
        decayNorms: decayNormAndBias,
        clipNorm,
      });
      if (clipNorm > 0) {
        expect(gradientNorm).toBeGreaterThan(2 * clipNorm);
        expect(metrics.gradientNorm! / gradientNorm).toBeCloseTo(1, 4);
      } else expect(metrics).not.toHaveProperty('gradientNorm');
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
