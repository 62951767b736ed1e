import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openDevice, type Device } from '../../lib/device.js';
import { CompiledEncoder, type CompileOptions } from '../../lib/models/compiled.js';
import { createEncoder, Encoder } from '../../lib/models/encoder.js';
import { GraphBuilder, type GraphSpec } from '../../lib/models/graph.js';
import { initialWeights } from '../../lib/models/initialise.js';
import { createStudent, studentGraph } from '../../lib/models/student.js';
import { findStudent } from '../../lib/models/students/registry.js';
import type { WeightRecord } from '../../lib/models/weights.js';
import { allOperations } from '../fixtures/all-operations.js';
import { relativeError } from '../fixtures/encoder-vectors.js';
import { pytorchStudents } from '../fixtures/pytorch-students.js';
import { randomUniform } from '../fixtures/random.js';

let device: Device;
beforeAll(async () => {
  device = await openDevice('cpu');
});
afterAll(() => device.dispose());

function build(graph: GraphSpec, options: Partial<CompileOptions> = {}): Encoder {
  const encoder = new Encoder(new CompiledEncoder(device, graph, { batch: 4, resolution: 24, ...options }));
  encoder.load(initialWeights(graph, 1));
  return encoder;
}

/** Compares bits without walking through millions of numbers one by one. */
function expectSameBits(found: WeightRecord, expected: WeightRecord): void {
  expect(Object.keys(found)).toEqual(Object.keys(expected));
  for (const [name, { shape, data }] of Object.entries(expected)) {
    expect(found[name]!.shape, name).toEqual(shape);
    expect(Buffer.from(found[name]!.data.buffer).equals(Buffer.from(data.buffer)), name).toBe(true);
  }
}

const images = randomUniform(4 * 3 * 24 * 24, 1);
const dOutput = randomUniform(4 * 7, 2);

/** Without norms, images do not see one another. */
function withoutNorms(): GraphSpec {
  const g = new GraphBuilder('without_norms');
  let x = g.relu(g.conv(g.images, 'a', { channels: 8, kernel: 3, stride: 2, bias: true }));
  x = g.activation(g.conv(x, 'b', { channels: 8, kernel: 3, groups: 8 }), 'hardswish');
  x = g.add(x, g.maxPool(x, { kernel: 3, stride: 1, padding: 1 }));
  return g.finish(g.linear(g.globalPool(x), 'c', { features: 7 }));
}

