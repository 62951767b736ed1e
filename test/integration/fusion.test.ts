import { afterAll, beforeAll, describe, expect, it, test } from 'vitest';
import { openDevice, type Device } from '../../lib/device.js';
import { CompiledEncoder } from '../../lib/models/compiled.js';
import { Encoder } from '../../lib/models/encoder.js';
import { GraphBuilder, type GraphSpec, type Value } from '../../lib/models/graph.js';
import { listStudents } from '../../lib/models/index.js';
import { findStudent } from '../../lib/models/students/registry.js';
import { initialWeights } from '../../lib/models/initialise.js';
import { createAwake, leastError, takeStep, wholeError } from '../fixtures/encoder-step.js';
import { relativeError } from '../fixtures/encoder-vectors.js';
import { narrowStudents } from '../fixtures/narrowed.js';
import { randomNormal } from '../fixtures/random.js';

// The plan that CUDA trains by (LGDISTILL_FUSION=layers) against the plain one, both on the CPU: what is lazy, who
// finishes which gradient and which memory is shared are decided above the kernels, so they can be held to account
// without a GPU.
let device: Device;
beforeAll(async () => {
  device = await openDevice('cpu');
});
afterAll(() => device.dispose());

const narrow = narrowStudents('fused plans');
const batch = 6;
const resolution = 40;
const outputs = 10;
const imagesOf = (side: number) => randomNormal(batch * 3 * side * side, 1);
const images = imagesOf(resolution);
const dOutput = randomNormal(batch * outputs, 2);

async function withFusion<T>(fusion: string, make: () => T | Promise<T>): Promise<T> {
  process.env['LGDISTILL_FUSION'] = fusion;
  try {
    return await make();
  } finally {
    delete process.env['LGDISTILL_FUSION'];
  }
}

/** Of a vision transformer two patches a side. */
const sideOf = (name: string) => 2 * (findStudent(name).patch ?? resolution / 2);
const build = (name: string, fusion: string, seed: number): Promise<Encoder> =>
  withFusion(fusion, () =>
    createAwake(name, {
      device,
      outputs,
      batch,
      resolution: sideOf(name),
      dropping: true,
      seed,
      narrow: narrow.has(name),
    }),
  );

describe('a training plan fused into layers', () => {
  it.each([...listStudents()])(
    'is the plain one for %s',
    async (name) => {
      // Late maps of few pixels under ReLU6, and a network of many ReLUs: at each seed something stands at a kink
      // (encoders.test.ts, cuda-students.test.ts).
      const limit = { mobilenet_v2: 5e-2, resnet50: 4e-2 }[name] ?? 1e-4;
      const error = await leastError(limit, async (seed) => {
        using plain = await build(name, 'nodes', seed);
        using layers = await build(name, 'layers', seed);
        const [pixels, { patch }] = [imagesOf(sideOf(name)), findStudent(name)];
        const [expected, found] = [await takeStep(plain, pixels, dOutput), await takeStep(layers, pixels, dOutput)];
        expect(relativeError(found.output, expected.output)).toBeLessThan(1e-4);
        if (patch === undefined) expect(wholeError(found.buffers, expected.buffers)).toBeLessThan(1e-5);
        expect(relativeError(found.evaluation, expected.evaluation)).toBeLessThan(1e-4);
        // nothing of the expanded maps' size is stored twice: the plan needs well under the plain one's memory, where
        // there are batch norms
        const share = name.startsWith('convnext') ? 1 : patch === undefined ? 0.75 : 1.01;
        expect(layers.compiled.info.arenaBytes).toBeLessThanOrEqual(share * plain.compiled.info.arenaBytes);
        return wholeError(found.gradients, expected.gradients);
      });
      expect(error, `gradients of ${name}, at the best of five seeds`).toBeLessThan(limit);
    },
    300_000,
  );
});

