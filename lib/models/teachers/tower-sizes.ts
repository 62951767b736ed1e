/** What is told of a tower in a file: its sizes are read off the shapes of its tensors. */
import { LgdError } from '../../errors.js';
import type { GraphSpec } from '../graph.js';
import type { TowerConfig } from './model-config.js';
import type { Naming } from './naming.js';

/** The tensors of a file. */
export type Shapes = ReadonlyMap<string, readonly number[]>;

export interface TowerGraph {
  architecture:
    'ModifiedResNet' | 'ViT' | 'SigLIP' | 'Perception Encoder' | 'ConvNeXt' | 'plain ViT' | 'plain ConvNeXt';
  graph: GraphSpec;
  embeddingSize: number;
  resolution: number;
}

/** An image tower that a file holds. */
export interface ImageTower extends TowerGraph, Pick<TowerConfig, 'mean' | 'std'> {
  naming: Naming;
}

/** Towers that work at more than one resolution. */
export const resizable: readonly string[] = [
  'ConvNeXt',
  'plain ViT',
  'plain ConvNeXt',
] satisfies ImageTower['architecture'][];

/** Towers that were trained without texts. */
export const withoutTexts: readonly string[] = ['plain ViT', 'plain ConvNeXt'] satisfies ImageTower['architecture'][];

/**
 * Sizes of a stack of blocks. Where nothing is stated, what OpenAI's models have: heads of 64 channels, quickGelu, eps
 * 1e-5.
 */
export function blocks(shapes: Shapes, naming: Naming, config: TowerConfig, width: number) {
  const first = naming.source('transformer.resblocks.0.ln_1.weight', [width]).tensors[0]![0];
  const stack = first.slice(0, first.indexOf('.0.') + 1);
  const { layers, heads, headWidth = 64, activation = 'quickGelu', eps = 1e-5 } = config;
  return {
    width,
    layers: typeof layers === 'number' ? layers : countBlocks(shapes, stack),
    heads: heads ?? Math.floor(width / headWidth),
    hidden: lookUp(shapes, naming)('transformer.resblocks.0.mlp.c_fc.weight', 0),
    activation,
    eps,
  };
}

/** How many blocks `stack0.`, `stack1.`, ... there are: not the highest number, which may be any. */
export function countBlocks(shapes: Shapes, stack: string): number {
  const numbers = [...shapes.keys()]
    .filter((name) => name.startsWith(stack))
    .map((name) => Number.parseInt(name.slice(stack.length), 10));
  return new Set(numbers.filter(Number.isInteger)).size;
}

/** Sizes of a graph's parameter, read off the file's tensor; those that a tower is recognised by must be there. */
export function lookUp(shapes: Shapes, naming: Naming): (parameter: string, axis: number) => number {
  return (name, axis) => {
    const { tensors, transposed } = naming.source(name, []);
    const [tensor] = tensors[0] ?? [''];
    const shape = shapes.get(tensor);
    if (shape === undefined) {
      throw new LgdError('BAD_MODEL', `the weights lack ${tensor}, which tells a size of the tower.`, {
        mend: tensor.includes('proj')
          ? 'Save the model with its projections: without one (CLIPVisionModel, CLIPTextModel) images and texts are in no common space'
          : 'Fetch the model again',
      });
    }
    // OpenAI's projections are stored the other way around
    const size = transposed ? shape[shape.length - 1 - axis] : shape[axis];
    if (size === undefined)
      throw new LgdError(
        'BAD_MODEL',
        `the tensor ${tensor} is [${shape.join(',')}], so the tower is built in a way not known here.`,
        { mend: "Take a variant of one resolution (not SigLIP 2's NaFlex), or an ONNX export" },
      );
    return size;
  };
}

export function wholeRoot(count: number): number {
  return Math.round(Math.sqrt(Math.max(0, count)));
}
