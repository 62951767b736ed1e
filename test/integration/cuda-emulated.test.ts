import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { addonPath } from '../../lib/addon/addon.js';
import { probeCuda } from '../../lib/addon/cuda-probe.js';
import { openDevice, type Device } from '../../lib/device.js';
import { CompiledEncoder, type Precision } from '../../lib/models/compiled.js';
import { Encoder } from '../../lib/models/encoder.js';
import { GraphBuilder, type GraphSpec, type Value } from '../../lib/models/graph.js';
import { loadTeacher, modifiedResNet } from '../../lib/models/index.js';
import { initialWeights } from '../../lib/models/initialise.js';
import { allOperations } from '../fixtures/all-operations.js';
import { measureGoldenStep, readEncoderVectors, relativeError } from '../fixtures/encoder-vectors.js';
import { randomNormal } from '../fixtures/random.js';
import { residualGradients, residualGraphs } from '../fixtures/residual-graphs.js';
import { buildEmulatedAddon, ptxForSpeed } from '../native/emulated.js';
import { testsAll } from '../shared.js';

// Whole networks on the CUDA kernels, run on the host thread by thread.
let cpu: Device;
let cuda: Device;
beforeAll(async () => {
  process.env['LGDISTILL_ADDON'] = buildEmulatedAddon(); // read when the addon is loaded
  [cpu, cuda] = [await openDevice('cpu'), await openDevice('cuda')];
  expect(cuda.info.name).toBe('emulated GPU');
}, 600_000);
afterAll(() => {
  cpu.dispose();
  cuda.dispose();
});

describe('the CUDA engine, emulated', () => {
  const probeAgain = () => {
    const { addon } = cuda;
    return probeCuda({
      addon: addonPath(),
      build: addon.buildInfo(),
      status: addon.cudaStatus(),
      index: 0,
      again: true,
    });
  };

  it('passes the trial of a device, in a process of its own', async () => {
    expect(await probeAgain()).toMatchObject({ passed: true, reason: '', remembered: false });
  });

  // emulated-programs.test.ts makes the same trial, apart from what openDevice() makes of it
  const trial = testsAll('the trial of products by warpgroups where a device is opened') ? it : it.skip;
  trial('passes the trial of products by warpgroups, which reaches them', async () => {
    vi.stubEnv('LGDISTILL_EMULATION_WGMMA', '1'); // a device that has them
    vi.stubEnv('LGDISTILL_WGMMA', '');
    vi.stubEnv('LGDISTILL_EMULATION_PTX', await ptxForSpeed('the trial of products by warpgroups'));
    try {
      const found = await probeAgain();
      expect(found).toMatchObject({ passed: true, wgmma: { passed: true, reason: '' } });
      using fresh = await openDevice('cuda');
      expect(fresh.info.products).toBe('wgmma');
    } finally {
      vi.unstubAllEnvs();
    }
    expect(cuda.info.products).toBe('mma.sync');
    await expect(cuda.addon.wgmmaDifference(cuda.handle)).rejects.toMatchObject({ code: 'DEVICE_UNAVAILABLE' });
  });

  it('passes the trial of programmatic launches', async () => {
    vi.stubEnv('LGDISTILL_EMULATION_PDL', '1');
    vi.stubEnv('LGDISTILL_PDL', '');
    try {
      const found = await probeAgain();
      expect(found).toMatchObject({
        passed: true,
        programmaticLaunches: { passed: true, reason: '', time: expect.any(Number) as number },
      });
    } finally {
      vi.unstubAllEnvs();
    }
    expect(cuda.info.launches).toBe('serialized');
    await expect(cuda.addon.programmaticLaunchTime(cuda.handle)).rejects.toMatchObject({ code: 'DEVICE_UNAVAILABLE' });
  });

  it('matches PyTorch in float64 on a graph of every operation', async () => {
    const golden = await readEncoderVectors(
      fileURLToPath(new URL('../fixtures/all-operations.safetensors', import.meta.url)),
    );
    using encoder = new Encoder(
      new CompiledEncoder(cuda, allOperations(), { batch: 4, resolution: 24, precision: 'float32' }),
    );
    for (const error of Object.values(await measureGoldenStep(encoder, golden))) expect(error).toBeLessThan(1e-4);
  });

  it.each(['float32', 'bfloat16'] as const)(
    'embeds as the CPU does with the native teacher in %s',
    async (precision) => {
      const folder = fileURLToPath(new URL('../models/tiny-clip', import.meta.url));
      const embeddings: Float32Array[] = [];
      for (const [device, as] of [
        [cpu, 'float32'],
        [cuda, precision],
      ] as const) {
        const teacher = await loadTeacher(folder, { device });
        if (teacher.kind !== 'native') throw new Error('expected a native teacher');
        using compiled = teacher.compile({ batch: 2, precision: as });
        const images = compiled.makeImages();
        device.addon.writeImages(images, randomNormal(2 * 3 * 64 * 64, 5));
        compiled.forwardTensor(images, { training: false });
        embeddings.push(await device.addon.readTensor(compiled.output));
        await teacher.dispose();
      }
      expect(relativeError(embeddings[1]!, embeddings[0]!)).toBeLessThan(precision === 'float32' ? 1e-4 : 3e-2);
    },
    300_000,
  );
});

