/** What students have in common whose names and start values are timm's. */
import { zeros, type Activation, type ConvOptions, type GraphBuilder, type Value } from '../graph.js';

/**
 * A convolution with its norm. timm starts it by the fan out of one group: of a depthwise one, its kernel's.
 * @param activation none by default
 */
export function convNorm(
  g: GraphBuilder,
  x: Value,
  [conv, norm]: [conv: string, norm: string],
  options: ConvOptions,
  activation?: Activation,
): Value {
  const { channels, kernel = 1, groups = 1 } = options;
  const init = { kind: 'normal', std: Math.sqrt((2 * groups) / (kernel * kernel * channels)) } as const;
  const normed = g.batchNorm(g.conv(x, conv, { ...options, init }), norm);
  return activation === undefined ? normed : g.activation(normed, activation);
}

/** Squeeze and excitation with SiLU and a sigmoid, by timm's names. */
export function squeezeExcite(g: GraphBuilder, x: Value, at: string, squeezed: number): Value {
  const hidden = g.conv(g.globalPool(x), `${at}.conv_reduce`, { channels: squeezed, bias: true });
  const excited = g.conv(g.activation(hidden, 'silu'), `${at}.conv_expand`, { channels: x.channels, bias: true });
  return g.channelScale(x, g.activation(excited, 'sigmoid'));
}

/** The linear layer that gives `outputs` classes, uniform within 1 / sqrt(outputs). */
export function classifier(g: GraphBuilder, features: Value, outputs: number): Value {
  return g.linear(features, 'classifier', {
    features: outputs,
    init: { weight: { kind: 'uniform', bound: 1 / Math.sqrt(outputs) }, bias: zeros },
  });
}