/** Takes a step by the fused plan and by the plain one, which must agree; returns what is known of the fused one. */
async function holdToPlainPlan(graph: GraphSpec) {
  const compiled = (fusion: string) =>
    withFusion(fusion, () => new Encoder(new CompiledEncoder(device, graph, { batch, resolution })));
  using plain = await compiled('nodes');
  using fused = await compiled('layers');
  for (const encoder of [plain, fused]) encoder.load(initialWeights(graph, 3));
  const [expected, found] = [await takeStep(plain, images, dOutput), await takeStep(fused, images, dOutput)];
  expect(relativeError(found.output, expected.output)).toBeLessThan(1e-5);
  expect(wholeError(found.gradients, expected.gradients)).toBeLessThan(1e-4);
  return fused.info;
}

/**
 * Squeeze and excitation between a depthwise and a 1x1 convolution; `gate` makes the scale from the activated map, and
 * may change the map behind all.
 */
function gated(
  channels: number,
  gate: (g: GraphBuilder, map: Value) => { scale: Value; behind?: (x: Value) => Value },
): GraphSpec {
  const g = new GraphBuilder('gated');
  const stem = g.convNorm(g.images, 'stem', { channels, kernel: 3, stride: 4 }, 'relu');
  const map = g.convNorm(stem, 'depthwise', { channels, kernel: 3, groups: channels }, 'silu');
  const { scale, behind = (x) => x } = gate(g, map);
  const x = behind(g.convNorm(g.channelScale(map, scale), 'project', { channels: 8 }));
  return g.finish(g.linear(g.globalPool(x), 'fc', { features: outputs }));
}

const layers = (g: GraphBuilder, map: Value, { squeezed = 6, bias = true } = {}) => {
  const hidden = g.conv(g.globalPool(map), 'fc1', { channels: squeezed, bias });
  const inner = g.activation(hidden, 'silu');
  return { hidden, inner, scale: g.activation(g.conv(inner, 'fc2', { channels: map.channels, bias }), 'sigmoid') };
};

describe("a gate's two layers", () => {
  // kernels forward: each layer and each activation is one, or all four together are
  it.each<[string, number, GraphSpec]>([
    ['as convolutions', 1, gated(16, layers)],
    [
      'as linear layers',
      1,
      gated(16, (g, map) => {
        const inner = g.relu(g.linear(g.globalPool(map), 'fc1', { features: 4 }));
        return { scale: g.activation(g.linear(inner, 'fc2', { features: 16 }), 'hardsigmoid') };
      }),
    ],
    ['without biases', 4, gated(16, (g, map) => layers(g, map, { bias: false }))],
    ['too wide for shared memory', 4, gated(1024, (g, map) => layers(g, map, { squeezed: 3080 }))],
    [
      'the first of which is read elsewhere',
      4,
      gated(16, (g, map) => {
        const { hidden, scale } = layers(g, map, { squeezed: 8 });
        return { scale, behind: (x) => g.channelScale(x, g.activation(hidden, 'hardsigmoid')) };
      }),
    ],
    [
      'the activation between which is read elsewhere',
      4,
      gated(16, (g, map) => {
        const { inner, scale } = layers(g, map, { squeezed: 8 });
        return { scale, behind: (x) => g.channelScale(x, g.activation(inner, 'sigmoid')) };
      }),
    ],
    [
      'with one activation more',
      4,
      gated(16, (g, map) => {
        const inner = g.relu(g.activation(g.conv(g.globalPool(map), 'fc1', { channels: 8, bias: true }), 'hardswish'));
        return { scale: g.activation(g.conv(inner, 'fc2', { channels: 16, bias: true }), 'sigmoid') };
      }),
    ],
  ])('%s are %i steps of the plan', async (what, steps, graph) => {
    const { kernelsForward } = await holdToPlainPlan(graph);
    // stem, depthwise, mean, gate, projection, mean, fc, output; a projection stored, an activation and a scale more,
    // or an activation
    const others = 8 + (what.includes('elsewhere') ? 3 : what.includes('more') ? 1 : 0);
    expect(kernelsForward - others).toBe(steps);
  });
});

