/** What each convolution of a student is there for: the other tools name layers by that. */
import { LgdError } from '../../errors.js';
import type { GraphSpec } from '../graph.js';

/** Place of a convolution: the first one, one of an inverted residual block, or the one before pooling. */
export type LayerRole = 'stem' | 'expand' | 'depthwise' | 'squeeze' | 'excite' | 'project' | 'last';

/** A convolution of a student of the MobileNet kind, and the norm that follows it. */
export interface StudentLayer {
  /** Module names, as torchvision has them. */
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
  let expanded = false; // has the block's depthwise convolution come?
  graph.nodes.forEach(({ op, name, attributes }, i) => {
    if (op !== 'conv') return;
    const norm = graph.nodes.find((node) => node.op === 'batchNorm' && node.inputs[0] === i + 1)?.name;
    const [, own] = blockOf.exec(name) ?? [];
    if (own === undefined) {
      layers.push({ conv: name, norm, role: layers.length === 0 ? 'stem' : 'last', block: -1 });
      return;
    }
    if (own !== current) [current, block, expanded] = [own, block + 1, false];
    const isDepthwise = Number(attributes!['groups']) > 1;
    const role = name.endsWith('.fc1') ? 'squeeze' : name.endsWith('.fc2') ? 'excite' : isDepthwise ? 'depthwise' : expanded ? 'project' : 'expand';
    expanded ||= isDepthwise;
    layers.push({ conv: name, norm, role, block });
  });
  return layers;
}

const repeats: Readonly<Record<string, readonly number[]>> = {
  mobilenet_v2: [1, 2, 3, 4, 3, 3, 1],
  mobilenet_v3_small: [1, 2, 3, 2, 3],
  mobilenet_v3_large: [1, 2, 3, 4, 2, 3],
};

/** Stage, and place in the stage, of each block, both from 0; an EfficientNet's stages are the first number of its names. @throws LgdError BAD_OPTION for another network that no table has */
export function stagesOf(architecture: string, layers: readonly StudentLayer[]): { stage: number; place: number }[] {
  const known = repeats[architecture];
  if (known !== undefined) return known.flatMap((count, stage) => Array.from({ length: count }, (_, place) => ({ stage, place })));
  const firsts = layers.filter((layer, i) => layer.block >= 0 && layers[i - 1]!.block !== layer.block);
  const places = firsts.map(({ conv }) => /^features\.(\d+)\.(\d+)\./u.exec(conv) ?? []);
  if (places.length === 0 || places.some(([, , place]) => place === undefined)) {
    throw new LgdError('BAD_OPTION', `which blocks of ${architecture} are a stage is not known.`, { option: 'to', found: architecture, mend: 'Export it to onnx or torchvision, or add its stages to lib/models/tools/layers.ts' });
  }
  return places.map(([, stage, place]) => ({ stage: Number(stage) - 1, place: Number(place) }));
}
