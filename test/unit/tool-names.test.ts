/**
 * The keys and shapes of other tools' state dicts, built here from those tools' own tables of layers, against the names
 * that an export gives.
 */
import { describe, expect, test } from 'vitest';
import { listStudents, studentGraph } from '../../lib/models/index.js';
import { toolNaming, toTool } from '../../lib/models/tools/convert.js';
import { tools, type Tool } from '../../lib/models/tools/naming.js';
import { isNamed, namingOf } from '../fixtures/student.js';

type Keys = Record<string, number[]>;

/** `tool student` of every export that was looked at. */
const seen = new Set<string>();

/** What is exported of a student: keys and shapes. */
function exported(tool: Tool, architecture: string, { widthMultiplier = 1, head = false } = {}): Keys {
  const graph = studentGraph(architecture, { embeddingSize: 8, widthMultiplier });
  const weights = Object.fromEntries(
    graph.parameters.map(({ name, shape }) => [
      name,
      { shape, data: new Float32Array(shape.reduce((a, b) => a * b, 1)) },
    ]),
  );
  seen.add(`${tool} ${architecture}`);
  const tensors = toTool(weights, graph, toolNaming(tool, { architecture, widthMultiplier, graph }), {
    head,
    batches: 3,
  });
  return Object.fromEntries([...tensors].map(([name, { shape }]) => [name, shape]));
}

const conv = (name: string, out: number, inputs: number, kernel: number, bias = false): Keys => ({
  [`${name}.weight`]: [out, inputs, kernel, kernel],
  ...(bias && { [`${name}.bias`]: [out] }),
});
const norm = (name: string, channels: number): Keys => ({
  ...Object.fromEntries(
    ['weight', 'bias', 'running_mean', 'running_var'].map((part) => [`${name}.${part}`, [channels]]),
  ),
  [`${name}.num_batches_tracked`]: [],
});
const divisible = (value: number): number => {
  const rounded = Math.max(8, Math.floor((value + 4) / 8) * 8);
  return rounded < 0.9 * value ? rounded + 8 : rounded;
};

/** timm's block strings (`ir_r2_k3_s2_e6_c24_se0.25`), decoded as its builder does. */
function timmMobile(
  stages: string[][],
  {
    stem,
    width = 1,
    depth = 1,
    seFromExpanded,
    roundSe,
    headChannels,
    rounded = divisible,
  }: {
    stem: number;
    width?: number;
    depth?: number;
    seFromExpanded: boolean;
    roundSe: (value: number) => number;
    headChannels?: number;
    /** Of scaled widths. */
    rounded?: (value: number) => number;
  },
): Keys {
  let channels = rounded(stem * width);
  const keys: Keys = { ...conv('conv_stem', channels, 3, 3), ...norm('bn1', channels) };
  stages.forEach((blocks, stage) => {
    let place = 0;
    for (const block of blocks) {
      const [kind, ...parts] = block.split('_');
      const value = (letter: string, fallback: number) =>
        Number(
          parts.find((part) => new RegExp(`^${letter}[\\d.]+$`, 'u').test(part))?.slice(letter.length) ?? fallback,
        );
      const [kernel, out, expansion, se] = [
        value('k', 3),
        rounded(value('c', 0) * width),
        value('e', 1),
        value('se', 0),
      ];
      for (let i = 0; i < Math.ceil(value('r', 1) * depth); i++, place++, channels = out) {
        const at = `blocks.${stage}.${place}`;
        const middle = kind === 'ir' ? divisible(channels * expansion) : channels;
        const squeezed = roundSe(middle * (seFromExpanded ? se : se / expansion));
        const excitation =
          se === 0
            ? {}
            : {
                ...conv(`${at}.se.conv_reduce`, squeezed, middle, 1, true),
                ...conv(`${at}.se.conv_expand`, middle, squeezed, 1, true),
              };
        if (kind === 'uir')
          Object.assign(keys, universal(at, channels, divisible(channels * expansion), out, value('a', 0), kernel));
        else if (kind === 'cn') Object.assign(keys, conv(`${at}.conv`, out, channels, kernel), norm(`${at}.bn1`, out));
        else if (kind === 'er') {
          const expanded = divisible(channels * expansion);
          Object.assign(
            keys,
            conv(`${at}.conv_exp`, expanded, channels, kernel),
            norm(`${at}.bn1`, expanded),
            conv(`${at}.conv_pwl`, out, expanded, 1),
            norm(`${at}.bn2`, out),
          );
        } else if (kind === 'ds')
          Object.assign(
            keys,
            conv(`${at}.conv_dw`, channels, 1, kernel),
            norm(`${at}.bn1`, channels),
            excitation,
            conv(`${at}.conv_pw`, out, channels, 1),
            norm(`${at}.bn2`, out),
          );
        else
          Object.assign(
            keys,
            conv(`${at}.conv_pw`, middle, channels, 1),
            norm(`${at}.bn1`, middle),
            conv(`${at}.conv_dw`, middle, 1, kernel),
            norm(`${at}.bn2`, middle),
            excitation,
            conv(`${at}.conv_pwl`, out, middle, 1),
            norm(`${at}.bn3`, out),
          );
      }
    }
  });
  return headChannels === undefined
    ? keys
    : { ...keys, ...conv('conv_head', headChannels, channels, 1), ...norm('bn2', headChannels) };
}

