/**
 * Which tower a file of weights holds, and its graph: sizes come from the shapes of its tensors, and from its
 * configuration what shapes do not tell.
 */
import { LgdError } from '../../errors.js';
import type { GraphSpec } from '../graph.js';
import { convNextTower, hasConvNext } from './convnext-weights.js';
import { readModelConfig, type TowerConfig } from './model-config.js';
import { modifiedResNet } from './modified_resnet.js';
import { openAiNames, transformersNames, type Naming } from './naming.js';
import { siglip } from './siglip.js';
import { siglipText, textTransformer } from './text_transformer.js';
import type { ChannelTriple } from './types.js';
import { visionTransformer } from './vision_transformer.js';

type Shapes = ReadonlyMap<string, readonly number[]>;

interface TowerGraph {
  architecture: 'ModifiedResNet' | 'ViT' | 'SigLIP' | 'ConvNeXt';
  graph: GraphSpec;
  embeddingSize: number;
  resolution: number;
}

/** An image tower that a file holds. */
export interface ImageTower extends TowerGraph {
  naming: Naming;
  mean?: ChannelTriple;
  std?: ChannelTriple;
}

/** A text tower that a file holds. */
export interface TextTower {
  graph: (endId: number) => GraphSpec;
  naming: Naming;
  embeddingSize: number;
  /** The most tokens of a text. */
  maxTokens: number;
  words: number;
  /** SigLIP's, whose texts are padded to the full length. */
  siglip: boolean;
}

/**
 * The image tower in a file of these tensors, or undefined where there is none of those known here.
 * @param folder holds the configuration
 * @throws LgdError BAD_MODEL
 */
export async function findImageTower(shapes: Shapes, folder: string): Promise<ImageTower | undefined> {
  const prefix = shapes.has('visual.conv1.weight') ? 'visual.' : '';
  const has = (start: string) => [...shapes.keys()].some((name) => name.startsWith(start));
  if (shapes.has(`${prefix}conv1.weight`)) {
    const naming = openAiNames(
      prefix,
      prefix === '' ? /^(?:logit_scale|logit_bias|token_embedding\.weight|text_projection|ln_final\..*)$/u : undefined,
    );
    const vision = await readModelConfig(folder, 'openai', 'vision');
    const common = { naming, mean: vision.mean, std: vision.std };
    if (has(`${prefix}layer1.`) || has(`${prefix}attnpool.`))
      return { ...resNetTower(shapes, vision, prefix, naming), ...common };
    if (has(`${prefix}transformer.resblocks.`)) return { ...vitTower(shapes, vision, naming), ...common };
  }
  if (hasConvNext(shapes)) {
    const vision = await readModelConfig(folder, 'openai', 'vision');
    return { architecture: 'ConvNeXt', ...convNextTower(shapes, vision, folder) };
  }
  if (shapes.has('vision_model.embeddings.patch_embedding.weight')) {
    const naming = transformersNames('vision');
    const vision = await readModelConfig(folder, 'transformers', 'vision');
    const tower = has('vision_model.head.') ? siglipTower(shapes, vision, naming) : vitTower(shapes, vision, naming);
    return { ...tower, naming, mean: vision.mean, std: vision.std };
  }
  return undefined;
}

/** The text tower in a file of these tensors, or undefined. @throws LgdError BAD_MODEL */
export async function findTextTower(shapes: Shapes, folder: string): Promise<TextTower | undefined> {
  const prefix = shapes.has('text.token_embedding.weight') ? 'text.' : '';
  const openAi = shapes.has(`${prefix}token_embedding.weight`);
  if (!openAi && !shapes.has('text_model.embeddings.token_embedding.weight')) return undefined;
  const ofSiglip = shapes.has('text_model.head.weight');
  const naming = openAi
    ? openAiNames(
        prefix,
        prefix === ''
          ? /^(?:visual\..*|logit_scale|logit_bias|input_resolution|context_length|vocab_size)$/u
          : undefined,
      )
    : transformersNames(ofSiglip ? 'siglip text' : 'text');
  const text = await readModelConfig(folder, openAi ? 'openai' : 'transformers', 'text');
  const shape = lookUp(shapes, naming);
  const [words, width] = [shape('token_embedding.weight', 0), shape('token_embedding.weight', 1)];
  const config = {
    ...blocks(shapes, naming, text, width),
    words,
    positions: shape('positional_embedding', 0),
    outputDim: shape('text_projection.weight', 0),
  };
  const graph = (endId: number) => (ofSiglip ? siglipText(config) : textTransformer(config, endId));
  return { graph, naming, embeddingSize: config.outputDim, maxTokens: config.positions, words, siglip: ofSiglip };
}

