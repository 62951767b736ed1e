/**
 * Plain vision transformers in a file of weights: ViT, DeiT, DINO, DINOv2 with or without registers and DINOv3, under
 * the names of transformers or of timm.
 */
import { LgdError } from '../../errors.js';
import { readPlainConfig } from './plain-config.js';
import { plainNames, spellings, type Mlp, type Spelling } from './plain-naming.js';
import { blocks, lookUp, wholeRoot, type ImageTower, type Shapes } from './tower-sizes.js';
import { plainVisionTransformer } from './vision_transformer.js';

/** What a tower of these names may have that is computed in another way, by its tensors. */
const variants: readonly [has: RegExp, what: string][] = [
  [/^visual\.trunk\./u, "timm's names within open_clip's (of SigLIP, take the model under transformers' names)"],
  [/(?:^|\.)(?:distillation_token|dist_token)$/u, 'a distillation token beside the class token (DeiT distilled)'],
  [/(?:^|\.)storage_tokens$/u, "the names of DINOv3's own repository (take it under transformers' names or timm's)"],
  [/(?:^|\.)encoder\.stages\.\d+\.layers\.\d+\.dwconv\./u, "the names of transformers' ConvNextModel (take timm's)"],
  [/\.mlp\.w12?\./u, "gated MLPs under other names than transformers' and timm's"],
  [/\.(?:q_norm|k_norm)\./u, 'norms of queries and keys'],
  [/relative_position|rel_pos/u, 'relative positions (as in BEiT)'],
  [/(?:^|\.)rope/u, "rotary positions of another kind than DINOv3's"],
  [/^(?:norm_pre|attn_pool)\./u, "parts of CLIP's or SigLIP's towers, which open_clip's file beside it has whole"],
  [/^fc_norm\./u, 'a mean of its patches as embedding'],
];

interface Found {
  spelling: keyof typeof spellings;
  prefix: string;
}

function findNames(shapes: Shapes): Found | undefined {
  if (shapes.has('patch_embed.proj.weight')) {
    const isDinov3 = shapes.has('blocks.0.gamma_1') && shapes.has('reg_token') && !shapes.has('pos_embed');
    return { spelling: isDinov3 ? 'timmDinov3' : 'timm', prefix: '' };
  }
  for (const name of shapes.keys()) {
    const dinov3 = /^((?:dinov3_vit\.)?)embeddings\.patch_embeddings\.weight$/u.exec(name)?.[1];
    if (dinov3 !== undefined) return { spelling: 'transformersDinov3', prefix: dinov3 };
    const prefix =
      /^((?:(?:vit|deit|dinov2|dinov2_with_registers|beit)\.)?)embeddings\.patch_embeddings\.projection\.weight$/u.exec(
        name,
      )?.[1];
    if (prefix === undefined) continue;
    const isDinov2 = shapes.has(`${prefix}encoder.layer.0.norm1.weight`);
    return { spelling: isDinov2 ? 'transformersDinov2' : 'transformersVit', prefix };
  }
  return undefined;
}

/** In what a tower of tensors like these differs from those known here; undefined: in nothing that is known. */
export function otherThanPlain(shapes: Shapes): string | undefined {
  const names = [...shapes.keys()];
  if (!names.some((name) => name.includes('patch_embed'))) return undefined;
  const variant = variants.find(([has]) => names.some((name) => has.test(name)));
  if (variant !== undefined) return variant[1];
  const found = findNames(shapes);
  if (found === undefined) return undefined;
  const { classToken, positions }: Spelling = spellings[found.spelling];
  if (!shapes.has(found.prefix + classToken)) return 'no class token';
  return positions === undefined || shapes.has(found.prefix + positions) ? undefined : 'no table of positions';
}

/** The layers of gated MLPs, if they are: into twice the channels that go back. */
function gatedMlp(shapes: Shapes, { prefix, spelling }: Found): Mlp | undefined {
  const { block, gated }: Spelling = spellings[spelling];
  const size = (layer: string, axis: number) => shapes.get(`${prefix}${block}.0.${layer}.weight`)?.[axis] ?? Number.NaN;
  return gated.find(([into, back]) => into.reduce((rows, layer) => rows + size(layer, 0), 0) === 2 * size(back, 1));
}

/**
 * @param wanted side of its input; default: what its files say it works at
 * @returns undefined where there is none, or one that differs ({@link otherThanPlain})
 * @throws LgdError BAD_MODEL, BAD_OPTION (a resolution below a patch)
 */
export async function findPlainTower(shapes: Shapes, folder: string, wanted?: number): Promise<ImageTower | undefined> {
  const found = findNames(shapes);
  if (found === undefined || otherThanPlain(shapes) !== undefined) return undefined;
  const { prefix } = found;
  const spelling: Spelling = spellings[found.spelling];
  const registers = shapes.get(prefix + spelling.registers)?.[1] ?? 0;
  const turns = spelling.positions === undefined;
  const rows = shapes.get(prefix + String(spelling.positions))?.[1] ?? 0;
  const isSquare = (count: number) => count > 0 && Number.isInteger(Math.sqrt(count));
  // timm's may have positions for none of the constant tokens, or for all
  const embedded = (found.spelling === 'timm' ? [1, 0, 1 + registers] : []).find((n) => isSquare(rows - n)) ?? 1;
  const gated = gatedMlp(shapes, found);
  const layout = {
    prefix,
    registers,
    embedded,
    grid: wholeRoot(rows - embedded),
    antialias: found.spelling === 'timm' || registers > 0,
    layerScale: shapes.has(`${prefix}${spelling.block}.0.${spelling.scales[0]}`),
    mlp: gated ?? spelling.mlp,
    ropeBase: 0,
    has: (name: string) => shapes.has(name),
  };
  const shape = lookUp(shapes, plainNames(spelling, layout));
  const [width, patch] = [shape('conv1.weight', 0), shape('conv1.weight', 3)];
  const config = await readPlainConfig(folder, { spelling: found.spelling, width, gated: gated !== undefined });
  const naming = plainNames(spelling, { ...layout, ropeBase: config.ropeBase ?? 0 });
  const imageSize = wanted ?? config.imageSize ?? patch * wholeRoot(rows - embedded);
  if (wanted !== undefined && wanted < patch)
    throw new LgdError('BAD_OPTION', `the teacher in ${folder} looks at patches of ${patch} px.`, {
      option: 'resolution',
      found: wanted,
      allowed: `${patch} or more`,
    });
  const sizes = { ...blocks(shapes, naming, config, width), patch, imageSize, registers, turns };
  const graph = plainVisionTransformer(
    gated === undefined
      ? sizes
      : { ...sizes, activation: 'swiglu', hidden: shape('transformer.resblocks.0.mlp.c_proj.weight', 1) },
  );
  const { mean, std } = config;
  return { architecture: 'plain ViT', graph, naming, embeddingSize: width, resolution: imageSize, mean, std };
}