/**
 * timm's `uir` block: a depthwise convolution before the expansion, one behind it, each with a kernel of 0 left out.
 */
function universal(at: string, channels: number, middle: number, out: number, start: number, kernel: number): Keys {
  const part = (name: string, to: number, from: number, size: number) => ({
    ...conv(`${at}.${name}.conv`, to, from, size),
    ...norm(`${at}.${name}.bn`, to),
  });
  return {
    ...(start > 0 && part('dw_start', channels, 1, start)),
    ...part('pw_exp', middle, channels, 1),
    ...(kernel > 0 && part('dw_mid', middle, 1, kernel)),
    ...part('pw_proj', out, middle, 1),
  };
}

const v2 = [
  ['ds_r1_k3_s1_c16'],
  ['ir_r2_k3_s2_e6_c24'],
  ['ir_r3_k3_s2_e6_c32'],
  ['ir_r4_k3_s2_e6_c64'],
  ['ir_r3_k3_s1_e6_c96'],
  ['ir_r3_k3_s2_e6_c160'],
  ['ir_r1_k3_s1_e6_c320'],
];
const v3Large = [
  ['ds_r1_k3_s1_e1_c16'],
  ['ir_r1_k3_s2_e4_c24', 'ir_r1_k3_s1_e3_c24'],
  ['ir_r3_k5_s2_e3_c40_se0.25'],
  ['ir_r1_k3_s2_e6_c80', 'ir_r1_k3_s1_e2.5_c80', 'ir_r2_k3_s1_e2.3_c80'],
  ['ir_r2_k3_s1_e6_c112_se0.25'],
  ['ir_r3_k5_s2_e6_c160_se0.25'],
  ['cn_r1_k1_s1_c960'],
];
const v3Small = [
  ['ds_r1_k3_s2_e1_c16_se0.25'],
  ['ir_r1_k3_s2_e4.5_c24', 'ir_r1_k3_s1_e3.67_c24'],
  ['ir_r1_k5_s2_e4_c40_se0.25', 'ir_r2_k5_s1_e6_c40_se0.25'],
  ['ir_r2_k5_s1_e3_c48_se0.25'],
  ['ir_r3_k5_s2_e6_c96_se0.25'],
  ['cn_r1_k1_s1_c576'],
];
const v4Small = [
  ['cn_r1_k3_s2_e1_c32', 'cn_r1_k1_s1_e1_c32'],
  ['cn_r1_k3_s2_e1_c96', 'cn_r1_k1_s1_e1_c64'],
  ['uir_r1_a5_k5_s2_e3_c96', 'uir_r4_a0_k3_s1_e2_c96', 'uir_r1_a3_k0_s1_e4_c96'],
  [
    'uir_r1_a3_k3_s2_e6_c128',
    'uir_r1_a5_k5_s1_e4_c128',
    'uir_r1_a0_k5_s1_e4_c128',
    'uir_r1_a0_k5_s1_e3_c128',
    'uir_r2_a0_k3_s1_e4_c128',
  ],
  ['cn_r1_k1_s1_c960'],
];
const v4Medium = [
  ['er_r1_k3_s2_e4_c48'],
  ['uir_r1_a3_k5_s2_e4_c80', 'uir_r1_a3_k3_s1_e2_c80'],
  [
    'uir_r1_a3_k5_s2_e6_c160',
    'uir_r2_a3_k3_s1_e4_c160',
    'uir_r1_a3_k5_s1_e4_c160',
    'uir_r1_a3_k3_s1_e4_c160',
    'uir_r1_a3_k0_s1_e4_c160',
    'uir_r1_a0_k0_s1_e2_c160',
    'uir_r1_a3_k0_s1_e4_c160',
  ],
  [
    'uir_r1_a5_k5_s2_e6_c256',
    'uir_r1_a5_k5_s1_e4_c256',
    'uir_r2_a3_k5_s1_e4_c256',
    'uir_r1_a0_k0_s1_e4_c256',
    'uir_r1_a3_k0_s1_e4_c256',
    'uir_r1_a3_k5_s1_e2_c256',
    'uir_r1_a5_k5_s1_e4_c256',
    'uir_r2_a0_k0_s1_e4_c256',
    'uir_r1_a5_k0_s1_e2_c256',
  ],
  ['cn_r1_k1_s1_c960'],
];
const efficient = [
  ['ds_r1_k3_s1_e1_c16_se0.25'],
  ['ir_r2_k3_s2_e6_c24_se0.25'],
  ['ir_r2_k5_s2_e6_c40_se0.25'],
  ['ir_r3_k3_s2_e6_c80_se0.25'],
  ['ir_r3_k5_s1_e6_c112_se0.25'],
  ['ir_r4_k5_s2_e6_c192_se0.25'],
  ['ir_r1_k3_s1_e6_c320_se0.25'],
];
const efficientV2Small = [
  ['cn_r2_k3_s1_e1_c24_skip'],
  ['er_r4_k3_s2_e4_c48'],
  ['er_r4_k3_s2_e4_c64'],
  ['ir_r6_k3_s2_e4_c128_se0.25'],
  ['ir_r9_k3_s1_e6_c160_se0.25'],
  ['ir_r15_k3_s2_e6_c256_se0.25'],
];
const efficientV2Medium = [
  ['cn_r3_k3_s1_e1_c24_skip'],
  ['er_r5_k3_s2_e4_c48'],
  ['er_r5_k3_s2_e4_c80'],
  ['ir_r7_k3_s2_e4_c160_se0.25'],
  ['ir_r14_k3_s1_e6_c176_se0.25'],
  ['ir_r18_k3_s2_e6_c304_se0.25'],
  ['ir_r5_k3_s1_e6_c512_se0.25'],
];
const efficientV2Base = [
  ['cn_r1_k3_s1_e1_c16_skip'],
  ['er_r2_k3_s2_e4_c32'],
  ['er_r2_k3_s2_e4_c48'],
  ['ir_r3_k3_s2_e4_c96_se0.25'],
  ['ir_r5_k3_s1_e6_c112_se0.25'],
  ['ir_r8_k3_s2_e6_c192_se0.25'],
];
const scales: [name: string, width: number, depth: number][] = [
  ['efficientnet_b0', 1, 1],
  ['efficientnet_b1', 1, 1.1],
  ['efficientnet_b2', 1.1, 1.2],
  ['efficientnet_b3', 1.2, 1.4],
];

