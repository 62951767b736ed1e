/**
 * AdamW on gradients that are given: against PyTorch and its formula, from state to state, and what it takes and
 * refuses.
 */
import { describe, expect, it, vi } from 'vitest';
import type { EncoderHandle } from '../../lib/addon/native.js';
import { openDevice, type Device } from '../../lib/device.js';
import { CompiledEncoder, type CompileOptions } from '../../lib/models/compiled.js';
import { createEncoder, Encoder } from '../../lib/models/encoder.js';
import { GraphBuilder, type GraphSpec } from '../../lib/models/graph.js';
import { initialWeights } from '../../lib/models/initialise.js';
import type { Optimizer, OptimizerStep } from '../../lib/models/optimizer.js';
import type { WeightRecord } from '../../lib/models/weights.js';
import { devicesUnderTest } from '../devices.js';
import { adamwGraph, gradientOf, rates, runs, startOf } from '../fixtures/adamw.js';
import { relativeError } from '../fixtures/encoder-vectors.js';
import { randomNormal } from '../fixtures/random.js';

const devices = await devicesUnderTest('AdamW');

/** An encoder that steps are taken of without forward and backward. */
function build(
  device: Device,
  graph: GraphSpec,
  options: Partial<CompileOptions>,
): { encoder: CompiledEncoder; step: (gradients: Record<string, Float32Array>, step: OptimizerStep) => void } {
  const made = vi.spyOn(device.addon, 'makeEncoder');
  const encoder = new CompiledEncoder(device, graph, { batch: 2, resolution: 8, precision: 'float32', ...options });
  const handle = made.mock.results[0]!.value as EncoderHandle;
  made.mockRestore();
  const step = (gradients: Record<string, Float32Array>, numbers: OptimizerStep) => {
    for (const [name, values] of Object.entries(gradients))
      device.addon.writeParameter(handle, name, 'gradient', values);
    encoder.optimizerStep(numbers);
  };
  return { encoder, step };
}

const minus = (a: ArrayLike<number>, b: ArrayLike<number>): Float64Array =>
  Float64Array.from(a, (value, i) => value - b[i]!);
const trainable = (graph: GraphSpec) =>
  graph.parameters
    .filter((parameter) => parameter.trainable)
    .map((parameter) => ({ ...parameter, count: parameter.shape.reduce((a, b) => a * b, 1) }));

/** The formula in float64. */
class Reference {
  readonly #m: Float64Array;
  readonly #v: Float64Array;
  #t = 0;
  readonly value: Float64Array;

  constructor(
    start: Float32Array,
    readonly optimizer: { beta1: number; beta2: number; epsilon: number },
  ) {
    [this.value, this.#m, this.#v] = [
      Float64Array.from(start),
      new Float64Array(start.length),
      new Float64Array(start.length),
    ];
  }

