/** What each convolution of a student is there for: the other tools name layers by that. */
import type { GraphSpec } from '../graph.js';

/**
 * Place of a convolution: the first one, one of an inverted residual block (`fused`: the dense one of several taps in
 * the place of expand and depthwise), or the one before pooling.
 */
export type LayerRole = 'stem' | 'expand' | 'fused' | 'depthwise' | 'squeeze' | 'excite' | 'project' | 'last';

/** A convolution of a student of the MobileNet kind, and the norm that follows it. */
export interface StudentLayer {
  /** Module names of this package. */
  conv: string;
  norm: string | undefined;
  role: LayerRole;
  /** Number of its block, from 0 over all stages; -1 outside of blocks. */
  block: number;
}

const blockOf = /^(features\.\d+(?:\.\d+)?)\.(?:conv|block)\./u;

/** The convolutions of a MobileNet or an EfficientNet, in order. */
export function mobileLayers(graph: GraphSpec): StudentLayer[] {
  const layers: StudentLayer[] = [];
  let [current, block] = ['', -1];
  let expanded = false; // has the block's depthwise or fused convolution come?
  const shapes = new Map(graph.parameters.map(({ name, shape }) => [name, shape]));
  graph.nodes.forEach(({ op, name, parameters, attributes }, i) => {
    if (op !== 'conv') return;
    const norm = graph.nodes.find((node) => node.op === 'batchNorm' && node.inputs[0] === i + 1)?.name;
    const [, own] = blockOf.exec(name) ?? [];
    if (own === undefined) {
      layers.push({ conv: name, norm, role: layers.length === 0 ? 'stem' : 'last', block: -1 });
      return;
    }
    if (own !== current) [current, block, expanded] = [own, block + 1, false];
    const isDepthwise = Number(attributes!['groups']) > 1;
    const isFused = !isDepthwise && shapes.get(parameters![0]!)![2]! > 1;
    const role = name.endsWith('.fc1')
      ? 'squeeze'
      : name.endsWith('.fc2')
        ? 'excite'
        : isDepthwise
          ? 'depthwise'
          : isFused
            ? 'fused'
            : expanded
              ? 'project'
              : 'expand';
    expanded ||= isDepthwise || isFused;
    layers.push({ conv: name, norm, role, block });
  });
  return layers;
}

/** Stage, and place in the stage, of each block, both from 0. @param blocks of each stage */
export function blockPlaces(blocks: readonly number[]): { stage: number; place: number }[] {
  return blocks.flatMap((count, stage) => Array.from({ length: count }, (_, place) => ({ stage, place })));
}
