/**
 * CLIP's text transformer: Radford et al., ICML 2021, section 2.4: the causal transformer of Radford et al. 2019
 * (GPT-2); its state at the end-of-text token, normed and projected, is the embedding. SigLIP's text tower (Zhai et al.,
 * ICCV 2023) is the same without the causal mask, over a text that is padded to the full length. Parameters have
 * OpenAI's names, except that `text_projection` is a linear layer's `text_projection.weight`, [D, width].
 */
import { GraphBuilder, type GraphSpec, type Value } from '../graph.js';
import { checkTransformer, transformer, type TransformerConfig } from './transformer.js';

/**
 * Sizes of a text transformer; of CLIP ViT-B/32's: width 512, layers 12, heads 8, hidden 2048, words 49408, positions 77,
 * outputDim 512.
 */
export interface TextTransformerConfig extends TransformerConfig {
  /** Size of the vocabulary. */
  words: number;
  /** The most tokens of a text. */
  positions: number;
  /** D. */
  outputDim: number;
}

/**
 * CLIP's tower as a forward-only graph over token ids ({@link GraphBuilder.words}).
 * @param endId the end-of-text token, where the embedding is read
 * @throws LgdError BAD_MODEL for sizes that do not fit together
 */
export function textTransformer(config: TextTransformerConfig, endId: number): GraphSpec {
  return textTower('text transformer', config, { endId, causal: true, bias: false });
}

/**
 * SigLIP's, over all `positions` token ids: it attends in both directions, and its last state is the embedding.
 * @throws LgdError BAD_MODEL for sizes that do not fit together
 */
export function siglipText(config: TextTransformerConfig): GraphSpec {
  const endId = config.words; // no text has this id, and then the last state is taken
  return textTower('SigLIP text tower', config, { endId, causal: false, bias: true });
}

/** @param bias of the projection */
function textTower(
  what: string,
  config: TextTransformerConfig,
  { endId, causal, bias }: { endId: number; causal: boolean; bias: boolean },
): GraphSpec {
  const { width, words, positions, outputDim, eps } = config;
  checkTransformer(what, config, { words, positions, outputDim });
  const g = new GraphBuilder('text tower');
  const tokens = g.words(g.images, {
    word: 'token_embedding.weight',
    position: 'positional_embedding',
    words,
    positions,
    channels: width,
  });
  const take = (sequence: Value) => g.endToken(sequence, g.images, endId);
  const end = g.layerNorm(transformer(g, tokens, config, { causal, take }), 'ln_final', eps);
  return g.finish(g.linear(end, 'text_projection', { features: outputDim, bias }));
}
