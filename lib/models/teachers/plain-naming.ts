/**
 * The names of plain vision transformers: those of Hugging Face transformers (ViTModel, Dinov2Model,
 * Dinov2WithRegistersModel, DINOv3ViTModel) and of timm. What its blocks have beyond the graph's is folded into the
 * parameters: LayerScale into the linear layer before it; class token, registers (Darcet et al., "Vision transformers
 * need registers", ICLR 2024) and positions into one table.
 */
import { concatenate } from '../../concatenate.js';
import { scaledRows, type Naming, type Source } from './naming.js';
import { resamplePositions } from './position-grid.js';
import { centred, rotaryAngles } from './rotary-angles.js';

/** How a library calls what a plain vision transformer is made of; names within a block are after `block.N.`. */
export interface Spelling {
  patches: string;
  classToken: string;
  registers: string;
  /** None: positions are rotary. */
  positions?: string | undefined;
  norm: string;
  block: string;
  norms: readonly [string, string];
  qkv: string | readonly [query: string, key: string, value: string];
  /** Biases of queries, keys and values that may be left out, and are zeros then. Default: those of `qkv` are there. */
  qkvBiases?: readonly [string, string, string];
  out: string;
  mlp: Mlp;
  /** MLPs of which half gates the other: the layers that its first one is made of, the gate before the rest. */
  gated: readonly Mlp[];
  /** LayerScale behind the attention and behind the MLP. */
  scales: readonly [string, string];
  /** Of what is under the tower's prefix, what plays no part in its embedding: heads, poolers, the token of masks. */
  others: RegExp;
}

/** The layers of an MLP. */
export type Mlp = readonly [into: readonly string[], back: string];

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
  mlp: [['intermediate.dense'], 'output.dense'],
  gated: [],
  scales: ['layer_scale1.lambda1', 'layer_scale2.lambda1'],
  others: /^(?:pooler|classifier|decoder)\.|^embeddings\.mask_token$/u,
};

const timm: Spelling = {
  patches: 'patch_embed.proj',
  classToken: 'cls_token',
  registers: 'reg_token',
  positions: 'pos_embed',
  norm: 'norm',
  block: 'blocks',
  norms: ['norm1', 'norm2'],
  qkv: 'attn.qkv',
  out: 'attn.proj',
  mlp: [['mlp.fc1'], 'mlp.fc2'],
  gated: [
    [['mlp.fc1'], 'mlp.fc2'],
    [['mlp.fc1_g', 'mlp.fc1_x'], 'mlp.fc2'],
  ],
  scales: ['ls1.gamma', 'ls2.gamma'],
  others: /^(?:head|pre_logits)\.|^mask_token$/u,
};

/** The spellings known here. */
export const spellings = {
  transformersVit,
  transformersDinov2: {
    ...transformersVit,
    norms: ['norm1', 'norm2'],
    mlp: [['mlp.fc1'], 'mlp.fc2'],
    gated: [[['mlp.weights_in'], 'mlp.weights_out']],
  },
  transformersDinov3: {
    patches: 'embeddings.patch_embeddings',
    classToken: 'embeddings.cls_token',
    registers: 'embeddings.register_tokens',
    norm: 'norm',
    block: 'layer',
    norms: ['norm1', 'norm2'],
    qkv: ['attention.q_proj', 'attention.k_proj', 'attention.v_proj'],
    qkvBiases: ['attention.q_proj.bias', 'attention.k_proj.bias', 'attention.v_proj.bias'],
    out: 'attention.o_proj',
    mlp: [['mlp.up_proj'], 'mlp.down_proj'],
    gated: [[['mlp.gate_proj', 'mlp.up_proj'], 'mlp.down_proj']],
    scales: ['layer_scale1.lambda1', 'layer_scale2.lambda1'],
    others: /^(?:pooler|classifier)\.|^embeddings\.mask_token$/u,
  },
  timm,
  timmDinov3: {
    ...timm,
    positions: undefined,
    qkvBiases: ['attn.q_bias', 'attn.k_bias', 'attn.v_bias'],
    scales: ['gamma_1', 'gamma_2'],
  },
} satisfies Record<string, Spelling>;

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
  mlp: Mlp;
  /** Of rotary positions. */
  ropeBase: number;
  /** Is this tensor in the file? */
  has: (name: string) => boolean;
}

