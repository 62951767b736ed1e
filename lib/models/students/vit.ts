/**
 * Vision transformers: Dosovitskiy et al., "An image is worth 16x16 words", ICLR 2021, in the sizes of DeiT (Touvron et
 * al., ICML 2021), which has the same networks. Names and start values are timm's. Stochastic depth is off, as in timm;
 * the features are the class token behind the last norm.
 */
import { GraphBuilder, zeros, type GraphSpec, type Initialisation, type Value } from '../graph.js';
import { withHead, type StudentDefinition, type StudentOptions } from './definition.js';

/** Sizes of one: the side of its patches in pixels, the channels of a token, and the blocks. */
interface Sizes {
  patch: number;
  width: number;
  heads: number;
  depth: number;
}

const eps = 1e-6;
const tiny = { width: 192, heads: 3, depth: 12 };
const small = { width: 384, heads: 6, depth: 12 };

export const vitTinyPatch16 = vit('tiny', { patch: 16, ...tiny });
export const vitSmallPatch16 = vit('small', { patch: 16, ...small });
export const vitSmallPatch32 = vit('small', { patch: 32, ...small });

/** timm's name ends in the side that its weights were trained at; here every multiple of the patch is one. */
function vit(size: string, sizes: Sizes): StudentDefinition {
  const { patch, depth } = sizes;
  const name = `vit_${size}_patch${patch}_224`;
  return {
    name,
    family: 'vit',
    variant: `${size}_patch${patch}`,
    blocks: [depth],
    classifier: 'head',
    scalable: false,
    patch,
    adamwPeak: 0.0005,
    build: (options) => visionTransformer(name, sizes, options),
  };
}

/** One of any sizes. */
export function visionTransformer(
  name: string,
  { patch, width, heads, depth }: Sizes,
  { head, dropping, resolution }: StudentOptions,
): GraphSpec {
  const g = new GraphBuilder(name, { dropping });
  const uniform: Initialisation = { kind: 'uniform', bound: 1 / Math.sqrt(3 * patch * patch) };
  const patches = g.conv(g.images, 'patch_embed.proj', {
    channels: width,
    kernel: patch,
    stride: patch,
    padding: 0,
    bias: true,
    init: uniform,
    biasInit: uniform,
  });
  const count = 1 + (resolution / patch) ** 2;
  let x = g.positions(patches, 'pos_embed', { count, first: 1, constant: 'cls_token' });
  for (let i = 0; i < depth; i++) {
    const block = `blocks.${i}`;
    // behind its attention the last block computes the class token alone
    const of = i === depth - 1 ? (sequence: Value) => g.firstToken(sequence) : (sequence: Value) => sequence;
    const qkv = linear(g, g.layerNorm(x, `${block}.norm1`, eps), `${block}.attn.qkv`, 3 * width);
    x = g.add(of(x), linear(g, of(g.selfAttention(qkv, heads)), `${block}.attn.proj`, width));
    const hidden = linear(g, g.layerNorm(x, `${block}.norm2`, eps), `${block}.mlp.fc1`, 4 * width);
    x = g.add(x, linear(g, g.activation(hidden, 'gelu'), `${block}.mlp.fc2`, width));
  }
  const features = g.layerNorm(x, 'norm', eps);
  return withHead(g, features, head, (outputs) => linear(g, features, 'head', outputs));
}

function linear(g: GraphBuilder, x: Value, name: string, features: number): Value {
  return g.linear(x, name, { features, init: { weight: { kind: 'normal', std: 0.02 }, bias: zeros } });
}
