/**
 * MobileNetV4: Qin et al., "MobileNetV4: universal models for the mobile ecosystem", ECCV 2024, Conv-S and
 * Conv-M. torchvision has none: names, start values and widths are timm's.
 */
import {
  GraphBuilder,
  makeDivisible,
  type Activation,
  type ConvOptions,
  type GraphSpec,
  type Value,
} from '../graph.js';
import { withHead, type StudentDefinition, type StudentOptions } from './definition.js';
import { classifier, convNorm } from './timm.js';

/** A convolution with norm and ReLU, a fused inverted bottleneck, or a universal one. */
type Block =
  | { conv: number; out: number; stride: number }
  | { fused: number; expansion: number; out: number; stride: number }
  | { start: number; middle: number; expansion: number; out: number; stride: number };

const conv = (kernel: number, out: number, stride: number): Block => ({ conv: kernel, out, stride });
/** @param kernel of the convolution that expands */
const fused = (kernel: number, expansion: number, out: number, stride: number): Block => ({
  fused: kernel,
  expansion,
  out,
  stride,
});
/**
 * @param start kernel of the depthwise convolution before the expansion, `middle` of the one behind it; 0: there is
 *   none
 */
const bottleneck = (start: number, middle: number, expansion: number, out: number, stride: number): Block => ({
  start,
  middle,
  expansion,
  out,
  stride,
});

const small: Block[][] = [
  [conv(3, 32, 2), conv(1, 32, 1)],
  [conv(3, 96, 2), conv(1, 64, 1)],
  [
    bottleneck(5, 5, 3, 96, 2),
    bottleneck(0, 3, 2, 96, 1),
    bottleneck(0, 3, 2, 96, 1),
    bottleneck(0, 3, 2, 96, 1),
    bottleneck(0, 3, 2, 96, 1),
    bottleneck(3, 0, 4, 96, 1),
  ],
  [
    bottleneck(3, 3, 6, 128, 2),
    bottleneck(5, 5, 4, 128, 1),
    bottleneck(0, 5, 4, 128, 1),
    bottleneck(0, 5, 3, 128, 1),
    bottleneck(0, 3, 4, 128, 1),
    bottleneck(0, 3, 4, 128, 1),
  ],
  [conv(1, 960, 1)],
];

const medium: Block[][] = [
  [fused(3, 4, 48, 2)],
  [bottleneck(3, 5, 4, 80, 2), bottleneck(3, 3, 2, 80, 1)],
  [
    bottleneck(3, 5, 6, 160, 2),
    bottleneck(3, 3, 4, 160, 1),
    bottleneck(3, 3, 4, 160, 1),
    bottleneck(3, 5, 4, 160, 1),
    bottleneck(3, 3, 4, 160, 1),
    bottleneck(3, 0, 4, 160, 1),
    bottleneck(0, 0, 2, 160, 1),
    bottleneck(3, 0, 4, 160, 1),
  ],
  [
    bottleneck(5, 5, 6, 256, 2),
    bottleneck(5, 5, 4, 256, 1),
    bottleneck(3, 5, 4, 256, 1),
    bottleneck(3, 5, 4, 256, 1),
    bottleneck(0, 0, 4, 256, 1),
    bottleneck(3, 0, 4, 256, 1),
    bottleneck(3, 5, 2, 256, 1),
    bottleneck(5, 5, 4, 256, 1),
    bottleneck(0, 0, 4, 256, 1),
    bottleneck(0, 0, 4, 256, 1),
    bottleneck(5, 0, 2, 256, 1),
  ],
  [conv(1, 960, 1)],
];

export const mobilenetV4ConvSmall: StudentDefinition = define('conv_small', small);
export const mobilenetV4ConvMedium: StudentDefinition = define('conv_medium', medium);

function define(variant: string, stages: Block[][]): StudentDefinition {
  const name = `mobilenetv4_${variant}`;
  return {
    name,
    family: 'mobilenet_v4',
    variant,
    blocks: stages.map(({ length }) => length),
    classifier: 'classifier',
    scalable: true,
    build: (options) => build(name, stages, options),
  };
}

function build(name: string, stages: Block[][], { head, widthMultiplier, dropping }: StudentOptions): GraphSpec {
  const g = new GraphBuilder(name, { dropping });
  const stem = makeDivisible(32 * Math.max(1, widthMultiplier));
  let x = convNorm(g, g.images, ['conv_stem', 'bn1'], { channels: stem, kernel: 3, stride: 2 }, 'relu');
  stages.forEach((blocks, stage) => {
    blocks.forEach((block, place) => {
      x = addBlock(g, x, `blocks.${stage}.${place}`, { ...block, out: makeDivisible(block.out * widthMultiplier) });
    });
  });
  const features = convNorm(g, g.globalPool(x), ['conv_head', 'norm_head'], { channels: 1280 }, 'relu');
  return withHead(g, features, head, (outputs) => classifier(g, features, outputs));
}

function addBlock(g: GraphBuilder, x: Value, name: string, block: Block): Value {
  const { out, stride } = block;
  if ('conv' in block)
    return convNorm(g, x, [`${name}.conv`, `${name}.bn1`], { channels: out, kernel: block.conv, stride }, 'relu');
  const y = 'fused' in block ? fusedBottleneck(g, x, name, block) : universal(g, x, name, block);
  return stride === 1 && x.channels === out ? g.add(y, x) : y;
}

/** A convolution that expands, and one that projects without an activation. */
function fusedBottleneck(
  g: GraphBuilder,
  x: Value,
  name: string,
  { fused: kernel, expansion, out, stride }: Extract<Block, { fused: number }>,
): Value {
  const channels = makeDivisible(x.channels * expansion);
  const y = convNorm(g, x, [`${name}.conv_exp`, `${name}.bn1`], { channels, kernel, stride }, 'relu');
  return convNorm(g, y, [`${name}.conv_pwl`, `${name}.bn2`], { channels: out });
}

/**
 * Depthwise without an activation, expand, depthwise, project without an activation. The last depthwise convolution has
 * the stride.
 */
function universal(
  g: GraphBuilder,
  x: Value,
  name: string,
  { start, middle, expansion, out, stride }: Extract<Block, { start: number }>,
): Value {
  const part = (input: Value, of: string, options: ConvOptions, activation?: Activation) =>
    convNorm(g, input, [`${name}.${of}.conv`, `${name}.${of}.bn`], options, activation);
  const depthwise = (input: Value, of: string, kernel: number, by: number, activation?: Activation) =>
    part(input, of, { channels: input.channels, kernel, stride: by, groups: input.channels }, activation);
  let y = start > 0 ? depthwise(x, 'dw_start', start, middle > 0 ? 1 : stride) : x;
  y = part(y, 'pw_exp', { channels: makeDivisible(x.channels * expansion) }, 'relu');
  if (middle > 0) y = depthwise(y, 'dw_mid', middle, stride, 'relu');
  return part(y, 'pw_proj', { channels: out });
}
