import { copyFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { readSafetensors, writeSafetensors, type TensorRecord } from '../../lib/files/safetensors.js';
import { loadTeacher, type NativeTeacher, type TeacherOptions } from '../../lib/models/index.js';
import { devicesUnderTest } from '../devices.js';
import { agree, refusedTeacher } from '../fixtures/embeddings.js';
import { relativeError } from '../fixtures/encoder-vectors.js';
import { temporaryFolder } from '../fixtures/folder.js';

// Plain vision transformers of random weights as PyTorch computes them: test/vectors/towers/make_plain.py.
const towers = fileURLToPath(new URL('../vectors/towers', import.meta.url));
const devices = await devicesUnderTest('plain vision transformers');

async function load(source: string, options: TeacherOptions): Promise<NativeTeacher> {
  const teacher = await loadTeacher(source, { batch: 2, ...options });
  if (teacher.kind !== 'native') throw new Error(`loaded a ${teacher.kind} teacher`);
  return teacher;
}

const tensorsOf = async (name: string, file = 'vectors.safetensors') =>
  (await readSafetensors(join(towers, name, file))).tensors;

const halves = [0.5, 0.5, 0.5];
const imagenet = [0.485, 0.456, 0.406];
const models = [
  ['transformers-vit', 24, 1e-12, halves, [20, 33]],
  ['transformers-dinov2', 24, 1e-6, imagenet, [21, 35, 56]],
  ['transformers-dinov2-registers', 24, 1e-6, imagenet, [35, 21]],
  ['timm-vit', 64, 1e-6, halves, [24, 18]],
  ['timm-dinov2-reg4', 24, 1e-6, imagenet, [28, 21, 42]],
] as const;
const cases = models.flatMap(([name, size, eps, mean, resolutions]) =>
  resolutions.map((resolution, i) => ({ name, size, eps, mean, resolution, isOwn: i === 0 })),
);

describe.each(devices)('on $name', ({ device }) => {
  describe.each(device.info.precisions)('in %s', (precision) => {
    it.each(cases)(
      'embeds images of $resolution px with $name as PyTorch does',
      async ({ name, size, eps, mean, resolution, isOwn }) => {
        const vectors = await tensorsOf(name);
        await using teacher = await load(join(towers, name), {
          device,
          precision,
          ...(isOwn ? {} : { resolution }),
        });
        expect(teacher).toMatchObject({ architecture: 'plain ViT', resolution, embeddingSize: size, mean });
        const norms = teacher.graph.nodes.filter(({ op }) => op === 'layerNorm');
        expect(new Set(norms.map(({ attributes }) => attributes?.['eps']))).toEqual(new Set([eps]));
        const at = isOwn ? '' : `_${resolution}`;
        const found = await teacher.embed(vectors.get(`pixels${at}`)!.data as Float32Array, 2);
        agree(found, vectors.get(`image_embeds${at}`)!.data as Float32Array, { size, device, precision });
      },
      300_000,
    );
  });
});

describe('loading plain vision transformers', () => {
  const folder = temporaryFolder();
  const { device } = devices[0]!;
  let copies = 0;

  /** A model's copy with other tensors and another configuration. */
  async function changed(
    from: string,
    change: (tensors: Map<string, TensorRecord>) => void,
    configure: (config: Config) => object = (config) => config,
  ): Promise<string> {
    const path = join(folder, String(copies++));
    mkdirSync(path);
    const tensors = await tensorsOf(from, 'model.safetensors');
    change(tensors);
    await writeSafetensors(join(path, 'model.safetensors'), tensors, {});
    const config = JSON.parse(readFileSync(join(towers, from, 'config.json'), 'utf8')) as Config;
    writeFileSync(join(path, 'config.json'), JSON.stringify(configure(config)));
    return path;
  }
  const unchanged = () => undefined;

  const refused = (source: string, ...parts: string[]) => refusedTeacher(source, device, parts);

  const zeros = (...shape: number[]): TensorRecord => ({
    shape,
    data: new Float32Array(shape.reduce((a, b) => a * b, 1)),
  });

  it('takes positions of all constant tokens, as timm has them without no_embed_class', async () => {
    const path = await changed('timm-dinov2-reg4', (tensors) => {
      const shift = zeros(1, 5 + 16, 24);
      const [own, table] = [tensors.get('pos_embed')!.data as Float32Array, shift.data as Float32Array];
      table.set(own, 5 * 24);
      for (const [name, row] of [
        ['cls_token', 0],
        ['reg_token', 1],
      ] as const)
        (tensors.get(name)!.data as Float32Array).forEach((value, i, data) => {
          const moved = Math.sin(row + i);
          table[row * 24 + i] = moved;
          data[i] = value - moved;
        });
      tensors.set('pos_embed', shift);
    });
    const pixels = (await tensorsOf('timm-dinov2-reg4')).get('pixels_42')!.data as Float32Array;
    await using own = await load(join(towers, 'timm-dinov2-reg4'), { device, precision: 'float32', resolution: 42 });
    await using other = await load(path, { device, precision: 'float32', resolution: 42 });
    expect(relativeError(await other.embed(pixels, 2), await own.embed(pixels, 2))).toBeLessThan(1e-5);
  });

  it('tells teachers of two resolutions apart', async () => {
    const path = join(towers, 'transformers-dinov2');
    await using own = await load(path, { device });
    await using same = await load(path, { device, resolution: 21 });
    await using other = await load(path, { device, resolution: 35 });
    expect(await same.fingerprint()).toBe(await own.fingerprint());
    expect(await other.fingerprint()).not.toBe(await own.fingerprint());
  });

  it('leaves heads, poolers and the token of masks alone', async () => {
    const path = await changed('transformers-dinov2', (tensors) => {
      for (const name of ['pooler.dense.weight', 'classifier.weight', 'embeddings.mask_token'])
        tensors.set(name, zeros(3, 3));
    });
    await using teacher = await load(path, { device });
    expect(teacher).toMatchObject({ resolution: 224, mean: imagenet }); // no preprocessor_config.json in the copy
  });

  it.each([
    ['transformers-vit', 'vit.embeddings.distillation_token', 'a distillation token'],
    ['timm-vit', 'dist_token', 'a distillation token'],
    ['transformers-dinov2', 'encoder.layer.0.mlp.weights_in.weight', 'gated MLPs'],
    ['timm-vit', 'blocks.0.attn.q_norm.weight', 'norms of queries and keys'],
    ['transformers-vit', 'vit.encoder.layer.0.attention.attention.relative_position_bias.table', 'relative positions'],
    ['timm-vit', 'fc_norm.weight', 'a mean of its patches'],
    ['timm-vit', 'visual.trunk.attn_pool.q.weight', "timm's names within open_clip's"],
    ['timm-vit', 'norm_pre.weight', "parts of CLIP's"],
    ['timm-vit', 'rope.periods', 'rotary positions'],
  ])('says what %s has otherwise by %s', async (from, tensor, what) => {
    await refused(await changed(from, (tensors) => tensors.set(tensor, zeros(1))), `has ${what}`, 'ONNX');
  });

  it('says what it lacks, and takes an ONNX export beside it', async () => {
    const path = await changed('timm-vit', (tensors) => tensors.delete('cls_token'));
    await refused(path, 'no class token');
    copyFileSync(join(towers, 'open-clip-vit', 'tower.onnx'), join(path, 'model.onnx'));
    const options = { resolution: 24, mean: [0, 0, 0], std: [1, 1, 1] } as const;
    await expect(loadTeacher(path, { device, ...options })).resolves.toMatchObject({ kind: 'onnx' });
    await refused(await changed('timm-dinov2-reg4', (tensors) => tensors.delete('pos_embed')), 'no table of positions');
    const gated = await changed('timm-vit', (tensors) => tensors.set('blocks.0.mlp.fc2.weight', zeros(64, 36)));
    await refused(gated, 'gated MLPs');
  });

  it('names tensors that are missing or unexpected', async () => {
    await refused(
      await changed('timm-dinov2-reg4', (tensors) => tensors.delete('blocks.1.ls2.gamma')),
      'missing: blocks.1.ls2.gamma',
    );
    await refused(
      await changed('transformers-vit', (tensors) => tensors.set('vit.embeddings.detection_tokens', zeros(1))),
      'unexpected: vit.embeddings.detection_tokens',
    );
  });

  it('refuses pooling and norms not known here, and heads that nothing tells', async () => {
    const pooled = (config: Config) => ({ ...config, global_pool: 'avg' });
    await refused(await changed('timm-vit', unchanged, pooled), 'pools its tokens', 'global_pool');
    const normed = (config: Config) => ({ ...config, model_args: { norm_layer: 'rmsnorm' } });
    await refused(await changed('timm-vit', unchanged, normed), 'norms not known here');
    const headless = (config: Config) => ({ ...config, model_args: {} });
    await refused(await changed('timm-dinov2-reg4', unchanged, headless), 'nothing tells its heads', 'num_heads');
    const path = await changed('timm-vit', unchanged);
    rmSync(join(path, 'config.json'));
    await refused(path, 'no config.json');
  });

  it('refuses a model whose mean and std nothing tells, unless they are given', async () => {
    const path = await changed('transformers-vit', unchanged);
    await refused(path, 'tells the mean and std', 'preprocessor_config.json');
    await using teacher = await load(path, { device, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5] });
    expect(teacher.resolution).toBe(20);
  });

  it('refuses a resolution below a patch', async () => {
    await expect(load(join(towers, 'timm-vit'), { device, resolution: 5 })).rejects.toMatchObject({
      code: 'BAD_OPTION',
      option: 'resolution',
      found: 5,
    });
  });

  it("takes the older form of timm's config.json", async () => {
    const path = await changed('timm-vit', unchanged, ({ pretrained_cfg, ...config }) => ({
      ...config,
      ...pretrained_cfg,
    }));
    await using teacher = await load(path, { device });
    expect(teacher).toMatchObject({ resolution: 24, std: [0.4, 0.5, 0.6] });
  });
});

interface Config {
  pretrained_cfg?: object;
}
