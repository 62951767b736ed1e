/** Which tensors of a file the parameters of a tower's graph are made of, and reading them. */
import { LgdError } from '../../errors.js';
import type { SafetensorsReader } from '../../files/safetensors-reader.js';
import type { GraphSpec } from '../graph.js';
import { few, type WeightRecord } from '../weights.js';

/**
 * What a parameter is made of: tensors with the shapes they must have, and how; as they are where `make` is left out.
 * The first tells the parameter's size; `transposed`: the other way around.
 */
export interface Source {
  tensors: [name: string, shape: number[]][];
  make?: (parts: Float32Array[]) => Float32Array;
  transposed?: boolean;
}

/** The names of one tower in a file. */
export interface Naming {
  source: (parameter: string, shape: number[]) => Source;
  /** Is this tensor the tower's, so that it must be used? */
  belongs: (name: string) => boolean;
}

/** Each row times its factor: LayerScale (Touvron et al., ICCV 2021) in the weight or bias before it. */
export function scaledRows(rows: Float32Array, factors: Float32Array): Float32Array {
  const size = rows.length / factors.length;
  return rows.map((value, i) => value * factors[Math.floor(i / size)]!);
}

/** A learned query, projected once: weight [C,C] times the query [C], plus the bias [C]. */
export function projectedQuery(query: Float32Array, weight: Float32Array, bias: Float32Array): Float32Array {
  const width = query.length;
  return Float32Array.from({ length: width }, (_, row) => {
    let sum = bias[row]!;
    for (let i = 0; i < width; i++) sum += weight[row * width + i]! * query[i]!;
    return sum;
  });
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
