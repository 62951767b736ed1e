/** Tables of positions in a graph: which side of input they are for, and how one for another side becomes one. */
import type { GraphNode } from '../addon/native.js';
import { LgdError } from '../errors.js';
import type { GraphSpec } from './graph.js';
import { listStudents } from './students/registry.js';
import { resamplePositions } from './teachers/position-grid.js';
import type { WeightRecord } from './weights.js';

/**
 * A table: its node and name, its rows for tokens that are no patches, and the side of its square grid of patches. What
 * has none, the engine refuses by itself: no square has so many.
 */
interface Table {
  node: GraphNode;
  name: string;
  first: number;
  grid: number;
}

function tablesOf({ nodes, parameters }: GraphSpec): Table[] {
  const shapes = new Map(parameters.map(({ name, shape }) => [name, shape]));
  return nodes
    .filter(({ op }) => op === 'positions')
    .flatMap((node) => {
      const [name = ''] = node.parameters ?? [];
      const first = Number(node.attributes?.['first'] ?? 0);
      const grid = Math.sqrt((shapes.get(name)?.at(-2) ?? 0) - first);
      return Number.isInteger(grid) && grid > 0 ? [{ node, name, first, grid }] : [];
    });
}

/** How many positions a side a convolution makes of images of one side, and the least side with as many as `grid`. */
function sizesOf({ parameters }: GraphSpec, conv: GraphNode, resolution: number, grid: number) {
  const { stride = 1, padding = 0, dilation = 1, same = 0 } = (conv.attributes ?? {}) as Record<string, number>;
  const kernel = parameters.find(({ name }) => name === conv.parameters?.[0])?.shape.at(-1) ?? 1;
  // TensorFlow's padding follows the image: a window for each stride that begins in it, however far the last one reaches
  const reach = same > 0 ? 1 : dilation * (kernel - 1) + 1 - 2 * padding;
  return { positions: Math.floor((resolution - reach) / stride) + 1, side: (grid - 1) * stride + reach };
}

/**
 * Is a network for images of this side, as far as patches of them have positions? One of the registry sees all of an
 * image, one of a caller's own may leave out what is behind its last whole patch.
 * @param option what the caller knows the side by
 * @throws LgdError BAD_OPTION
 */
export function checkGrid(graph: GraphSpec, resolution: number, option = 'resolution'): void {
  const seesAll = listStudents().includes(graph.name);
  for (const { node, grid } of tablesOf(graph)) {
    const patches = graph.nodes[node.inputs[0]! - 1];
    if (patches?.op !== 'conv' || patches.inputs[0] !== 0) continue;
    const { positions, side } = sizesOf(graph, patches, resolution, grid);
    if (positions === grid && (resolution === side || !seesAll)) continue;
    throw new LgdError('BAD_OPTION', `${graph.name} has positions for images of another size.`, {
      option,
      found: resolution,
      allowed: String(side),
      mend: `Give it images of ${side} px, or create it for another size: createStudent(name, { resolution })`,
    });
  }
}

/**
 * Weights with tables of other grids interpolated to a graph's, as timm does it (bicubic, with antialias); what fits or
 * is no such table is left.
 * @returns the weights, and what to say about each table that was
 */
export function fitPositions(
  graph: GraphSpec,
  weights: Readonly<WeightRecord>,
): { weights: WeightRecord; remarks: string[] } {
  const fitted = { ...weights };
  const remarks: string[] = [];
  for (const { name, first, grid } of tablesOf(graph)) {
    const [rows = 0, width = 0] = weights[name]?.shape.slice(-2) ?? [];
    const from = Math.sqrt(rows - first);
    const wanted = graph.parameters.find((parameter) => parameter.name === name)!.shape;
    if (!Number.isInteger(from) || from < 1 || from === grid || width !== wanted.at(-1)) continue;
    const { data } = weights[name]!;
    const patches = resamplePositions(data.subarray(first * width), { width, from, to: grid, antialias: true });
    const table = new Float32Array(first * width + patches.length);
    table.set(data.subarray(0, first * width));
    table.set(patches, first * width);
    fitted[name] = { shape: [...wanted], data: table };
    remarks.push(`${name} was interpolated from ${from}x${from} to ${grid}x${grid} patches`);
  }
  return { weights: fitted, remarks };
}
