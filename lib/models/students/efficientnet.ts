/**
 * EfficientNet B0 to B3: Tan and Le, "EfficientNet: rethinking model scaling for convolutional neural networks", ICML
 * 2019, table 1.
 */
import { GraphBuilder, makeDivisible, zeros, type GraphSpec, type Value } from '../graph.js';
import { withHead, type StudentDefinition, type StudentOptions } from './definition.js';

export interface Stage {
  expansion: number;
  kernel: number;
  stride: number;
  channels: number;
  layers: number;
}

/** Stages 2 to 8 of B0; stage 1 is a 3x3 convolution to 32 channels, stage 9 a 1x1 convolution. */
export const stages: readonly Stage[] = [
  { expansion: 1, kernel: 3, stride: 1, channels: 16, layers: 1 },
  { expansion: 6, kernel: 3, stride: 2, channels: 24, layers: 2 },
  { expansion: 6, kernel: 5, stride: 2, channels: 40, layers: 2 },
  { expansion: 6, kernel: 3, stride: 2, channels: 80, layers: 3 },
  { expansion: 6, kernel: 5, stride: 1, channels: 112, layers: 3 },
  { expansion: 6, kernel: 5, stride: 2, channels: 192, layers: 4 },
  { expansion: 6, kernel: 3, stride: 1, channels: 320, layers: 1 },
];

/** Of the last block; it grows to that from 0 at the first. */
export const stochasticDepth = 0.2;

interface Scale {
  width: number;
  depth: number;
  dropout: number;
}

export const efficientnetB0: StudentDefinition = define('b0', { width: 1, depth: 1, dropout: 0.2 });
export const efficientnetB1: StudentDefinition = define('b1', { width: 1, depth: 1.1, dropout: 0.2 });
export const efficientnetB2: StudentDefinition = define('b2', { width: 1.1, depth: 1.2, dropout: 0.3 });
export const efficientnetB3: StudentDefinition = define('b3', { width: 1.2, depth: 1.4, dropout: 0.3 });

function define(variant: string, scale: Scale): StudentDefinition {
  const name = `efficientnet_${variant}`;
  const blocks = stages.map(({ layers }) => Math.ceil(layers * scale.depth));
  return {
    name,
    family: 'efficientnet',
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
  const g = new GraphBuilder(name, { dropping });
  const all = blocks.reduce((sum, count) => sum + count, 0);
  let x = g.convNorm(g.images, 'features.0', { channels: makeDivisible(32 * width), kernel: 3, stride: 2 }, 'silu');
  let done = 0;
  stages.forEach((stage, i) => {
    for (let layer = 0; layer < blocks[i]!; layer++, done++) {
      const here = {
        ...stage,
        channels: makeDivisible(stage.channels * width),
        stride: layer === 0 ? stage.stride : 1,
      };
      x = mbconv(g, x, `features.${i + 1}.${layer}.block`, here, (stochasticDepth * done) / all);
    }
  });
  x = g.convNorm(x, `features.${stages.length + 1}`, { channels: 4 * x.channels }, 'silu');
  const pooled = g.globalPool(x);
  return withHead(g, pooled, head, (outputs) =>
    g.linear(g.dropout(pooled, dropout), 'classifier.1', {
      features: outputs,
      init: { weight: { kind: 'uniform', bound: 1 / Math.sqrt(outputs) }, bias: zeros },
    }),
  );
}

export function mbconv(
  g: GraphBuilder,
  x: Value,
  name: string,
  { expansion, kernel, stride, channels }: Stage,
  dropProbability: number,
): Value {
  const expanded = makeDivisible(x.channels * expansion);
  let y = x;
  let part = 0;
  if (expanded !== x.channels) y = g.convNorm(y, `${name}.${part++}`, { channels: expanded }, 'silu');
  y = g.convNorm(y, `${name}.${part++}`, { channels: expanded, kernel, stride, groups: expanded }, 'silu');
  y = g.squeezeExcite(y, `${name}.${part++}`, Math.max(1, Math.floor(x.channels / 4)), 'silu', 'sigmoid');
  y = g.convNorm(y, `${name}.${part}`, { channels });
  return stride === 1 && x.channels === channels ? g.add(g.stochasticDepth(y, dropProbability), x) : y;
}
