/**
 * The residual attention block that CLIP's and SigLIP's towers are stacks of: Vaswani et al. 2017 with the norms in
 * front (pre-LN), as in Dosovitskiy et al. 2021 and Radford et al. 2019. Parameters have OpenAI CLIP's names.
 */
import { LgdError } from '../../errors.js';
import type { Activation, GraphBuilder, Value } from '../graph.js';

/** Sizes of a stack of residual attention blocks. */
export interface TransformerConfig {
  /** Channels of the sequence: 768 for ViT-B. */
  width: number;
  /** Blocks. */
  layers: number;
  heads: number;
  /** Channels between the two linear layers of a block: 4 times the width, mostly. */
  hidden: number;
  /**
   * Between them: quickGelu in OpenAI's models, gelu in most of open_clip's, geluTanh in SigLIP's; swiglu: the first
   * layer has twice the channels, of which half gates the other, as in DINOv2 giant.
   */
  activation: Activation | 'swiglu';
  /** Rotary positions of `count` tokens behind the `first` ones: a table `angles`. Default: none. */
  rotary?: { count: number; first: number } | undefined;
  /** Of the layer norms. */
  eps: number;
}

/** @throws LgdError BAD_MODEL for sizes that do not fit together */
export function checkTransformer(
  what: string,
  { width, layers, heads, hidden }: TransformerConfig,
  others: Record<string, number>,
): void {
  const sizes = { width, layers, heads, hidden, ...others };
  if (Object.values(sizes).every((size) => Number.isInteger(size) && size > 0) && width % heads === 0) return;
  throw new LgdError('BAD_MODEL', `these sizes make no ${what}.`, {
    found: sizes,
    allowed: 'whole numbers above 0, and heads that divide the width',
    mend: "Check the model's config.json",
  });
}

/**
 * The blocks `transformer.resblocks.0`, ... over a sequence. A causal stack attends to earlier positions only.
 * @param options `take`: the token that is asked for; the last block computes nothing else behind its attention
 */
export function transformer(
  g: GraphBuilder,
  tokens: Value,
  config: TransformerConfig,
  { causal = false, take = (sequence) => sequence }: { causal?: boolean; take?: (sequence: Value) => Value } = {},
): Value {
  let x = tokens;
  for (let i = 0; i < config.layers; i++) {
    const block = `transformer.resblocks.${i}`;
    const qkv = g.linear(g.layerNorm(x, `${block}.ln_1`, config.eps), `${block}.attn.in_proj`, {
      features: 3 * config.width,
    });
    const { heads, rotary } = config;
    const turned = rotary === undefined ? qkv : g.rotary(qkv, 'angles', { heads, ...rotary });
    const of = i === config.layers - 1 ? take : (sequence: Value) => sequence;
    const attention = of(g.selfAttention(turned, heads, { causal }));
    x = g.add(of(x), g.linear(attention, `${block}.attn.out_proj`, { features: config.width }));
    x = g.add(x, mlp(g, g.layerNorm(x, `${block}.ln_2`, config.eps), `${block}.mlp`, config));
  }
  return x;
}

/** Two linear layers with the activation between them: `name.c_fc`, `name.c_proj`. */
export function mlp(g: GraphBuilder, x: Value, name: string, { hidden, activation }: TransformerConfig): Value {
  const inner =
    activation === 'swiglu'
      ? g.swiglu(g.linear(x, `${name}.c_fc`, { features: 2 * hidden }))
      : g.activation(g.linear(x, `${name}.c_fc`, { features: hidden }), activation);
  return g.linear(inner, `${name}.c_proj`, { features: x.channels });
}
