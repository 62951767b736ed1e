/**
 * SigLIP's image tower: Zhai et al., "Sigmoid loss for language image pre-training", ICCV 2023. It is a ViT without a
 * class token; a learned query attends over the normed patches (multihead attention pooling: Zhai et al., "Scaling
 * vision transformers", 2022), and what it finds, plus an MLP of its norm, is the embedding. Block parameters have
 * OpenAI CLIP's names; the query is stored projected, `head.query`.
 */
import { GraphBuilder, type GraphSpec, type Value } from '../graph.js';
import { checkTransformer, mlp, transformer, type TransformerConfig } from './transformer.js';

/** Sizes of SigLIP's image tower; its embedding has as many values as the tower is wide. */
export interface SiglipConfig extends TransformerConfig {
  /** Side of a patch in pixels. */
  patch: number;
  /** Side of the square input in pixels. */
  imageSize: number;
}

/** The tower as a forward-only graph. @throws LgdError BAD_MODEL for sizes that do not fit together */
export function siglip(config: SiglipConfig): GraphSpec {
  const { width, patch, imageSize, eps } = config;
  const grid = Math.floor(imageSize / patch);
  checkTransformer('SigLIP image tower', config, { patch, imageSize, grid });
  const g = new GraphBuilder('teacher');
  const patches = g.conv(g.images, 'conv1', { channels: width, kernel: patch, stride: patch, padding: 0, bias: true });
  const x = g.layerNorm(
    transformer(g, g.positions(patches, 'positional_embedding', { count: grid * grid }), config),
    'ln_post',
    eps,
  );
  return g.finish(attentionPooling(g, x, config));
}

/** A learned query's attention over the tokens of x, and the MLP of what it finds: parameters `head...`. */
export function attentionPooling(g: GraphBuilder, x: Value, config: TransformerConfig): Value {
  const features = x.channels;
  const [k, v] = [g.linear(x, 'head.k', { features }), g.linear(x, 'head.v', { features })];
  const pooled = g.linear(g.queryAttention(g.repeat('head.query', features), k, v, config.heads), 'head.out_proj', {
    features,
  });
  return g.add(pooled, mlp(g, g.layerNorm(pooled, 'head.ln', config.eps), 'head.mlp', config));
}