describe('timm', () => {
  test.each([0.35, 0.5, 0.75, 1, 1.4])('MobileNetV2 at width %s', (width) => {
    expect(exported('timm', 'mobilenet_v2', { widthMultiplier: width })).toEqual(
      timmMobile(v2, {
        stem: 32,
        width,
        seFromExpanded: false,
        roundSe: Math.round,
        headChannels: Math.max(1280, divisible(1280 * width)),
      }),
    );
  });
  test.each([
    ['mobilenet_v3_large', v3Large],
    ['mobilenet_v3_small', v3Small],
  ])('%s, as features_only has it', (name, stages) => {
    expect(exported('timm', name)).toEqual(timmMobile(stages, { stem: 16, seFromExpanded: true, roundSe: divisible }));
  });
  test.each([
    ['conv_small', 0.35, v4Small],
    ['conv_small', 0.5, v4Small],
    ['conv_small', 1, v4Small],
    ['conv_medium', 1, v4Medium],
  ] as const)('MobileNetV4 %s at width %s, whose last convolution comes after the pool', (variant, width, stages) => {
    const channels = divisible(960 * width);
    expect(exported('timm', `mobilenetv4_${variant}`, { widthMultiplier: width })).toEqual({
      ...timmMobile(stages, { stem: 32 / width, width, seFromExpanded: true, roundSe: Math.round }),
      ...conv('conv_head', 1280, channels, 1),
      ...norm('norm_head', 1280), // the stem is not scaled
    });
  });
  test.each(scales)('%s', (name, width, depth) => {
    expect(exported('timm', name)).toEqual(
      timmMobile(efficient, {
        stem: 32,
        width,
        depth,
        seFromExpanded: false,
        roundSe: Math.round,
        headChannels: divisible(1280 * width),
      }),
    );
  });
  test.each([
    ['efficientnet_v2_s', efficientV2Small],
    ['efficientnet_v2_m', efficientV2Medium],
  ])('%s', (name, stages) => {
    expect(exported('timm', name)).toEqual(
      timmMobile(stages, { stem: 24, seFromExpanded: false, roundSe: Math.round, headChannels: 1280 }),
    );
  });
  test.each(scales)('tf_%s in its second version, whose widths are never raised', (name, width, depth) => {
    const nearest = (value: number) => Math.floor((value + 4) / 8) * 8;
    expect(exported('timm', name.replace('efficientnet', 'tf_efficientnetv2'))).toEqual(
      timmMobile(efficientV2Base, {
        stem: 32,
        width,
        depth,
        seFromExpanded: false,
        roundSe: Math.round,
        headChannels: nearest(1280 * width),
        rounded: nearest,
      }),
    );
  });
  test('EfficientNet-Lite0', () => {
    expect(exported('timm', 'efficientnet_lite0')).toEqual(
      timmMobile(
        efficient.map((blocks) => blocks.map((block) => block.replace('_se0.25', ''))),
        { stem: 32, seFromExpanded: false, roundSe: Math.round, headChannels: 1280 },
      ),
    );
  });
  test.each([
    ['convnext_atto', [2, 2, 6, 2], [40, 80, 160, 320], true],
    ['convnext_femto', [2, 2, 6, 2], [48, 96, 192, 384], true],
    ['convnext_pico', [2, 2, 6, 2], [64, 128, 256, 512], true],
    ['convnext_nano', [2, 2, 8, 2], [80, 160, 320, 640], true],
    ['convnext_tiny', [3, 3, 9, 3], [96, 192, 384, 768], false],
  ] as const)('%s', (name, depths, dims, convMlp) => {
    const layerNorm = (at: string, channels: number): Keys => ({
      [`${at}.weight`]: [channels],
      [`${at}.bias`]: [channels],
    });
    const layer = (at: string, out: number, inputs: number): Keys => ({
      [`${at}.weight`]: convMlp ? [out, inputs, 1, 1] : [out, inputs],
      [`${at}.bias`]: [out],
    });
    const keys: Keys = { ...conv('stem.0', dims[0], 3, 4, true), ...layerNorm('stem.1', dims[0]) };
    depths.forEach((blocks, stage) => {
      const [channels, before] = [dims[stage]!, dims[stage - 1]];
      const at = `stages.${stage}`;
      if (before !== undefined)
        Object.assign(
          keys,
          layerNorm(`${at}.downsample.0`, before),
          conv(`${at}.downsample.1`, channels, before, 2, true),
        );
      for (let i = 0; i < blocks; i++)
        Object.assign(
          keys,
          { [`${at}.blocks.${i}.gamma`]: [channels] },
          conv(`${at}.blocks.${i}.conv_dw`, channels, 1, 7, true),
          layerNorm(`${at}.blocks.${i}.norm`, channels),
          layer(`${at}.blocks.${i}.mlp.fc1`, 4 * channels, channels),
          layer(`${at}.blocks.${i}.mlp.fc2`, channels, 4 * channels),
        );
    });
    expect(exported('timm', name)).toEqual({ ...keys, ...layerNorm('head.norm', dims[3]) });
  });
  test.each([
    ['tiny_patch16', 192, 16],
    ['small_patch16', 384, 16],
    ['small_patch32', 384, 32],
  ])('vision transformer %s', (variant, width, patch) => {
    const linear = (name: string, out: number, inputs: number): Keys => ({
      [`${name}.weight`]: [out, inputs],
      [`${name}.bias`]: [out],
    });
    const layerNorm = (name: string): Keys => ({ [`${name}.weight`]: [width], [`${name}.bias`]: [width] });
    const block = (i: number): Keys => ({
      ...layerNorm(`blocks.${i}.norm1`),
      ...linear(`blocks.${i}.attn.qkv`, 3 * width, width),
      ...linear(`blocks.${i}.attn.proj`, width, width),
      ...layerNorm(`blocks.${i}.norm2`),
      ...linear(`blocks.${i}.mlp.fc1`, 4 * width, width),
      ...linear(`blocks.${i}.mlp.fc2`, width, 4 * width),
    });
    expect(exported('timm', `vit_${variant}_224`)).toEqual({
      cls_token: [1, 1, width],
      pos_embed: [1, 1 + (224 / patch) ** 2, width],
      ...conv('patch_embed.proj', width, 3, patch, true),
      ...Object.assign({}, ...Array.from({ length: 12 }, (_, i) => block(i))),
      ...layerNorm('norm'),
    });
    expect(exported('timm', `vit_${variant}_224`, { head: true })['head.2.weight']).toEqual([8, width]);
  });
  test('a head stands in the place of the classifier', () => {
    const keys = exported('timm', 'efficientnet_b0', { head: true });
    expect(Object.entries(keys).filter(([name]) => name.startsWith('classifier'))).toEqual([
      ['classifier.0.weight', [1280, 1280]],
      ['classifier.0.bias', [1280]],
      ['classifier.2.weight', [8, 1280]],
      ['classifier.2.bias', [8]],
    ]);
    expect(exported('timm', 'resnet18', { head: true })['fc.2.weight']).toEqual([8, 512]);
    expect(exported('timm', 'convnext_atto', { head: true })['head.fc.2.weight']).toEqual([8, 320]);
    expect(exported('timm', 'mobilenetv4_conv_small', { head: true })['classifier.0.weight']).toEqual([1280, 1280]);
  });
});

