/**
 * Which tensors of a file the parameters of a tower's graph are made of: the names of OpenAI's CLIP and open_clip, and
 * of Hugging Face transformers.
 */
import { concatenate } from '../../concatenate.js';
import { LgdError } from '../../errors.js';
import type { SafetensorsReader } from '../../files/safetensors-reader.js';
import type { GraphSpec } from '../graph.js';
import { few, type WeightRecord } from '../weights.js';

/**
 * What a parameter is made of: tensors with the shapes they must have, and how; as they are where `make` is left out.
 */
interface Source {
  tensors: [name: string, shape: number[]][];
  make?: (parts: Float32Array[]) => Float32Array;
}

/** The names of one tower in a file. */
export interface Naming {
  source: (parameter: string, shape: number[]) => Source;
  /** Is this tensor the tower's, so that it must be used? */
  belongs: (name: string) => boolean;
}

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
        };
      }
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
      const [module, part] = /^(.*)\.(weight|bias)$/u.exec(name)?.slice(1) ?? [name, undefined];
      const known = { ...otherNames(tower), proj: projection, text_projection: projection }[module!] ?? module!;
      return { tensors: [[part === undefined ? known : `${known}.${part}`, shape]] };
    },
  };
}

function otherNames(tower: 'vision' | 'text'): Record<string, string> {
  const embeddings = `${tower}_model.embeddings`;
  return {
    conv1: `${embeddings}.patch_embedding`,
    class_embedding: `${embeddings}.class_embedding`,
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
      make: ([probe, matrix, offset]) =>
        Float32Array.from({ length: width }, (_, row) => {
          let sum = offset![row]!;
          for (let i = 0; i < width; i++) sum += matrix![row * width + i]! * probe![i]!;
          return sum;
        }),
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

const counters = /(?:position_ids|num_batches_tracked)$/u; // buffers that say nothing

/**
 * A tower's weights, by its graph's names.
 * @param where names the files in errors
 * @throws LgdError BAD_MODEL naming the first few tensors that are missing, unexpected, or of another shape; BAD_FILE,
 *   ABORTED
 */
export async function readWeights(
  reader: SafetensorsReader,
  graph: GraphSpec,
  naming: Naming,
  where: string,
  signal?: AbortSignal,
): Promise<WeightRecord> {
  const { shapes } = reader;
  const sources = graph.parameters.map(({ name, shape }) => naming.source(name, shape));
  const wanted = new Map(sources.flatMap(({ tensors }) => tensors));
  const missing = [...wanted.keys()].filter((name) => !shapes.has(name));
  const unexpected = [...shapes.keys()].filter(
    (name) => naming.belongs(name) && !wanted.has(name) && !counters.test(name),
  );
  const misshapen = [...wanted]
    .filter(([name, shape]) => shapes.has(name) && shapes.get(name)!.join() !== shape.join())
    .map(([name, shape]) => `${name} [${shapes.get(name)!.join(',')}] instead of [${shape.join(',')}]`);
  const faults = [
    ['missing', missing],
    ['unexpected', unexpected],
    ['of another shape', misshapen],
  ] as const;
  if (faults.some(([, names]) => names.length > 0)) {
    throw new LgdError(
      'BAD_MODEL',
      `the weights in ${where} do not fit the ${graph.name}; ${faults
        .filter(([, names]) => names.length > 0)
        .map(([what, names]) => `${what}: ${few(names)}`)
        .join('; ')}.`,
      {
        mend: "Check that the model's files belong together and that its config.json is its own; variants with other parts need an ONNX export",
      },
    );
  }
  const record: WeightRecord = {};
  for (const [i, { name, shape }] of graph.parameters.entries()) {
    const { tensors, make } = sources[i]!;
    const parts: Float32Array[] = [];
    for (const [tensor] of tensors) parts.push(await reader.read(tensor, signal));
    record[name] = { shape: [...shape], data: make === undefined ? parts[0]! : make(parts) };
  }
  return record;
}
