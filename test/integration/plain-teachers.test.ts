import { copyFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { readSafetensors, writeSafetensors, type TensorRecord } from '../../lib/files/safetensors.js';
import { loadTeacher, type NativeTeacher, type TeacherOptions } from '../../lib/models/index.js';
import { readPlainConfig } from '../../lib/models/teachers/plain-config.js';
import { devicesUnderTest } from '../devices.js';
import { agree, refusedTeacher } from '../fixtures/embeddings.js';
import { relativeError } from '../fixtures/encoder-vectors.js';
import { temporaryFolder } from '../fixtures/folder.js';

// Plain vision transformers, and a plain ConvNeXt, of random weights as PyTorch computes them:
// test/vectors/towers/make_plain.py.
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
  ['transformers-dinov2-gated', 24, 1e-6, imagenet, [21, 14]],
  ['transformers-dinov3', 48, 1e-5, imagenet, [12, 21]], // of 21 px the last one is behind the last patch
  ['timm-dinov3-gated', 48, 1e-5, imagenet, [16, 8]],
  ['transformers-dinov3-convnext', 24, 1e-6, imagenet, [32]],
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
        const architecture = name.includes('convnext') ? 'plain ConvNeXt' : 'plain ViT';
        expect(teacher).toMatchObject({ architecture, resolution, embeddingSize: size, mean });
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
    ['transformers-dinov2', 'encoder.layer.0.mlp.w12.weight', 'gated MLPs under other names'],
    ['timm-vit', 'blocks.0.attn.q_norm.weight', 'norms of queries and keys'],
    ['transformers-vit', 'vit.encoder.layer.0.attention.attention.relative_position_bias.table', 'relative positions'],
    ['timm-vit', 'fc_norm.weight', 'a mean of its patches'],
    ['timm-vit', 'visual.trunk.attn_pool.q.weight', "timm's names within open_clip's"],
    ['timm-vit', 'norm_pre.weight', "parts of CLIP's"],
    ['timm-vit', 'rope.freqs', 'rotary positions of another kind'],
    [
      'transformers-vit',
      'convnext.encoder.stages.0.layers.0.dwconv.weight',
      "the names of transformers' ConvNextModel",
    ],
    ['timm-dinov3-gated', 'storage_tokens', "the names of DINOv3's own repository"],
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
  });

  /** A model's copy under other names. */
  const renamed = (
    from: string,
    names: readonly (readonly [old: RegExp, now: string])[],
    {
      change = unchanged,
      configure,
    }: { change?: (tensors: Map<string, TensorRecord>) => void; configure: () => object },
  ) =>
    changed(
      from,
      (tensors) => {
        for (const [name, tensor] of [...tensors]) {
          tensors.delete(name);
          tensors.set(
            names.reduce((text, [old, now]) => text.replace(old, now), name),
            tensor,
          );
        }
        change(tensors);
      },
      configure,
    );

  /** Several tensors as one. */
  function stack(tensors: Map<string, TensorRecord>, parts: string[], whole: string): void {
    const data = parts.map((name) => Array.from(tensors.get(name)!.data as Float32Array)).flat();
    const [rows = 0, ...others] = tensors.get(parts[0]!)!.shape;
    for (const name of parts) tensors.delete(name);
    tensors.set(whole, { shape: [rows * parts.length, ...others], data: Float32Array.from(data) });
  }

  const statistics = { mean: imagenet, std: [0.229, 0.224, 0.225] };

  async function expectSame(path: string, from: string, options: Partial<TeacherOptions> = {}): Promise<void> {
    await using own = await load(join(towers, from), { device });
    await using other = await load(path, { device, resolution: own.resolution, ...options });
    expect(await other.fingerprint()).toBe(await own.fingerprint());
  }

  it("takes timm's DINOv3 with biases of queries and values for transformers'", async () => {
    const configure = () => ({
      architecture: 'vit_test_patch4_dinov3_qkvb',
      global_pool: 'avg',
      model_args: { num_heads: 3 },
      pretrained_cfg: statistics,
    });
    const path = await renamed(
      'transformers-dinov3',
      [
        [/^embeddings\.patch_embeddings/u, 'patch_embed.proj'],
        [/^embeddings\./u, ''],
        [/^register_tokens/u, 'reg_token'],
        [/^layer\./u, 'blocks.'],
        [/layer_scale(.)\.lambda1/u, 'gamma_$1'],
        [/attention\.o_proj/u, 'attn.proj'],
        [/attention\.(.)_proj\.bias/u, 'attn.$1_bias'],
        [/mlp\.up_proj/u, 'mlp.fc1'],
        [/mlp\.down_proj/u, 'mlp.fc2'],
      ],
      {
        configure,
        change: (tensors) => {
          for (const block of ['blocks.0.', 'blocks.1.'])
            stack(
              tensors,
              ['q', 'k', 'v'].map((which) => `${block}attention.${which}_proj.weight`),
              `${block}attn.qkv.weight`,
            );
        },
      },
    );
    await using teacher = await load(path, { device });
    expect(teacher.resolution).toBe(256);
    // its longest period is 100, and that of the model's copy here 30
    const other = await changed('transformers-dinov3', unchanged, (config) => ({
      ...config,
      rope_theta: undefined,
      rope_parameters: { rope_theta: 100 },
    }));
    const options = { device, resolution: 12, mean: [0, 0, 0], std: [1, 1, 1] } as const;
    await using same = await load(other, options);
    await using own = await load(path, options);
    expect(await own.fingerprint()).toBe(await same.fingerprint());
    await using original = await load(join(towers, 'transformers-dinov3'), options);
    expect(await original.fingerprint()).not.toBe(await same.fingerprint());
  });

  it("takes transformers' gated DINOv3 for timm's, whose gate may be packed", async () => {
    const gated = { model_type: 'dinov3_vit', hidden_act: 'silu', num_attention_heads: 3, image_size: [16, 16] };
    const names = [
      [/^patch_embed\.proj/u, 'embeddings.patch_embeddings'],
      [/^(cls_token)/u, 'embeddings.$1'],
      [/^reg_token/u, 'embeddings.register_tokens'],
      [/^blocks\./u, 'layer.'],
      [/gamma_(.)/u, 'layer_scale$1.lambda1'],
      [/attn\.proj/u, 'attention.o_proj'],
      [/mlp\.fc1_g/u, 'mlp.gate_proj'],
      [/mlp\.fc1_x/u, 'mlp.up_proj'],
      [/mlp\.fc2/u, 'mlp.down_proj'],
    ] as const;
    const split = (tensors: Map<string, TensorRecord>) => {
      for (const block of ['layer.0.', 'layer.1.']) {
        const whole = tensors.get(`${block}attn.qkv.weight`)!.data as Float32Array;
        tensors.delete(`${block}attn.qkv.weight`);
        for (const [i, which] of ['q', 'k', 'v'].entries())
          tensors.set(`${block}attention.${which}_proj.weight`, {
            shape: [48, 48],
            data: whole.slice(i * 48 * 48, (i + 1) * 48 * 48),
          });
      }
    };
    const options = { mean: [0, 0, 0], std: [1, 1, 1] } as const;
    const path = await renamed('timm-dinov3-gated', names, { configure: () => gated, change: split });
    await expectSame(path, 'timm-dinov3-gated', options);
    await refused(path, 'tells the mean and std'); // satellite models have others
    const other = { ...gated, hidden_act: 'gelu' };
    await refused(
      await renamed('timm-dinov3-gated', names, { configure: () => other, change: split }),
      'gated in a way not known here',
      'silu',
    );
    const packed = await changed('timm-dinov3-gated', (tensors) => {
      for (const block of ['blocks.0.mlp.', 'blocks.1.mlp.'])
        for (const part of ['weight', 'bias'])
          stack(tensors, [`${block}fc1_g.${part}`, `${block}fc1_x.${part}`], `${block}fc1.${part}`);
    });
    await expectSame(packed, 'timm-dinov3-gated');
  });

  it("takes timm's DINOv2 giant for transformers'", async () => {
    const named = (args: object) =>
      renamed(
        'transformers-dinov2-gated',
        [
          [/^embeddings\.patch_embeddings\.projection/u, 'patch_embed.proj'],
          [/^embeddings\.position_embeddings/u, 'pos_embed'],
          [/^embeddings\./u, ''],
          [/^layernorm/u, 'norm'],
          [/^encoder\.layer\./u, 'blocks.'],
          [/layer_scale(.)\.lambda1/u, 'ls$1.gamma'],
          [/attention\.output\.dense/u, 'attn.proj'],
          [/mlp\.weights_in/u, 'mlp.fc1'],
          [/mlp\.weights_out/u, 'mlp.fc2'],
        ],
        {
          configure: () => ({ model_args: { num_heads: 3, ...args }, pretrained_cfg: statistics }),
          change: (tensors) => {
            for (const block of ['blocks.0.', 'blocks.1.'])
              for (const part of ['weight', 'bias'])
                stack(
                  tensors,
                  ['query', 'key', 'value'].map((which) => `${block}attention.attention.${which}.${part}`),
                  `${block}attn.qkv.${part}`,
                );
          },
        },
      );
    await expectSame(await named({}), 'transformers-dinov2-gated');
    await refused(await named({ act_layer: 'gelu' }), 'gated in a way not known here', 'act_layer');
  });

  it("takes timm's ConvNeXts for transformers', without their classifier", async () => {
    const named = (architecture: string, others: object = {}) =>
      renamed(
        'transformers-dinov3-convnext',
        [
          [/^stages\.0\.downsample_layers/u, 'stem'],
          [/downsample_layers/u, 'downsample'],
          [/^layer_norm/u, 'head.norm'],
          [/\.layers\./u, '.blocks.'],
          [/depthwise_conv/u, 'conv_dw'],
          [/layer_norm/u, 'norm'],
          [/pointwise_conv/u, 'mlp.fc'],
        ],
        {
          configure: () => ({ architecture, pretrained_cfg: { ...statistics, input_size: [3, 40, 40] }, ...others }),
          change: (tensors) => tensors.set('head.fc.weight', zeros(5, 24)),
        },
      );
    const path = await named('convnext_tiny');
    await using teacher = await load(path, { device });
    expect(teacher).toMatchObject({ architecture: 'plain ConvNeXt', resolution: 40, embeddingSize: 24 });
    await expectSame(path, 'transformers-dinov3-convnext');
    await refused(await named('test_convnext'), 'architecture', 'test_convnext');
    await expectSame(await named('convnext_tiny', { model_args: { norm_eps: 1e-6 } }), 'transformers-dinov3-convnext');
    const created = (args: object) => named('convnext_tiny', { model_args: args });
    await refused(await created({ act_layer: 'gelu_tanh' }), 'model_args.act_layer', 'gelu_tanh');
    await refused(await created({ output_stride: 16 }), 'model_args.output_stride', '16');
    await refused(await created({ norm_eps: 2 }), 'another eps');
    const bare = await changed('transformers-dinov3-convnext', unchanged);
    rmSync(join(bare, 'config.json'));
    await refused(bare, 'has no config.json');
    const copy = await changed('transformers-dinov3-convnext', unchanged);
    await refused(copy, 'tells the mean and std'); // not those of CLIP's ConvNeXts
    const other = await changed('transformers-dinov3-convnext', unchanged, (config) => ({
      ...config,
      hidden_act: 'relu',
    }));
    await refused(other, 'hidden_act', 'relu');
  });

  it.each([
    ['timm', 'vit_tiny_patch16_224', 192, 3],
    ['timmDinov3', 'vit_tiny_patch16_dinov3_qkvb', 192, 3],
    ['timmDinov3', 'vit_huge_plus_patch16_dinov3', 1280, 20],
  ] as const)("tells the heads of %s's %s by its width", async (spelling, architecture, width, heads) => {
    const folder = await changed('timm-vit', unchanged, () => ({ architecture }));
    expect(await readPlainConfig(folder, { spelling, width, gated: false })).toMatchObject({ heads });
  });

  it('refuses rotary positions that its files tell nothing of, and heads that have none', async () => {
    const of = (architecture: string) => (config: Config) => ({ ...config, architecture });
    await refused(
      await changed('timm-dinov3-gated', unchanged, of('vit_small_patch16_rope_224')),
      'has rotary positions not known here',
      'vit_small_patch16_rope_224',
    );
    for (const architecture of ['eva02_base_patch14_224', 'vit_medium_patch16_rope_reg1_gap_256', 'vit_pe_core_base'])
      await refused(await changed('timm-vit', unchanged, of(architecture)), 'has rotary positions not known here');
    const pooled = (config: Config) => ({ ...config, model_args: { num_heads: 3, global_pool: 'avg' } });
    await refused(await changed('timm-dinov3-gated', unchanged, pooled), 'pools its tokens');
    const narrow = (config: Config) => ({ ...config, model_args: { num_heads: 8 } });
    await refused(await changed('timm-dinov3-gated', unchanged, narrow), 'a head of this width', 'multiple of 4');
    const base = (config: Config) => ({ ...config, rope_theta: 0 });
    await refused(await changed('transformers-dinov3', unchanged, base), 'another ropeBase than a tower can have');
  });

  it('names tensors that are missing or unexpected', async () => {
    await refused(
      await changed('timm-dinov2-reg4', (tensors) => tensors.delete('blocks.1.ls2.gamma')),
      'missing: blocks.1.ls2.gamma',
    );
    await refused(
      await changed('transformers-dinov3', (tensors) => tensors.delete('layer.1.attention.q_proj.weight')),
      'missing: layer.1.attention.q_proj.weight',
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
