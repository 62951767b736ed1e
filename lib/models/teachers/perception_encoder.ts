/**
 * Perception Encoder's image tower, PE-Core: Bolya et al., "Perception encoder: The best visual embeddings are not at
 * the output of the network", 2025. It is CLIP's vision transformer with rotary positions beside the learned ones, and
 * with SigLIP's pooling over all tokens, projected, in the place of the class token. Parameters have the names of
 * vision_transformer.ts and siglip.ts; `proj` has a bias.
 */
import { GraphBuilder, type GraphSpec } from '../graph.js';
import { attentionPooling } from './siglip.js';
import { checkTransformer, transformer } from './transformer.js';
import type { VisionTransformerConfig } from './vision_transformer.js';

/** Sizes of PE-Core; B/16: width 768, layers 12, heads 12, hidden 3072, patch 16, imageSize 224, outputDim 1024. */
export interface PerceptionEncoderConfig extends VisionTransformerConfig {
  /** The largest of them has none. */
  classToken: boolean;
  /** Of the pooling. */
  poolHeads: number;
  poolHidden: number;
  outputDim: number;
}

/** The tower as a forward-only graph. @throws LgdError BAD_MODEL for sizes that do not fit together */
export function perceptionEncoder(config: PerceptionEncoderConfig): GraphSpec {
  const { width, patch, imageSize, eps, classToken, poolHeads, poolHidden, outputDim } = config;
  const count = Math.floor(imageSize / patch) ** 2;
  checkTransformer('Perception Encoder', config, { patch, imageSize, count, poolHeads, poolHidden, outputDim });
  const g = new GraphBuilder('teacher');
  const first = Number(classToken);
  const patches = g.conv(g.images, 'conv1', { channels: width, kernel: patch, stride: patch, padding: 0 });
  let x = g.positions(patches, 'class_and_positions', { count: first + count, first });
  x = transformer(g, g.layerNorm(x, 'ln_pre', eps), { ...config, rotary: { count, first } });
  const pooled = attentionPooling(g, g.layerNorm(x, 'ln_post', eps), {
    ...config,
    heads: poolHeads,
    hidden: poolHidden,
  });
  return g.finish(g.linear(pooled, 'proj', { features: outputDim }));
}