/**
 * ResNet of basic blocks or of bottlenecks; `names` gives a block's convolutions and norms, and those of the stem, as a
 * tool calls them.
 */
function resnet(
  blocks: number[],
  expansion: 1 | 4,
  names: {
    stem: [string, string];
    block: (stage: number, place: number, part: 'conv1' | 'conv2' | 'conv3' | 'shortcut') => [string, string];
  },
): Keys {
  const keys: Keys = { ...conv(names.stem[0], 64, 3, 7), ...norm(names.stem[1], 64) };
  let inputs = 64;
  blocks.forEach((count, stage) => {
    for (let place = 0; place < count; place++) {
      const middle = 64 * 2 ** stage;
      const out = expansion * middle;
      const add = (part: 'conv1' | 'conv2' | 'conv3' | 'shortcut', to: number, from: number, kernel: number) => {
        const [convolution, its] = names.block(stage, place, part);
        Object.assign(keys, conv(convolution, to, from, kernel), norm(its, to));
      };
      add('conv1', middle, inputs, expansion === 1 ? 3 : 1);
      add('conv2', middle, middle, 3);
      if (expansion === 4) add('conv3', out, middle, 1);
      if (inputs !== out) add('shortcut', out, inputs, 1);
      inputs = out;
    }
  });
  return keys;
}

