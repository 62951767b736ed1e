/**
 * What a model's folder says of its towers: config.json (transformers) and open_clip_config.json (open_clip). Of the
 * fields that change the arithmetic these are read which leave tensors as they are; the others (ls_init_value,
 * no_ln_pre, attentional_pool, qk_norm, embed_cls, timm_model_name ...) add or take tensors, by which loading refuses
 * them. patch_dropout is of training alone.
 */
import { join } from 'node:path';
import { LgdError, unlessAbsent } from '../../errors.js';
import { isObject } from '../../files/json.js';
import { readFile } from '../../files/open.js';
import { mostSide } from '../../number-limits.js';
import type { Activation } from '../graph.js';
import { faultOf, isSide } from './preprocessor.js';
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
  /** Of rotary positions. */
  ropeBase?: number;
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
  timm_model_name?: string;
  timm_pool?: string;
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

const sectionNames = [
  'vision_config',
  'text_config',
  'vision_config_dict',
  'text_config_dict',
  'model_cfg',
  'preprocess_cfg',
] as const;

/** The files that {@link readModelConfig} reads. */
export const configFiles = ['config.json', 'open_clip_config.json'] as const;

const activations: Readonly<Record<string, Activation>> = {
  quick_gelu: 'quickGelu',
  gelu: 'gelu',
  gelu_pytorch_tanh: 'geluTanh',
  gelu_new: 'geluTanh',
  relu: 'relu',
  silu: 'silu',
  swish: 'silu',
};

/**
 * Reads what the configuration that belongs to weights under transformers' names or under OpenAI's says of a tower; for
 * the latter open_clip_config.json goes before config.json. Sizes that transformers leaves out of a file because they
 * are its defaults are filled in.
 * @throws LgdError BAD_MODEL for a file that is not JSON, a tower that is built in another way, or none where
 *   transformers' names need one
 */
export async function readModelConfig(
  folder: string,
  names: 'transformers' | 'openai',
  tower: 'vision' | 'text',
): Promise<TowerConfig> {
  const [own, openClip] = [
    await readJson(join(folder, 'config.json')),
    await readJson(join(folder, 'open_clip_config.json')),
  ];
  const checked = (config: TowerConfig) => checkSizes(config, `the ${tower} tower in ${folder}`);
  if (names === 'openai')
    return checked(
      openClip?.model_cfg === undefined ? transformersTower(own, tower) : openClipTower(openClip, tower, folder),
    );
  if (own === undefined) {
    throw new LgdError(
      'BAD_MODEL',
      `${folder} has no config.json, so nothing tells the activation and the heads of its towers.`,
      { mend: "Fetch the model's config.json" },
    );
  }
  const isSiglip = typeOf(own).startsWith('siglip');
  const common = isSiglip
    ? ({ activation: 'geluTanh', eps: 1e-6 } as const)
    : ({ activation: 'quickGelu', eps: 1e-5 } as const);
  return checked(
    withDefaults({ ...common, heads: tower === 'vision' || isSiglip ? 12 : 8 }, transformersTower(own, tower)),
  );
}

function typeOf(file: ConfigFile | undefined): string {
  return typeof file?.model_type === 'string' ? file.model_type : '';
}

const mostBlocks = 1024;
const mostHeads = 65_536;

/** What would be a graph without end, or divide pixels by nothing. @throws LgdError BAD_MODEL */
export function checkSizes(config: TowerConfig, what: string): TowerConfig {
  const isWhole = (most: number) => (value: unknown) =>
    Number.isInteger(value) && (value as number) >= 1 && (value as number) <= most;
  const isBlocks = isWhole(mostBlocks);
  const size = [isWhole(mostHeads), `a whole number from 1 to ${mostHeads}`] as const;
  const rules: Readonly<Record<keyof TowerConfig, readonly [accepts: (value: unknown) => boolean, allowed: string]>> = {
    layers: [
      (value) => isBlocks(value) || (Array.isArray(value) && value.length === 4 && value.every(isBlocks)),
      `a whole number from 1 to ${mostBlocks}, or four of a ResNet`,
    ],
    heads: size,
    headWidth: size,
    imageSize: [isSide, `a whole number from 1 to ${mostSide}`],
    activation: [() => true, ''],
    eps: [(value) => typeof value === 'number' && value >= 0 && value < 1, 'a number from 0 to below 1'],
    ropeBase: [(value) => Number.isFinite(value) && (value as number) > 0, 'a number above 0'],
    mean: [(value) => faultOf('mean', value) === undefined, 'three numbers'],
    std: [(value) => faultOf('std', value) === undefined, 'three numbers above 0'],
  };
  // null: left out
  const known = Object.fromEntries(
    Object.entries(config).filter(([, value]) => value !== undefined && value !== null),
  ) as TowerConfig;
  for (const [name, value] of Object.entries(known)) {
    const [accepts, allowed] = rules[name as keyof TowerConfig];
    if (!accepts(value))
      throw new LgdError('BAD_MODEL', `the configuration of ${what} has another ${name} than a tower can have.`, {
        found: value,
        allowed,
        mend: "Fetch the model's configuration again",
      });
  }
  return known;
}

