/**
 * The projection head at every position: embeddings of image parts in the text's space, without any training for it.
 */
import { GraphBuilder, type GraphSpec } from '../graph.js';
import { dilate, lastMap, unpooledGraph } from '../stages.js';
import { weightsOf } from '../features.js';
import type { WeightRecord } from '../weights.js';

/**
 * A student's graph with its projection head, and the layers between pool and head, applied to each position of the
 * last map instead of to their mean: [B,h,w,D]. Forward only.
 * @param student with its projection head
 * @throws LgdError BAD_MODEL, BAD_OPTION
 */
export function denseProjectionGraph(student: GraphSpec, outputStride: number): GraphSpec {
  const backbone = dilate(unpooledGraph(student), outputStride);
  const g = new GraphBuilder(`${student.name}_dense`, { start: backbone, dropping: false });
  const size = (name: string) => student.parameters.find((parameter) => parameter.name === name)!.shape[0]!;
  const hidden = g.relu(g.conv(lastMap(backbone), 'head.0', { channels: size('head.0.weight'), bias: true }));
  return g.finish(g.conv(hidden, 'head.2', { channels: size('head.2.weight'), bias: true }));
}

/** A student's weights for {@link denseProjectionGraph}: its linear layers as 1x1 convolutions. */
export function denseProjectionWeights(graph: GraphSpec, weights: Readonly<WeightRecord>): WeightRecord {
  const shapes = new Map(graph.parameters.map(({ name, shape }) => [name, shape]));
  return Object.fromEntries(
    Object.entries(weightsOf(graph, weights)).map(([name, { data }]) => [
      name,
      { shape: [...shapes.get(name)!], data },
    ]),
  );
}