  step(gradient: Float32Array, rate: number, decay: number): void {
    const { beta1, beta2, epsilon } = this.optimizer;
    this.#t++;
    gradient.forEach((g, i) => {
      this.#m[i] = beta1 * this.#m[i]! + (1 - beta1) * g;
      this.#v[i] = beta2 * this.#v[i]! + (1 - beta2) * g * g;
      const [m, v] = [this.#m[i]! / (1 - beta1 ** this.#t), this.#v[i]! / (1 - beta2 ** this.#t)];
      this.value[i] = this.value[i]! - rate * decay * this.value[i]! - (rate * m) / (Math.sqrt(v) + epsilon);
    });
  }
}

describe.each(devices)('on $name', ({ device }) => {
  it.each(runs)(
    'is torch.optim.AdamW: betas $beta1 and $beta2, epsilon $epsilon, norms and biases decayed: $decayNormAndBias',
    async ({ beta1, beta2, epsilon, weightDecay, decayNormAndBias, gradientScale, after }) => {
      const graph = adamwGraph();
      const { encoder, step } = build(device, graph, { optimizer: { name: 'adamw', beta1, beta2, epsilon } });
      const parameters = trainable(graph);
      const start = initialWeights(graph, 1);
      parameters.forEach(({ name, count }, k) => (start[name]!.data = startOf(k, count)));
      encoder.load(start);
      for (const [t, learningRate] of rates.entries()) {
        step(Object.fromEntries(parameters.map(({ name, count }, k) => [name, gradientOf(k, count, t)])), {
          learningRate,
          weightDecay,
          decayNormAndBias,
          gradientScale,
        });
        const expected = after[t + 1];
        if (expected === undefined) continue;
        const [weights, { momentum, secondMoment, steps }] = [await encoder.state(), await encoder.optimizerState()];
        expect(steps).toBe(t + 1);
        for (const [k, { name, count }] of parameters.entries()) {
          // the weights are rounded
          expect(
            relativeError(
              minus(weights[name]!.data, startOf(k, count)),
              minus(expected.value[name]!, startOf(k, count)),
            ),
            `${name} after ${t + 1}`,
          ).toBeLessThan(3e-5);
          expect(relativeError(momentum[name]!.data, expected.momentum[name]!), `${name} after ${t + 1}`).toBeLessThan(
            1e-6,
          );
          expect(
            relativeError(secondMoment![name]!.data, expected.secondMoment[name]!),
            `${name} after ${t + 1}`,
          ).toBeLessThan(1e-6);
        }
      }
      encoder.dispose();
    },
  );

  it('follows the formula where the table is cut among threads, decay ends in the midst of it, and gradients span the range of float32', async () => {
    const g = new GraphBuilder('wide');
    const graph = g.finish(
      g.linear(g.batchNorm(g.linear(g.globalPool(g.images), 'a', { features: 3001 }), 'norm'), 'b', { features: 7 }),
    );
    const optimizer = { name: 'adamw', beta1: 0.9, beta2: 0.99, epsilon: 1e-8 } as const;
    const { encoder, step } = build(device, graph, { optimizer });
    const start = initialWeights(graph, 3);
    encoder.load(start);
    const parameters = trainable(graph);
    const expected = parameters.map(({ name }) => new Reference(start[name]!.data, optimizer));
    for (let t = 0; t < 4; t++) {
      const learningRate = 0.01 / (t + 1);
      const gradients = parameters.map(({ count }, k) =>
        randomNormal(count, 10 * t + k).map((value, i) => value * 10 ** (4 - (i % 12))),
      );
      step(Object.fromEntries(parameters.map(({ name }, k) => [name, gradients[k]!])), {
        learningRate,
        weightDecay: 0.1,
        decayNormAndBias: false,
      });
      parameters.forEach(({ decay }, k) => expected[k]!.step(gradients[k]!, learningRate, decay ? 0.1 : 0));
    }
    const weights = await encoder.state();
    for (const [k, { name }] of parameters.entries())
      expect(
        relativeError(minus(weights[name]!.data, start[name]!.data), minus(expected[k]!.value, start[name]!.data)),
        name,
      ).toBeLessThan(1e-5);
    encoder.dispose();
  });

  it('goes on from a state with the same bits, and leaves the weights in the precision of the passes', async () => {
    const [images, dOutput] = [randomNormal(2 * 3 * 8 * 8, 1), randomNormal(2 * 5, 2)];
    const make = () => {
      const encoder = new Encoder(
        new CompiledEncoder(device, adamwGraph(), {
          batch: 2,
          resolution: 8,
          precision: 'bfloat16',
          optimizer: { name: 'adamw' },
        }),
      );
      encoder.load(initialWeights(encoder.graph, 1));
      return encoder;
    };
    const take = async (encoder: Encoder) => {
      await encoder.forward(images, { training: true });
      await encoder.backward(dOutput);
      await encoder.optimizerStep({ learningRate: 0.01, weightDecay: 0.1 });
    };
    using unbroken = make();
    for (let t = 0; t < 4; t++) await take(unbroken);
    using first = make();
    for (let t = 0; t < 2; t++) await take(first);
    using second = make();
    second.load(await first.state());
    second.compiled.loadOptimizerState(await first.optimizerState());
    for (let t = 0; t < 2; t++) await take(second);
    expect(second.compiled.steps).toBe(4);
    expect(await second.state()).toEqual(await unbroken.state());
    expect(await second.optimizerState()).toEqual(await unbroken.optimizerState());
    using loaded = make();
    loaded.load(await unbroken.state());
    expect(await loaded.forward(images)).toEqual(await unbroken.forward(images));
  });
});

describe('an encoder for AdamW', async () => {
  const device = await openDevice('cpu');
  const compile = (optimizer?: Optimizer, training = true) =>
    new CompiledEncoder(device, adamwGraph(), { batch: 2, resolution: 8, training, ...(optimizer && { optimizer }) });
  const bytesOf = (...of: Parameters<typeof compile>): number => {
    using encoder = compile(...of);
    return encoder.info.parameterBytes;
  };

  it('has room for a second moment, which no other has', () => {
    const [sgd, adamw] = [bytesOf(), bytesOf({ name: 'adamw' })];
    const buffers = bytesOf(undefined, false) - (adamw - sgd); // values and buffers, less values
    expect(adamw - sgd).toBeGreaterThanOrEqual(4 * trainable(adamwGraph()).reduce((sum, { count }) => sum + count, 0));
    expect(sgd).toBe(3 * (adamw - sgd) + buffers); // values, gradients, momentum
    expect(bytesOf({ name: 'adamw' }, false)).toBe(bytesOf(undefined, false));
    expect(bytesOf({ name: 'sgd', momentum: 0.5 })).toBe(sgd);
  });

  it.each<[unknown, string]>([
    ['adamw', 'optimizer'],
    [null, 'optimizer'],
    [{}, 'optimizer.name'],
    [{ name: 'adam' }, 'optimizer.name'],
    [{ name: 'adamw', beta1: 1 }, 'optimizer.beta1'],
    [{ name: 'adamw', beta2: -0.1 }, 'optimizer.beta2'],
    [{ name: 'adamw', epsilon: 0 }, 'optimizer.epsilon'],
    [{ name: 'sgd', momentum: 2 }, 'optimizer.momentum'],
    [{ name: 'adamw', momentum: 0.9 }, 'momentum'],
    [{ name: 'sgd', beta1: 0.9 }, 'beta1'],
  ])('is not made with %j', async (optimizer, option) => {
    const options = {
      device,
      outputs: 2,
      resolution: 32,
      batch: 2,
      widthMultiplier: 0.25,
      optimizer: optimizer as Optimizer,
    };
    await expect(createEncoder('mobilenet_v3_small', options)).rejects.toMatchObject({ code: 'BAD_OPTION', option });
  });

  it('goes on from no state of SGD, nor the other way', async () => {
    using sgd = compile();
    using adamw = compile({ name: 'adamw' });
    const [ofSgd, ofAdamw] = [await sgd.optimizerState(), await adamw.optimizerState()];
    expect(ofSgd.secondMoment).toBeUndefined();
    expect(() => sgd.loadOptimizerState(ofAdamw)).toThrow(
      expect.objectContaining({ code: 'BAD_OPTION', option: 'secondMoment' }) as Error,
    );
    expect(() => adamw.loadOptimizerState(ofSgd)).toThrow(
      expect.objectContaining({ code: 'BAD_OPTION', option: 'secondMoment' }) as Error,
    );
    expect(() => adamw.loadOptimizerState(undefined as never)).toThrow(
      expect.objectContaining({ code: 'BAD_OPTION' }) as Error,
    );
    expect(() => adamw.loadOptimizerState(ofAdamw.momentum as never)).toThrow(
      expect.objectContaining({ code: 'BAD_MODEL' }) as Error,
    );
    expect(() => adamw.loadOptimizerState({ ...ofAdamw, steps: -1 })).toThrow(
      expect.objectContaining({ code: 'BAD_OPTION', option: 'steps' }) as Error,
    );
    expect(() => adamw.loadOptimizerState({ ...ofAdamw, secondMoment: {} as WeightRecord })).toThrow(
      expect.objectContaining({ code: 'BAD_MODEL' }) as Error,
    );
    const other = { ...ofAdamw, steps: 3 };
    adamw.loadOptimizerState(other);
    expect(await adamw.optimizerState()).toEqual(other);
  });
});
