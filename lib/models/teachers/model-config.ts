/**
 * What a model's folder says of its towers: config.json (transformers) and open_clip_config.json (open_clip). Of the fields that change the arithmetic these are read which leave tensors as they are;
 * the others (ls_init_value, no_ln_pre, attentional_pool, qk_norm, embed_cls, timm_model_name ...) add or take tensors, by which loading refuses them. patch_dropout is of training alone.
 */
import { join } from 'node:path';
import { LgdError } from '../../errors.js';
import { readFile } from '../../files/open.js';
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
  no_causal_mask?: boolean;
  norm_kwargs?: { eps?: number };
  act_kwargs?: { approximate?: string } | null;
}

interface ConfigFile extends TowerSection {
  model_type?: string;
  vision_config?: TowerSection;
  text_config?: TowerSection;
  vision_config_dict?: TowerSection | null;
  text_config_dict?: TowerSection | null;
  model_cfg?: { vision_cfg?: TowerSection; text_cfg?: TowerSection; quick_gelu?: boolean };
  preprocess_cfg?: { mean?: ChannelTriple; std?: ChannelTriple };
}

/** The files that {@link readModelConfig} reads. */
export const configFiles = ['config.json', 'open_clip_config.json'] as const;

const activations: Readonly<Record<string, Activation>> = {
  quick_gelu: 'quickGelu', gelu: 'gelu', gelu_pytorch_tanh: 'geluTanh', gelu_new: 'geluTanh', relu: 'relu', silu: 'silu', swish: 'silu',
};

/**
 * Reads what the configuration that belongs to weights under transformers' names or under OpenAI's says of a tower; for the latter open_clip_config.json goes before config.json.
 * Sizes that transformers leaves out of a file because they are its defaults are filled in.
 * @throws LgdError BAD_MODEL for a file that is not JSON, a tower that is built in another way, or none where transformers' names need one
 */
export async function readModelConfig(folder: string, names: 'transformers' | 'openai', tower: 'vision' | 'text'): Promise<TowerConfig> {
  const [own, openClip] = [await readJson(join(folder, 'config.json')), await readJson(join(folder, 'open_clip_config.json'))];
  if (names === 'openai') return openClip?.model_cfg === undefined ? transformersTower(own, tower) : openClipTower(openClip, tower, folder);
  if (own === undefined) {
    throw new LgdError('BAD_MODEL', `${folder} has no config.json, so nothing tells the activation and the heads of its towers.`, { mend: "Fetch the model's config.json" });
  }
  const isSiglip = own.model_type?.startsWith('siglip') ?? false;
  const common = isSiglip ? { activation: 'geluTanh', eps: 1e-6 } as const : { activation: 'quickGelu', eps: 1e-5 } as const;
  return withDefaults({ ...common, heads: tower === 'vision' || isSiglip ? 12 : 8 }, transformersTower(own, tower));
}

function withDefaults(defaults: TowerConfig, stated: TowerConfig): TowerConfig {
  return { ...defaults, ...Object.fromEntries(Object.entries(stated).filter(([, value]) => value !== undefined)) };
}

function transformersTower(file: ConfigFile | undefined, tower: 'vision' | 'text'): TowerConfig {
  const alone = file?.model_type?.includes(`_${tower}_model`) ?? false; // CLIPVisionModelWithProjection saved alone
  // Where a file has both, transformers takes the one of the older name.
  const section = file?.[`${tower}_config_dict`] ?? file?.[`${tower}_config`] ?? (alone ? file : undefined) ?? {};
  return {
    layers: section.num_hidden_layers ?? section.layers,
    heads: section.num_attention_heads ?? section.heads,
    headWidth: section.head_width,
    imageSize: side(section.image_size),
    activation: section.hidden_act === undefined ? undefined : activationOf(section.hidden_act),
    eps: section.layer_norm_eps,
  };
}

function openClipTower(file: ConfigFile, tower: 'vision' | 'text', folder: string): TowerConfig {
  const section = file.model_cfg?.[`${tower}_cfg`] ?? {};
  const refuse = (why: string, key: string, found: unknown, allowed: string) => new LgdError('BAD_MODEL', `the ${tower} tower in ${folder} ${why}.`, {
    option: `model_cfg.${tower}_cfg.${key}`, found, allowed, mend: tower === 'vision' ? 'Export the tower to ONNX' : 'Export the tower to ONNX, or compute a bank of embeddings with it',
  });
  const pooling = section.global_average_pool ? 'avg' : section.pool_type;
  const known = tower === 'vision' ? 'tok' : 'argmax';
  if (pooling !== undefined && pooling !== known) throw refuse('pools its tokens in a way not known here', 'pool_type', pooling, known);
  if (section.no_causal_mask) throw refuse('attends to later tokens too, which is not supported', 'no_causal_mask', true, 'false');
  const { approximate = 'none', ...others } = section.act_kwargs ?? {};
  const activation = file.model_cfg?.quick_gelu ? 'quickGelu' : approximate === 'tanh' ? 'geluTanh' : 'gelu';
  const isKnown = activation === 'quickGelu' ? section.act_kwargs?.approximate === undefined : approximate === 'none' || approximate === 'tanh';
  if (!isKnown || Object.keys(others).length > 0) throw refuse('has an activation not known here', 'act_kwargs', section.act_kwargs, '{"approximate": "tanh"} and without quick_gelu');
  return {
    layers: section.layers,
    heads: section.heads ?? (tower === 'text' ? 8 : undefined), // open_clip's default
    headWidth: section.head_width,
    imageSize: side(section.image_size),
    activation,
    eps: section.norm_kwargs?.eps,
    ...(tower === 'vision' ? { mean: file.preprocess_cfg?.mean, std: file.preprocess_cfg?.std } : {}),
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
  const text = await readFile(path, 'utf8').catch((cause: unknown) => {
    if (cause instanceof LgdError) throw cause;
    return undefined;
  });
  if (text === undefined) return undefined;
  try {
    return JSON.parse(text) as ConfigFile;
  } catch (cause) {
    throw new LgdError('BAD_MODEL', `${path} is not JSON.`, { mend: 'Fetch it again', cause });
  }
}
