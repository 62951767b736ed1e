import { copyFileSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import type { Device } from '../../lib/device.js';
import { readSafetensors, writeSafetensors, type TensorRecord } from '../../lib/files/safetensors.js';
import { CompiledEncoder } from '../../lib/models/compiled.js';
import { GraphBuilder, loadTeacher, OnnxTeacher, type NativeTeacher, type Precision } from '../../lib/models/index.js';
import { readWeights } from '../../lib/models/teachers/naming.js';
import { findTextTower } from '../../lib/models/teachers/towers.js';
import { openWeights } from '../../lib/models/teachers/weight-files.js';
import { devicesUnderTest } from '../devices.js';
import { agree, refusedTeacher } from '../fixtures/embeddings.js';
import { relativeError } from '../fixtures/encoder-vectors.js';
import { temporaryFolder } from '../fixtures/folder.js';

// Models of random weights as PyTorch stores and computes them: test/vectors/towers/make_towers.py, make_perception.py.
const towers = fileURLToPath(new URL('../vectors/towers', import.meta.url));
const devices = await devicesUnderTest('towers of teachers');

async function load(source: string, device: Device, precision?: Precision): Promise<NativeTeacher> {
  const teacher = await loadTeacher(source, { device, batch: 2, precision });
  if (teacher.kind !== 'native') throw new Error(`loaded a ${teacher.kind} teacher`);
  return teacher;
}

async function vectorsOf(
  name: string,
): Promise<{ tensors: Map<string, TensorRecord>; metadata: Record<string, string> }> {
  return readSafetensors(join(towers, name, 'vectors.safetensors'));
}

const images = [
  ['openai-vit', 'ViT', 32, 24, [0.48145466, 0.4578275, 0.40821073]],
  ['open-clip-vit', 'ViT', 24, 16, [0.1, 0.2, 0.3]],
  ['openai-resnet', 'ModifiedResNet', 64, 24, [0.48145466, 0.4578275, 0.40821073]],
  ['transformers-clip', 'ViT', 30, 20, [0.48, 0.46, 0.41]],
  ['siglip', 'SigLIP', 24, 32, [0.5, 0.5, 0.5]],
  ['open-clip-convnext', 'ConvNeXt', 44, 24, [0.1, 0.2, 0.3]],
  ['open-clip-convnext-mlp', 'ConvNeXt', 44, 24, [0.1, 0.2, 0.3]],
  ['open-clip-perception', 'Perception Encoder', 16, 24, [0.5, 0.5, 0.5]],
] as const;
const texts = [
  'openai-vit',
  'open-clip-vit',
  'openai-resnet',
  'transformers-clip',
  'siglip',
  'open-clip-convnext',
  'open-clip-perception',
] as const;

describe.each(devices)('on $name', ({ device }) => {
  const precisions = device.info.precisions;

  describe.each(precisions)('in %s', (precision) => {
    it.each(images)(
      'embeds images with %s as PyTorch does',
      async (name, architecture, resolution, embeddingSize, mean) => {
        const { tensors } = await vectorsOf(name);
        const teacher = await load(join(towers, name), device, precision);
        expect(teacher).toMatchObject({ architecture, resolution, embeddingSize, mean });
        const found = await teacher.embed(tensors.get('pixels')!.data as Float32Array, 2);
        agree(found, tensors.get('image_embeds')!.data as Float32Array, { size: embeddingSize, device, precision });
        await teacher.dispose();
      },
      300_000,
    );

    it.each(texts)(
      'embeds texts with %s as PyTorch does, at any length of plan',
      async (name) => {
        const { tensors, metadata } = await vectorsOf(name);
        const {
          shape: [count = 0, length = 0],
          data,
        } = tensors.get('ids')!;
        const files = readdirSync(join(towers, name))
          .filter((file) => file.endsWith('model.safetensors') || file.endsWith('.index.json'))
          .map((file) => join(towers, name, file));
        const reader = await openWeights(files);
        const tower = (await findTextTower(reader.shapes, join(towers, name)))!;
        const graph = tower.graph(Number(metadata['end']));
        using encoder = new CompiledEncoder(device, graph, {
          batch: count,
          resolution: length,
          width: 1,
          precision,
          training: false,
        });
        encoder.load(await readWeights(reader, graph, tower.naming, name));
        await reader.close();
        const digits = new Float32Array(count * 3 * length);
        (data as BigInt64Array).forEach(
          (id, i) => (digits[Math.floor(i / length) * 3 * length + (i % length)] = Number(id)),
        );
        const ids = encoder.makeImages();
        device.addon.writeImages(ids, digits);
        encoder.forwardTensor(ids);
        agree(await device.addon.readTensor(encoder.output), tensors.get('text_embeds')!.data as Float32Array, {
          size: tower.embeddingSize,
          device,
          precision,
        });
        device.addon.release(ids);
      },
      300_000,
    );
  });

  it('refuses to train through a text tower, and says where', () => {
    const g = new GraphBuilder('text');
    const tables = { word: 'word', position: 'position', words: 9, positions: 7, channels: 8 };
    const graph = g.finish(g.endToken(g.words(g.images, tables), g.images, 3));
    expect(
      () => new CompiledEncoder(device, graph, { batch: 2, resolution: 7, width: 1, training: true }),
    ).toThrowError(
      expect.objectContaining({
        code: 'BAD_MODEL',
        message: expect.stringContaining('has no backward') as string,
      }) as Error,
    );
  });
});

describe('against its ONNX export', () => {
  it('gives the embeddings that onnxruntime gives', async () => {
    const { device } = devices.find(({ name }) => name === 'cpu') ?? devices[0]!;
    const folder = join(towers, 'open-clip-vit');
    const pixels = (await vectorsOf('open-clip-vit')).tensors.get('pixels')!.data as Float32Array;
    const onnx = await OnnxTeacher.load(join(folder, 'tower.onnx'), {
      resolution: 24,
      mean: [0, 0, 0],
      std: [1, 1, 1],
    });
    const teacher = await load(folder, device, 'float32');
    expect(relativeError(await teacher.embed(pixels, 2), await onnx.embed(pixels, 2))).toBeLessThan(1e-5);
    await teacher.dispose();
    await onnx.dispose();
  });
});

describe('loading towers', () => {
  const folder = temporaryFolder();
  const { device } = devices[0]!;

  /** A model's copy whose tensors are changed. */
  async function changed(
    from: string,
    to: string,
    change: (tensors: Map<string, TensorRecord>) => void,
  ): Promise<string> {
    const path = join(folder, to);
    mkdirSync(path);
    for (const file of readdirSync(join(towers, from))) {
      if (file === 'vectors.safetensors' || file.endsWith('.onnx')) continue;
      if (!file.endsWith('.safetensors')) {
        copyFileSync(join(towers, from, file), join(path, file));
        continue;
      }
      const { tensors } = await readSafetensors(join(towers, from, file));
      change(tensors);
      await writeSafetensors(join(path, file), tensors, {});
    }
    return path;
  }

  const refused = (source: string, ...parts: string[]) => refusedTeacher(source, device, parts);

  it('counts the blocks that are there, whatever their numbers', async () => {
    for (const model of ['openai-vit', 'openai-resnet', 'siglip']) {
      const path = await changed(model, `${model} of many blocks`, (tensors) => {
        const name = [...tensors.keys()].find((key) => /\bvi.*\.\d+\./u.test(key))!;
        tensors.set(name.replace(/\.\d+\./u, '.999999999.'), { shape: [1], data: new Float32Array(1) });
      });
      await refused(path, 'unexpected:', '999999999');
    }
  });

  it('names the first few tensors that are missing, unexpected or of another shape', async () => {
    await refused(
      await changed('siglip', 'missing', (tensors) => {
        for (const name of [...tensors.keys()].filter((key) => key.includes('mlp.fc2'))) tensors.delete(name);
      }),
      'missing: vision_model.encoder.layers.0.mlp.fc2.weight',
      'and 3 more',
    );
    await refused(
      await changed('openai-vit', 'unexpected', (tensors) =>
        tensors.set('visual.attn_pool.query', { shape: [1], data: new Float32Array(1) }),
      ),
      'unexpected: visual.attn_pool.query',
    );
    await refused(
      await changed('transformers-clip', 'misshapen', (tensors) => {
        if (tensors.has('vision_model.post_layernorm.bias'))
          tensors.set('vision_model.post_layernorm.bias', { shape: [3], data: new Float32Array(3) });
      }),
      'of another shape: vision_model.post_layernorm.bias [3] instead of [48]',
    );
  });

  it("names the folder of a model's file", async () => {
    const path = join(towers, 'siglip');
    await refused(join(path, 'model.safetensors'), 'neither embeddings nor a student', path);
  });

  it('believes the configuration about how many blocks there are', async () => {
    const path = await changed('transformers-clip', 'cut', (tensors) => {
      for (const name of [...tensors.keys()].filter((key) => key.startsWith('vision_model.encoder.layers.1.')))
        tensors.delete(name);
    });
    await refused(path, 'missing: vision_model.encoder.layers.1.layer_norm1.weight');
  });

  it('says what a file holds that is no tower, and takes an ONNX export beside it instead', async () => {
    const path = await changed('siglip', 'other', (tensors) => {
      for (const [name, tensor] of [...tensors]) {
        tensors.delete(name);
        tensors.set(`backbone.${name}`, tensor);
      }
    });
    await refused(path, 'no image tower', "without 'backbone.'");
    copyFileSync(join(towers, 'open-clip-vit', 'tower.onnx'), join(path, 'vision_model.onnx'));
    await expect(loadTeacher(path, { device, resolution: 24, mean: [0, 0, 0], std: [1, 1, 1] })).resolves.toMatchObject(
      { kind: 'onnx' },
    );
    await expect(loadTeacher(path, { device, resolution: 23, mean: [0, 0, 0], std: [1, 1, 1] })).rejects.toMatchObject({
      code: 'BAD_MODEL',
      mend: expect.stringContaining('--teacher-resolution') as string,
    });
  });

  it('names a shard that is not there, and an index that is none', async () => {
    const path = await changed('transformers-clip', 'shards', () => undefined);
    const index = join(path, 'model.safetensors.index.json');
    writeFileSync(index, readFileSync(index, 'utf8').replaceAll('model-00002-of-00002', 'model-00003-of-00003'));
    await refused(path, 'model-00003-of-00003.safetensors');
    for (const map of [
      '{"a": "../a.safetensors"}',
      '{"a": ".."}',
      '{"a": "/etc/passwd"}',
      '{"a": "config.json"}',
      '{"a": 3}',
    ]) {
      writeFileSync(index, `{"weight_map": ${map}}`);
      await refused(path, 'something else than safetensors files in its folder');
    }
    for (const text of [
      '{}',
      'null',
      '{"weight_map": "config.json"}',
      '{"weight_map": ["model-00001-of-00002.safetensors"]}',
    ]) {
      writeFileSync(index, text);
      await refused(path, 'no weight_map');
    }
  });

  it('refuses pooling, activations and a configuration that it does not know', async () => {
    const path = await changed('open-clip-vit', 'pooling', () => undefined);
    const file = join(path, 'open_clip_config.json');
    const config = readFileSync(file, 'utf8');
    writeFileSync(file, config.replace('"head_width": 16', '"head_width": 16, "pool_type": "avg"'));
    await refused(path, 'pools its tokens');
    writeFileSync(file, 'no JSON');
    await refused(path, 'is not JSON');
    const other = await changed('transformers-clip', 'activation', () => undefined);
    writeFileSync(
      join(other, 'config.json'),
      readFileSync(join(other, 'config.json'), 'utf8').replaceAll('"gelu"', '"mish"'),
    );
    await refused(other, 'activation');
  });

  /** The configuration of a model's copy is another. */
  function configure(path: string, file: string, change: (config: Config) => object): void {
    writeFileSync(
      join(path, file),
      JSON.stringify(change(JSON.parse(readFileSync(join(path, file), 'utf8')) as Config)),
    );
  }

  it('takes layers of a ConvNeXt that are stored as convolutions, and no other kinds of it', async () => {
    const convNext = (name: string, change: (tensors: Map<string, TensorRecord>) => void) =>
      changed('open-clip-convnext', name, change);
    const path = await convNext('conv mlp', (tensors) => {
      for (const [name, { shape, data }] of [...tensors])
        if (/trunk.*mlp\.fc\d\.weight$/u.test(name)) tensors.set(name, { shape: [...shape, 1, 1], data });
    });
    await using teacher = await load(path, device, 'float32');
    const { tensors } = await vectorsOf('open-clip-convnext');
    const found = await teacher.embed(tensors.get('pixels')!.data as Float32Array, 2);
    agree(found, tensors.get('image_embeds')!.data as Float32Array, { size: 24, device, precision: 'float32' });

    await using larger = await loadTeacher(path, { device, batch: 2, resolution: 61 });
    expect(larger).toMatchObject({ resolution: 61, embeddingSize: 24 });
    await expect(loadTeacher(path, { device, resolution: 31 })).rejects.toMatchObject({
      code: 'BAD_OPTION',
      option: 'resolution',
    });

    const grn = 'visual.trunk.stages.0.blocks.0.mlp.grn.weight'; // of ConvNeXt V2
    await refused(
      await convNext('grn', (all) => all.set(grn, { shape: [32], data: new Float32Array(32) })),
      `unexpected: ${grn}`,
    );
    await refused(
      await convNext('short', (all) => void all.delete('visual.trunk.stages.3.blocks.0.conv_dw.weight')),
      'these sizes make no ConvNeXt',
    );
    configure(path, 'open_clip_config.json', ({ model_cfg, ...others }) => ({
      ...others,
      model_cfg: { ...model_cfg, vision_cfg: {} },
    }));
    await refused(path, 'tells the size of the images', 'open_clip_config.json');
    await expect(loadTeacher(path, { device, resolution: 44 })).resolves.toMatchObject({ resolution: 44 });
    configure(path, 'open_clip_config.json', ({ model_cfg, ...others }) => ({
      ...others,
      model_cfg: { ...model_cfg, vision_cfg: { image_size: 16 } },
    }));
    await refused(path, 'these sizes make no ConvNeXt');
    for (const pool of ['max', 'avgmax']) {
      configure(path, 'open_clip_config.json', ({ model_cfg, ...others }) => ({
        ...others,
        model_cfg: { ...model_cfg, vision_cfg: { image_size: 44, timm_pool: pool } },
      }));
      await refused(path, 'pools its map', 'timm_pool', pool);
    }
  });

  it('takes a Perception Encoder without a class token, and no tower of another name for one', async () => {
    const path = await changed('open-clip-perception', 'no class token', (tensors) => {
      tensors.delete('visual.trunk.cls_token');
      const { data } = tensors.get('visual.trunk.pos_embed')!;
      tensors.set('visual.trunk.pos_embed', { shape: [1, 16, 48], data: (data as Float32Array).slice(48) });
    });
    await using teacher = await load(path, device, 'float32');
    const { tensors } = await vectorsOf('open-clip-perception');
    const found = await teacher.embed(tensors.get('pixels')!.data as Float32Array, 2);
    const expected = tensors.get('image_embeds_without_class')!.data as Float32Array;
    agree(found, expected, { size: 24, device, precision: 'float32' });

    const file = 'open_clip_config.json';
    const named = (name: unknown, pool = 'map') =>
      configure(path, file, ({ model_cfg, ...others }) => ({
        ...others,
        model_cfg: { ...model_cfg, vision_cfg: { ...model_cfg?.vision_cfg, timm_model_name: name, timm_pool: pool } },
      }));
    named('vit_pe_core_base_patch16_224', 'avg');
    await refused(path, 'pools its map', 'avg');
    for (const name of ['vit_pe_spatial_base_patch16_512', 'eva02_base_patch16_clip_224', 3, undefined]) {
      named(name);
      await refused(path, 'rotary positions not known here', 'vit_pe_core_');
    }
  });

  it("takes open_clip's approximate GELU, and no other setting of an activation", async () => {
    const path = await changed('open-clip-vit', 'tanh', () => undefined);
    const own = (act: unknown, more = {}) =>
      configure(path, 'open_clip_config.json', ({ model_cfg, ...others }) => ({
        ...others,
        model_cfg: { ...model_cfg, ...more, vision_cfg: { ...model_cfg?.vision_cfg, act_kwargs: act } },
      }));
    for (const [act, kind] of [
      [{ approximate: 'tanh' }, 'geluTanh'],
      [{ approximate: 'none' }, 'gelu'],
      [null, 'gelu'],
    ] as const) {
      own(act);
      const teacher = await load(path, device);
      expect(
        new Set(
          teacher.graph.nodes.filter(({ op }) => op === 'activation').map(({ attributes }) => attributes?.['kind']),
        ),
      ).toEqual(new Set([kind]));
      await teacher.dispose();
    }
    own({ approximate: 'erf' });
    await refused(path, 'model_cfg.vision_cfg.act_kwargs', 'an activation not known here');
    own({ negative_slope: 0.1 });
    await refused(path, 'negative_slope');
    own({ approximate: 'tanh' }, { quick_gelu: true });
    await refused(path, 'without quick_gelu');
  });

  it.each(['ls_1.gamma', 'attn.ln_q.weight', 'attn.head_scale'])(
    'refuses blocks that are built in another way by their tensors: %s',
    async (tensor) => {
      const path = await changed('open-clip-vit', tensor, (tensors) => {
        if (tensors.has('visual.conv1.weight'))
          tensors.set(`visual.transformer.resblocks.0.${tensor}`, { shape: [1], data: new Float32Array(1) });
      });
      await refused(path, `unexpected: visual.transformer.resblocks.0.${tensor}`);
    },
  );

  it('refuses sizes that no tower has, which would make a graph without end, and channel statistics that are none', async () => {
    const path = await changed('siglip', 'sizes', () => undefined);
    const whole = JSON.parse(readFileSync(join(path, 'config.json'), 'utf8')) as Config;
    for (const [field, name, value] of [
      ['num_hidden_layers', 'layers', 2 ** 31],
      ['num_hidden_layers', 'layers', '2'],
      ['num_attention_heads', 'heads', 0],
      ['image_size', 'imageSize', 1e9],
      ['layer_norm_eps', 'eps', -1],
    ] as const) {
      configure(path, 'config.json', () => ({ ...whole, vision_config: { ...whole.vision_config, [field]: value } }));
      await refused(path, `another ${name} than a tower can have`);
    }
    for (const wrong of [[], { ...whole, vision_config: 'siglip' }]) {
      configure(path, 'config.json', () => wrong);
      await refused(path, 'is no configuration of a model');
    }
    configure(path, 'config.json', () => ({
      ...whole,
      model_type: ['siglip'],
      vision_config: {
        ...whole.vision_config,
        hidden_act: 'gelu_pytorch_tanh',
        layer_norm_eps: 1e-6,
        num_attention_heads: 2,
      },
    }));
    await (await load(path, device)).dispose();
    const other = await changed('open-clip-vit', 'statistics', () => undefined);
    const own = JSON.parse(readFileSync(join(other, 'open_clip_config.json'), 'utf8')) as object;
    for (const statistics of [{ std: [0.5, 0, 0.5] }, { mean: [0.5, 0.5] }, { mean: '0.5' }]) {
      configure(other, 'open_clip_config.json', () => ({ ...own, preprocess_cfg: statistics }));
      await refused(other, 'than a tower can have');
    }
  });

  it('takes the sections of the older names, as transformers does', async () => {
    const path = await changed('transformers-clip', 'dictionaries', () => undefined);
    configure(path, 'config.json', (config) => ({
      ...config,
      vision_config_dict: config.vision_config,
      vision_config: { ...config.vision_config, hidden_act: 'relu', num_attention_heads: 1 },
    }));
    const [own, other] = [await load(join(towers, 'transformers-clip'), device), await load(path, device)];
    expect(await other.fingerprint()).toBe(await own.fingerprint());
    await Promise.all([own.dispose(), other.dispose()]);
  });

  it('refuses weights without the configuration that tells their activation', async () => {
    for (const [from, config] of [
      ['transformers-clip', 'config.json'],
      ['siglip', 'config.json'],
      ['open-clip-vit', 'open_clip_config.json'],
    ] as const) {
      const path = await changed(from, `${from}-alone`, () => undefined);
      rmSync(join(path, config));
      await refused(path, config);
    }
  });

  it('refuses a text tower without a causal mask, and takes the image tower beside it', async () => {
    const path = await changed('open-clip-vit', 'both-ways', () => undefined);
    configure(path, 'open_clip_config.json', ({ model_cfg, ...others }) => ({
      ...others,
      model_cfg: { ...model_cfg, text_cfg: { ...model_cfg?.text_cfg, no_causal_mask: true } },
    }));
    const reader = await openWeights([join(path, 'open_clip_model.safetensors')]);
    await expect(findTextTower(reader.shapes, path)).rejects.toMatchObject({
      code: 'BAD_MODEL',
      option: 'model_cfg.text_cfg.no_causal_mask',
    });
    await reader.close();
    await (await load(path, device)).dispose();
  });

  it('takes mean and std of SigLIP from its files', async () => {
    const path = await changed('siglip', 'other-mean', () => undefined);
    writeFileSync(
      join(path, 'preprocessor_config.json'),
      JSON.stringify({ size: { height: 24, width: 24 }, image_mean: [0.1, 0.2, 0.3], image_std: [0.4, 0.5, 0.6] }),
    );
    const teacher = await load(path, device);
    expect(teacher).toMatchObject({ mean: [0.1, 0.2, 0.3], std: [0.4, 0.5, 0.6] });
    await teacher.dispose();
  });
});

interface Config {
  vision_config?: object;
  model_cfg?: { vision_cfg?: object; text_cfg?: object };
}
