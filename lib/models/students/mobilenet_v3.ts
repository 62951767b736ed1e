/** MobileNetV3: Howard et al., "Searching for MobileNetV3", ICCV 2019, tables 1 (large) and 2 (small). */
import { GraphBuilder, makeDivisible, zeros, type Activation, type GraphSpec, type Value } from '../graph.js';
import { withHead, type StudentDefinition, type StudentOptions } from './definition.js';

interface Row {
  kernel: number;
  expanded: number;
  out: number;
  squeeze: boolean;
  activation: Activation;
  stride: number;
}

const row = (kernel: number, expanded: number, out: number, se: '' | 'SE', nl: 'RE' | 'HS', stride: number): Row => ({
  kernel,
  expanded,
  out,
  squeeze: se === 'SE',
  activation: nl === 'HS' ? 'hardswish' : 'relu',
  stride,
});

const large = [
  row(3, 16, 16, '', 'RE', 1),
  row(3, 64, 24, '', 'RE', 2),
  row(3, 72, 24, '', 'RE', 1),
  row(5, 72, 40, 'SE', 'RE', 2),
  row(5, 120, 40, 'SE', 'RE', 1),
  row(5, 120, 40, 'SE', 'RE', 1),
  row(3, 240, 80, '', 'HS', 2),
  row(3, 200, 80, '', 'HS', 1),
  row(3, 184, 80, '', 'HS', 1),
  row(3, 184, 80, '', 'HS', 1),
  row(3, 480, 112, 'SE', 'HS', 1),
  row(3, 672, 112, 'SE', 'HS', 1),
  row(5, 672, 160, 'SE', 'HS', 2),
  row(5, 960, 160, 'SE', 'HS', 1),
  row(5, 960, 160, 'SE', 'HS', 1),
];

const small = [
  row(3, 16, 16, 'SE', 'RE', 2),
  row(3, 72, 24, '', 'RE', 2),
  row(3, 88, 24, '', 'RE', 1),
  row(5, 96, 40, 'SE', 'HS', 2),
  row(5, 240, 40, 'SE', 'HS', 1),
  row(5, 240, 40, 'SE', 'HS', 1),
  row(5, 120, 48, 'SE', 'HS', 1),
  row(5, 144, 48, 'SE', 'HS', 1),
  row(5, 288, 96, 'SE', 'HS', 2),
  row(5, 576, 96, 'SE', 'HS', 1),
  row(5, 576, 96, 'SE', 'HS', 1),
];

export const mobilenetV3Large: StudentDefinition = define('large', large, 1280, [1, 2, 3, 4, 2, 3]);
export const mobilenetV3Small: StudentDefinition = define('small', small, 1024, [1, 2, 3, 2, 3]);

/** @param blocks a stage is a run of rows with one number of output channels */
function define(variant: string, table: Row[], lastChannels: number, blocks: number[]): StudentDefinition {
  const name = `mobilenet_v3_${variant}`;
  return {
    name,
    family: 'mobilenet_v3',
    variant,
    blocks,
    classifier: 'classifier',
    scalable: true,
    build: (options) => build(name, table, lastChannels, options),
  };
}

function build(
  name: string,
  table: Row[],
  lastChannels: number,
  { head, widthMultiplier, dropping }: StudentOptions,
): GraphSpec {
  const g = new GraphBuilder(name, { norm: { eps: 1e-3, momentum: 0.01 }, dropping });
  const scaled = (channels: number) => makeDivisible(channels * widthMultiplier);
  let x = g.convNorm(g.images, 'features.0', { channels: scaled(16), kernel: 3, stride: 2 }, 'hardswish');
  table.forEach((entry, i) => {
    x = block(g, x, `features.${i + 1}.block`, { ...entry, expanded: scaled(entry.expanded), out: scaled(entry.out) });
  });
  x = g.convNorm(x, `features.${table.length + 1}`, { channels: 6 * x.channels }, 'hardswish');
  const pooled = g.globalPool(x);
  const init = { weight: { kind: 'normal', std: 0.01 }, bias: zeros } as const;
  return withHead(g, pooled, head, (outputs) => {
    const hidden = g.activation(
      g.linear(pooled, 'classifier.0', { features: scaled(lastChannels), init }),
      'hardswish',
    );
    return g.linear(g.dropout(hidden, 0.2), 'classifier.3', { features: outputs, init });
  });
}

function block(
  g: GraphBuilder,
  x: Value,
  name: string,
  { kernel, expanded, out, squeeze, activation, stride }: Row,
): Value {
  let y = x;
  let part = 0;
  if (expanded !== x.channels) y = g.convNorm(y, `${name}.${part++}`, { channels: expanded }, activation);
  y = g.convNorm(y, `${name}.${part++}`, { channels: expanded, kernel, stride, groups: expanded }, activation);
  if (squeeze)
    y = g.squeezeExcite(y, `${name}.${part++}`, makeDivisible(Math.floor(expanded / 4)), 'relu', 'hardsigmoid');
  y = g.convNorm(y, `${name}.${part}`, { channels: out });
  return stride === 1 && x.channels === out ? g.add(y, x) : y;
}
