/**
 * The names of plain vision transformers: those of Hugging Face transformers (ViTModel, Dinov2Model,
 * Dinov2WithRegistersModel) and of timm. What its blocks have beyond the graph's is folded into the parameters:
 * LayerScale into the linear layer before it; class token, registers (Darcet et al., "Vision transformers need
 * registers", ICLR 2024) and positions into one table.
 */
import { concatenate } from '../../concatenate.js';
import { scaledRows, type Naming, type Source } from './naming.js';
import { resamplePositions } from './position-grid.js';

/** How a library calls what a plain vision transformer is made of; names within a block are after `block.N.`. */
export interface Spelling {
  patches: string;
  classToken: string;
  registers: string;
  positions: string;
  norm: string;
  block: string;
  norms: readonly [string, string];
  qkv: string | readonly [query: string, key: string, value: string];
  out: string;
  mlp: readonly [string, string];
  /** LayerScale behind the attention and behind the MLP. */
  scales: readonly [string, string];
  /** Of what is under the tower's prefix, what plays no part in its embedding: heads, poolers, the token of masks. */
  others: RegExp;
}

const transformersVit: Spelling = {
  patches: 'embeddings.patch_embeddings.projection',
  classToken: 'embeddings.cls_token',
  registers: 'embeddings.register_tokens',
  positions: 'embeddings.position_embeddings',
  norm: 'layernorm',
  block: 'encoder.layer',
  norms: ['layernorm_before', 'layernorm_after'],
  qkv: ['attention.attention.query', 'attention.attention.key', 'attention.attention.value'],
  out: 'attention.output.dense',
  mlp: ['intermediate.dense', 'output.dense'],
  scales: ['layer_scale1.lambda1', 'layer_scale2.lambda1'],
  others: /^(?:pooler|classifier|decoder)\.|^embeddings\.mask_token$/u,
};

/** The spellings known here. */
export const spellings = {
  transformersVit,
  transformersDinov2: { ...transformersVit, norms: ['norm1', 'norm2'], mlp: ['mlp.fc1', 'mlp.fc2'] },
  timm: {
    patches: 'patch_embed.proj',
    classToken: 'cls_token',
    registers: 'reg_token',
    positions: 'pos_embed',
    norm: 'norm',
    block: 'blocks',
    norms: ['norm1', 'norm2'],
    qkv: 'attn.qkv',
    out: 'attn.proj',
    mlp: ['mlp.fc1', 'mlp.fc2'],
    scales: ['ls1.gamma', 'ls2.gamma'],
    others: /^(?:head|pre_logits)\.|^mask_token$/u,
  },
} as const satisfies Record<string, Spelling>;

/** What of a file's tensors the names alone do not tell. */
export interface PlainLayout {
  /** What stands before every name. */
  prefix: string;
  /** Constant tokens besides the class token. */
  registers: number;
  /** How many of the constant tokens have a row of the file's table of positions, which come first in it. */
  embedded: number;
  /** Side of the grid that the other rows are of. */
  grid: number;
  /** How they are brought to another one. */
  antialias: boolean;
  layerScale: boolean;
}

export function plainNames(spelling: Spelling, layout: PlainLayout): Naming {
  const { prefix, layerScale } = layout;
  const whole: Readonly<Record<string, string>> = { conv1: spelling.patches, ln_post: spelling.norm };
  return {
    belongs: (name) => name.startsWith(prefix) && !spelling.others.test(name.slice(prefix.length)),
    source: (name, shape) => {
      if (name === 'class_and_positions') return tableSource(spelling, layout, shape);
      const [, module, part] = /^(.+)\.(weight|bias)$/u.exec(name)!;
      const block = /^transformer\.resblocks\.(\d+)\.(.+)$/u.exec(module!);
      if (block === null) return { tensors: [[`${prefix}${whole[module!]!}.${part!}`, shape]] };
      return blockSource(`${prefix}${spelling.block}.${block[1]!}.`, block[2]!, part!, { spelling, layerScale, shape });
    },
  };
}

function blockSource(
  block: string,
  module: string,
  part: string,
  { spelling: { norms, qkv, out, mlp, scales }, layerScale, shape }: BlockContext,
): Source {
  const parts = module === 'attn.in_proj' && typeof qkv !== 'string' ? qkv : undefined;
  if (parts !== undefined) {
    const third = [shape[0]! / 3, ...shape.slice(1)];
    return {
      tensors: parts.map((which) => [`${block}${which}.${part}`, third]),
      make: (tensors) => concatenate(Float32Array, tensors),
    };
  }
  const names: Readonly<Record<string, string>> = {
    ln_1: norms[0],
    ln_2: norms[1],
    'attn.in_proj': String(qkv),
    'attn.out_proj': out,
    'mlp.c_fc': mlp[0],
    'mlp.c_proj': mlp[1],
  };
  const tensor: Source['tensors'][number] = [`${block}${names[module]!}.${part}`, shape];
  const scale = { 'attn.out_proj': scales[0], 'mlp.c_proj': scales[1] }[module];
  if (!layerScale || scale === undefined) return { tensors: [tensor] };
  return {
    tensors: [tensor, [block + scale, shape.slice(0, 1)]],
    make: ([values, factors]) => scaledRows(values!, factors!),
  };
}

interface BlockContext {
  spelling: Spelling;
  layerScale: boolean;
  shape: number[];
}

/** The constant tokens, with their positions added where they have any, and the patches' positions. */
function tableSource(spelling: Spelling, layout: PlainLayout, [rows = 0, width = 0]: number[]): Source {
  const { prefix, registers, embedded, grid, antialias } = layout;
  return {
    tensors: [
      [prefix + spelling.positions, [1, embedded + grid * grid, width]],
      [prefix + spelling.classToken, [1, 1, width]],
      ...(registers === 0 ? [] : ([[prefix + spelling.registers, [1, registers, width]]] satisfies Source['tensors'])),
    ],
    make: ([positions, ...tokens]) => {
      const first = concatenate(Float32Array, tokens);
      for (let i = 0; i < embedded * width; i++) first[i]! += positions![i]!;
      const to = Math.round(Math.sqrt(rows - 1 - registers));
      const patches = positions!.subarray(embedded * width);
      return concatenate(Float32Array, [first, resamplePositions(patches, { width, from: grid, to, antialias })]);
    },
  };
}
