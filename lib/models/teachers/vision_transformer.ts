/**
 * CLIP's vision transformer: Radford et al., "Learning transferable visual models from natural language supervision",
 * ICML 2021, section 2.4: the ViT of Dosovitskiy et al. 2021 with one more layer norm before the blocks; the class
 * token, normed and projected, is the embedding. Parameters have OpenAI's names without the prefix `visual.`, except
 * that `proj` is a linear layer's `proj.weight`, [D, width].
 */
import { GraphBuilder, type GraphSpec } from '../graph.js';
import { checkTransformer, transformer, type TransformerConfig } from './transformer.js';

/**
 * Sizes of CLIP's vision transformer; ViT-B/32: width 768, layers 12, heads 12, hidden 3072, patch 32, outputDim 512,
 * imageSize 224.
 */
export interface VisionTransformerConfig extends TransformerConfig {
  /** Side of a patch in pixels. */
  patch: number;
  /** D. */
  outputDim: number;
  /** Side of the square input in pixels; what is left of it behind the last whole patch is not seen. */
  imageSize: number;
}

/** The tower as a forward-only graph. @throws LgdError BAD_MODEL for sizes that do not fit together */
export function visionTransformer(config: VisionTransformerConfig): GraphSpec {
  const { width, patch, outputDim, imageSize, eps } = config;
  const grid = Math.floor(imageSize / patch);
  checkTransformer('vision transformer', config, { patch, outputDim, imageSize, grid });
  const g = new GraphBuilder('teacher');
  const patches = g.conv(g.images, 'conv1', { channels: width, kernel: patch, stride: patch, padding: 0 });
  const tokens = g.positions(patches, 'positional_embedding', {
    count: grid * grid + 1,
    classToken: 'class_embedding',
  });
  const x = transformer(g, g.layerNorm(tokens, 'ln_pre', eps), 'transformer.resblocks', config);
  return g.finish(g.linear(g.layerNorm(g.firstToken(x), 'ln_post', eps), 'proj', { features: outputDim, bias: false }));
}