test('of two gates side by side one is fused, as the sums of one are kept', async () => {
  const g = new GraphBuilder('side_by_side');
  const stem = g.convNorm(g.images, 'stem', { channels: 16, kernel: 3, stride: 4 }, 'relu');
  const [a, b] = ['a', 'b'].map((name) => g.convNorm(stem, name, { channels: 16, kernel: 3, groups: 16 }, 'silu')) as [
    Value,
    Value,
  ];
  const [first, second] = [
    g.squeezeExcite(a, 'a', 6, 'silu', 'sigmoid'),
    g.squeezeExcite(b, 'b', 6, 'silu', 'sigmoid'),
  ];
  const x = g.add(g.convNorm(first, 'c', { channels: 8 }), g.convNorm(second, 'd', { channels: 8 }));
  await holdToPlainPlan(g.finish(g.linear(g.globalPool(x), 'fc', { features: outputs })));
});

describe('an activation before a residual sum', () => {
  const graphOf = (body: (g: GraphBuilder, x: Value, norm: (x: Value, name: string) => Value) => Value): GraphSpec => {
    const g = new GraphBuilder('fused');
    const stem = g.convNorm(g.images, 'stem', { channels: 16, kernel: 3, stride: 4 }, 'silu');
    const norm = (x: Value, name: string) => g.convNorm(x, name, { channels: 16, kernel: 3 });
    const last = g.convNorm(body(g, stem, norm), 'last', { channels: 8 }, 'relu');
    return g.finish(g.linear(g.globalPool(last), 'fc', { features: outputs }));
  };
  // kernels forward, besides those of stem, its activation, last, mean, fc and output
  it.each<[string, number, GraphSpec]>([
    ['is stored with it', 2, graphOf((g, x, norm) => g.add(g.activation(norm(x, 'a'), 'silu'), x))],
    [
      'is stored with it and stochastic depth',
      2,
      graphOf((g, x, norm) => g.add(x, g.stochasticDepth(g.activation(norm(x, 'a'), 'relu6'), 0.4))),
    ],
    [
      'is stored with it in one block behind another',
      4,
      graphOf((g, x, norm) => {
        const first = g.add(g.activation(norm(x, 'a'), 'silu'), x);
        return g.add(g.stochasticDepth(g.activation(norm(first, 'b'), 'hardswish'), 0.4), first);
      }),
    ],
    [
      'is stored for itself where the sum goes with the norm that is the other operand',
      4,
      graphOf((g, x, norm) => g.add(norm(x, 'a'), g.activation(norm(x, 'b'), 'silu'))),
    ],
    [
      'leaves the one behind the sum alone',
      3,
      graphOf((g, x, norm) => g.relu(g.add(g.activation(norm(x, 'a'), 'silu'), x))),
    ],
    [
      'is stored for itself where it is read twice',
      4,
      graphOf((g, x, norm) => {
        const y = g.activation(norm(x, 'a'), 'silu');
        return g.add(g.add(y, x), y);
      }),
    ],
  ])('%s', async (_, steps, graph) => {
    const { kernelsForward } = await holdToPlainPlan(graph);
    expect(kernelsForward - 6).toBe(steps);
  });
});

