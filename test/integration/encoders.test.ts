import { readdirSync } from 'node:fs';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openDevice, type Device } from '../../lib/device.js';
import { CompiledEncoder } from '../../lib/models/compiled.js';
import { createEncoder, Encoder } from '../../lib/models/encoder.js';
import { visionTransformer } from '../../lib/models/students/vit.js';
import { allOperations } from '../fixtures/all-operations.js';
import { measureGoldenStep, readEncoderVectors, type GoldenErrors } from '../fixtures/encoder-vectors.js';
import { noteSkip, sharedPath } from '../shared.js';

const folder = sharedPath('vectors', 'encoders');
const files = folder === undefined ? [] : readdirSync(folder).filter((file) => file.endsWith('.safetensors'));
const given = process.env['LGDISTILL_SHARED'];
if (files.length === 0 && given !== undefined)
  throw new Error(`LGDISTILL_SHARED: there is no *.safetensors in ${join(given, 'vectors', 'encoders')}`);
if (files.length === 0) noteSkip('golden torchvision encoders', 'the shared folder of test data is absent');

let device: Device;
beforeAll(async () => {
  device = await openDevice('cpu');
});
afterAll(() => device.dispose());

const tolerances: GoldenErrors = {
  trainingOutput: 1e-4,
  gradient: 1e-4,
  gradientNorm: 1e-4,
  vanishingGradient: 1e-6,
  statistics: 1e-4,
  evaluationOutput: 1e-4,
};

/**
 * ReLU6 has two kinks, and MobileNetV2's late maps at 64 px have 16 values a channel: where an activation stands within
 * float32's rounding of a kink (1e-6 in these vectors), its gradient is another one and moves all before it. PyTorch in
 * float32 is off as far here, and for other seeds PyTorch in float64 by 1e-2 once the weights are rounded to float32.
 * With these vectors it is two kinks: PyTorch in float64 that takes their other side has our gradients to 2.6e-5
 * (docs/limits.md).
 */
const kinked: GoldenErrors = { ...tolerances, gradient: 3e-2, gradientNorm: 1e-2 };

/**
 * Of a deep network no seed keeps every activation from its kink, and PyTorch in float32 is off, too: the file says how
 * far (resnet50: 3e-3; ours 3.9e-2, of two kinks in layers 2 and 3, and 1e-4 behind them). A tenth is allowed at most:
 * what is more is another gradient (mobilenetv4_conv_medium: 2.4e-2; ours 1.4e-4).
 */
function tolerancesOf(name: string, metadata: Record<string, string>): GoldenErrors {
  const rough = Number(metadata['float32_gradient_error'] ?? 0);
  const limit = Math.min(20 * rough, 0.1);
  if (rough > tolerances.gradient) return { ...tolerances, gradient: limit, gradientNorm: limit };
  return name === 'mobilenet_v2' ? kinked : tolerances;
}

function check(errors: GoldenErrors, limits: GoldenErrors): void {
  for (const [what, limit] of Object.entries(limits))
    expect(errors[what as keyof GoldenErrors], `${what} of ${JSON.stringify(errors)}`).toBeLessThan(limit);
}

/**
 * What the compiler merges into one step (CONTRIBUTING): the CPU's own way is steps, CUDA's layers; the CPU has layers
 * in plain loops.
 */
const fusions = ['nodes', 'steps', 'layers'];

describe.skipIf(files.length === 0)('students against torchvision in float64', () => {
  it.each(files)('%s', async (file) => {
    const vectors = await readEncoderVectors(join(folder!, file));
    const { num_classes: classes, width_mult: width = '1', resolution } = vectors.metadata;
    const name = basename(file, '.safetensors');
    using encoder = await createEncoder(name, {
      device,
      outputs: Number(classes),
      widthMultiplier: Number(width),
      resolution: Number(resolution),
      batch: 4,
    });
    check(await measureGoldenStep(encoder, vectors), tolerancesOf(name, vectors.metadata));
  });
});

describe('a vision transformer of few channels against PyTorch in float64', () => {
  it.each(fusions)('fused into %s', async (fusion) => {
    process.env['LGDISTILL_FUSION'] = fusion;
    process.env['LGDISTILL_ARENA'] = 'cleared';
    try {
      const sizes = { patch: 4, width: 16, heads: 2, depth: 2 };
      const graph = visionTransformer('small_vit', sizes, {
        head: { kind: 'classifier', outputs: 7 },
        widthMultiplier: 1,
        dropping: true,
        resolution: 12,
      });
      using encoder = new Encoder(new CompiledEncoder(device, graph, { batch: 4, resolution: 12 }));
      const golden = fileURLToPath(new URL('../fixtures/small-vit.safetensors', import.meta.url));
      check(await measureGoldenStep(encoder, await readEncoderVectors(golden)), tolerances);
    } finally {
      delete process.env['LGDISTILL_FUSION'];
      delete process.env['LGDISTILL_ARENA'];
    }
  });
});

describe('a graph of every operation against PyTorch in float64', () => {
  beforeAll(() => {
    process.env['LGDISTILL_ARENA'] = 'cleared';
  }); // see random-graphs.test.ts
  afterAll(() => {
    delete process.env['LGDISTILL_ARENA'];
  });
  const golden = fileURLToPath(new URL('../fixtures/all-operations.safetensors', import.meta.url));

  it.each(fusions)('fused into %s', async (fusion) => {
    process.env['LGDISTILL_FUSION'] = fusion;
    try {
      using encoder = new Encoder(new CompiledEncoder(device, allOperations(), { batch: 4, resolution: 24 }));
      check(await measureGoldenStep(encoder, await readEncoderVectors(golden)), {
        ...tolerances,
        trainingOutput: 1e-5,
        statistics: 1e-5,
        evaluationOutput: 1e-5,
        gradient: 2e-5,
      });
    } finally {
      delete process.env['LGDISTILL_FUSION'];
    }
  });

  it('in fewer steps when fused', () => {
    using fused = new CompiledEncoder(device, allOperations(), { batch: 4, resolution: 24 });
    process.env['LGDISTILL_FUSION'] = 'nodes';
    using unfused = new CompiledEncoder(device, allOperations(), { batch: 4, resolution: 24 });
    delete process.env['LGDISTILL_FUSION'];
    // four activations and three adds go into norms, one add into a layer scale
    expect(unfused.info.kernelsForward - fused.info.kernelsForward).toBe(8);
  });

  it('in a forward-only plan, fused and not', async () => {
    const vectors = await readEncoderVectors(golden);
    const weights = { ...vectors.weights };
    for (const name of vectors.names('buffer_after.'))
      weights[name] = { shape: weights[name]!.shape, data: vectors.tensor(`buffer_after.${name}`) };
    for (const fusion of fusions) {
      process.env['LGDISTILL_FUSION'] = fusion;
      using encoder = new Encoder(
        new CompiledEncoder(device, allOperations({ dropping: true }), { batch: 4, resolution: 24, training: false }),
      );
      delete process.env['LGDISTILL_FUSION'];
      encoder.load(weights);
      const output = await encoder.forward(vectors.tensor('input'));
      expect(Math.max(...output.map((value, i) => Math.abs(value - vectors.tensor('output_eval')[i]!)))).toBeLessThan(
        1e-5,
      );
    }
  });
});
