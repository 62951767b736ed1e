/**
 * ConvNeXt: Liu et al., "A ConvNet for the 2020s", CVPR 2022, figure 4 and table 9; atto, femto, pico and nano are
 * timm's. Names and start values are timm's, for torchvision has the largest alone. Stochastic depth is the paper's of
 * Tiny.
 */
import { GraphBuilder, zeros, type GraphSpec, type Initialisation, type Value } from '../graph.js';
import { withHead, type StudentDefinition, type StudentOptions } from './definition.js';

interface Sizes {
  /** Of the four stages. */
  depths: readonly number[];
  widths: readonly number[];
  /** Are the two layers of a block convolutions (of one pixel), by the shapes of their weights? */
  convolutions: boolean;
}

const eps = 1e-6;
/** Between the layers of a block, over its own channels. */
const expansion = 4;
/** Factors of layer scale before training. */
const layerScale = 1e-6;
/** Of the last block; it grows to that from 0 at the first. */
const stochasticDepth = 0.1;

export const convnextAtto = define('atto', { depths: [2, 2, 6, 2], widths: [40, 80, 160, 320], convolutions: true });
export const convnextFemto = define('femto', { depths: [2, 2, 6, 2], widths: [48, 96, 192, 384], convolutions: true });
export const convnextPico = define('pico', { depths: [2, 2, 6, 2], widths: [64, 128, 256, 512], convolutions: true });
export const convnextNano = define('nano', { depths: [2, 2, 8, 2], widths: [80, 160, 320, 640], convolutions: true });
export const convnextTiny = define('tiny', { depths: [3, 3, 9, 3], widths: [96, 192, 384, 768], convolutions: false });

function define(variant: string, sizes: Sizes): StudentDefinition {
  const name = `convnext_${variant}`;
  return {
    name,
    family: 'convnext',
    variant,
    blocks: sizes.depths,
    classifier: 'head.fc',
    scalable: false,
    adamwPeak: 0.002,
    build: (options) => build(name, sizes, options),
  };
}

/** Of weights. timm cuts it off at 2, a hundred deviations. */
const init: Initialisation = { kind: 'normal', std: 0.02 };

function build(name: string, sizes: Sizes, { head, dropping }: StudentOptions): GraphSpec {
  const { depths, widths } = sizes;
  const g = new GraphBuilder(name, { dropping });
  const patches = (x: Value, at: string, kernel: number, channels: number) =>
    g.conv(x, at, { channels, kernel, stride: kernel, padding: 0, bias: true, init });
  const last = depths.reduce((sum, blocks) => sum + blocks, 0) - 1;
  let x = g.layerNorm(patches(g.images, 'stem.0', 4, widths[0]!), 'stem.1', eps);
  let done = 0;
  depths.forEach((blocks, stage) => {
    const at = `stages.${stage}`;
    if (stage > 0) x = patches(g.layerNorm(x, `${at}.downsample.0`, eps), `${at}.downsample.1`, 2, widths[stage]!);
    for (let i = 0; i < blocks; i++, done++)
      x = block(g, x, `${at}.blocks.${i}`, sizes.convolutions, (stochasticDepth * done) / last);
  });
  const features = g.layerNorm(g.globalPool(x), 'head.norm', eps);
  return withHead(g, features, head, (outputs) =>
    g.linear(features, 'head.fc', { features: outputs, init: { weight: init, bias: zeros } }),
  );
}

function block(g: GraphBuilder, x: Value, at: string, convolutions: boolean, dropProbability: number): Value {
  const { channels } = x;
  const layer = (input: Value, name: string, outputs: number) =>
    convolutions
      ? g.conv(input, name, { channels: outputs, bias: true, init })
      : g.linear(input, name, { features: outputs, init: { weight: init, bias: zeros } });
  let y = g.conv(x, `${at}.conv_dw`, { channels, kernel: 7, groups: channels, bias: true, init });
  y = layer(g.layerNorm(y, `${at}.norm`, eps), `${at}.mlp.fc1`, expansion * channels);
  y = layer(g.activation(y, 'gelu'), `${at}.mlp.fc2`, channels);
  return g.add(g.stochasticDepth(g.layerScale(y, `${at}.gamma`, layerScale), dropProbability), x);
}