describe('images', () => {
  const read = (stem: (g: GraphBuilder) => Value): GraphSpec => {
    const g = new GraphBuilder('stem');
    return g.finish(g.linear(g.globalPool(g.relu(stem(g))), 'fc', { features: 5 }));
  };
  // Three steps, so that a weight that no pixel should have would be seen by the next.
  it.each<[string, number, GraphSpec]>([
    [
      'by pairs of pixels, half a pair before the kernel',
      32,
      read((g) => g.convNorm(g.images, 'stem', { channels: 16, kernel: 7, stride: 2 })),
    ],
    [
      'by pairs, half a pair behind it',
      32,
      read((g) => g.convNorm(g.images, 'stem', { channels: 16, kernel: 3, stride: 2, padding: 0 })),
    ],
    [
      'by whole pairs',
      32,
      read((g) => g.conv(g.images, 'stem', { channels: 16, kernel: 4, stride: 4, padding: 0, bias: true })),
    ],
    ['one by one where the stride is odd', 32, read((g) => g.convNorm(g.images, 'stem', { channels: 16, kernel: 3 }))],
    [
      'one by one where they are read twice, once with an odd stride',
      32,
      read((g) =>
        g.add(
          g.convNorm(g.images, 'stem', { channels: 16, kernel: 3, stride: 2 }),
          g.avgPool(g.convNorm(g.images, 'beside', { channels: 16, kernel: 3 }), 2),
        ),
      ),
    ],
    [
      'one by one where rows are odd',
      33,
      read((g) => g.convNorm(g.images, 'stem', { channels: 16, kernel: 3, stride: 2 })),
    ],
  ])('are read %s', async (_, resolution, graph) => {
    const batch = 3;
    const images = randomNormal(batch * 3 * resolution * resolution, 4);
    const gradient = randomNormal(batch * 5, 6);
    const outputs: Float32Array[] = [];
    for (const device of [cpu, cuda]) {
      using encoder = new Encoder(new CompiledEncoder(device, graph, { batch, resolution, precision: 'float32' }));
      encoder.load(initialWeights(graph, 3));
      for (let step = 0; step < 3; step++) {
        await encoder.forward(images, { training: true });
        await encoder.backward(gradient);
        await encoder.optimizerStep({ learningRate: 0.1, weightDecay: 0.01 });
      }
      outputs.push(await encoder.forward(images));
    }
    expect(relativeError(outputs[1]!, outputs[0]!)).toBeLessThan(1e-4);
  });
});

