/** Graphs whose results are maps, or several of them, with enlargement and weights shared by several convolutions. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openDevice, type Device } from '../../lib/device.js';
import { CompiledEncoder } from '../../lib/models/compiled.js';
import { Encoder } from '../../lib/models/encoder.js';
import { weightsOf } from '../../lib/models/features.js';
import { GraphBuilder, type GraphSpec } from '../../lib/models/graph.js';
import { detectionGraph } from '../../lib/models/heads/detection.js';
import { segmentationGraph } from '../../lib/models/heads/segmentation.js';
import { initialWeights } from '../../lib/models/initialise.js';
import { dilate, mapGraph } from '../../lib/models/stages.js';
import { studentGraph } from '../../lib/models/student.js';
import { relativeError } from '../fixtures/encoder-vectors.js';
import { randomNormal } from '../fixtures/random.js';

let device: Device;
beforeAll(async () => {
  device = await openDevice('cpu');
});
afterAll(() => device.dispose());

function build(
  graph: GraphSpec,
  {
    batch = 2,
    resolution = 16,
    fusion,
    training = true,
  }: { batch?: number; resolution?: number; fusion?: string; training?: boolean } = {},
): Encoder {
  if (fusion !== undefined) process.env['LGDISTILL_FUSION'] = fusion;
  try {
    const encoder = new Encoder(new CompiledEncoder(device, graph, { batch, resolution, training }));
    encoder.load(initialWeights(graph, 1));
    return encoder;
  } finally {
    delete process.env['LGDISTILL_FUSION'];
  }
}

/** Two maps of one trunk: one enlarged by 3, one that the other is made of. */
function twoMaps(): GraphSpec {
  const g = new GraphBuilder('two_maps');
  const x = g.relu(g.batchNorm(g.conv(g.images, 'stem', { channels: 8, kernel: 3, stride: 2 }), 'stem_norm'));
  const y = g.batchNorm(g.conv(x, 'inner', { channels: 8, kernel: 3 }), 'inner_norm');
  const coarse = g.relu(g.batchNorm(g.conv(y, 'inner', { channels: 8, kernel: 3, shared: true }), 'coarse_norm'));
  const sum = g.add(g.resize(g.maxPool(coarse, { kernel: 2, stride: 2, padding: 0 }), 2), y);
  const fine = g.conv(g.resize(sum, 3), 'fine', { channels: 3, bias: true });
  return g.finish(fine, coarse, g.conv(sum, 'third', { channels: 5, bias: true }));
}

describe('a graph with several maps as results', () => {
  const images = randomNormal(2 * 3 * 16 * 16, 1);

  it('gives them one behind the other', async () => {
    using encoder = build(twoMaps(), { training: false });
    expect(encoder.info.outputs).toEqual([
      [24, 24, 3],
      [8, 8, 8],
      [8, 8, 5],
    ]);
    expect(encoder.outputs).toBe(24 * 24 * 3 + 8 * 8 * 8 + 8 * 8 * 5);
    const all = await encoder.forward(images);
    expect(all.length).toBe(2 * encoder.outputs);
    let at = 0;
    for (const [i, size] of [24 * 24 * 3, 8 * 8 * 8, 8 * 8 * 5].entries()) {
      const graph = twoMaps();
      const output = [graph.output, ...graph.further!][i]!;
      const used = new Set([output]); // that map alone, from the nodes it needs
      for (let node = output; node > 0; node--)
        if (used.has(node)) graph.nodes[node - 1]!.inputs.forEach((input) => used.add(input));
      const places = new Map([...used].sort((a, b) => a - b).map((value, index) => [value, index]));
      const nodes = graph.nodes.flatMap((node, n) =>
        used.has(n + 1) ? [{ ...node, inputs: node.inputs.map((input) => places.get(input)!) }] : [],
      );
      const named = new Set(nodes.flatMap(({ parameters = [] }) => parameters));
      using single = build(
        {
          name: 'single',
          nodes,
          parameters: graph.parameters.filter(({ name }) => named.has(name)),
          output: places.get(output)!,
        },
        { training: false },
      );
      const alone = await single.forward(images);
      expect(relativeError(all.subarray(at, at + 2 * size), alone)).toBeLessThan(1e-6);
      at += 2 * size;
    }
  });

  it.each(['nodes', 'steps', 'layers'])('has the slopes of its forward pass (%s)', async (fusion) => {
    using encoder = build(twoMaps(), { fusion });
    const dOutput = randomNormal(2 * encoder.outputs, 2);
    const loss = async () =>
      (await encoder.forward(images, { training: true })).reduce((sum, value, i) => sum + value * dOutput[i]!, 0);
    await encoder.forward(images, { training: true });
    const gradients = await encoder.backward(dOutput);
    const state = await encoder.state();
    for (const name of ['stem.weight', 'inner.weight', 'coarse_norm.weight', 'fine.weight', 'third.bias']) {
      const { shape, data } = state[name]!;
      const direction = randomNormal(data.length, 9);
      const width = 1e-3;
      const moved = async (sign: number) => {
        encoder.load({
          ...state,
          [name]: { shape, data: data.map((value, i) => value + sign * width * direction[i]!) },
        });
        return loss();
      };
      const slope = ((await moved(1)) - (await moved(-1))) / (2 * width);
      const expected = gradients[name]!.reduce((sum, value, i) => sum + value * direction[i]!, 0);
      expect(Math.abs(slope - expected) / Math.abs(expected), `${name}: ${slope} and ${expected}`).toBeLessThan(0.03);
    }
  });
});

