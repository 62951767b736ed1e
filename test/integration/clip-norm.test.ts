/** Gradients that are clipped by their norm: against PyTorch, in a distiller's steps, and in runs. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it, vi } from 'vitest';
import type { EncoderHandle } from '../../lib/addon/native.js';
import type { ConfigInput } from '../../lib/config/config.js';
import type { Device } from '../../lib/device.js';
import { CompiledEncoder, type CompileOptions } from '../../lib/models/compiled.js';
import { GraphBuilder, type GraphSpec } from '../../lib/models/graph.js';
import { initialWeights } from '../../lib/models/initialise.js';
import type { OptimizerStep } from '../../lib/models/optimizer.js';
import type { WeightRecord } from '../../lib/models/weights.js';
import { prepareRun } from '../../lib/train/setup.js';
import { devicesUnderTest } from '../devices.js';
import { adamwGraph, gradientOf, startOf } from '../fixtures/adamw.js';
import { rates, runs } from '../fixtures/clip.js';
import { relativeError } from '../fixtures/encoder-vectors.js';
import { randomNormal } from '../fixtures/random.js';
import { ofType, sameBits, smallConfig, train } from '../fixtures/tiny.js';
import { failure, ShapeRuns } from './train-fixture.js';

const devices = await devicesUnderTest('clipping');
const { data, output } = new ShapeRuns();

const trainable = (graph: GraphSpec) =>
  graph.parameters
    .filter((parameter) => parameter.trainable)
    .map((parameter) => ({ ...parameter, count: parameter.shape.reduce((a, b) => a * b, 1) }));

/** An encoder that steps are taken of with given gradients. */
function build(device: Device, graph: GraphSpec, options: Partial<CompileOptions> = {}) {
  const made = vi.spyOn(device.addon, 'makeEncoder');
  const encoder = new CompiledEncoder(device, graph, { batch: 2, resolution: 8, precision: 'float32', ...options });
  const handle = made.mock.results[0]!.value as EncoderHandle;
  made.mockRestore();
  const step = (gradients: readonly Float32Array[], numbers: OptimizerStep, slot?: number): void => {
    for (const [k, { name }] of trainable(graph).entries())
      device.addon.writeParameter(handle, name, 'gradient', gradients[k]!);
    encoder.optimizerStep(numbers, slot);
  };
  return { encoder, step };
}

function expectSame(a: WeightRecord, b: WeightRecord): void {
  for (const [name, { data: values }] of Object.entries(a)) expect(sameBits(values, b[name]!.data), name).toBe(true);
}