describe.each([
  ['resnet18', [2, 2, 2, 2], 1],
  ['resnet34', [3, 4, 6, 3], 1],
  ['resnet50', [3, 4, 6, 3], 4],
] as [string, number[], 1 | 4][])('%s', (name, blocks, expansion) => {
  const plain = (prefix: string) =>
    resnet(blocks, expansion, {
      stem: [`${prefix}conv1`, `${prefix}bn1`],
      block: (stage, place, part) =>
        ['conv', 'bn'].map(
          (kind, i) =>
            `${prefix}layer${stage + 1}.${place}.${part === 'shortcut' ? `downsample.${i}` : `${kind}${part.slice(-1)}`}`,
        ) as [string, string],
    });
  test.each([
    ['torchvision', ''],
    ['timm', ''],
    ['mmdet', 'backbone.'],
    ['mmseg', 'backbone.'],
  ] as const)('in %s', (tool, prefix) => {
    expect(exported(tool, name)).toEqual(plain(prefix));
  });
  test('in detectron2', () => {
    expect(exported('detectron2', name)).toEqual(
      resnet(blocks, expansion, {
        stem: ['stem.conv1', 'stem.conv1.norm'],
        block: (stage, place, part) => [`res${stage + 2}.${place}.${part}`, `res${stage + 2}.${place}.${part}.norm`],
      }),
    );
  });
});

