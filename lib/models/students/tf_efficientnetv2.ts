/**
 * EfficientNetV2 B0 to B3: Tan and Le, "EfficientNetV2: smaller models and faster training", ICML 2021, table 10, scaled
 * as EfficientNet's. torchvision has none: names and start values are timm's, padding and eps with it TensorFlow's, so
 * that its checkpoints compute here what they were trained to; dropout and stochastic depth are those of the original
 * training.
 */
import { GraphBuilder, type Activation, type ConvOptions, type GraphSpec, type Value } from '../graph.js';
import { withHead, type StudentDefinition, type StudentOptions } from './definition.js';
import { stochasticDepth } from './efficientnet.js';
import { fused, inverted, type StageV2 } from './efficientnet_v2.js';
import { classifier, convNorm, squeezeExcite } from './timm.js';

const stages = [
  fused(1, 1, 16, 1),
  fused(4, 2, 32, 2),
  fused(4, 2, 48, 2),
  inverted(4, 2, 96, 3),
  inverted(6, 1, 112, 5),
  inverted(6, 2, 192, 8),
];

interface Scale {
  width: number;
  depth: number;
  dropout: number;
}

export const tfEfficientnetV2B0: StudentDefinition = define('b0', { width: 1, depth: 1, dropout: 0.2 });
export const tfEfficientnetV2B1: StudentDefinition = define('b1', { width: 1, depth: 1.1, dropout: 0.2 });
export const tfEfficientnetV2B2: StudentDefinition = define('b2', { width: 1.1, depth: 1.2, dropout: 0.3 });
export const tfEfficientnetV2B3: StudentDefinition = define('b3', { width: 1.2, depth: 1.4, dropout: 0.3 });

function define(variant: string, scale: Scale): StudentDefinition {
  const name = `tf_efficientnetv2_${variant}`;
  const blocks = stages.map(({ layers }) => Math.ceil(layers * scale.depth));
  return {
    name,
    family: 'tf_efficientnetv2',
    variant,
    blocks,
    classifier: 'classifier',
    scalable: false,
    build: (options) => build(name, scale, blocks, options),
  };
}

function build(
  name: string,
  { width, dropout }: Scale,
  blocks: number[],
  { head, dropping }: StudentOptions,
): GraphSpec {
  const g = new GraphBuilder(name, { norm: { eps: 1e-3, momentum: 0.1 }, dropping });
  // to the nearest multiple of 8, however far below that is: not makeDivisible, which would widen B3's first stage
  const scaled = (channels: number) => 8 * Math.floor((channels * width + 4) / 8);
  const all = blocks.reduce((sum, count) => sum + count, 0);
  let x = layer(g, g.images, ['conv_stem', 'bn1'], { channels: scaled(32), kernel: 3, stride: 2 }, 'silu');
  let done = 0;
  stages.forEach((stage, i) => {
    for (let place = 0; place < blocks[i]!; place++, done++) {
      const here = { ...stage, channels: scaled(stage.channels), stride: place === 0 ? stage.stride : 1 };
      const y = block(g, x, `blocks.${i}.${place}`, here);
      const added = here.stride === 1 && x.channels === here.channels;
      x = added ? g.add(g.stochasticDepth(y, (stochasticDepth * done) / all), x) : y;
    }
  });
  const features = g.globalPool(layer(g, x, ['conv_head', 'bn2'], { channels: scaled(1280) }, 'silu'));
  return withHead(g, features, head, (outputs) => classifier(g, g.dropout(features, dropout), outputs));
}

/** A convolution padded as TensorFlow does, and its norm. */
function layer(
  g: GraphBuilder,
  x: Value,
  names: [string, string],
  options: ConvOptions,
  activation?: Activation,
): Value {
  return convNorm(g, x, names, { ...options, padding: 'same' }, activation);
}

function block(g: GraphBuilder, x: Value, at: string, { fused: isFused, expansion, stride, channels }: StageV2): Value {
  const names = (conv: string, norm: string) => [`${at}.${conv}`, `${at}.${norm}`] as [string, string];
  const spatial = { kernel: 3, stride };
  if (expansion === 1) return layer(g, x, names('conv', 'bn1'), { channels, ...spatial }, 'silu');
  const expanded = expansion * x.channels;
  if (isFused) {
    const y = layer(g, x, names('conv_exp', 'bn1'), { channels: expanded, ...spatial }, 'silu');
    return layer(g, y, names('conv_pwl', 'bn2'), { channels });
  }
  let y = layer(g, x, names('conv_pw', 'bn1'), { channels: expanded }, 'silu');
  y = layer(g, y, names('conv_dw', 'bn2'), { channels: expanded, groups: expanded, ...spatial }, 'silu');
  y = squeezeExcite(g, y, `${at}.se`, x.channels / 4);
  return layer(g, y, names('conv_pwl', 'bn3'), { channels });
}