describe.each(devices)('a clipped step on $name', ({ device }) => {
  it.each(runs)(
    'is that of clip_grad_norm_: $optimizer, to $clipNorm, gradients times $gradientScale',
    async ({ optimizer, clipNorm, weightDecay, gradientScale, norms, after }) => {
      const graph = adamwGraph();
      const { encoder, step } = build(device, graph, {
        optimizer: optimizer === 'sgd' ? { name: 'sgd' } : { name: 'adamw', beta1: 0.9, beta2: 0.99, epsilon: 1e-3 },
      });
      const parameters = trainable(graph);
      const start = initialWeights(graph, 1);
      parameters.forEach(({ name, count }, k) => (start[name]!.data = startOf(k, count)));
      encoder.load(start);
      for (const [t, learningRate] of rates.entries()) {
        const gradients = parameters.map(({ count }, k) =>
          gradientOf(k, count, t).map((value) => (t === 2 ? 10 : 1) * value),
        );
        step(gradients, { learningRate, weightDecay, gradientScale, clipNorm }, t);
      }
      for (const [t, norm] of norms.entries()) expect((await encoder.gradientNorm(t)) / norm).toBeCloseTo(1, 6);
      const [weights, { momentum }] = [await encoder.state(), await encoder.optimizerState()];
      for (const [k, { name, count }] of parameters.entries()) {
        const begin = startOf(k, count);
        const moved = (values: ArrayLike<number>) => Float64Array.from(values, (value, i) => value - begin[i]!);
        expect(relativeError(moved(weights[name]!.data), moved(after.value[name]!)), name).toBeLessThan(3e-5);
        expect(relativeError(momentum[name]!.data, after.momentum[name]!), name).toBeLessThan(1e-6);
      }
      encoder.dispose();
    },
  );

  it.each(['sgd', 'adamw'] as const)(
    'has the bits of one without where the norm is below, and the same bits each time where it is not: %s',
    async (name) => {
      const g = new GraphBuilder('wide');
      const graph = g.finish(
        g.linear(g.batchNorm(g.linear(g.globalPool(g.images), 'a', { features: 3001 }), 'norm'), 'b', { features: 37 }),
      );
      const gradients = [0, 1, 2].map((t) => trainable(graph).map(({ count }, k) => randomNormal(count, 10 * t + k)));
      const take = async (clipNorm?: number) => {
        const { encoder, step } = build(device, graph, { optimizer: { name } });
        encoder.load(initialWeights(graph, 3));
        for (const [t, one] of gradients.entries())
          step(one, { learningRate: 0.01, weightDecay: 0.1, decayNormAndBias: false, gradientScale: 0.5, clipNorm }, t);
        const norms = clipNorm === undefined ? [] : await Promise.all([0, 1, 2].map((t) => encoder.gradientNorm(t)));
        const [weights, kept] = [await encoder.state(), await encoder.gradients()];
        const { momentum } = await encoder.optimizerState();
        encoder.dispose();
        return { weights, momentum, norms, kept };
      };
      const [without, never, once, again] = [await take(), await take(1e6), await take(10), await take(10)];
      const squares = gradients.map((one) => one.reduce((sum, values) => values.reduce((s, v) => s + v * v, sum), 0));
      squares.forEach((square, t) => expect(never.norms[t]! / (0.5 * Math.sqrt(square))).toBeCloseTo(1, 7));
      expect(once.norms).toEqual(never.norms);
      expect(again.norms).toEqual(never.norms);
      for (const part of ['weights', 'momentum'] as const) {
        expectSame(never[part], without[part]);
        expectSame(once[part], again[part]);
        expect(sameBits(once[part]['a.weight']!.data, without[part]['a.weight']!.data)).toBe(false);
      }
      trainable(graph).forEach(({ name: parameter }, k) =>
        expect(sameBits(once.kept[parameter]!.data, gradients[2]![k]!), parameter).toBe(true),
      );
    },
  );

  it.each([NaN, Infinity, -Infinity])(
    'of a gradient that is %d moves the weights as one without, and its norm is an error',
    async (wrong) => {
      const graph = adamwGraph();
      const gradients = trainable(graph).map(({ count }, k) => gradientOf(k, count, 0));
      gradients[3]![11] = wrong;
      const take = async (clipNorm: number) => {
        const { encoder, step } = build(device, graph);
        encoder.load(initialWeights(graph, 1));
        step(gradients, { learningRate: 0.1, clipNorm });
        if (clipNorm > 0) await expect(encoder.gradientNorm()).rejects.toMatchObject({ code: 'NON_FINITE' });
        const weights = await encoder.state();
        encoder.dispose();
        return weights;
      };
      const [clipped, without] = [await take(0.1), await take(0)];
      expect(clipped).toEqual(without);
      expect(clipped[trainable(graph)[3]!.name]!.data[11]).not.toBe(
        initialWeights(graph, 1)[trainable(graph)[3]!.name]!.data[11],
      );
      expect(Number.isFinite(clipped[trainable(graph)[3]!.name]!.data[11])).toBe(false);
    },
  );

  it('is refused a norm that is none, and tells none where no step was clipped', async () => {
    const { encoder, step } = build(device, adamwGraph());
    const gradients = trainable(encoder.graph).map(({ count }, k) => gradientOf(k, count, 0));
    for (const clipNorm of [-1, NaN, Infinity, '1' as unknown as number])
      expect(() => step(gradients, { learningRate: 0.1, clipNorm })).toThrow(
        expect.objectContaining({ code: 'BAD_OPTION', option: 'clipNorm' }) as Error,
      );
    for (const slot of [-1, 64, 0.5])
      expect(() => step(gradients, { learningRate: 0.1, clipNorm: 1 }, slot)).toThrow(
        expect.objectContaining({ code: 'BAD_OPTION', option: 'slot' }) as Error,
      );
    step(gradients, { learningRate: 0.1 });
    await expect(encoder.gradientNorm()).rejects.toMatchObject({ code: 'BAD_OPTION' });
    await expect(encoder.gradientNorm(64)).rejects.toMatchObject({ code: 'BAD_OPTION', option: 'slot' });
    encoder.dispose();
    await expect(encoder.gradientNorm()).rejects.toMatchObject({ code: 'DISPOSED' });
  });
});

