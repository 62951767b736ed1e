/** Sides of a network's maps for square images, and what its convolutions pad them with. */
import type { GraphNode } from '../addon/native.js';
import type { GraphSpec } from './graph.js';

/**
 * Rows of zeros that a convolution reads before and behind a map, and columns; native/graph/shape.cpp has the rule of
 * `same`.
 * @param kernel its side
 * @param side of the map that it reads, in positions
 */
export function paddingOf({ attributes }: GraphNode, kernel: number, side: number): [before: number, after: number] {
  const { stride = 1, padding = 0, dilation = 1, same = 0 } = (attributes ?? {}) as Record<string, number>;
  if (same === 0) return [padding, padding];
  const coarse = Math.ceil(side / dilation);
  const missing = Math.max(0, (Math.ceil(coarse / same) - 1) * same + kernel - coarse);
  const before = Math.floor(missing / 2) * dilation;
  const reach = (Math.ceil(side / stride) - 1) * stride + dilation * (kernel - 1) + 1;
  return [before, Math.max(0, reach - side - before)];
}

/** The side of every value, in positions; 1 of what a pool over all positions leaves. @param resolution in pixels */
export function sidesOf({ nodes, parameters }: GraphSpec, resolution: number): number[] {
  const shapes = new Map(parameters.map(({ name, shape }) => [name, shape]));
  const sides = [resolution];
  for (const node of nodes) {
    const side = sides[node.inputs[0]!]!;
    const {
      kernel = 1,
      stride = 1,
      padding = 0,
      dilation = 1,
      factor = 1,
    } = (node.attributes ?? {}) as Record<string, number>;
    const windows = (size: number, reach: number, step: number) => Math.floor((size - reach) / step) + 1;
    if (node.op === 'conv') {
      const taps = shapes.get(node.parameters![0]!)![2]!;
      const [before, after] = paddingOf(node, taps, side);
      sides.push(windows(side + before + after, dilation * (taps - 1) + 1, stride));
    } else if (node.op === 'maxPool') sides.push(windows(side + 2 * padding, kernel, stride));
    else if (node.op === 'avgPool') sides.push(Math.floor(side / kernel));
    else if (node.op === 'resize') sides.push(side * factor);
    else sides.push(node.op === 'globalPool' ? 1 : side);
  }
  return sides;
}