describe('backward', () => {
  it('is the slope of the forward pass, with dropout and stochastic depth drawing alike', async () => {
    const graph = allOperations({ dropping: true });
    using encoder = build(graph);
    const draw = { training: true, seed: 7, step: 3 };
    const start = await encoder.state();
    await encoder.forward(images, draw);
    const gradients = await encoder.backward(dOutput);
    const loss = async (name: string, direction: Float32Array, length: number) => {
      const { shape, data } = start[name]!;
      encoder.load({ ...start, [name]: { shape, data: data.map((value, i) => value + length * direction[i]!) } });
      return (await encoder.forward(images, draw)).reduce((sum, value, i) => sum + value * dOutput[i]!, 0);
    };
    // a convolution's scale is lost in the norm behind it: too flat for float32 differences only where the slope itself
    // vanishes
    const names = Object.keys(gradients);
    const slopes = new Map(
      names.map((name) => [name, Math.sqrt(gradients[name]!.reduce((sum, value) => sum + value * value, 0))]),
    );
    const steep = names.filter((name) => slopes.get(name)! > 0.02);
    expect(steep.length).toBeGreaterThan(0.8 * names.length);
    const step = 2e-4; // short: a longer one takes units over the kinks of their activations
    for (const name of steep) {
      const direction = gradients[name]!.map((value) => value / slopes.get(name)!);
      const difference = ((await loss(name, direction, step)) - (await loss(name, direction, -step))) / (2 * step);
      expect(difference / slopes.get(name)!, name).toBeCloseTo(1, 1);
    }
  });

  it('adds to the gradients until they are zeroed', async () => {
    const graph = withoutNorms();
    using whole = build(graph);
    await whole.forward(images, { training: true });
    const expected = await whole.backward(dOutput);
    using half = build(graph, { batch: 2 });
    const { compiled } = half;
    const [input, gradient] = [compiled.makeImages(), device.addon.makeTensor(device.handle, [2, 7])];
    for (const part of [0, 1]) {
      device.addon.writeImages(input, images.slice((part * images.length) / 2, ((part + 1) * images.length) / 2));
      compiled.forwardTensor(input, { training: true });
      device.addon.writeTensor(gradient, dOutput.slice(part * 14, (part + 1) * 14));
      compiled.backwardTensor(gradient);
    }
    const found = await compiled.gradients();
    for (const [name, values] of Object.entries(expected))
      expect(relativeError(found[name]!.data, values), name).toBeLessThan(1e-5);
    compiled.zeroGradients();
    expect((await compiled.gradients())['a.weight']!.data.every((value) => value === 0)).toBe(true);
  });

  it('gives the same bits each time, on any number of threads', async () => {
    const run = async (on: Device) => {
      const graph = allOperations({ dropping: true });
      using encoder = new Encoder(new CompiledEncoder(on, graph, { batch: 4, resolution: 24 }));
      encoder.load(initialWeights(graph, 1));
      const output = await encoder.forward(images, { training: true, seed: 1, step: 2 });
      return { output, gradients: await encoder.backward(dOutput), state: await encoder.state() };
    };
    const first = await run(device);
    expect(await run(device)).toEqual(first);
    using one = await openDevice('cpu', { threads: 1 });
    expect(await run(one)).toEqual(first);
  });
});

describe('dropping', () => {
  it('draws by seed and step, keeps the mean, and rests in evaluation', async () => {
    const g = new GraphBuilder('drop');
    const spec = g.finish(g.dropout(g.globalPool(g.conv(g.images, 'a', { channels: 512 })), 0.25));
    using encoder = build(spec, { batch: 4 });
    const still = await encoder.forward(images);
    const dropped = await encoder.forward(images, { training: true, seed: 1, step: 1 });
    expect(await encoder.forward(images, { training: true, seed: 1, step: 1 })).toEqual(dropped);
    expect(await encoder.forward(images, { training: true, seed: 1, step: 2 })).not.toEqual(dropped);
    expect(await encoder.forward(images, { training: true, seed: 2, step: 1 })).not.toEqual(dropped);
    const zeros = dropped.filter((value) => value === 0).length / dropped.length;
    expect(Math.abs(zeros - 0.25)).toBeLessThan(0.04); // four standard deviations
    dropped.forEach((value, i) => {
      if (value !== 0) expect(value).toBeCloseTo(still[i]! / 0.75, 5);
    });
  });

  it('drops whole images in stochastic depth', async () => {
    const g = new GraphBuilder('depth');
    const spec = g.finish(g.globalPool(g.stochasticDepth(g.conv(g.images, 'a', { channels: 8 }), 0.5)));
    using encoder = build(spec, { batch: 64, resolution: 4 });
    const output = await encoder.forward(randomUniform(64 * 48, 3), { training: true, seed: 5 });
    const kept = Array.from(
      { length: 64 },
      (_, n) => output.slice(n * 8, n * 8 + 8).filter((value) => value !== 0).length,
    );
    expect(new Set(kept)).toEqual(new Set([0, 8]));
  });
});

