/** What a model's folder says of its towers: config.json (transformers) and open_clip_config.json (open_clip). */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { LgdError } from '../../errors.js';
import type { Activation } from '../graph.js';
import type { ChannelTriple } from './types.js';

/** Sizes of a tower, as far as a file states them; the shapes of its weights tell the rest. */
export interface TowerConfig {
  /** Blocks; of a ModifiedResNet those of its four stages. */
  layers?: number | number[];
  heads?: number;
  headWidth?: number;
  imageSize?: number;
  activation?: Activation;
  eps?: number;
  mean?: ChannelTriple;
  std?: ChannelTriple;
}

/** A folder's configuration. */
export interface ModelConfig {
  vision: TowerConfig;
  text: TowerConfig;
}

interface TowerSection {
  layers?: number | number[];
  heads?: number;
  head_width?: number;
  image_size?: number | number[];
  num_hidden_layers?: number;
  num_attention_heads?: number;
  hidden_act?: string;
  layer_norm_eps?: number;
  pool_type?: string;
  global_average_pool?: boolean;
  norm_kwargs?: { eps?: number };
}

interface ConfigFile extends TowerSection {
  model_type?: string;
  vision_config?: TowerSection;
  text_config?: TowerSection;
  model_cfg?: { vision_cfg?: TowerSection; text_cfg?: TowerSection; quick_gelu?: boolean };
  preprocess_cfg?: { mean?: ChannelTriple; std?: ChannelTriple };
}

/** The files that {@link readModelConfig} reads. */
export const configFiles = ['config.json', 'open_clip_config.json'] as const;

const activations: Readonly<Record<string, Activation>> = {
  quick_gelu: 'quickGelu', gelu: 'gelu', gelu_pytorch_tanh: 'geluTanh', gelu_new: 'geluTanh', relu: 'relu', silu: 'silu', swish: 'silu',
};

/**
 * Reads the configuration that belongs to weights under transformers' names or under OpenAI's; for the latter open_clip_config.json goes before config.json.
 * Sizes that transformers leaves out of a file because they are its defaults are filled in.
 * @throws LgdError BAD_MODEL for a file that is not JSON, or a tower that is built in another way
 */
export async function readModelConfig(folder: string, names: 'transformers' | 'openai'): Promise<ModelConfig> {
  const [own, openClip] = [await readJson(join(folder, 'config.json')), await readJson(join(folder, 'open_clip_config.json'))];
  if (names === 'openai' && openClip?.model_cfg !== undefined) return { vision: openClipTower(openClip, 'vision_cfg', folder), text: openClipTower(openClip, 'text_cfg', folder) };
  const towers = { vision: transformersTower(own, 'vision'), text: transformersTower(own, 'text') };
  if (names === 'openai') return towers;
  const isSiglip = own?.model_type?.startsWith('siglip') ?? false;
  const common = isSiglip ? { heads: 12, activation: 'geluTanh', eps: 1e-6 } as const : { activation: 'quickGelu', eps: 1e-5 } as const;
  return {
    vision: withDefaults({ ...common, heads: own === undefined ? undefined : 12 }, towers.vision),
    text: withDefaults({ ...common, heads: own === undefined ? undefined : isSiglip ? 12 : 8 }, towers.text),
  };
}

function withDefaults(defaults: TowerConfig, stated: TowerConfig): TowerConfig {
  return { ...defaults, ...Object.fromEntries(Object.entries(stated).filter(([, value]) => value !== undefined)) };
}

function transformersTower(file: ConfigFile | undefined, tower: 'vision' | 'text'): TowerConfig {
  const alone = file?.model_type?.includes(`_${tower}_model`) ?? false; // CLIPVisionModelWithProjection saved alone
  const section = file?.[`${tower}_config`] ?? (alone ? file : undefined) ?? {};
  return {
    layers: section.num_hidden_layers ?? section.layers,
    heads: section.num_attention_heads ?? section.heads,
    headWidth: section.head_width,
    imageSize: side(section.image_size),
    activation: section.hidden_act === undefined ? undefined : activationOf(section.hidden_act),
    eps: section.layer_norm_eps,
  };
}

function openClipTower(file: ConfigFile, tower: 'vision_cfg' | 'text_cfg', folder: string): TowerConfig {
  const section = file.model_cfg?.[tower] ?? {};
  const pooling = section.global_average_pool ? 'avg' : section.pool_type;
  if (pooling !== undefined && pooling !== 'tok' && pooling !== 'argmax') {
    throw new LgdError('BAD_MODEL', `the tower in ${folder} pools its tokens in a way not known here.`, { option: `model_cfg.${tower}.pool_type`, found: pooling, allowed: 'tok, argmax', mend: 'Export the tower to ONNX' });
  }
  return {
    layers: section.layers,
    heads: section.heads,
    headWidth: section.head_width,
    imageSize: side(section.image_size),
    activation: file.model_cfg?.quick_gelu ? 'quickGelu' : 'gelu',
    eps: section.norm_kwargs?.eps,
    ...(tower === 'vision_cfg' ? { mean: file.preprocess_cfg?.mean, std: file.preprocess_cfg?.std } : {}),
  };
}

function activationOf(name: string): Activation {
  const known = activations[name];
  if (known !== undefined) return known;
  throw new LgdError('BAD_MODEL', 'the towers of this model have an activation not known here.', { option: 'hidden_act', found: name, allowed: Object.keys(activations).join(', '), mend: 'Export the model to ONNX' });
}

function side(size: number | number[] | undefined): number | undefined {
  return Array.isArray(size) ? size[0] : size;
}

async function readJson(path: string): Promise<ConfigFile | undefined> {
  const text = await readFile(path, 'utf8').catch(() => undefined);
  if (text === undefined) return undefined;
  try {
    return JSON.parse(text) as ConfigFile;
  } catch (cause) {
    throw new LgdError('BAD_MODEL', `${path} is not JSON.`, { mend: 'Fetch it again', cause });
  }
}