describe('a run that clips', () => {
  const run = async (trainOptions: ConfigInput['train'], more: ConfigInput = {}) => {
    const path = output();
    const { events, weights } = await train(
      smallConfig(data, path, { ...more, train: { epochs: 1, warmupEpochs: 0, ...trainOptions } }),
    );
    return { path, steps: ofType(events, 'step'), weights };
  };

  it('has the bits of one that does not where no norm is above, and tells the norms', async () => {
    const [without, never, always] = [await run({}), await run({ clipNorm: 1e6 }), await run({ clipNorm: 1e-3 })];
    for (const [name, values] of Object.entries(without.weights))
      expect(sameBits(values, never.weights[name]!), name).toBe(true);
    expect(never.steps.map(({ loss }) => loss)).toEqual(without.steps.map(({ loss }) => loss));
    expect(always.steps.map(({ loss }) => loss)).not.toEqual(without.steps.map(({ loss }) => loss));
    expect(always.steps[0]!.gradientNorm).toBe(never.steps[0]!.gradientNorm);
    for (const { steps } of [never, always])
      for (const { gradientNorm } of steps) expect(gradientNorm).toBeGreaterThan(1e-3);
    for (const step of without.steps) expect(step).not.toHaveProperty('gradientNorm');
    const logged = (await readFile(join(never.path, 'metrics.jsonl'), 'utf8')).trim().split('\n');
    expect(logged.map((line) => (JSON.parse(line) as { gradientNorm?: number }).gradientNorm)).toEqual(
      never.steps.map(({ gradientNorm }) => gradientNorm),
    );
  });

  it('with several students clips each by its own norm', async () => {
    const students = ['mobilenet_v3_small', 'mobilenet_v2'];
    const one = async (name: string) =>
      run({ clipNorm: 0.01, maxSteps: 3 }, { student: { name, widthMultiplier: 0.35 } });
    const [both, ...alone] = [await one(students.join()), await one(students[0]!), await one(students[1]!)];
    const normsOf = (steps: typeof both.steps) => steps.map(({ gradientNorm }) => gradientNorm!);
    for (const [k, name] of students.entries())
      expect(normsOf(both.steps.filter(({ studentName }) => studentName === name))).toEqual(normsOf(alone[k]!.steps));
    expect(normsOf(alone[0]!.steps)).not.toEqual(normsOf(alone[1]!.steps));
  });

  it('ends at a step whose gradients are not finite, before the next loss shows it', async () => {
    const path = output();
    const config = smallConfig(data, path, { train: { clipNorm: 1 } });
    await using prepared = await prepareRun(config);
    const { addon } = prepared.device;
    const { optimizerStep } = addon;
    let calls = 0;
    const { name, shape } = trainable(prepared.student.graph)[0]!;
    const spy = vi.spyOn(addon, 'optimizerStep').mockImplementation((encoder, options) => {
      const values = new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(NaN);
      if (++calls === 2) addon.writeParameter(encoder, name, 'gradient', values);
      optimizerStep(encoder, options);
    });
    const steps: number[] = [];
    const ended = (async () => {
      for await (const event of prepared.run()) if (event.type === 'step') steps.push(event.step);
    })();
    await expect(ended).rejects.toMatchObject({
      code: 'NON_FINITE',
      message: expect.stringMatching(
        /^step 2 went wrong: .*the gradients of .* have a value that is not finite/u,
      ) as unknown,
    });
    spy.mockRestore();
    expect(steps).toEqual([1]);
    expect(await readFile(join(path, 'log.txt'), 'utf8')).toContain('step 2 went wrong');
  });

  it.each([0, 1])('names the row that is no number where there is one, clipping to %d or not', async (clipNorm) => {
    await using prepared = await prepareRun(smallConfig(data, output(), { train: { clipNorm } }));
    const { graph } = prepared.student;
    const state = initialWeights(graph, 1);
    state[trainable(graph)[0]!.name]!.data.fill(NaN);
    prepared.distiller.encoder.load(state);
    const ended = (async () => {
      for await (const event of prepared.run()) expect(event.type).not.toBe('step');
    })();
    await expect(ended).rejects.toMatchObject({
      code: 'NON_FINITE',
      message: expect.stringMatching(/^step 1 went wrong: .*row 0 of the student embeddings/u) as unknown,
    });
  });

  it.each([[-1], [NaN], [1e10], ['1']])('is refused a norm of %s', async (clipNorm) => {
    const error = await failure(smallConfig(data, output(), { train: { clipNorm: clipNorm as number } }));
    expect(error).toMatchObject({ code: 'BAD_OPTION', option: 'train.clipNorm' });
  });
});