/**
 * The output on CUDA from start weights and noise, how far it is from the CPU's in float32, and the kernels of a pass.
 */
async function compare(
  graph: GraphSpec,
  { batch, resolution, precision = 'float32' }: { batch: number; resolution: number; precision?: Precision },
) {
  const images = randomNormal(batch * 3 * resolution * resolution, 4);
  const weights = initialWeights(graph, 3);
  const pass = async (device: Device, as: Precision) => {
    process.env['LGDISTILL_ARENA'] = 'cleared'; // see random-graphs.test.ts
    using encoder = new Encoder(
      new CompiledEncoder(device, graph, { batch, resolution, precision: as, training: false }),
    );
    delete process.env['LGDISTILL_ARENA'];
    encoder.load(weights);
    return { output: await encoder.forward(images), kernelsForward: encoder.info.kernelsForward };
  };
  const [expected, found] = [await pass(cpu, 'float32'), await pass(cuda, precision)];
  return { ...found, error: relativeError(found.output, expected.output) };
}

/** A map of 16 channels, made smaller by `pool`, and a head. */
function pooled(pool: (g: GraphBuilder, map: Value) => Value): GraphSpec {
  const g = new GraphBuilder('pooled');
  return g.finish(
    g.linear(
      g.globalPool(pool(g, g.convNorm(g.images, 'stem', { channels: 16, kernel: 3, stride: 2 }, 'relu'))),
      'fc',
      { features: 5 },
    ),
  );
}

describe('a mean of 2x2 windows, in a forward-only plan', () => {
  const conv = (g: GraphBuilder, x: Value, name = 'conv', groups = 1) =>
    g.convNorm(x, name, { channels: 16, kernel: 3, groups }, 'relu');
  // kernels beside stem, mean over the image, head and output
  it.each<[string, number, GraphSpec]>([
    ['behind a convolution is part of it', 1, pooled((g, x) => g.avgPool(conv(g, x), 2))],
    ['behind the stem and another mean is part of the stem', 1, pooled((g, x) => g.avgPool(g.avgPool(x, 2), 2))],
    [
      'behind a 1x1 convolution without norm or activation is part of it',
      1,
      pooled((g, x) => g.avgPool(g.conv(x, 'conv', { channels: 24, kernel: 1 }), 2)),
    ],
    ['of windows of 3 pixels is a kernel', 2, pooled((g, x) => g.avgPool(conv(g, x), 3))],
    ['behind a depthwise convolution is a kernel', 2, pooled((g, x) => g.avgPool(conv(g, x, 'conv', 16), 2))],
    [
      'behind a residual sum is a kernel',
      2,
      pooled((g, x) => g.avgPool(g.relu(g.add(g.convNorm(x, 'conv', { channels: 16, kernel: 3 }), x)), 2)),
    ],
    [
      'of a map that is read elsewhere is a kernel',
      3,
      pooled((g, x) => {
        const map = conv(g, x);
        return g.add(g.avgPool(map, 2), g.convNorm(map, 'other', { channels: 16, kernel: 3, stride: 2, padding: 0 }));
      }),
    ],
  ])('%s', async (_, kernels, graph) => {
    // maps of 15 and 7 pixels: the last row and column are in no window
    const { kernelsForward, error } = await compare(graph, { batch: 3, resolution: 30 });
    expect(kernelsForward - 4).toBe(kernels);
    expect(error).toBeLessThan(1e-5);
  });
});

describe('a training plan', () => {
  it.each(residualGraphs)('has the gradients of a residual around %s', async (_, resolution, graph) => {
    const [expected, found] = [
      await residualGradients(cpu, graph, resolution),
      await residualGradients(cuda, graph, resolution),
    ];
    for (const [name, values] of Object.entries(expected))
      expect(relativeError(found[name]!, values), name).toBeLessThan(1e-4);
  });
});

