/**
 * MobileNetV4: Qin et al., "MobileNetV4: universal models for the mobile ecosystem", ECCV 2024, Conv-S. torchvision has
 * none: names, start values and widths are timm's.
 */
import { GraphBuilder, makeDivisible, zeros, type ConvOptions, type GraphSpec, type Value } from '../graph.js';
import { withHead, type StudentDefinition, type StudentOptions } from './definition.js';

/** A convolution with norm and ReLU, or a universal inverted bottleneck. */
type Block =
  | { conv: number; out: number; stride: number }
  | { start: number; middle: number; expansion: number; out: number; stride: number };

const conv = (kernel: number, out: number, stride: number): Block => ({ conv: kernel, out, stride });
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

export const mobilenetV4ConvSmall: StudentDefinition = define('conv_small', small);

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
  let x = g.relu(
    convNorm(g, g.images, ['conv_stem', 'bn1'], {
      channels: makeDivisible(32 * Math.max(1, widthMultiplier)),
      kernel: 3,
      stride: 2,
    }),
  );
  stages.forEach((blocks, stage) => {
    blocks.forEach((block, place) => {
      const at = `blocks.${stage}.${place}`;
      const out = makeDivisible(block.out * widthMultiplier);
      x =
        'conv' in block
          ? g.relu(
              convNorm(g, x, [`${at}.conv`, `${at}.bn1`], { channels: out, kernel: block.conv, stride: block.stride }),
            )
          : universal(g, x, at, { ...block, out });
    });
  });
  const features = g.relu(convNorm(g, g.globalPool(x), ['conv_head', 'norm_head'], { channels: 1280 }));
  return withHead(g, features, head, (outputs) =>
    g.linear(features, 'classifier', {
      features: outputs,
      init: { weight: { kind: 'uniform', bound: 1 / Math.sqrt(outputs) }, bias: zeros },
    }),
  );
}

/**
 * Depthwise without an activation, expand, depthwise, project without an activation; the input is added where shapes
 * agree. The last depthwise convolution has the stride.
 */
function universal(
  g: GraphBuilder,
  x: Value,
  name: string,
  { start, middle, expansion, out, stride }: Exclude<Block, { conv: number }>,
): Value {
  const part = (input: Value, of: string, options: ConvOptions) =>
    convNorm(g, input, [`${name}.${of}.conv`, `${name}.${of}.bn`], options);
  let y = x;
  if (start > 0)
    y = part(y, 'dw_start', {
      channels: y.channels,
      kernel: start,
      stride: middle > 0 ? 1 : stride,
      groups: y.channels,
    });
  y = g.relu(part(y, 'pw_exp', { channels: makeDivisible(x.channels * expansion) }));
  if (middle > 0) y = g.relu(part(y, 'dw_mid', { channels: y.channels, kernel: middle, stride, groups: y.channels }));
  y = part(y, 'pw_proj', { channels: out });
  return stride === 1 && x.channels === out ? g.add(y, x) : y;
}

/** timm starts a convolution by the fan out of one group: of a depthwise one, its kernel's. */
function convNorm(g: GraphBuilder, x: Value, [conv, norm]: [conv: string, norm: string], options: ConvOptions): Value {
  const { channels, kernel = 1, groups = 1 } = options;
  return g.batchNorm(
    g.conv(x, conv, {
      ...options,
      init: { kind: 'normal', std: Math.sqrt((2 * groups) / (kernel * kernel * channels)) },
    }),
    norm,
  );
}