function withDefaults(defaults: TowerConfig, stated: TowerConfig): TowerConfig {
  return {
    ...defaults,
    ...Object.fromEntries(Object.entries(stated).filter(([, value]) => value !== undefined && value !== null)),
  };
}

function transformersTower(file: ConfigFile | undefined, tower: 'vision' | 'text'): TowerConfig {
  const alone = typeOf(file).includes(`_${tower}_model`); // CLIPVisionModelWithProjection saved alone
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
  const refuse = (why: string, key: string, found: unknown, allowed: string) =>
    new LgdError('BAD_MODEL', `the ${tower} tower in ${folder} ${why}.`, {
      option: `model_cfg.${tower}_cfg.${key}`,
      found,
      allowed,
      mend:
        tower === 'vision'
          ? 'Export the tower to ONNX'
          : 'Export the tower to ONNX, or compute a bank of embeddings with it',
    });
  const pooling = section.global_average_pool ? 'avg' : section.pool_type;
  const known = tower === 'vision' ? 'tok' : 'argmax';
  if (pooling !== undefined && pooling !== known)
    throw refuse('pools its tokens in a way not known here', 'pool_type', pooling, known);
  const pools = String(section.timm_model_name).startsWith('vit_pe_core_') ? ['map'] : ['avg', ''];
  if (tower === 'vision' && !pools.includes(section.timm_pool ?? ''))
    throw refuse('pools its map in a way not known here', 'timm_pool', section.timm_pool, pools.join(', or left out'));
  if (section.no_causal_mask)
    throw refuse('attends to later tokens too, which is not supported', 'no_causal_mask', true, 'false');
  const { approximate = 'none', ...others } = section.act_kwargs ?? {};
  const activation = file.model_cfg?.quick_gelu ? 'quickGelu' : approximate === 'tanh' ? 'geluTanh' : 'gelu';
  const isKnown =
    activation === 'quickGelu'
      ? section.act_kwargs?.approximate === undefined
      : approximate === 'none' || approximate === 'tanh';
  if (!isKnown || Object.keys(others).length > 0)
    throw refuse(
      'has an activation not known here',
      'act_kwargs',
      section.act_kwargs,
      '{"approximate": "tanh"} and without quick_gelu',
    );
  return {
    layers: section.layers,
    heads: section.heads ?? (tower === 'text' ? 8 : undefined), // open_clip's default
    headWidth: section.head_width,
    imageSize: side(section.image_size),
    activation,
    eps: section.norm_kwargs?.eps ?? (section.timm_model_name === 'convnext_xxlarge' ? 1e-5 : undefined), // timm's
    ...(tower === 'vision' ? { mean: file.preprocess_cfg?.mean, std: file.preprocess_cfg?.std } : {}),
  };
}

export function activationOf(name: string): Activation {
  const known = Object.hasOwn(activations, name) ? activations[name] : undefined;
  if (known !== undefined) return known;
  throw new LgdError('BAD_MODEL', 'the towers of this model have an activation not known here.', {
    option: 'hidden_act',
    found: name,
    allowed: Object.keys(activations).join(', '),
    mend: 'Export the model to ONNX',
  });
}

function side(size: number | number[] | undefined): number | undefined {
  return Array.isArray(size) ? size[0] : size;
}

async function readJson(path: string): Promise<ConfigFile | undefined> {
  const file: ConfigFile | undefined = await readJsonFile(path);
  const sections = sectionNames.map((name) => file?.[name] ?? {});
  if (!sections.every(isObject)) throw noConfiguration(path);
  return file;
}

/** @returns undefined where there is no such file @throws LgdError BAD_MODEL for anything else than an object in JSON */
export async function readJsonFile(path: string): Promise<object | undefined> {
  // a default in its place would change the arithmetic
  const text = await readFile(path, 'utf8').catch(unlessAbsent(path, undefined));
  if (text === undefined) return undefined;
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new LgdError('BAD_MODEL', `${path} is not JSON.`, { mend: 'Fetch it again', cause });
  }
  if (!isObject(value)) throw noConfiguration(path);
  return value;
}

function noConfiguration(path: string): LgdError {
  return new LgdError('BAD_MODEL', `${path} is no configuration of a model.`, {
    allowed: `an object, and so its ${sectionNames.join(', ')}`,
    mend: 'Fetch it again',
  });
}
