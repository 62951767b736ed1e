/** PE-Core in a file of weights, as open_clip keeps it: timm's names behind `visual.trunk.`. */
import { join } from 'node:path';
import { LgdError } from '../../errors.js';
import { readJsonFile, readModelConfig } from './model-config.js';
import { projectedQuery, type Naming, type Source } from './naming.js';
import { perceptionEncoder } from './perception_encoder.js';
import { rotaryAngles } from './rotary-angles.js';
import { blocks, lookUp, wholeRoot, type ImageTower, type Shapes } from './tower-sizes.js';

const trunk = 'visual.trunk.';
const pool = `${trunk}attn_pool.`;

/**
 * The image tower of such a file, else undefined.
 * @param folder holds open_clip_config.json, which names it
 * @throws LgdError BAD_MODEL
 */
export async function findPerceptionEncoder(shapes: Shapes, folder: string): Promise<ImageTower | undefined> {
  if (!['attn_pool.latent', 'norm_pre.weight'].every((name) => shapes.has(trunk + name))) return undefined;
  const file = (await readJsonFile(join(folder, 'open_clip_config.json'))) as OpenClipFile | undefined;
  const name = file?.model_cfg?.vision_cfg?.timm_model_name;
  if (typeof name !== 'string' || !name.startsWith('vit_pe_core_'))
    throw new LgdError('BAD_MODEL', `the tower in ${folder} has rotary positions not known here.`, {
      option: 'model_cfg.vision_cfg.timm_model_name',
      found: name,
      allowed: "one of PE-Core's, vit_pe_core_...",
      mend: "Fetch the model's open_clip_config.json, or export the tower to ONNX with one output [B,D]",
    });
  const config = await readModelConfig(folder, 'openai', 'vision');
  const classToken = shapes.has(`${trunk}cls_token`);
  const own = (heads: number) => perceptionNames({ classToken, heads });
  const shape = lookUp(shapes, own(1));
  const [width, patch] = [shape('conv1.weight', 0), shape('conv1.weight', 3)];
  const headWidth = config.headWidth ?? (width === 1536 ? 96 : 64);
  const sizes = blocks(shapes, own(1), { activation: 'gelu', ...config, headWidth }, width);
  const rows = shapes.get(`${trunk}pos_embed`)?.[1] ?? 0;
  const imageSize = config.imageSize ?? patch * wholeRoot(rows - Number(classToken));
  const outputDim = shape('proj.weight', 0);
  const poolHidden = shape('head.mlp.c_fc.weight', 0);
  return {
    architecture: 'Perception Encoder',
    graph: perceptionEncoder({ ...sizes, patch, imageSize, classToken, outputDim, poolHeads: 8, poolHidden }),
    naming: own(sizes.heads),
    embeddingSize: outputDim,
    resolution: imageSize,
    mean: config.mean,
    std: config.std,
  };
}

interface OpenClipFile {
  model_cfg?: { vision_cfg?: { timm_model_name?: unknown } };
}

const names: Readonly<Record<string, string>> = {
  conv1: 'patch_embed.proj',
  ln_pre: 'norm_pre',
  ln_post: 'norm',
  proj: 'head',
  'head.out_proj': 'attn_pool.proj',
  'head.ln': 'attn_pool.norm',
  'head.mlp.c_fc': 'attn_pool.mlp.fc1',
  'head.mlp.c_proj': 'attn_pool.mlp.fc2',
};
const blockNames: Readonly<Record<string, string>> = {
  ln_1: 'norm1',
  ln_2: 'norm2',
  'attn.out_proj': 'attn.proj',
  'mlp.c_fc': 'mlp.fc1',
  'mlp.c_proj': 'mlp.fc2',
};

function perceptionNames({ classToken, heads }: { classToken: boolean; heads: number }): Naming {
  return {
    belongs: (name) => name.startsWith('visual.'),
    source: (name, shape) => {
      const [rows = 0, width = 0] = shape;
      if (name === 'class_and_positions') return tableSource(classToken, rows, width);
      if (name === 'angles') {
        const grid = Math.round(Math.sqrt(rows));
        const from = Number(classToken); // the first row and column are 1 where there is a class token
        const place = (row: number, column: number) => [column + from, row + from] as const;
        return { tensors: [], make: () => rotaryAngles({ grid, width, base: 10_000, place }) };
      }
      if (name === 'head.query')
        return {
          tensors: [
            [`${pool}latent`, [1, 1, rows]],
            [`${pool}q.weight`, [rows, rows]],
            [`${pool}q.bias`, [rows]],
          ],
          make: ([latent, weight, bias]) => projectedQuery(latent!, weight!, bias!),
        };
      const [, module, part] = /^(.+)\.(weight|bias)$/u.exec(name)!;
      if (module === 'head.k' || module === 'head.v') return halfSource(`${pool}kv.${part!}`, module, shape);
      const block = /^transformer\.resblocks\.(\d+)\.(.+)$/u.exec(module!);
      if (block === null) return { tensors: [[`${trunk}${names[module!]!}.${part!}`, shape]] };
      const at = `${trunk}blocks.${block[1]!}.`;
      if (block[2] === 'attn.in_proj')
        return { tensors: [[`${at}attn.qkv.${part!}`, shape]], make: ([qkv]) => intoHalves(qkv!, rows, heads) };
      return { tensors: [[`${at}${blockNames[block[2]!]!}.${part!}`, shape]] };
    },
  };
}

/** Positions, to the first of which the class token is added. */
function tableSource(classToken: boolean, rows: number, width: number): Source {
  const positions: Source['tensors'][number] = [`${trunk}pos_embed`, [1, rows, width]];
  if (!classToken) return { tensors: [positions] };
  return {
    tensors: [positions, [`${trunk}cls_token`, [1, 1, width]]],
    make: ([table, token]) => table!.map((value, i) => value + (token![i] ?? 0)),
  };
}

/** The keys' or the values' half of a layer for both. */
function halfSource(tensor: string, module: string, [rows = 0, ...others]: number[]): Source {
  return {
    tensors: [[tensor, [2 * rows, ...others]]],
    make: ([both]) => (module === 'head.k' ? both!.slice(0, both!.length / 2) : both!.slice(both!.length / 2)),
  };
}

/**
 * Channels 2 c and 2 c + 1 of a head turn against each other here, channels c and c + W / 2 in the engine: the rows of
 * queries and keys are put in that order, which leaves their products as they are.
 * @param qkv [3 * heads * W, ...], queries, keys, values
 * @param rows 3 * heads * W
 */
function intoHalves(qkv: Float32Array, rows: number, heads: number): Float32Array {
  const size = qkv.length / rows;
  const width = rows / 3 / heads;
  const result = qkv.slice();
  for (let row = 0; row < (2 * rows) / 3; row++) {
    const channel = row % width;
    const from = row - channel + ((2 * channel) % width) + Number(channel >= width / 2);
    result.set(qkv.subarray(from * size, (from + 1) * size), row * size);
  }
  return result;
}