describe('SGD', () => {
  /** PyTorch's formula in float64. */
  function reference(
    weights: Float32Array,
    gradients: Float32Array[],
    { lr, momentum, decay, scale }: { lr: number; momentum: number; decay: number; scale: number },
  ) {
    const [value, velocity] = [Float64Array.from(weights), new Float64Array(weights.length)];
    for (const gradient of gradients) {
      gradient.forEach((g, i) => {
        velocity[i] = momentum * velocity[i]! + scale * g + decay * value[i]!;
        value[i] = value[i]! - lr * velocity[i]!;
      });
    }
    return { value, velocity };
  }

  it.each([true, false])('follows the formula, norms and biases decayed: %s', async (decayNormAndBias) => {
    using encoder = build(allOperations(), { optimizer: { name: 'sgd', momentum: 0.8 } });
    const start = await encoder.state();
    const gradients: Record<string, Float32Array[]> = {};
    for (let step = 0; step < 3; step++) {
      await encoder.forward(images, { training: true });
      for (const [name, values] of Object.entries(await encoder.backward(dOutput)))
        (gradients[name] ??= []).push(values);
      await encoder.optimizerStep({ learningRate: 0.1, weightDecay: 0.05, decayNormAndBias, gradientScale: 0.5 });
    }
    const [after, { momentum }] = [await encoder.state(), await encoder.optimizerState()];
    for (const { name, decay } of encoder.graph.parameters.filter(({ trainable }) => trainable)) {
      const expected = reference(start[name]!.data, gradients[name]!, {
        lr: 0.1,
        momentum: 0.8,
        decay: decay || decayNormAndBias ? 0.05 : 0,
        scale: 0.5,
      });
      expect(relativeError(after[name]!.data, expected.value), name).toBeLessThan(1e-6);
      if (expected.velocity.some((value) => Math.abs(value) > 1e-4))
        expect(relativeError(momentum[name]!.data, expected.velocity), name).toBeLessThan(1e-5);
    }
  });

  it('goes on from a saved state with the same bits', async () => {
    const step = async (encoder: Encoder, n: number) => {
      await encoder.forward(images, { training: true, step: n });
      await encoder.backward(dOutput);
      await encoder.optimizerStep({ learningRate: 0.1, weightDecay: 1e-4 });
    };
    using unbroken = build(allOperations({ dropping: true }));
    for (let n = 0; n < 4; n++) await step(unbroken, n);
    using first = build(allOperations({ dropping: true }));
    for (let n = 0; n < 2; n++) await step(first, n);
    using second = new Encoder(
      new CompiledEncoder(device, allOperations({ dropping: true }), { batch: 4, resolution: 24 }),
    );
    second.load(await first.state());
    second.compiled.loadOptimizerState(await first.optimizerState());
    for (let n = 2; n < 4; n++) await step(second, n);
    expectSameBits(await second.state(), await unbroken.state());
    expectSameBits((await second.optimizerState()).momentum, (await unbroken.optimizerState()).momentum);
  });

  it('lowers a loss', async () => {
    using encoder = await createEncoder('mobilenet_v3_small', {
      device,
      outputs: 4,
      widthMultiplier: 0.35,
      resolution: 32,
      batch: 8,
    });
    const input = randomUniform(8 * 3 * 32 * 32, 4);
    const losses: number[] = [];
    for (let step = 0; step < 12; step++) {
      const output = await encoder.forward(input, { training: true });
      const gradient = output.map((value, i) => value - (i % 4 === Math.floor(i / 4) % 4 ? 1 : 0));
      losses.push(gradient.reduce((sum, value) => sum + value * value, 0) / 2);
      await encoder.backward(gradient);
      await encoder.optimizerStep({ learningRate: 0.02 });
    }
    expect(losses.at(-1)!).toBeLessThan(0.3 * losses[0]!);
  });
});

