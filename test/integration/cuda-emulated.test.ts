import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { probeCuda } from '../../lib/cuda-probe.js';
import { openDevice, type Device } from '../../lib/device.js';
import { CompiledEncoder } from '../../lib/models/compiled.js';
import { Encoder } from '../../lib/models/encoder.js';
import { loadTeacher } from '../../lib/models/index.js';
import { addonPath } from '../../lib/addon.js';
import { allOperations } from '../fixtures/all-operations.js';
import { measureGoldenStep, readEncoderVectors, relativeError } from '../fixtures/encoder-vectors.js';
import { randomNormal } from '../fixtures/random.js';
import { buildEmulatedAddon } from '../native/emulated.js';

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
  it('passes the trial of a device, in a process of its own', async () => {
    const { addon } = cuda;
    expect(await probeCuda({ addon: addonPath(), build: addon.buildInfo(), status: addon.cudaStatus(), index: 0, again: true })).toMatchObject({ passed: true, reason: '', remembered: false });
  });

  it('matches PyTorch in float64 on a graph of every operation', async () => {
    const golden = await readEncoderVectors(fileURLToPath(new URL('../fixtures/all-operations.safetensors', import.meta.url)));
    using encoder = new Encoder(new CompiledEncoder(cuda, allOperations(), { batch: 4, resolution: 24, precision: 'float32' }));
    for (const error of Object.values(await measureGoldenStep(encoder, golden))) expect(error).toBeLessThan(1e-4);
  });

  it.each(['float32', 'bfloat16'] as const)('embeds as the CPU does with the native teacher in %s', async (precision) => {
    const folder = fileURLToPath(new URL('../models/tiny-clip', import.meta.url));
    const embeddings: Float32Array[] = [];
    for (const [device, as] of [[cpu, 'float32'], [cuda, precision]] as const) {
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
  }, 300_000);
});
