/** EfficientNetV2 S and M: Tan and Le, "EfficientNetV2: smaller models and faster training", ICML 2021, table 4. */
import { GraphBuilder, zeros, type GraphSpec, type Value } from '../graph.js';
import { withHead, type StudentDefinition, type StudentOptions } from './definition.js';
import { mbconv, stochasticDepth } from './efficientnet.js';

/** Kernels are 3x3. */
export interface StageV2 {
  /** One dense 3x3 convolution in the place of the one that expands and the depthwise one; without a gate. */
  fused: boolean;
  expansion: number;
  stride: number;
  channels: number;
  layers: number;
}

export const fused = (expansion: number, stride: number, channels: number, layers: number): StageV2 => ({
  fused: true,
  expansion,
  stride,
  channels,
  layers,
});
export const inverted = (expansion: number, stride: number, channels: number, layers: number): StageV2 => ({
  ...fused(expansion, stride, channels, layers),
  fused: false,
});

const small = [
  fused(1, 1, 24, 2),
  fused(4, 2, 48, 4),
  fused(4, 2, 64, 4),
  inverted(4, 2, 128, 6),
  inverted(6, 1, 160, 9),
  inverted(6, 2, 256, 15),
];
const medium = [
  fused(1, 1, 24, 3),
  fused(4, 2, 48, 5),
  fused(4, 2, 80, 5),
  inverted(4, 2, 160, 7),
  inverted(6, 1, 176, 14),
  inverted(6, 2, 304, 18),
  inverted(6, 1, 512, 5),
];

export const efficientnetV2S: StudentDefinition = define('s', small, 0.2);
export const efficientnetV2M: StudentDefinition = define('m', medium, 0.3);

function define(variant: string, stages: StageV2[], dropout: number): StudentDefinition {
  const name = `efficientnet_v2_${variant}`;
  return {
    name,
    family: 'efficientnet_v2',
    variant,
    blocks: stages.map(({ layers }) => layers),
    classifier: 'classifier',
    scalable: false,
    build: (options) => build(name, stages, dropout, options),
  };
}

function build(name: string, stages: StageV2[], dropout: number, { head, dropping }: StudentOptions): GraphSpec {
  const g = new GraphBuilder(name, { norm: { eps: 1e-3, momentum: 0.1 }, dropping });
  const all = stages.reduce((sum, { layers }) => sum + layers, 0);
  let x = g.convNorm(g.images, 'features.0', { channels: stages[0]!.channels, kernel: 3, stride: 2 }, 'silu');
  let done = 0;
  stages.forEach((stage, i) => {
    for (let layer = 0; layer < stage.layers; layer++, done++) {
      const here = { ...stage, kernel: 3, stride: layer === 0 ? stage.stride : 1 };
      const block = stage.fused ? fusedMbconv : mbconv;
      x = block(g, x, `features.${i + 1}.${layer}.block`, here, (stochasticDepth * done) / all);
    }
  });
  x = g.convNorm(x, `features.${stages.length + 1}`, { channels: 1280 }, 'silu');
  const pooled = g.globalPool(x);
  return withHead(g, pooled, head, (outputs) =>
    g.linear(g.dropout(pooled, dropout), 'classifier.1', {
      features: outputs,
      init: { weight: { kind: 'uniform', bound: 1 / Math.sqrt(outputs) }, bias: zeros },
    }),
  );
}

/** Without an expansion it is one convolution, with an activation. */
function fusedMbconv(
  g: GraphBuilder,
  x: Value,
  name: string,
  { expansion, stride, channels }: StageV2,
  dropProbability: number,
): Value {
  const expanded = expansion === 1 ? channels : x.channels * expansion;
  let y = g.convNorm(x, `${name}.0`, { channels: expanded, kernel: 3, stride }, 'silu');
  if (expansion !== 1) y = g.convNorm(y, `${name}.1`, { channels });
  return stride === 1 && x.channels === channels ? g.add(g.stochasticDepth(y, dropProbability), x) : y;
}
