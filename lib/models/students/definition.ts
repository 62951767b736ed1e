import type { GraphBuilder, GraphSpec, Value } from '../graph.js';

/**
 * What follows the features: the architecture's classifier for `outputs` classes, or the distillation head of the
 * method (features -> hidden of the same width, ReLU -> embeddingSize) in its place.
 */
export type Head = { kind: 'classifier'; outputs: number } | { kind: 'projection'; embeddingSize: number };

export interface StudentOptions {
  head: Head;
  /** Scales the channels, as torchvision's width_mult or timm's channel_multiplier; 1 where the family has none. */
  widthMultiplier: number;
  /** Dropout and stochastic depth as the architecture has them; false leaves them out. */
  dropping: boolean;
  /** Side of the square input in pixels, which a table of positions depends on. */
  resolution: number;
}

/** Students whose layers another tool names in one way: a row of the table in lib/models/tools/families.ts. */
export type StudentFamily =
  | 'resnet'
  | 'mobilenet_v2'
  | 'mobilenet_v3'
  | 'mobilenet_v4'
  | 'efficientnet'
  | 'efficientnet_v2'
  | 'tf_efficientnetv2'
  | 'efficientnet_lite'
  | 'convnext'
  | 'vit';

/**
 * One student, whose modules have torchvision's names, or timm's if torchvision lacks it; students/registry.ts lists
 * them.
 */
export interface StudentDefinition {
  name: string;
  family: StudentFamily;
  /** Which of its family, as other tools call it too: `50`, `large`, `b0`. Empty in a family of one. */
  variant: string;
  /** Blocks of each stage. */
  blocks: readonly number[];
  /**
   * The module in whose place the projection head is exported. lib/train/start-weights.ts knows these names, to leave a
   * classifier out of a file of weights.
   */
  classifier: 'fc' | 'classifier' | 'head.fc' | 'head';
  /** Does it take a width multiplier? */
  scalable: boolean;
  /** Of a vision transformer: the side of its patches in pixels, of which the resolution is a multiple. */
  patch?: number | undefined;
  /**
   * Of one that was published with AdamW, by which it trains if nobody says otherwise: the rate at the end of the
   * warm-up, whatever a step has (docs/tuning.md has the runs).
   */
  adamwPeak?: number | undefined;
  build(options: StudentOptions): GraphSpec;
}

/** A student as people read it: `mobilenet_v2 x 0.5`, and without the width where that is 1. */
export function nameWithWidth(name: string, widthMultiplier: number): string {
  return widthMultiplier === 1 ? name : `${name} x ${widthMultiplier}`;
}

/** Is this a module, or a parameter, of the projection head? timm has layers below `head` that are none. */
export function isProjection(name: string): boolean {
  return /^head\.\d/u.test(name);
}

/** Features to the result: the projection head `head.0`, ReLU, `head.2`, or what `classifier` makes. */
export function withHead(
  g: GraphBuilder,
  features: Value,
  head: Head,
  classifier: (outputs: number) => Value,
): GraphSpec {
  if (head.kind === 'classifier') return g.finish(classifier(head.outputs));
  const hidden = g.relu(g.linear(features, 'head.0', { features: features.channels }));
  return g.finish(g.linear(hidden, 'head.2', { features: head.embeddingSize }));
}