export function plainNames(spelling: Spelling, layout: PlainLayout): Naming {
  const { prefix, ropeBase: base } = layout;
  const whole: Readonly<Record<string, string>> = { conv1: spelling.patches, ln_post: spelling.norm };
  return {
    belongs: (name) => name.startsWith(prefix) && !spelling.others.test(name.slice(prefix.length)),
    source: (name, shape) => {
      if (name === 'class_and_positions') return tableSource(spelling, layout, shape);
      if (name === 'angles') {
        const [count = 0, width = 0] = shape;
        const grid = Math.round(Math.sqrt(count));
        return { tensors: [], make: () => rotaryAngles({ grid, width, base, place: centred(grid) }) };
      }
      const [, module, part] = /^(.+)\.(weight|bias)$/u.exec(name)!;
      const block = /^transformer\.resblocks\.(\d+)\.(.+)$/u.exec(module!);
      if (block === null) return { tensors: [[`${prefix}${whole[module!]!}.${part!}`, shape]] };
      return blockSource(`${prefix}${spelling.block}.${block[1]!}.`, block[2]!, part!, { spelling, layout, shape });
    },
  };
}

function blockSource(
  block: string,
  module: string,
  part: string,
  { spelling: { norms, qkv, qkvBiases, out, scales }, layout: { mlp, layerScale, has }, shape }: BlockContext,
): Source {
  const [into, back] = mlp;
  const stacked = (layers: readonly string[]) =>
    stack(
      layers.map((layer) => `${block}${layer}.${part}`),
      shape,
    );
  if (module === 'mlp.c_fc') return stacked(into);
  if (module === 'attn.in_proj') {
    if (part === 'bias' && qkvBiases !== undefined)
      return stack(
        qkvBiases.map((name) => block + name),
        shape,
        has,
      );
    return stacked([qkv].flat());
  }
  const names: Readonly<Record<string, string>> = {
    ln_1: norms[0],
    ln_2: norms[1],
    'attn.out_proj': out,
    'mlp.c_proj': back,
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
  layout: PlainLayout;
  shape: number[];
}

/** Tensors of as many rows each, one behind the other; zeros for those that there need not be. */
function stack(names: readonly string[], shape: number[], has: (name: string) => boolean = () => true): Source {
  const part = [(shape[0] ?? 0) / names.length, ...shape.slice(1)];
  const size = part.reduce((a, b) => a * b, 1);
  return {
    tensors: names.filter(has).map((name) => [name, part]),
    make: (tensors) => {
      const left = [...tensors];
      return concatenate(
        Float32Array,
        names.map((name) => (has(name) ? left.shift()! : new Float32Array(size))),
      );
    },
  };
}

/** The constant tokens, with their positions added where they have any, and the patches' positions, zeros without any. */
function tableSource(spelling: Spelling, layout: PlainLayout, [rows = 0, width = 0]: number[]): Source {
  const { prefix, registers, embedded, grid, antialias } = layout;
  const tokens: Source['tensors'] = [
    [prefix + spelling.classToken, [1, 1, width]],
    ...(registers === 0 ? [] : ([[prefix + spelling.registers, [1, registers, width]]] satisfies Source['tensors'])),
  ];
  const patches = rows - 1 - registers;
  if (spelling.positions === undefined)
    return {
      tensors: tokens,
      make: (constant) => concatenate(Float32Array, [...constant, new Float32Array(patches * width)]),
    };
  return {
    tensors: [[prefix + spelling.positions, [1, embedded + grid * grid, width]], ...tokens],
    make: ([positions, ...constant]) => {
      const first = concatenate(Float32Array, constant);
      for (let i = 0; i < embedded * width; i++) first[i]! += positions![i]!;
      const to = Math.round(Math.sqrt(patches));
      const own = positions!.subarray(embedded * width);
      return concatenate(Float32Array, [first, resamplePositions(own, { width, from: grid, to, antialias })]);
    },
  };
}
