import { copyFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openDevice, type Device } from '../../lib/device.js';
import { readSafetensors, writeSafetensors, type TensorRecord } from '../../lib/files/safetensors.js';
import { loadTeacher } from '../../lib/models/teachers/load.js';
import { NativeTeacher } from '../../lib/models/teachers/native.js';
import { lowestCosine } from '../fixtures/embeddings.js';
import { relativeError } from '../fixtures/encoder-vectors.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { randomNumbers } from '../fixtures/random.js';
import { noteSkip } from '../shared.js';

const tinyClip = fileURLToPath(new URL('../models/tiny-clip', import.meta.url));
const onnxTower = join(tinyClip, 'onnx', 'vision_model.onnx');
const dimension = 256;

let device: Device;
let teacher: NativeTeacher;
beforeAll(async () => {
  device = await openDevice('cpu');
  teacher = (await loadTeacher(tinyClip, { device, batch: 3 })) as NativeTeacher;
});
afterAll(async () => {
  await teacher.dispose();
  device.dispose();
});

/** uint8 [N,H,W,3] to normalised [N,3,H,W]. */
function normalise(images: Uint8Array, count: number): Float32Array {
  const pixels = new Float32Array(images.length);
  const area = images.length / count / 3;
  for (let n = 0; n < count; n++) {
    for (let p = 0; p < area; p++) {
      for (let c = 0; c < 3; c++)
        pixels[(n * 3 + c) * area + p] = (images[(n * area + p) * 3 + c]! / 255 - teacher.mean[c]!) / teacher.std[c]!;
    }
  }
  return pixels;
}

describe("tiny-clip's image tower", () => {
  it('says what it is', () => {
    expect(teacher).toBeInstanceOf(NativeTeacher);
    expect(teacher).toMatchObject({ kind: 'native', id: 'tiny-clip', embeddingSize: dimension, resolution: 64 });
    expect(teacher.mean[0]).toBeCloseTo(0.48145466, 6);
  });

  it('has the fingerprint that checkpoints and caches hold', async () => {
    // of graph and weights: with another one, runs begun before cannot be resumed
    expect(await (teacher as NativeTeacher).fingerprint()).toBe(
      '8d630f08fea69b26f6666e70551b1b3127149371b7c101623fbb41963c8d590c',
    );
  });

  it('gives the embeddings that its ONNX export gave, over a whole and a part batch', async () => {
    const { tensors } = await readSafetensors(
      fileURLToPath(new URL('../fixtures/tiny-clip-embeddings.safetensors', import.meta.url)),
    );
    const expected = tensors.get('embeddings')!.data as Float32Array;
    const found = await teacher.embed(normalise(tensors.get('images')!.data as Uint8Array, 4), 4);
    expect(relativeError(found, expected)).toBeLessThan(1e-5);
    expect(lowestCosine(found, expected, dimension)).toBeGreaterThan(0.9999999);
  });

  it.skipIf(!existsSync(onnxTower))('agrees with the ONNX export on noise', async () => {
    const random = randomNumbers(5);
    const pixels = Float32Array.from({ length: 5 * 3 * 64 * 64 }, () => 4 * random() - 2);
    const onnx = await loadTeacher(onnxTower, { device });
    if (onnx.kind !== 'onnx') throw new Error(`loaded a ${onnx.kind} teacher`);
    const expected = await onnx.embed(pixels, 5);
    const found = await teacher.embed(pixels, 5);
    expect(relativeError(found, expected)).toBeLessThan(1e-5);
    expect(lowestCosine(found, expected, dimension)).toBeGreaterThan(0.9999999);
    await onnx.dispose();
  });
  if (!existsSync(onnxTower)) noteSkip("tiny-clip's ONNX image tower", 'vision_model.onnx is absent');

  it('gives a row the same bits in any batch', async () => {
    const random = randomNumbers(6);
    const pixels = Float32Array.from({ length: 4 * 3 * 64 * 64 }, () => 4 * random() - 2);
    const together = await teacher.embed(pixels, 4);
    const alone = await teacher.embed(pixels.subarray(3 * 3 * 64 * 64), 1);
    expect(alone).toEqual(together.slice(3 * dimension));
  });
});

