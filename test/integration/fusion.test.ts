import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openDevice, type Device } from '../../lib/device.js';
import { createEncoder, type Encoder } from '../../lib/models/encoder.js';
import { listStudents } from '../../lib/models/index.js';
import { relativeError } from '../fixtures/encoder-vectors.js';
import { randomNormal } from '../fixtures/random.js';

// The plan that CUDA trains by (LGDISTILL_FUSION=layers) against the plain one, both on the CPU: what is lazy, who finishes which
// gradient and which memory is shared are decided above the kernels, so they can be held to account without a GPU.
let device: Device;
beforeAll(async () => {
  device = await openDevice('cpu');
});
afterAll(() => device.dispose());

const batch = 6;
const resolution = 40;
const outputs = 10;
const images = randomNormal(batch * 3 * resolution * resolution, 1);
const dOutput = randomNormal(batch * outputs, 2);

async function build(name: string, fusion: string): Promise<Encoder> {
  process.env['LGDISTILL_FUSION'] = fusion;
  try {
    return await createEncoder(name, { device, outputs, batch, resolution, dropping: true, seed: 3 });
  } finally {
    delete process.env['LGDISTILL_FUSION'];
  }
}

interface Step {
  output: Float32Array;
  gradients: Record<string, Float32Array>;
  evaluation: Float32Array;
  buffers: Record<string, Float32Array>;
}

/** The second of two accumulated steps, with dropping, and the evaluation after it. */
async function step(encoder: Encoder): Promise<Step> {
  await encoder.forward(images.map((value) => 0.5 * value), { training: true, seed: 5, step: 1 });
  await encoder.backward(dOutput);
  const output = await encoder.forward(images, { training: true, seed: 5, step: 2 });
  const gradients = await encoder.backward(dOutput);
  const evaluation = await encoder.forward(images);
  const state = await encoder.state();
  return { output, gradients, evaluation, buffers: Object.fromEntries(Object.entries(state).filter(([name]) => name.includes('running_')).map(([name, { data }]) => [name, data])) };
}

/** Norm of all differences over the norm of all values. */
function wholeError(found: Record<string, Float32Array>, expected: Record<string, Float32Array>): number {
  let [difference, size] = [0, 0];
  for (const [name, values] of Object.entries(expected)) {
    for (let i = 0; i < values.length; ++i) {
      difference += (found[name]![i]! - values[i]!) ** 2;
      size += values[i]! ** 2;
    }
  }
  return Math.sqrt(difference / size);
}

describe('a training plan fused into layers', () => {
  it.each([...listStudents()])('is the plain one for %s', async (name) => {
    using plain = await build(name, 'nodes');
    using layers = await build(name, 'layers');
    const [expected, found] = [await step(plain), await step(layers)];
    // ReLU6's kinks turn rounding into other gradients where a map has few pixels (see encoders.test.ts)
    const limit = name === 'mobilenet_v2' ? 5e-2 : 2e-3;
    expect(relativeError(found.output, expected.output)).toBeLessThan(1e-4);
    expect(wholeError(found.gradients, expected.gradients)).toBeLessThan(limit);
    expect(wholeError(found.buffers, expected.buffers)).toBeLessThan(1e-5);
    expect(relativeError(found.evaluation, expected.evaluation)).toBeLessThan(1e-4);
    // nothing of the expanded maps' size is stored twice: the plan needs well under the plain one's memory
    expect(layers.compiled.info.arenaBytes).toBeLessThan(0.75 * plain.compiled.info.arenaBytes);
  }, 120_000);
});