describe('layers on single positions', () => {
  type Body = (g: GraphBuilder, x: Value, layer: (x: Value, name: string, channels?: number) => Value) => Value;
  const graphOf = (body: Body, bias = true): GraphSpec => {
    const g = new GraphBuilder('linear');
    const patches = g.conv(g.images, 'patches', { channels: 16, kernel: 8, stride: 8, padding: 0, bias: true });
    const x = body(g, patches, (input, name, channels = 16) => g.conv(input, name, { channels, bias }));
    return g.finish(g.linear(g.globalPool(g.layerNorm(x, 'norm')), 'fc', { features: outputs }));
  };
  // kernels forward, besides those of patches, norm, mean, fc and output
  it.each<[string, number, GraphSpec]>([
    [
      'take in a GELU and a sum',
      2,
      graphOf((g, x, layer) => g.add(x, layer(g.activation(layer(x, 'fc1', 40), 'gelu'), 'fc2'))),
    ],
    [
      'take in two GELUs one behind the other',
      3,
      graphOf((g, x, layer) =>
        layer(g.activation(layer(g.activation(layer(x, 'fc1', 40), 'quickGelu'), 'fc2', 24), 'geluTanh'), 'fc3'),
      ),
    ],
    [
      'take in a sum with what comes later in the list',
      3,
      graphOf((g, x, layer) => {
        const first = layer(x, 'first');
        return g.add(first, g.relu(layer(x, 'second')));
      }),
    ],
    [
      'leave a GELU alone that is read twice',
      4,
      graphOf((g, x, layer) => {
        const hidden = g.activation(layer(x, 'fc1'), 'gelu');
        const behind = layer(hidden, 'fc2'); // the first of the two to read it
        return g.add(behind, g.relu(hidden));
      }),
    ],
    [
      'leave a GELU alone whose argument is read elsewhere',
      4,
      graphOf((g, x, layer) => {
        const hidden = layer(x, 'fc1');
        const behind = layer(g.activation(hidden, 'gelu'), 'fc2');
        return g.add(behind, g.relu(hidden));
      }),
    ],
    [
      'leave a GELU alone behind a layer without a bias',
      3,
      graphOf((g, x, layer) => layer(g.activation(layer(x, 'fc1', 40), 'gelu'), 'fc2'), false),
    ],
    ['leave a sum with their own input alone', 2, graphOf((g, x, layer) => g.add(layer(x, 'fc1'), x))],
  ])('%s', async (_, steps, graph) => {
    const { kernelsForward } = await holdToPlainPlan(graph);
    expect(kernelsForward - 5).toBe(steps);
  });
});

describe('a max-pool', () => {
  const pool = (g: GraphBuilder, x: Value) => g.maxPool(x, { kernel: 3, stride: 2, padding: 1 });
  const graphOf = (body: (g: GraphBuilder, stem: Value) => Value): GraphSpec => {
    const g = new GraphBuilder('pooled');
    const x = body(g, g.convNorm(g.images, 'stem', { channels: 16, kernel: 3, stride: 4 }, 'relu'));
    return g.finish(
      g.linear(g.globalPool(g.convNorm(x, 'last', { channels: 8 }, 'relu')), 'fc', { features: outputs }),
    );
  };
  // gradients reach a map from its readers, the last one first; who comes last finishes it
  it.each<[string, GraphSpec]>([
    ['the only reader of a lazy map', graphOf(pool)],
    [
      'the first of two, which adds and finishes',
      graphOf((g, stem) => g.add(pool(g, stem), g.convNorm(stem, 'side', { channels: 16, kernel: 3, stride: 2 }))),
    ],
    [
      'the second of two, to which the convolution adds',
      graphOf((g, stem) => {
        const side = g.convNorm(stem, 'side', { channels: 16, kernel: 3, stride: 2 });
        return g.add(side, pool(g, stem));
      }),
    ],
    [
      'a reader of a residual sum',
      graphOf((g, stem) => pool(g, g.relu(g.add(g.convNorm(stem, 'second', { channels: 16, kernel: 3 }), stem)))),
    ],
    [
      'a reader of a lazy map without an activation',
      graphOf((g, stem) => pool(g, g.convNorm(stem, 'second', { channels: 16, kernel: 3 }))),
    ],
  ])('that is %s leaves the same gradients', async (_, graph) => {
    await holdToPlainPlan(graph);
  });
});