describe('a forward-only plan', () => {
  const pointwise = (g: GraphBuilder, x: Value, name: string, channels = 40) =>
    g.convNorm(x, name, { channels, kernel: 1 });
  // kernels beside stem, mean over the image, head and output
  it.each<[string, number, GraphSpec]>([
    [
      'stores the mean of a map beside it',
      2,
      pooled((g, x) => {
        const map = g.relu(g.add(pointwise(g, x, 'conv', 16), x));
        return g.add(g.avgPool(map, 2), g.convNorm(map, 'other', { channels: 16, kernel: 3, stride: 2 }));
      }),
    ],
    [
      'adds two 1x1 convolutions as one product',
      2,
      pooled((g, x) => {
        const inner = g.convNorm(x, 'inner', { channels: 32, kernel: 3 }, 'relu');
        return g.relu(g.add(pointwise(g, inner, 'conv'), pointwise(g, x, 'shortcut')));
      }),
    ],
    [
      'leaves two convolutions apart where one has an activation',
      3,
      pooled((g, x) => {
        const inner = g.convNorm(x, 'inner', { channels: 32, kernel: 3 }, 'relu');
        return g.relu(g.add(pointwise(g, inner, 'conv'), g.relu(pointwise(g, x, 'shortcut'))));
      }),
    ],
    [
      'or whose result is read elsewhere',
      4,
      pooled((g, x) => {
        const inner = g.convNorm(x, 'inner', { channels: 32, kernel: 3 }, 'relu');
        const shortcut = pointwise(g, x, 'shortcut');
        return g.add(g.relu(g.add(pointwise(g, inner, 'conv'), shortcut)), shortcut);
      }),
    ],
    [
      'or of several taps',
      3,
      pooled((g, x) => {
        const inner = g.convNorm(x, 'inner', { channels: 32, kernel: 3 }, 'relu');
        return g.relu(
          g.add(
            g.convNorm(inner, 'conv', { channels: 40, kernel: 3, padding: 0 }),
            g.convNorm(x, 'shortcut', { channels: 40, kernel: 3, padding: 0 }),
          ),
        );
      }),
    ],
    [
      'or whose channels end within a k tile',
      3,
      pooled((g, x) => {
        const inner = g.convNorm(x, 'inner', { channels: 24, kernel: 3 }, 'relu');
        return g.relu(g.add(pointwise(g, inner, 'conv'), pointwise(g, x, 'shortcut')));
      }),
    ],
  ])('%s', async (_, kernels, graph) => {
    for (const precision of ['float32', 'bfloat16'] as const) {
      const { kernelsForward, error } = await compare(graph, { batch: 3, resolution: 32, precision });
      expect(kernelsForward - 4).toBe(kernels);
      expect(error).toBeLessThan(precision === 'float32' ? 1e-5 : 1e-2);
    }
  });

  // A shortcut in each stage, a mean beside the map of one of two blocks, and attention with heads of 64.
  it.each([
    ['float32', 1e-4],
    ['bfloat16', 2e-2],
  ] as const)('of a CLIP ResNet in %s gives what the plain one does', async (precision, limit) => {
    const graph = modifiedResNet({ layers: [2, 1, 1, 1], width: 32, heads: 16, outputDim: 16, imageSize: 64 });
    const size = { batch: 2, resolution: 64, precision };
    const fused = await compare(graph, size);
    expect(fused.error).toBeLessThan(limit);
    process.env['LGDISTILL_FUSION'] = 'nodes';
    try {
      const plain = await compare(graph, size);
      expect(relativeError(fused.output, plain.output)).toBeLessThan(limit);
    } finally {
      delete process.env['LGDISTILL_FUSION'];
    }
    // stem 3, blocks 5 of 3, means 2, which stand behind sums of two convolutions; tokens, first token, query,
    // attention, projection, output; in float32 keys and values
    expect(fused.kernelsForward).toBe(precision === 'float32' ? 28 : 26);
  });
});
