/**
 * ConvNeXt as an image tower: Liu et al., "A ConvNet for the 2020s", CVPR 2022, figure 4 and table 9: a stem of 4x4
 * patches, blocks of a 7x7 depthwise convolution, layer norm and two linear layers over the channels, layer norm and a
 * 2x2 convolution between stages; the normed mean over positions, projected, is the embedding. Parameters have timm's
 * names, those of a projection behind it open_clip's. The factors of layer scale are in the weights of `mlp.fc2`.
 */
import { LgdError } from '../../errors.js';
import { GraphBuilder, type GraphSpec, type Value } from '../graph.js';

/**
 * Sizes of a ConvNeXt; convnext_base in CLIP: depths [3,3,27,3], widths [128,256,512,1024], a head of one layer with
 * 640 features.
 */
export interface ConvNextConfig {
  /** Blocks of the four stages. */
  depths: readonly number[];
  /** Channels of the four stages. */
  widths: readonly number[];
  /** Channels between the linear layers of a block, over its own: 4. */
  expansion: number;
  /** Of the layer norms. */
  eps: number;
  /** Layers behind the normed mean, GELU between them: none, one or two. */
  head: readonly { name: string; features: number; bias: boolean }[];
  /** Side of the square input in pixels. */
  imageSize: number;
}

/** The tower as a forward-only graph. @throws LgdError BAD_MODEL for sizes that do not fit together */
export function convNext(config: ConvNextConfig): GraphSpec {
  const { depths, widths, eps, head } = config;
  checkSizes(config);
  const g = new GraphBuilder('teacher');
  let x = g.conv(g.images, 'stem.0', { channels: widths[0]!, kernel: 4, stride: 4, padding: 0, bias: true });
  x = g.layerNorm(x, 'stem.1', eps);
  for (const [stage, blocks] of depths.entries()) {
    const name = `stages.${stage}`;
    if (stage > 0) {
      x = g.layerNorm(x, `${name}.downsample.0`, eps);
      const channels = widths[stage]!;
      x = g.conv(x, `${name}.downsample.1`, { channels, kernel: 2, stride: 2, padding: 0, bias: true });
    }
    for (let i = 0; i < blocks; i++) x = block(g, x, `${name}.blocks.${i}`, config);
  }
  x = g.layerNorm(g.globalPool(x), 'head.norm', eps);
  for (const [i, { name, features, bias }] of head.entries())
    x = g.linear(i === 0 ? x : g.activation(x, 'gelu'), name, { features, bias });
  return g.finish(x);
}

function block(g: GraphBuilder, x: Value, name: string, { expansion, eps }: ConvNextConfig): Value {
  const { channels } = x;
  let y = g.conv(x, `${name}.conv_dw`, { channels, kernel: 7, groups: channels, bias: true });
  y = g.layerNorm(y, `${name}.norm`, eps);
  y = g.activation(g.conv(y, `${name}.mlp.fc1`, { channels: expansion * channels, bias: true }), 'gelu');
  return g.add(x, g.conv(y, `${name}.mlp.fc2`, { channels, bias: true }));
}

/** A side of at least 32 pixels leaves a position in the last stage. */
export const leastSide = 32;

function checkSizes({ depths, widths, expansion, head, imageSize }: ConvNextConfig): void {
  const sizes = [...depths, ...widths, expansion, ...head.map(({ features }) => features), imageSize];
  const fits = depths.length === 4 && widths.length === 4 && imageSize >= leastSide;
  if (fits && sizes.every((size) => Number.isInteger(size) && size > 0)) return;
  throw new LgdError('BAD_MODEL', 'these sizes make no ConvNeXt.', {
    found: { depths, widths, expansion, imageSize },
    allowed: `four stages, whole numbers above 0, and images of at least ${leastSide} pixels`,
    mend: "Check the model's configuration",
  });
}
