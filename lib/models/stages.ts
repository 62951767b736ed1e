/** A student's backbone as maps: its stages by stride, its last map before the pool, and fewer strides by dilation. */
import type { GraphNode } from '../addon/native.js';
import { LgdError } from '../errors.js';
import { featureGraph, upTo } from './features.js';
import type { GraphSpec, Value } from './graph.js';
import { findStudent, listStudents } from './students/registry.js';

/** The last block at one stride. */
export interface Stage {
  /** Image pixels a position, along each axis. */
  stride: number;
  value: Value;
}

/** Channels and stride of every value; the stride of what comes after a pool over all positions is infinite. */
function trace(graph: GraphSpec): { channels: number[]; strides: number[] } {
  const shapes = new Map(graph.parameters.map(({ name, shape }) => [name, shape]));
  const channels = [3];
  const strides = [1];
  for (const { op, inputs, parameters = [], attributes = {} } of graph.nodes) {
    const shape = op === 'conv' || op === 'linear' ? shapes.get(parameters[0]!)! : undefined;
    channels.push(shape?.[0] ?? channels[inputs[0]!]!);
    strides.push(op === 'globalPool' ? Infinity : strides[inputs[0]!]! * strideOf(op, attributes));
  }
  return { channels, strides };
}

function strideOf(op: string, attributes: Record<string, number | string>): number {
  return Number(attributes['stride'] ?? (op === 'maxPool' || op === 'avgPool' ? attributes['kernel'] : 1));
}

/**
 * A student's graph up to its features, the value of the pool from which they come, and the map that it takes the mean
 * of.
 */
function pooled(student: GraphSpec): { features: GraphSpec; pool: number; map: number } {
  const features = featureGraph(student);
  let pool = features.output;
  while (pool > 0 && features.nodes[pool - 1]!.op !== 'globalPool') pool = features.nodes[pool - 1]!.inputs[0]!;
  if (pool === 0)
    throw new LgdError('BAD_MODEL', `${student.name} does not pool a map before its head.`, {
      allowed: withMaps().join(', '),
      mend: 'Give one of these students',
    });
  return { features, pool, map: features.nodes[pool - 1]!.inputs[0]! };
}

/** Names of the students that pool a map: all but vision transformers. */
function withMaps(): string[] {
  return listStudents().filter((name) => findStudent(name).patch === undefined);
}

/**
 * A student's graph up to the map that its pool takes the mean of, [B,h,w,C], and that value. Layers between pool and
 * head are left out.
 * @throws LgdError BAD_MODEL for a graph without a projection head, or without a pool before it
 */
export function mapGraph(student: GraphSpec): GraphSpec {
  const { features, pool, map } = pooled(student);
  return upTo({ ...features, output: map }, pool - 1);
}

/** {@link mapGraph} with the layers between pool and head, at every position. */
export function unpooledGraph(student: GraphSpec): GraphSpec {
  const { features, pool, map } = pooled(student);
  const moved = (value: number) => (value < pool ? value : value === pool ? map : value - 1);
  const nodes = features.nodes
    .filter((_, i) => i !== pool - 1)
    .map((node) => ({ ...node, inputs: node.inputs.map(moved) }));
  return { ...features, nodes, output: moved(features.output) };
}

/** The last map of {@link mapGraph}. */
export function lastMap(graph: GraphSpec): Value {
  return valueOf(graph, graph.output, trace(graph).channels);
}

/**
 * The output of the last block at each stride, the smallest stride first: what a head may branch off. Of a graph of
 * {@link mapGraph}, before {@link dilate}. Torchvision's modules `features.N` and `layerN` and timm's `blocks.N` and
 * `stages.N` are blocks or stages; of other names the first part is.
 */
export function stagesOf(graph: GraphSpec): Stage[] {
  const { channels, strides } = trace(graph);
  const blocks = new Map<string, number>(); // name of a block -> its last value
  graph.nodes.forEach(({ name }, i) => {
    if (Number.isFinite(strides[i + 1]!))
      blocks.set(/^(?:features\.\d+|layer\d+|blocks\.\d+|stages\.\d+)/u.exec(name)?.[0] ?? name.split('.')[0]!, i + 1);
  });
  const last = new Map<number, number>(); // stride -> value
  for (const value of blocks.values()) last.set(strides[value]!, value);
  return [...last]
    .map(([stride, value]) => ({ stride, value: valueOf(graph, value, channels) }))
    .sort((a, b) => a.stride - b.stride);
}

function valueOf(graph: GraphSpec, index: number, channels: readonly number[]): Value {
  return { index, channels: channels[index]!, name: graph.nodes[index - 1]!.name };
}

/**
 * The same weights at a finer output stride: a convolution that would go beyond it keeps its positions (stride 1), and
 * every later kernel spreads its taps by as much (dilation). Where the coarse network has a position, the fine one
 * computes the same value (Chen et al. 2017, "atrous convolution"); only gates of squeeze and excitation take their
 * mean over more positions. Value numbers stay.
 * @param outputStride a power of two
 * @throws LgdError BAD_OPTION where a pool or an even kernel would have to be dilated
 */
export function dilate(graph: GraphSpec, outputStride: number): GraphSpec {
  const strides = [1];
  const dilations = [1];
  const nodes = graph.nodes.map((node): GraphNode => {
    const [stride, dilation] = [strides[node.inputs[0]!]!, dilations[node.inputs[0]!]!];
    const step = strideOf(node.op, node.attributes ?? {});
    const kept = stride * step > outputStride && Number.isFinite(stride) ? 1 : step;
    strides.push(node.op === 'globalPool' ? Infinity : stride * kept);
    dilations.push((dilation * step) / kept);
    if (node.op === 'conv' && (kept !== step || dilation > 1)) {
      checkCentre(graph, node, outputStride);
      return withDilation(node, kept, dilation);
    }
    const isPool = node.op === 'maxPool' || node.op === 'avgPool';
    if (isPool && (kept !== step || dilation > 1)) {
      throw new LgdError('BAD_OPTION', `${graph.name} pools at stride ${stride * step}, which cannot be dilated.`, {
        option: 'outputStride',
        found: outputStride,
        allowed: '8 or 16',
      });
    }
    return node;
  });
  return { ...graph, nodes };
}

/** An even kernel, as between ConvNeXt's stages, has no tap in its middle: with dilation the map would shrink. */
function checkCentre(graph: GraphSpec, { parameters }: GraphNode, outputStride: number): void {
  const kernel = graph.parameters.find(({ name }) => name === parameters![0])!.shape.at(-1)!;
  if (kernel % 2 === 1) return;
  const own = Math.max(...trace(graph).strides.filter(Number.isFinite));
  throw new LgdError('BAD_OPTION', `${graph.name} has ${kernel}x${kernel} convolutions, which cannot be dilated.`, {
    option: 'outputStride',
    found: outputStride,
    allowed: `${own}, its own`,
    mend: `Set it to ${own} (dense.outputStride), or take a student without such convolutions`,
  });
}

function withDilation(node: GraphNode, stride: number, dilation: number): GraphNode {
  const { padding = 0, dilation: own = 1 } = node.attributes as Record<string, number>;
  return { ...node, attributes: { ...node.attributes, stride, padding: padding * dilation, dilation: own * dilation } };
}