describe('plans', () => {
  it('give one evaluation, forward only or not, for whole and part batches', async () => {
    const options = { device, outputs: 9, widthMultiplier: 0.35, resolution: 40, batch: 3, seed: 5 };
    for (const name of ['mobilenet_v2', 'mobilenet_v3_small', 'resnet18', 'efficientnet_b0']) {
      const own = findStudent(name).scalable ? options : { ...options, widthMultiplier: 1 };
      using full = await createEncoder(name, own);
      using lean = await createEncoder(name, { ...own, training: false });
      const input = randomUniform(3 * 3 * 40 * 40, 6);
      await full.forward(input, { training: true });
      lean.load(await full.state());
      const expected = await full.forward(input);
      expect(relativeError(await lean.forward(input), expected), name).toBeLessThan(1e-5);
      expect(await lean.forward(input.slice(0, 2 * 3 * 40 * 40)), name).toEqual(
        (await lean.forward(input)).slice(0, 18),
      );
      expect(lean.info.arenaBytes).toBeLessThan(full.info.arenaBytes / 3);
      expect(lean.info.kernelsForward).toBeLessThan(full.info.kernelsForward);
      expect(lean.info.parameterBytes).toBeLessThan(0.6 * full.info.parameterBytes);
    }
  });

  it.each(pytorchStudents)(
    'count multiply-adds and parameters of $name at width $widthMultiplier, which tell its strides',
    ({ name, widthMultiplier, multiplyAdds, parameters }) => {
      using compiled = new CompiledEncoder(device, studentGraph(name, { outputs: 1000, widthMultiplier }), {
        batch: 1,
        resolution: 224,
        training: false,
      });
      expect(compiled.info).toMatchObject({ macsPerImage: multiplyAdds, parameters, outputSize: 1000 });
    },
  );

  it('keep what load takes, exactly', async () => {
    using encoder = await createEncoder('efficientnet_b0', { device, outputs: 5, resolution: 32, batch: 2, seed: 9 });
    const weights = initialWeights(encoder.graph, 11);
    for (const { data } of Object.values(weights)) data.forEach((_, i) => (data[i] = Math.fround(Math.sin(i) + 2)));
    encoder.load(weights);
    expectSameBits(await encoder.state(), weights);
  });

  it('take images that are no squares', async () => {
    const g = new GraphBuilder('wide');
    const graph = g.finish(
      g.linear(g.globalPool(g.relu(g.conv(g.images, 'conv', { channels: 8, kernel: 3 }))), 'fc', { features: 3 }),
    );
    const weights = initialWeights(graph, 1);
    const [wide, tall] = [randomUniform(3 * 4 * 10, 1), new Float32Array(3 * 10 * 4)];
    for (let c = 0; c < 3; c++)
      for (let y = 0; y < 4; y++) for (let x = 0; x < 10; x++) tall[(c * 10 + x) * 4 + y] = wide[(c * 4 + y) * 10 + x]!;
    const turned = {
      ...weights,
      'conv.weight': {
        shape: [8, 3, 3, 3],
        data: weights['conv.weight']!.data.map(
          (_, i, data) => data[i - (i % 9) + (i % 3) * 3 + Math.floor((i % 9) / 3)]!,
        ),
      },
    };
    const outputOf = async (resolution: number, width: number, own: typeof weights, images: Float32Array) => {
      using encoder = new Encoder(
        new CompiledEncoder(device, graph, { batch: 2, resolution, width, training: false, precision: 'float32' }),
      );
      encoder.load(own);
      expect([encoder.resolution, encoder.width]).toEqual([resolution, width]);
      await expect(encoder.forward(new Float32Array(3 * resolution * resolution))).rejects.toMatchObject({
        code: 'BAD_SHAPE',
        message: expect.stringContaining(`[3,${resolution},${width}]`) as unknown,
      });
      return encoder.forward(images);
    };
    expect(relativeError(await outputOf(10, 4, turned, tall), await outputOf(4, 10, weights, wide))).toBeLessThan(1e-6);
  });

  it('start a student from its seed, and take other weights', async () => {
    const student = createStudent('mobilenet_v2', { device, embeddingSize: 12, widthMultiplier: 0.1, seed: 2 });
    using compiled = student.compile({ batch: 2, resolution: 32 });
    expect(compiled.info.outputSize).toBe(12);
    expectSameBits(await compiled.state(), initialWeights(student.graph, 2));
    student.load(initialWeights(student.graph, 3));
    using again = student.compile({ batch: 1, resolution: 64, training: false });
    expectSameBits(await again.state(), initialWeights(student.graph, 3));
  });
});
