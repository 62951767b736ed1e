/**
 * Vision transformers: Dosovitskiy et al., "An image is worth 16x16 words", ICLR 2021. Parameters have OpenAI CLIP's
 * names without the prefix `visual.`, except that class token and positions are one table, `class_and_positions`, and
 * that CLIP's `proj` is a linear layer's `proj.weight`, [D, width].
 */
import { LgdError } from '../../errors.js';
import { GraphBuilder, type GraphSpec, type Value } from '../graph.js';
import { checkTransformer, transformer, type TransformerConfig } from './transformer.js';

/** Sizes of a vision transformer; ViT-B/32: width 768, layers 12, heads 12, hidden 3072, patch 32, imageSize 224. */
export interface VisionTransformerConfig extends TransformerConfig {
  /** Side of a patch in pixels. */
  patch: number;
  /** Side of the square input in pixels; what is left of it behind the last whole patch is not seen. */
  imageSize: number;
}

/**
 * CLIP's (Radford et al., "Learning transferable visual models from natural language supervision", ICML 2021, section
 * 2.4), as a forward-only graph: one more layer norm before the blocks; the class token, normed and projected, is the
 * embedding.
 * @param config `outputDim`: D
 * @throws LgdError BAD_MODEL for sizes that do not fit together
 */
export function clipVisionTransformer(config: VisionTransformerConfig & { outputDim: number }): GraphSpec {
  const { outputDim, eps } = config;
  const g = new GraphBuilder('teacher');
  const tokens = g.layerNorm(sequence(g, config, { first: 1, bias: false, others: { outputDim } }), 'ln_pre', eps);
  return g.finish(g.linear(classToken(g, tokens, config), 'proj', { features: outputDim, bias: false }));
}

/**
 * The plain one, of DeiT, DINO, DINOv2 and DINOv3 too, as a forward-only graph: the normed class token is the
 * embedding.
 * @param config `registers`: constant tokens behind the class token; their rows of `class_and_positions` follow its row.
 *   `turns`: the patches have rotary positions
 * @throws LgdError BAD_MODEL for sizes that do not fit together
 */
export function plainVisionTransformer(
  config: VisionTransformerConfig & { registers: number; turns: boolean },
): GraphSpec {
  const { width, heads, patch, imageSize, registers, turns } = config;
  const g = new GraphBuilder('teacher');
  const first = 1 + registers;
  const tokens = sequence(g, config, { first, bias: true });
  if (!turns) return g.finish(classToken(g, tokens, config));
  if ((width / heads) % 4 !== 0)
    throw new LgdError('BAD_MODEL', 'a head of this width has no rotary positions of rows and columns.', {
      found: width / heads,
      allowed: 'a multiple of 4',
      mend: "Check the model's config.json",
    });
  const rotary = { first, count: Math.floor(imageSize / patch) ** 2 };
  return g.finish(classToken(g, tokens, { ...config, rotary }));
}

function sequence(
  g: GraphBuilder,
  config: VisionTransformerConfig,
  { first, bias, others = {} }: { first: number; bias: boolean; others?: Record<string, number> },
): Value {
  const { width, patch, imageSize } = config;
  const grid = Math.floor(imageSize / patch);
  checkTransformer('vision transformer', config, { patch, imageSize, grid, ...others });
  const patches = g.conv(g.images, 'conv1', { channels: width, kernel: patch, stride: patch, padding: 0, bias });
  return g.positions(patches, 'class_and_positions', { count: first + grid * grid, first });
}

function classToken(g: GraphBuilder, tokens: Value, config: VisionTransformerConfig): Value {
  const x = transformer(g, tokens, config, { take: (sequence) => g.firstToken(sequence) });
  return g.layerNorm(x, 'ln_post', config.eps);
}
