import { readdirSync } from 'node:fs';
import { basename, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openDevice, type Device } from '../../lib/device.js';
import { createEncoder } from '../../lib/models/encoder.js';
import { measureGoldenStep, readEncoderVectors } from '../fixtures/encoder-vectors.js';
import { noteSkip, sharedPath } from '../shared.js';

const folder = process.env['LGDISTILL_ENCODER_VECTORS'] ?? sharedPath('vectors', 'encoders');
const files = folder === undefined ? [] : readdirSync(folder).filter((file) => file.endsWith('.safetensors'));
if (files.length === 0) noteSkip('golden torchvision encoders', 'the shared folder of test data is absent');

let device: Device;
beforeAll(async () => {
  device = await openDevice('cpu');
});
afterAll(() => device.dispose());

describe.skipIf(files.length === 0)('students against torchvision in float64', () => {
  it.each(files)('%s', async (file) => {
    const vectors = await readEncoderVectors(join(folder!, file));
    using encoder = await createEncoder(basename(file, '.safetensors'), {
      device, outputs: Number(vectors.metadata['num_classes']), widthMultiplier: Number(vectors.metadata['width_mult'] ?? 1), resolution: Number(vectors.metadata['resolution']), batch: 4,
    });
    const errors = await measureGoldenStep(encoder, vectors);
    console.log(file, errors);
    for (const error of Object.values(errors)) expect(error).toBeLessThan(1e-4);
  });
});
