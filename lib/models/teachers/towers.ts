/**
 * Which tower a file of weights holds, and its graph: sizes come from the shapes of its tensors, and from its
 * configuration what shapes do not tell.
 */
import type { GraphSpec } from '../graph.js';
import { openAiNames, transformersNames } from './clip-naming.js';
import { findConvNext } from './convnext-weights.js';
import { readModelConfig, type TowerConfig } from './model-config.js';
import { modifiedResNet } from './modified_resnet.js';
import type { Naming } from './naming.js';
import { findPerceptionEncoder } from './perception-naming.js';
import { findPlainTower } from './plain-towers.js';
import { siglip } from './siglip.js';
import { siglipText, textTransformer } from './text_transformer.js';
import {
  blocks,
  countBlocks,
  lookUp,
  wholeRoot,
  type ImageTower,
  type Shapes,
  type TowerGraph,
} from './tower-sizes.js';
import { clipVisionTransformer } from './vision_transformer.js';

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
 * @param resolution side of its input, where it works at more than one; default: as the model's files say
 * @throws LgdError BAD_MODEL, BAD_OPTION (a resolution that is too low)
 */
export async function findImageTower(
  shapes: Shapes,
  folder: string,
  resolution?: number,
): Promise<ImageTower | undefined> {
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
  const convNext = await findConvNext(shapes, folder, resolution);
  if (convNext !== undefined) return convNext;
  const perception = await findPerceptionEncoder(shapes, folder);
  if (perception !== undefined) return perception;
  if (shapes.has('vision_model.embeddings.patch_embedding.weight')) {
    const naming = transformersNames('vision');
    const vision = await readModelConfig(folder, 'transformers', 'vision');
    const tower = has('vision_model.head.') ? siglipTower(shapes, vision, naming) : vitTower(shapes, vision, naming);
    return { ...tower, naming, mean: vision.mean, std: vision.std };
  }
  return findPlainTower(shapes, folder, resolution);
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
  const imageSize = config.imageSize ?? patch * wholeRoot(shape('class_and_positions', 0) - 1);
  const outputDim = shape('proj.weight', 0);
  const graph = clipVisionTransformer({ ...blocks(shapes, naming, config, width), patch, outputDim, imageSize });
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
