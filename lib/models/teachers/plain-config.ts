/**
 * What a model's folder says of a plain vision transformer beside its weights: config.json of transformers or of timm,
 * and preprocessor_config.json.
 */
import { join } from 'node:path';
import { LgdError } from '../../errors.js';
import { isObject } from '../../files/json.js';
import { activationOf, checkSizes, readJsonFile, type TowerConfig } from './model-config.js';
import type { spellings } from './plain-naming.js';
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
  rope_theta?: number;
  rope_parameters?: { rope_theta?: number } | null;
}

/** timm's: what a model's weights were trained with is in `pretrained_cfg`, in older files beside the architecture. */
interface TimmFile {
  architecture?: string;
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
  { spelling, width, gated }: { spelling: keyof typeof spellings; width: number; gated: boolean },
): Promise<TowerConfig> {
  const file = await readJsonFile(join(folder, 'config.json'));
  const preprocessor = await readPreprocessor(folder);
  if (file === undefined)
    throw new LgdError('BAD_MODEL', `${folder} has no config.json, so nothing tells the heads of its tower.`, {
      mend: "Fetch the model's config.json",
    });
  const config =
    spelling === 'timm' || spelling === 'timmDinov3'
      ? timmConfig(file, folder, { width, gated, isDinov3: spelling === 'timmDinov3' })
      : transformersConfig(file, spelling);
  // DINOv2's gate is a SiLU, whatever its configuration says of an activation
  if (gated && spelling === 'transformersDinov3' && config.activation !== 'silu') throw otherGate(folder, 'hidden_act');
  const stated = { ...config, ...(preprocessor && { ...preprocessor, imageSize: preprocessor.resolution }) };
  const { layers, heads, imageSize, activation, eps, ropeBase, mean, std } = stated;
  return checkSizes({ layers, heads, imageSize, activation, eps, ropeBase, mean, std }, `the tower in ${folder}`);
}

const exported = 'Export the tower to ONNX with one output [B,D]';

function otherGate(folder: string, option: string): LgdError {
  return new LgdError('BAD_MODEL', `the tower in ${folder} has MLPs gated in a way not known here.`, {
    option,
    allowed: 'silu',
    mend: exported,
  });
}

/** What transformers' classes have where a file leaves it out, as it does what is the default. */
const transformersDefaults = {
  transformersVit: { heads: 12, eps: 1e-12 },
  transformersDinov2: { heads: 12, eps: 1e-6, ...dinov2Input },
  transformersDinov3: { heads: 6, eps: 1e-5, imageSize: 224, ropeBase: 100 },
} as const satisfies Record<string, TowerConfig>;

function transformersConfig(file: TransformersFile, spelling: keyof typeof transformersDefaults): TowerConfig {
  const defaults: TowerConfig = transformersDefaults[spelling];
  const imageSize = Array.isArray(file.image_size) ? file.image_size[0] : file.image_size;
  return {
    ...defaults,
    layers: file.num_hidden_layers,
    heads: file.num_attention_heads ?? defaults.heads,
    imageSize: spelling === 'transformersDinov2' ? defaults.imageSize : (imageSize ?? defaults.imageSize),
    activation: activationOf(file.hidden_act ?? 'gelu'),
    eps: file.layer_norm_eps ?? defaults.eps,
    ropeBase: file.rope_theta ?? file.rope_parameters?.rope_theta ?? defaults.ropeBase,
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
  1536: 24,
  1664: 16,
};
const timmDinov3Heads: Readonly<Record<number, number>> = { 192: 3, 384: 6, 768: 12, 1024: 16, 1280: 20, 4096: 32 };

function timmConfig(
  file: TimmFile,
  folder: string,
  { width, gated, isDinov3 }: { width: number; gated: boolean; isDinov3: boolean },
): TowerConfig {
  const args = file.model_args ?? {};
  const trained = file.pretrained_cfg ?? (file as TimmPretrained);
  const refuse = (why: string, option: string, found: unknown, allowed: string, mend: string) =>
    new LgdError('BAD_MODEL', `the tower in ${folder} ${why}.`, { option, found, allowed, mend });
  if (![args, trained].every(isObject))
    throw refuse("has a config.json that is not timm's", 'pretrained_cfg', trained, 'an object', 'Fetch it again');
  const { architecture = '' } = file;
  // frequencies and their order are in no tensor
  if (isDinov3 ? !/dinov3/u.test(architecture) : /^eva02|_rope_|^vit_pe_/u.test(architecture))
    throw refuse('has rotary positions not known here', 'architecture', architecture, "one of DINOv3's", exported);
  if (gated && (args.act_layer ?? 'silu') !== 'silu') throw otherGate(folder, 'model_args.act_layer');
  // timm's files of DINOv3 say avg, the default of the class that it is of there; its authors take the class token
  const pool = args.global_pool ?? (isDinov3 ? undefined : file.global_pool) ?? 'token';
  if (pool !== 'token' && pool !== '')
    throw refuse('pools its tokens in a way not known here', 'global_pool', pool, 'token', exported);
  if (args.norm_layer !== undefined)
    throw refuse('has norms not known here', 'model_args.norm_layer', args.norm_layer, 'none', exported);
  const known = isDinov3 ? timmDinov3Heads : timmHeads;
  const heads = args.num_heads ?? known[width];
  if (heads === undefined)
    throw refuse(
      `is ${width} wide, and nothing tells its heads`,
      'model_args.num_heads',
      undefined,
      `it, or a width of ${Object.keys(known).join(', ')}`,
      'Write {"model_args": {"num_heads": ...}} into config.json, as the architecture has it',
    );
  return {
    heads,
    imageSize: trained.input_size?.[2] ?? (isDinov3 ? 256 : undefined),
    activation: activationOf(args.act_layer ?? 'gelu'),
    eps: isDinov3 ? 1e-5 : 1e-6,
    ropeBase: isDinov3 ? 100 : undefined,
    mean: trained.mean,
    std: trained.std,
  };
}
