import { describe, expect, it } from 'vitest';
import { openDevice } from '../../lib/device.js';
import type { Encoder } from '../../lib/models/encoder.js';
import { listStudents, type Precision } from '../../lib/models/index.js';
import { devicesUnderTest } from '../devices.js';
import { createAwake, leastError, wholeCosine, wholeError } from '../fixtures/encoder-step.js';
import { relativeError } from '../fixtures/encoder-vectors.js';
import { narrowStudents } from '../fixtures/narrowed.js';
import { randomNormal } from '../fixtures/random.js';
import { executePtx } from '../native/emulated.js';

// A training step of every student at 32 px on the CUDA kernels, fused as training runs them, against the CPU's. The
// emulated GPU executes what a GPU executes, PTX, where there is nvcc to make it, and else the host compiler's code, by
// which other tests of this device train a student or two.
await executePtx('whole training steps');
const [batch, resolution, outputs] = [8, 32, 16];
const images = randomNormal(batch * 3 * resolution * resolution, 1);
const dOutput = randomNormal(batch * outputs, 2);
const narrow = narrowStudents('whole training steps');
const cpu = await openDevice('cpu');
const devices = (await devicesUnderTest('whole training steps')).filter(({ name }) => name !== 'cpu');

async function step(encoder: Encoder) {
  const output = await encoder.forward(images, { training: true });
  const gradients = await encoder.backward(dOutput);
  return { output, gradients, evaluation: await encoder.forward(images) };
}

const create = (name: string, device = cpu, precision: Precision = 'float32', seed = 3) =>
  createAwake(name, { device, outputs, batch, resolution, precision, dropping: true, seed, narrow: narrow.has(name) });

// What float32 may differ by. ReLU6's kinks turn rounding into other gradients where a map has few pixels (see
// encoders.test.ts). resnet34: beside PyTorch in float64 on these weights and images, one ReLU of 581,632 is on the
// other side of its kink on the CPU (|x| 2e-5 of its map's size; gradient 5.2e-3 off) and another one on the emulated
// GPU (1e-5; 6.0e-3 off). With that one turned in PyTorch too, 3e-5 is left of the difference. resnet50: two such, one
// at the end of layer 4 (8e-3 from there on) and one in layer 3 (1.3e-2); what lies behind them is 1.3e-4 off.
const gradientLimits: Record<string, number> = { mobilenet_v2: 5e-2, resnet34: 2e-2, resnet50: 4e-2 };
/** Seeds at which no activation stands at a kink: of mobilenetv4_conv_medium 3 of 19. */
const goodSeeds: Record<string, number[]> = { mobilenet_v3_large: [4], mobilenetv4_conv_medium: [20, 13] };

// What bfloat16 may differ by from float32, twice what it was found to. The last norms see 8 values a channel here: in
// PyTorch 1.13 under bfloat16 autocast the output of networks with random weights moves by 0.57 (mobilenet_v2), 0.42
// (efficientnet_b0), 0.35 (mobilenetv4_conv_small), 0.057 (resnet18) and 0.5 to 0.68 (efficientnet_lite0) too, where
// ours moved by 0.65, 0.24, 0.42, 0.060 and 0.71. `cosine`: between the gradients of all parameters, where there is a
// direction left to compare (PyTorch's resnet18: 0.911, ours 0.914; mobilenetv4_conv_small: 0.25 to 0.47, ours 0.43).
// EfficientNets vary with the weights. Of seeds 3 to 7, output, evaluation and cosine at worst: efficientnet_v2_s 0.21,
// 0.26 and 0.85, in PyTorch 0.34, 0.36 and 0.68; tf_efficientnetv2_b0 0.28, 0.11 and 0.80, in PyTorch 0.35, 0.19 and
// 0.58; efficientnet_b0 0.38, 0.13 and 0.77, in PyTorch 0.43, 0.12 and 0.60.
const halfLimits: Record<string, { output: number; evaluation: number; cosine?: number }> = {
  mobilenet_v2: { output: 1.3, evaluation: 0.16 },
  mobilenet_v3_small: { output: 0.11, evaluation: 0.08, cosine: 0.98 },
  mobilenet_v3_large: { output: 0.22, evaluation: 0.16, cosine: 0.92 },
  mobilenetv4_conv_small: { output: 0.84, evaluation: 0.22, cosine: 0.2 },
  efficientnet_b0: { output: 0.48, evaluation: 0.18, cosine: 0.7 },
  efficientnet_v2_s: { output: 0.42, evaluation: 0.53, cosine: 0.7 },
  tf_efficientnetv2_b0: { output: 0.56, evaluation: 0.22, cosine: 0.6 },
  efficientnet_lite0: { output: 1.4, evaluation: 0.27 },
  convnext_atto: { output: 0.017, evaluation: 0.018, cosine: 0.9999 },
  convnext_femto: { output: 0.017, evaluation: 0.017, cosine: 0.9999 },
  vit_tiny_patch16_224: { output: 0.028, evaluation: 0.028, cosine: 0.9998 },
  resnet18: { output: 0.12, evaluation: 0.03, cosine: 0.83 },
};

describe.each(devices)('on $name', ({ device }) => {
  it.each(listStudents())(
    '%s trains in float32 as on the CPU',
    async (name) => {
      const limit = gradientLimits[name] ?? 2e-4;
      const error = await leastError(
        limit,
        async (seed) => {
          using reference = create(name, cpu, 'float32', seed);
          using encoder = create(name, device, 'float32', seed);
          const [expected, found] = [await step(reference), await step(encoder)];
          expect(relativeError(found.output, expected.output)).toBeLessThan(2e-4);
          expect(relativeError(found.evaluation, expected.evaluation)).toBeLessThan(1e-4);
          return wholeError(found.gradients, expected.gradients);
        },
        goodSeeds[name],
      );
      expect(error, `gradients of ${name}, at the best of its seeds`).toBeLessThan(limit);
    },
    900_000,
  );

  it.each(Object.keys(halfLimits))(
    '%s trains in bfloat16 as closely as bfloat16 allows',
    async (name) => {
      using reference = create(name);
      using encoder = create(name, device, 'bfloat16');
      const [expected, found] = [await step(reference), await step(encoder)];
      const off = {
        output: relativeError(found.output, expected.output),
        evaluation: relativeError(found.evaluation, expected.evaluation),
        cosine: wholeCosine(found.gradients, expected.gradients),
      };
      const all = `found ${JSON.stringify(off)}`;
      expect(off.output, all).toBeLessThan(halfLimits[name]!.output);
      expect(off.evaluation, all).toBeLessThan(halfLimits[name]!.evaluation);
      expect(Object.values(found.gradients).every((values) => values.every(Number.isFinite))).toBe(true);
      expect(off.cosine, all).toBeGreaterThan(halfLimits[name]!.cosine ?? -1);
    },
    900_000,
  );
});