describe('heads on students', () => {
  const student = studentGraph('mobilenet_v2', { embeddingSize: 8, widthMultiplier: 0.35, dropping: false });

  it.each([
    ['lraspp', () => segmentationGraph(student, { head: 'lraspp', classes: 5, outputStride: 16, enlarge: true })],
    ['fcn', () => segmentationGraph(student, { head: 'fcn', classes: 5, outputStride: 8, enlarge: true })],
    ['detection', () => detectionGraph(student, { classes: 3, channels: 16 })],
  ])('train alike however the plan is fused: %s', async (_, make) => {
    const graph = make();
    const images = randomNormal(2 * 3 * 64 * 64, 3);
    const found = await Promise.all(
      ['nodes', 'steps', 'layers'].map(async (fusion) => {
        using encoder = build(graph, { resolution: 64, fusion });
        const output = await encoder.forward(images, { training: true, seed: 1 });
        const gradients = await encoder.backward(randomNormal(2 * encoder.outputs, 4));
        return { output, gradients };
      }),
    );
    const whole = (gradients: Record<string, Float32Array>) =>
      Float32Array.from(Object.values(gradients).flatMap((values) => Array.from(values)));
    for (const other of found.slice(1)) {
      expect(relativeError(other.output, found[0]!.output)).toBeLessThan(1e-4);
      // ReLU6's kinks, as in fusion.test.ts
      expect(relativeError(whole(other.gradients), whole(found[0]!.gradients))).toBeLessThan(5e-2);
    }
  });

  it.each(['resnet18', 'mobilenet_v2'])('dilated, compute the same where %s has a position', async (name) => {
    const coarse = mapGraph(studentGraph(name, { embeddingSize: 8, dropping: false }));
    const images = randomNormal(3 * 64 * 64, 5);
    const weights = weightsOf(coarse, initialWeights(coarse, 1));
    const mapOf = async (graph: GraphSpec) => {
      using encoder = build(graph, { batch: 1, resolution: 64, training: false });
      encoder.load(weights);
      return { map: await encoder.forward(images), shape: encoder.info.outputs[0]! };
    };
    const expected = await mapOf(coarse);
    expect(expected.shape.slice(0, 2)).toEqual([2, 2]);
    for (const outputStride of [8, 16]) {
      const {
        map,
        shape: [rows, columns, channels],
      } = await mapOf(dilate(coarse, outputStride));
      const step = 32 / outputStride;
      expect([rows, columns]).toEqual([2 * step, 2 * step]);
      for (let y = 0; y < 2; y++) {
        for (let x = 0; x < 2; x++) {
          const at = (y * step * columns! + x * step) * channels!;
          const coarseAt = (y * 2 + x) * channels!;
          expect(
            relativeError(map.subarray(at, at + channels!), expected.map.subarray(coarseAt, coarseAt + channels!)),
          ).toBeLessThan(1e-4);
        }
      }
    }
  });

  it('are refused where they cannot be built', () => {
    expect(() => detectionGraph(studentGraph('mobilenet_v2', { outputs: 10 }), { classes: 3 })).toThrow(
      expect.objectContaining({ code: 'BAD_MODEL' }),
    );
    const g = new GraphBuilder('g');
    expect(() => g.conv(g.images, 'a', { channels: 4, shared: true })).toThrow(
      expect.objectContaining({ code: 'BAD_MODEL' }),
    );
    const x = g.conv(g.images, 'a', { channels: 4 });
    expect(() => new CompiledEncoder(device, g.finish(x, x), { batch: 1, resolution: 8 })).toThrow(
      expect.objectContaining({ code: 'BAD_MODEL', message: expect.stringContaining('twice') as string }),
    );
  });
});