function vitTower(shapes: Shapes, config: TowerConfig, naming: Naming): TowerGraph {
  const shape = lookUp(shapes, naming);
  const [width, patch] = [shape('conv1.weight', 0), shape('conv1.weight', 3)];
  const imageSize = config.imageSize ?? patch * wholeRoot(shape('positional_embedding', 0) - 1);
  const outputDim = shape('proj.weight', 0);
  const graph = visionTransformer({ ...blocks(shapes, naming, config, width), patch, outputDim, imageSize });
  return { architecture: 'ViT', graph, embeddingSize: outputDim, resolution: imageSize };
}

function siglipTower(shapes: Shapes, config: TowerConfig, naming: Naming): TowerGraph {
  const shape = lookUp(shapes, naming);
  const [width, patch] = [shape('conv1.weight', 0), shape('conv1.weight', 3)];
  const imageSize = config.imageSize ?? patch * wholeRoot(shape('positional_embedding', 0));
  const graph = siglip({ ...blocks(shapes, naming, config, width), patch, imageSize });
  return { architecture: 'SigLIP', graph, embeddingSize: width, resolution: imageSize };
}

/**
 * As OpenAI's code reads its sizes off a checkpoint; a configuration that states other ones is believed, so that what
 * is wrong is named.
 */
function resNetTower(shapes: Shapes, config: TowerConfig, prefix: string, naming: Naming): TowerGraph {
  const shape = lookUp(shapes, naming);
  const layers = Array.isArray(config.layers)
    ? config.layers
    : [1, 2, 3, 4].map((stage) => countBlocks(shapes, `${prefix}layer${stage}.`));
  const width = shape('layer1.0.conv1.weight', 0);
  const imageSize = config.imageSize ?? 32 * wholeRoot(shape('attnpool.positional_embedding', 0) - 1);
  const outputDim = shape('attnpool.c_proj.weight', 0);
  const heads = config.heads ?? Math.floor((32 * width) / (config.headWidth ?? 64));
  const graph = modifiedResNet({ layers, width, heads, outputDim, imageSize });
  return { architecture: 'ModifiedResNet', graph, embeddingSize: outputDim, resolution: imageSize };
}

/**
 * Sizes of a stack of blocks. Where nothing is stated, what OpenAI's models have: heads of 64 channels, quickGelu, eps
 * 1e-5.
 */
function blocks(shapes: Shapes, naming: Naming, config: TowerConfig, width: number) {
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
function countBlocks(shapes: Shapes, stack: string): number {
  const numbers = [...shapes.keys()]
    .filter((name) => name.startsWith(stack))
    .map((name) => Number.parseInt(name.slice(stack.length), 10));
  return new Set(numbers.filter(Number.isInteger)).size;
}

/** Sizes of a graph's parameter, read off the file's tensor; those that a tower is recognised by must be there. */
function lookUp(shapes: Shapes, naming: Naming): (parameter: string, axis: number) => number {
  return (name, axis) => {
    const {
      tensors: [[tensor] = ['']],
      make,
    } = naming.source(name, []);
    const shape = shapes.get(tensor);
    if (shape === undefined) {
      throw new LgdError('BAD_MODEL', `the weights lack ${tensor}, which tells a size of the tower.`, {
        mend: tensor.includes('proj')
          ? 'Save the model with its projections: without one (CLIPVisionModel, CLIPTextModel) images and texts are in no common space'
          : 'Fetch the model again',
      });
    }
    // OpenAI's projections are stored the other way around
    const size = make === undefined ? shape[axis] : shape[shape.length - 1 - axis];
    if (size === undefined)
      throw new LgdError(
        'BAD_MODEL',
        `the tensor ${tensor} is [${shape.join(',')}], so the tower is built in a way not known here.`,
        { mend: "Take a variant of one resolution (not SigLIP 2's NaFlex), or an ONNX export" },
      );
    return size;
  };
}

function wholeRoot(count: number): number {
  return Math.round(Math.sqrt(Math.max(0, count)));
}
