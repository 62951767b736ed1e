/**
 * The names of CLIP's and SigLIP's towers: OpenAI's and open_clip's, and those of Hugging Face transformers.
 */
import { concatenate } from '../../concatenate.js';
import { projectedQuery, type Naming, type Source } from './naming.js';

/**
 * OpenAI's names: `prefix` is `visual.` for the image tower of a whole model. `others` match what else stands under the
 * prefix.
 */
export function openAiNames(prefix: string, others: RegExp = /^$/u): Naming {
  return {
    belongs: (name) => name.startsWith(prefix) && !others.test(name.slice(prefix.length)),
    source: (name, shape) => {
      const [rows = 1, columns = 1] = shape;
      if (/^(?:text_projection|proj)\.weight$/u.test(name)) {
        return {
          tensors: [[prefix + name.replace('.weight', ''), [columns, rows]]],
          make: ([matrix]) => transposed(matrix!, columns, rows),
          transposed: true,
        };
      }
      if (name === 'class_and_positions')
        return withClass(`${prefix}class_embedding`, `${prefix}positional_embedding`, shape);
      return { tensors: [[prefix + name.replace(/\.in_proj\.(weight|bias)$/u, '.in_proj_$1'), shape]] };
    },
  };
}

/** transformers' names: CLIPModel, CLIPVisionModelWithProjection, SiglipModel. */
export function transformersNames(of: 'vision' | 'text' | 'siglip text'): Naming {
  const tower = of === 'vision' ? 'vision' : 'text';
  const projection = { vision: 'visual_projection', text: 'text_projection', 'siglip text': 'text_model.head' }[of];
  return {
    belongs: (name) => name.startsWith(`${tower}_model.`) || name.startsWith(`${projection}.`),
    source: (name, shape) => {
      const block = /^transformer\.resblocks\.(\d+)\.(.+)\.(weight|bias)$/u.exec(name);
      if (block !== null) return blockSource(`${tower}_model.encoder.layers.${block[1]!}`, block[2]!, block[3]!, shape);
      if (name.startsWith('head.')) return headSource(name, shape);
      const embeddings = `${tower}_model.embeddings`;
      if (name === 'class_and_positions')
        return withClass(`${embeddings}.class_embedding`, `${embeddings}.position_embedding.weight`, shape);
      const [module, part] = /^(.*)\.(weight|bias)$/u.exec(name)?.slice(1) ?? [name, undefined];
      const known = { ...otherNames(tower), proj: projection, text_projection: projection }[module!] ?? module!;
      return { tensors: [[part === undefined ? known : `${known}.${part}`, shape]] };
    },
  };
}

/** A table of positions to whose first row the class token is added. */
function withClass(token: string, positions: string, shape: number[]): Source {
  return {
    tensors: [
      [positions, shape],
      [token, shape.slice(1)],
    ],
    make: ([table, first]) => table!.map((value, i) => value + (first![i] ?? 0)),
  };
}

function otherNames(tower: 'vision' | 'text'): Record<string, string> {
  const embeddings = `${tower}_model.embeddings`;
  return {
    conv1: `${embeddings}.patch_embedding`,
    token_embedding: `${embeddings}.token_embedding`,
    positional_embedding: `${embeddings}.position_embedding.weight`,
    ln_pre: `${tower}_model.pre_layrnorm`, // spelt so there
    ln_post: `${tower}_model.post_layernorm`,
    ln_final: `${tower}_model.final_layer_norm`,
  };
}

const blockNames: Readonly<Record<string, string>> = {
  ln_1: 'layer_norm1',
  ln_2: 'layer_norm2',
  'attn.out_proj': 'self_attn.out_proj',
  'mlp.c_fc': 'mlp.fc1',
  'mlp.c_proj': 'mlp.fc2',
};

function blockSource(block: string, module: string, part: string, shape: number[]): Source {
  if (module !== 'attn.in_proj') return { tensors: [[`${block}.${blockNames[module]!}.${part}`, shape]] };
  const third = [shape[0]! / 3, ...shape.slice(1)];
  return {
    tensors: ['q', 'k', 'v'].map((which) => [`${block}.self_attn.${which}_proj.${part}`, third]),
    make: (parts) => concatenate(Float32Array, parts),
  };
}

/**
 * SigLIP's pooling head. torch's MultiheadAttention keeps three projections in one tensor; the query is projected here,
 * once.
 */
function headSource(name: string, shape: number[]): Source {
  const head = 'vision_model.head';
  const width = shape[0]!;
  const [weight, bias]: [string, number[]][] = [
    [`${head}.attention.in_proj_weight`, [3 * width, width]],
    [`${head}.attention.in_proj_bias`, [3 * width]],
  ];
  if (name === 'head.query') {
    return {
      tensors: [[`${head}.probe`, [1, 1, width]], weight!, bias!],
      make: ([probe, matrix, offset]) => projectedQuery(probe!, matrix!, offset!),
    };
  }
  const [, module, part] = /^head\.(.+)\.(weight|bias)$/u.exec(name)!;
  if (module === 'k' || module === 'v') {
    const third = module === 'k' ? 1 : 2;
    const size = part === 'weight' ? width * width : width;
    return {
      tensors: [part === 'weight' ? weight! : bias!],
      make: ([all]) => all!.slice(third * size, (third + 1) * size),
    };
  }
  const names: Readonly<Record<string, string>> = {
    out_proj: 'attention.out_proj',
    ln: 'layernorm',
    'mlp.c_fc': 'mlp.fc1',
    'mlp.c_proj': 'mlp.fc2',
  };
  return { tensors: [[`${head}.${names[module!]!}.${part!}`, shape]] };
}

function transposed(matrix: Float32Array, rows: number, columns: number): Float32Array {
  const result = new Float32Array(matrix.length);
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) result[j * rows + i] = matrix[i * columns + j]!;
  return result;
}