const module = (name: string, out: number, inputs: number, kernel: number): Keys => ({
  ...conv(`backbone.${name}.conv`, out, inputs, kernel),
  ...norm(`backbone.${name}.bn`, out),
});
const gate = (name: string, channels: number, squeezed: number): Keys => ({
  ...conv(`backbone.${name}.se.conv1.conv`, squeezed, channels, 1, true),
  ...conv(`backbone.${name}.se.conv2.conv`, channels, squeezed, 1, true),
});

/** MMDetection's InvertedResidual: expand_conv where channels grow, depthwise_conv, se, linear_conv. */
function inverted(name: string, inputs: number, middle: number, out: number, kernel: number, squeezed = 0): Keys {
  return {
    ...(middle !== inputs && module(`${name}.expand_conv`, middle, inputs, 1)),
    ...module(`${name}.depthwise_conv`, middle, 1, kernel),
    ...(squeezed > 0 && gate(name, middle, squeezed)),
    ...module(`${name}.linear_conv`, out, middle, 1),
  };
}

describe('mmdet and mmseg', () => {
  // expansion, channels, blocks
  const settings = [
    [1, 16, 1],
    [6, 24, 2],
    [6, 32, 3],
    [6, 64, 4],
    [6, 96, 3],
    [6, 160, 3],
    [6, 320, 1],
  ] as const;
  test.each([0.35, 1, 1.4])('MobileNetV2 at width %s', (width) => {
    const [detection, segmentation]: [Keys, Keys] = [{}, {}];
    let inputs = divisible(32 * width);
    for (const keys of [detection, segmentation]) Object.assign(keys, module('conv1', inputs, 3, 3));
    settings.forEach(([expansion, base, count], stage) => {
      for (let place = 0; place < count; place++) {
        const [name, out, middle] = [`layer${stage + 1}.${place}`, divisible(base * width), inputs * expansion];
        Object.assign(detection, inverted(name, inputs, middle, out, 3));
        const first = expansion === 1 ? 0 : 1;
        Object.assign(
          segmentation,
          first === 1 && module(`${name}.conv.0`, middle, inputs, 1),
          module(`${name}.conv.${first}`, middle, 1, 3),
          module(`${name}.conv.${first + 1}`, out, middle, 1),
        );
        inputs = out;
      }
    });
    Object.assign(detection, module('conv2', width > 1 ? Math.trunc(1280 * width) : 1280, inputs, 1));
    expect(exported('mmdet', 'mobilenet_v2', { widthMultiplier: width })).toEqual(detection);
    expect(exported('mmseg', 'mobilenet_v2', { widthMultiplier: width })).toEqual(segmentation);
  });

  const blocks = {
    // kernel, middle, out, squeeze and excitation
    small: [
      [3, 16, 16, 1],
      [3, 72, 24, 0],
      [3, 88, 24, 0],
      [5, 96, 40, 1],
      [5, 240, 40, 1],
      [5, 240, 40, 1],
      [5, 120, 48, 1],
      [5, 144, 48, 1],
      [5, 288, 96, 1],
      [5, 576, 96, 1],
      [5, 576, 96, 1],
    ],
    large: [
      [3, 16, 16, 0],
      [3, 64, 24, 0],
      [3, 72, 24, 0],
      [5, 72, 40, 1],
      [5, 120, 40, 1],
      [5, 120, 40, 1],
      [3, 240, 80, 0],
      [3, 200, 80, 0],
      [3, 184, 80, 0],
      [3, 184, 80, 0],
      [3, 480, 112, 1],
      [3, 672, 112, 1],
      [5, 672, 160, 1],
      [5, 960, 160, 1],
      [5, 960, 160, 1],
    ],
  } as const;
  test.each(['small', 'large'] as const)('MobileNetV3 %s in mmseg', (size) => {
    const keys = module('layer0', 16, 3, 3);
    let inputs = 16;
    blocks[size].forEach(([kernel, middle, out, se], i) => {
      Object.assign(
        keys,
        inverted(`layer${i + 1}`, inputs, middle, out, kernel, se * divisible(Math.floor(middle / 4))),
      );
      inputs = out;
    });
    Object.assign(keys, module(`layer${blocks[size].length + 1}`, 6 * inputs, inputs, 1));
    expect(exported('mmseg', `mobilenet_v3_${size}`)).toEqual(keys);
  });

  test.each(scales)('%s in mmdet: stages at one resolution are one layer', (name, width, depth) => {
    // kernel, channels, expansion, blocks
    const stages = [
      [3, 16, 1, 1],
      [3, 24, 6, 2],
      [5, 40, 6, 2],
      [3, 80, 6, 3],
      [5, 112, 6, 3],
      [5, 192, 6, 4],
      [3, 320, 6, 1],
    ] as const;
    const layerOf = [1, 2, 3, 4, 4, 5, 5];
    const filled = [0, 0, 0, 0, 0, 0];
    let inputs = divisible(32 * width);
    const keys = module('layers.0', inputs, 3, 3);
    stages.forEach(([kernel, base, expansion, count], stage) => {
      for (let i = 0; i < Math.ceil(count * depth); i++) {
        const [layer, out, middle] = [layerOf[stage]!, divisible(base * width), inputs * expansion];
        Object.assign(
          keys,
          inverted(
            `layers.${layer}.${filled[layer]!++}`,
            inputs,
            middle,
            out,
            kernel,
            Math.trunc(middle / (4 * expansion)),
          ),
        );
        inputs = out;
      }
    });
    Object.assign(keys, module('layers.6', divisible(1280 * width), inputs, 1));
    expect(exported('mmdet', name)).toEqual(keys);
  });
});