describe('loading a teacher', () => {
  const folder = temporaryFolder();

  async function copyOf(
    name: string,
    change: (tensors: Map<string, TensorRecord>) => Map<string, TensorRecord>,
    config?: object,
  ): Promise<string> {
    const path = join(folder, name);
    mkdirSync(path);
    copyFileSync(join(tinyClip, 'preprocessor_config.json'), join(path, 'preprocessor_config.json'));
    if (config) writeFileSync(join(path, 'open_clip_config.json'), JSON.stringify(config));
    else copyFileSync(join(tinyClip, 'config.json'), join(path, 'config.json'));
    const { tensors } = await readSafetensors(join(tinyClip, 'visual.safetensors'));
    await writeSafetensors(
      join(path, config ? 'open_clip_model.safetensors' : 'model.safetensors'),
      change(tensors),
      {},
    );
    return path;
  }

  it('reads weights without the prefix, and ignores a text tower beside them', async () => {
    const path = await copyOf(
      'plain',
      (tensors) => new Map([...tensors].map(([name, tensor]) => [name.replace('visual.', ''), tensor])),
    );
    const whole = await copyOf(
      'whole',
      (tensors) => new Map([...tensors, ['token_embedding.weight', { shape: [1], data: new Float32Array(1) }]]),
    );
    const pixels = Float32Array.from({ length: 3 * 64 * 64 }, (_, i) => Math.sin(i));
    const expected = await teacher.embed(pixels, 1);
    for (const source of [path, whole]) {
      const loaded = await loadTeacher(source, { device });
      if (loaded.kind !== 'native') throw new Error(`loaded a ${loaded.kind} teacher`);
      expect(await loaded.embed(pixels, 1)).toEqual(expected);
      await loaded.dispose();
    }
  });

  it("reads open_clip's configuration, its mean and its std", async () => {
    const vision = { image_size: 64, layers: [2, 2, 2, 2], width: 24, heads: 12 };
    const path = await copyOf('open-clip', (tensors) => tensors, {
      model_cfg: { embed_dim: 256, vision_cfg: vision },
      preprocess_cfg: { mean: [0.1, 0.2, 0.3], std: [1, 1, 1] },
    });
    const loaded = await loadTeacher(path, { device });
    expect(loaded).toMatchObject({
      kind: 'native',
      embeddingSize: 256,
      resolution: 64,
      mean: [0.1, 0.2, 0.3],
      std: [1, 1, 1],
    });
    // as timm's repositories have beside it
    writeFileSync(join(path, 'config.json'), JSON.stringify({ architecture: 'resnet50_clip' }));
    expect(await loadTeacher(path, { device })).toMatchObject({ kind: 'native' });
    await loaded.dispose();
  });

  it('names what is missing of the weights', async () => {
    const path = await copyOf('broken', (tensors) => {
      tensors.delete('visual.layer3.1.conv2.weight');
      return tensors;
    });
    await expect(loadTeacher(path, { device })).rejects.toMatchObject({
      code: 'BAD_MODEL',
      message: expect.stringContaining('layer3.1.conv2.weight') as string,
    });
  });

  it('takes a file of embeddings by its extension', async () => {
    const file = join(folder, 'embeddings.safetensors');
    await writeSafetensors(file, [['embeddings', { shape: [1, 2], data: new Float32Array([3, 4]) }]], {
      ids: '["a.png"]',
    });
    expect(await loadTeacher(file, { device })).toMatchObject({ kind: 'precomputed', embeddingSize: 2 });
  });

  it('goes to ONNX where the configuration is no ModifiedResNet', async () => {
    const path = join(folder, 'vit');
    mkdirSync(path);
    writeFileSync(join(path, 'config.json'), JSON.stringify({ vision_config: { num_hidden_layers: 12 } }));
    await expect(loadTeacher(path, { device })).rejects.toMatchObject({
      code: 'BAD_MODEL',
      message: expect.stringContaining('vision_model.onnx') as string,
    });
  });

  it('refuses what does not fit', async () => {
    await expect(loadTeacher('./nowhere', { device })).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
    await expect(loadTeacher(tinyClip, { device, resolution: 32 })).rejects.toMatchObject({
      code: 'BAD_OPTION',
      option: 'resolution',
    });
    await expect(teacher.embed(new Float32Array(5), 1)).rejects.toMatchObject({ code: 'BAD_SHAPE' });
    await expect(teacher.embed(new Float32Array(3 * 64 * 64).fill(NaN), 1)).rejects.toMatchObject({
      code: 'NON_FINITE',
    });
    const config = JSON.parse(readFileSync(join(tinyClip, 'config.json'), 'utf8')) as {
      vision_config: { heads: number };
    };
    config.vision_config.heads = 7;
    const path = await copyOf('heads', (tensors) => tensors);
    writeFileSync(join(path, 'config.json'), JSON.stringify(config));
    await expect(loadTeacher(path, { device })).rejects.toMatchObject({ code: 'BAD_MODEL' });
  });

  it('refuses to embed once disposed of', async () => {
    const loaded = await loadTeacher(tinyClip, { device });
    if (loaded.kind !== 'native') throw new Error(`loaded a ${loaded.kind} teacher`);
    await loaded.dispose();
    await expect(loaded.embed(new Float32Array(3 * 64 * 64), 1)).rejects.toMatchObject({ code: 'DISPOSED' });
  });
});
