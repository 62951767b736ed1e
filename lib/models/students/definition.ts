import type { GraphBuilder, GraphSpec, Value } from '../graph.js';

/**
 * What follows the pooled features: torchvision's classifier for `outputs` classes, or the distillation head of the method
 * (pooled -> hidden of the same width, ReLU -> embeddingSize) in its place.
 */
export type Head = { kind: 'classifier'; outputs: number } | { kind: 'projection'; embeddingSize: number };

export interface StudentOptions {
  head: Head;
  /** Scales the channels, as torchvision's width_mult; 1 where the family has none. */
  widthMultiplier: number;
  /** Dropout and stochastic depth as torchvision has them; false leaves them out. */
  dropping: boolean;
}

/** One student; students/registry.ts lists them. */
export interface StudentDefinition {
  name: string;
  /** Does it take a width multiplier? */
  scalable: boolean;
  build(options: StudentOptions): GraphSpec;
}

/** Pooled features to the result: the projection head `head.0`, ReLU, `head.2`, or what `classifier` makes. */
export function withHead(g: GraphBuilder, pooled: Value, head: Head, classifier: (outputs: number) => Value): GraphSpec {
  if (head.kind === 'classifier') return g.finish(classifier(head.outputs));
  const hidden = g.relu(g.linear(pooled, 'head.0', { features: pooled.channels }));
  return g.finish(g.linear(hidden, 'head.2', { features: head.embeddingSize }));
}
