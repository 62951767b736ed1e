/**
 * What a model's folder says of a plain vision transformer beside its weights: config.json of transformers or of timm,
 * and preprocessor_config.json.
 */
import { join } from 'node:path';
import { LgdError } from '../../errors.js';
import { isObject } from '../../files/json.js';
import { activationOf, checkSizes, readJsonFile, type TowerConfig } from './model-config.js';
import { readPreprocessor } from './preprocessor.js';
import type { ChannelTriple } from './types.js';

/**
 * What DINOv2's preprocessor_config.json says: ImageNet's channel statistics, pixels in 0..1, and a crop that is smaller
 * than the images of its positions (Oquab et al. 2024). A hub's cache may hold a model without that file.
 */
const dinov2Input = {
  mean: [0.485, 0.456, 0.406],
  std: [0.229, 0.224, 0.225],
  imageSize: 224,
} as const satisfies TowerConfig;

interface TransformersFile {
  num_hidden_layers?: number;
  num_attention_heads?: number;
  image_size?: number | number[];
  hidden_act?: string;
  layer_norm_eps?: number;
}

/** timm's: what a model's weights were trained with is in `pretrained_cfg`, in older files beside the architecture. */
interface TimmFile {
  global_pool?: string;
  pretrained_cfg?: TimmPretrained;
  model_args?: { num_heads?: number; global_pool?: string; act_layer?: string; norm_layer?: string };
}
interface TimmPretrained {
  input_size?: number[];
  mean?: ChannelTriple;
  std?: ChannelTriple;
}

/** @throws LgdError BAD_MODEL where there is none, or what it says is not known here */
export async function readPlainConfig(
  folder: string,
  spelling: 'timm' | 'transformersVit' | 'transformersDinov2',
  width: number,
): Promise<TowerConfig> {
  const file = await readJsonFile(join(folder, 'config.json'));
  const preprocessor = await readPreprocessor(folder);
  if (file === undefined)
    throw new LgdError('BAD_MODEL', `${folder} has no config.json, so nothing tells the heads of its tower.`, {
      mend: "Fetch the model's config.json",
    });
  const config =
    spelling === 'timm' ? timmConfig(file, folder, width) : transformersConfig(file, spelling === 'transformersDinov2');
  const stated = { ...config, ...(preprocessor && { ...preprocessor, imageSize: preprocessor.resolution }) };
  const { layers, heads, imageSize, activation, eps, mean, std } = stated;
  return checkSizes({ layers, heads, imageSize, activation, eps, mean, std }, `the tower in ${folder}`);
}

function transformersConfig(file: TransformersFile, isDinov2: boolean): TowerConfig {
  return {
    layers: file.num_hidden_layers,
    heads: file.num_attention_heads ?? 12,
    imageSize: Array.isArray(file.image_size) ? file.image_size[0] : file.image_size,
    activation: activationOf(file.hidden_act ?? 'gelu'),
    eps: file.layer_norm_eps ?? (isDinov2 ? 1e-6 : 1e-12),
    ...(isDinov2 ? dinov2Input : {}),
  };
}

/** Heads of timm's vision transformers, which its files leave to the name of the architecture, by their width. */
const timmHeads: Readonly<Record<number, number>> = {
  64: 2,
  192: 3,
  256: 4,
  320: 5,
  384: 6,
  512: 8,
  640: 10,
  768: 12,
  896: 14,
  1024: 16,
  1152: 16,
  1280: 16,
  1408: 16,
  1664: 16,
};

function timmConfig(file: TimmFile, folder: string, width: number): TowerConfig {
  const args = file.model_args ?? {};
  const trained = file.pretrained_cfg ?? (file as TimmPretrained);
  const refuse = (why: string, option: string, found: unknown, allowed: string, mend: string) =>
    new LgdError('BAD_MODEL', `the tower in ${folder} ${why}.`, { option, found, allowed, mend });
  if (![args, trained].every(isObject))
    throw refuse("has a config.json that is not timm's", 'pretrained_cfg', trained, 'an object', 'Fetch it again');
  const pool = args.global_pool ?? file.global_pool ?? 'token';
  const exported = 'Export the tower to ONNX with one output [B,D]';
  if (pool !== 'token' && pool !== '')
    throw refuse('pools its tokens in a way not known here', 'global_pool', pool, 'token', exported);
  if (args.norm_layer !== undefined)
    throw refuse('has norms not known here', 'model_args.norm_layer', args.norm_layer, 'none', exported);
  const heads = args.num_heads ?? timmHeads[width];
  if (heads === undefined)
    throw refuse(
      `is ${width} wide, and nothing tells its heads`,
      'model_args.num_heads',
      undefined,
      `it, or a width of ${Object.keys(timmHeads).join(', ')}`,
      'Write {"model_args": {"num_heads": ...}} into config.json, as the architecture has it',
    );
  return {
    heads,
    imageSize: trained.input_size?.[2],
    activation: activationOf(args.act_layer ?? 'gelu'),
    eps: 1e-6,
    mean: trained.mean,
    std: trained.std,
  };
}