test('each student that a tool has is held to one of these tables', () => {
  const supported = tools.flatMap((tool) =>
    listStudents()
      .filter((architecture) => isNamed(tool, architecture))
      .map((architecture) => `${tool} ${architecture}`),
  );
  // torchvision's keys are those of the graph, which models.test.ts holds to PyTorch
  expect(
    supported.filter((which) => !which.startsWith('torchvision ') && !seen.has(which)),
    'write a test of the keys, or let the tool lack the family',
  ).toEqual([]);
});

test.each(tools)('no two students have one name in %s', (tool) => {
  const named = listStudents().filter((architecture) => isNamed(tool, architecture));
  const names = named.map((architecture) => {
    const { model, options } = namingOf(tool, architecture);
    return JSON.stringify([model, options]);
  });
  expect(new Set(names).size, named.map((name, i) => `${name}: ${names[i]}`).join('\n')).toBe(named.length);
});

test.each([
  ['timm', 'mobilenet_v2', 0.6, 'torchvision, mmdet, mmseg'],
  ['timm', 'mobilenet_v3_small', 0.75, 'torchvision'],
  ['mmdet', 'mobilenet_v3_large', 1, 'torchvision, timm, mmseg'],
  ['mmdet', 'mobilenet_v2', 1.003, 'torchvision, mmseg'],
  ['mmseg', 'efficientnet_b0', 1, 'torchvision, timm, mmdet'],
  ['mmseg', 'mobilenet_v3_small', 0.75, 'torchvision'],
  ['torchvision', 'mobilenetv4_conv_small', 1, 'timm'],
  ['timm', 'mobilenetv4_conv_small', 1.4, ''],
  ['timm', 'mobilenetv4_conv_medium', 0.5, ''],
  ['mmseg', 'mobilenetv4_conv_small', 0.5, 'timm'],
  ['detectron2', 'mobilenet_v2', 1, 'torchvision, timm, mmdet, mmseg'],
  ['detectron2', 'mobilenet_v3_small', 1, 'torchvision, timm, mmseg'],
  ['detectron2', 'efficientnet_b3', 1, 'torchvision, timm, mmdet'],
] as const)(
  '%s has no %s at width %s, and that is said with the tools that have: %s',
  (tool, name, widthMultiplier, others) => {
    expect(() => exported(tool, name, { widthMultiplier })).toThrowError(
      expect.objectContaining({
        code: 'BAD_OPTION',
        option: 'to',
        found: widthMultiplier === 1 ? name : `${name} x ${widthMultiplier}`,
        allowed: expect.any(String) as unknown,
        mend: `Export it to ${others === '' ? '' : `${others} or `}onnx`,
      }),
    );
    for (const other of others.split(', ').filter(Boolean))
      expect(() => exported(other as Tool, name, { widthMultiplier })).not.toThrow();
  },
);
