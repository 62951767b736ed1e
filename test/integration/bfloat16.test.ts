import { describe, expect, it } from 'vitest';
import { openDevice, type Device } from '../../lib/device.js';
import { CompiledEncoder, type Precision } from '../../lib/models/compiled.js';
import { Encoder } from '../../lib/models/encoder.js';
import { GraphBuilder, type GraphSpec, type Value } from '../../lib/models/graph.js';
import { initialWeights } from '../../lib/models/initialise.js';
import { devicesUnderTest } from '../devices.js';
import { takeStep, wholeError } from '../fixtures/encoder-step.js';
import { relativeError } from '../fixtures/encoder-vectors.js';
import { randomNormal, randomNumbers } from '../fixtures/random.js';

// bfloat16 on the CPU: float32 that is rounded where CUDA stores bfloat16.
const cpu = await openDevice('cpu');
const [batch, resolution, outputs] = [6, 32, 10];
const images = randomNormal(batch * 3 * resolution * resolution, 1);
const dOutput = randomNormal(batch * outputs, 2);

function network(build: (g: GraphBuilder) => Value): GraphSpec {
  const g = new GraphBuilder('network');
  return g.finish(g.linear(g.globalPool(build(g)), 'fc', { features: outputs }));
}

/**
 * To nearest even, by another way than the engine's: bfloat16 has 8 bits, so what is left after division by 2^(exponent
 * - 7) is a whole number.
 */
function toBfloat16(x: number): number {
  if (x === 0) return x;
  const unit = 2 ** (Math.floor(Math.log2(Math.abs(x))) - 7);
  const [below, part] = [Math.floor(x / unit), x / unit - Math.floor(x / unit)];
  return unit * (part > 0.5 || (part === 0.5 && below % 2 !== 0) ? below + 1 : below);
}

async function step(device: Device, graph: GraphSpec, precision: Precision) {
  using encoder = new Encoder(new CompiledEncoder(device, graph, { batch, resolution, precision }));
  encoder.load(initialWeights(graph, 3));
  return await takeStep(encoder, images, dOutput);
}

describe('on the CPU', () => {
  it('rounds images, weights and what a layer gives', async () => {
    const graph = network((g) => g.images);
    // Of so few bits, once rounded, that float32 sums them exactly, in any order.
    const fill = (length: number, from: number, unit: number, seed: number) => {
      const random = randomNumbers(seed);
      return Float32Array.from({ length }, () => from + unit * Math.floor(512 * random()));
    };
    const images = fill(batch * 3 * resolution * resolution, 1, 2 ** -9, 1);
    const weights = initialWeights(graph, 3);
    weights['fc.weight']!.data = fill(outputs * 3, 0.25, 2 ** -11, 2);
    weights['fc.bias']!.data = fill(outputs, 0, 2 ** -10, 3);
    using encoder = new Encoder(
      new CompiledEncoder(cpu, graph, { batch, resolution, precision: 'bfloat16', training: false }),
    );
    encoder.load(weights);
    const found = await encoder.forward(images);
    const [pixels, weight] = [resolution * resolution, weights['fc.weight']!.data];
    const pooled = Array.from({ length: batch * 3 }, (_, row) =>
      toBfloat16(images.subarray(row * pixels, (row + 1) * pixels).reduce((sum, x) => sum + toBfloat16(x), 0) / pixels),
    );
    const expected = Array.from(found, (_, i) =>
      [0, 1, 2].reduce(
        (sum, c) => sum + pooled[Math.floor(i / outputs) * 3 + c]! * toBfloat16(weight[(i % outputs) * 3 + c]!),
        weights['fc.bias']!.data[i % outputs]!,
      ),
    );
    expect([...found]).toEqual(expected.map(toBfloat16));
  });

  it('rounds the weights anew after each step of the optimiser', async () => {
    const graph = network((g) => g.convNorm(g.images, 'stem', { channels: 16, kernel: 3, stride: 2 }, 'relu'));
    const make = () => new Encoder(new CompiledEncoder(cpu, graph, { batch, resolution, precision: 'bfloat16' }));
    using trained = make();
    using loaded = make();
    trained.load(initialWeights(graph, 3));
    const before = await trained.forward(images);
    await trained.forward(images, { training: true });
    await trained.backward(dOutput);
    await trained.optimizerStep({ learningRate: 0.1 });
    loaded.load(await trained.state());
    const after = await trained.forward(images);
    expect(after).toEqual(await loaded.forward(images));
    expect(relativeError(after, before)).toBeGreaterThan(0.05);
  });
});

describe.each((await devicesUnderTest('bfloat16')).filter(({ name }) => name !== 'cpu'))('on $name', ({ device }) => {
  const graphs: [string, GraphSpec][] = [
    [
      'a convolution with a norm',
      network((g) => g.convNorm(g.images, 'stem', { channels: 16, kernel: 3, stride: 2 }, 'relu')),
    ],
    [
      'a block of MobileNetV2',
      network((g) => {
        const x = g.convNorm(g.images, 'stem', { channels: 16, kernel: 3, stride: 2 }, 'relu6');
        const wide = g.convNorm(
          g.convNorm(x, 'expand', { channels: 96, kernel: 1 }, 'relu6'),
          'depthwise',
          { channels: 96, kernel: 3, groups: 96 },
          'relu6',
        );
        return g.add(g.convNorm(wide, 'project', { channels: 16, kernel: 1 }), x);
      }),
    ],
  ];
  it.each(graphs)('%s is as the CPU simulates it', async (_, graph) => {
    const [exact, simulated, found] = [
      await step(cpu, graph, 'float32'),
      await step(cpu, graph, 'bfloat16'),
      await step(device, graph, 'bfloat16'),
    ];
    // a mean over pixels is not rounded before: see docs/engine.md, Precision
    expect(relativeError(found.output, simulated.output)).toBeLessThan(6e-3);
    expect(wholeError(found.gradients, simulated.gradients)).toBeLessThan(3e-3);
    expect(wholeError(found.gradients, exact.gradients)).toBeGreaterThan(4e-3);
    // 2e-7 here; a rounding that another processor's sums turn moves them more
    expect(wholeError(found.buffers, simulated.buffers)).toBeLessThan(3e-5);
    expect(wholeError(found.buffers, exact.buffers)).toBeGreaterThan(4e-5);
    expect(relativeError(found.evaluation, simulated.evaluation)).toBeLessThan(1e-3);
  });
});
