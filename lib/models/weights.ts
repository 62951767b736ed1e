import { types } from 'node:util';
import { LgdError } from '../errors.js';
import type { TensorRecord } from '../files/safetensors.js';
import type { GraphSpec } from './graph.js';

/** Parameters and buffers by the graph's names, in torchvision's layout (OIHW). */
export type WeightRecord = Record<string, { shape: number[]; data: Float32Array }>;

/** The weights among a file's tensors. @throws what `bad` makes of a tensor of other numbers */
export function weightsAmong(tensors: ReadonlyMap<string, TensorRecord>, bad: (why: string) => Error): WeightRecord {
  // not by assignment, to which __proto__ is no name
  return Object.fromEntries(
    [...tensors].map(([name, { shape, data }]) => {
      if (!(data instanceof Float32Array)) throw bad(`${name} is not of floats`);
      return [name, { shape, data }];
    }),
  );
}

/** The first three names, and how many more there are. */
export function few(names: readonly string[]): string {
  return names.slice(0, 3).join(', ') + (names.length > 3 ? ` and ${names.length - 3} more` : '');
}

/**
 * Checks that a record holds exactly a graph's parameters and buffers (or, with `part` 'trainable', its parameters
 * alone). PyTorch's num_batches_tracked counters are ignored.
 * @throws LgdError BAD_MODEL naming the first few that are missing, unknown, or of another shape
 */
export function checkWeights(
  graph: GraphSpec,
  record: Readonly<WeightRecord>,
  part: 'all' | 'trainable' = 'all',
): void {
  if (typeof record !== 'object' || record === null || record instanceof Promise)
    throw new LgdError('BAD_MODEL', 'these are no weights.', {
      found: record,
      allowed: 'an object of { shape, data } by name, such as state() gives',
      mend: 'Give what state() or readStudent() gave, awaited',
    });
  if (types.isMap(record))
    throw new LgdError('BAD_MODEL', 'these are no weights.', {
      found: 'a Map',
      allowed: 'an object of { shape, data } by name, such as state() gives',
      mend: 'Of a file that readSafetensors() gave, take Object.fromEntries(file.tensors)',
    });
  const expected = new Map(
    graph.parameters.filter(({ trainable }) => trainable || part === 'all').map(({ name, shape }) => [name, shape]),
  );
  const missing = [...expected.keys()].filter((name) => record[name] === undefined);
  const unknown = Object.keys(record).filter((name) => !expected.has(name) && !name.endsWith('num_batches_tracked'));
  const misshapen = [...expected].flatMap(([name, shape]) => {
    const found = record[name];
    const count = shape.reduce((a, b) => a * b, 1);
    if (
      found === undefined ||
      (found.shape?.join() === shape.join() && types.isFloat32Array(found.data) && found.data.length === count)
    )
      return [];
    if (found.shape === undefined || !types.isFloat32Array(found.data))
      return [`${name} without ${found.shape === undefined ? 'a shape' : 'a Float32Array'}: give { shape, data }`];
    return [`${name} [${found.shape.join(',')}] with ${found.data.length} values instead of [${shape.join(',')}]`];
  });
  const faults = [
    ...(missing.length > 0 ? [`missing: ${few(missing)}`] : []),
    ...(unknown.length > 0 ? [`unknown: ${few(unknown)}`] : []),
    ...(misshapen.length > 0 ? [`of another shape: ${few(misshapen)}`] : []),
  ];
  if (faults.length === 0) return;
  // as torch.nn.DataParallel saves them
  const prefixed = missing.length > 0 ? unknown.find((name) => name.endsWith(`.${missing[0]}`)) : undefined;
  throw new LgdError('BAD_MODEL', `these weights do not fit ${graph.name}; ${faults.join('; ')}.`, {
    mend:
      prefixed === undefined
        ? 'Check the architecture, its width multiplier, and its number of outputs'
        : `Take ${prefixed.slice(0, -missing[0]!.length)} off the names`,
  });
}

/** The name of the first tensor with a value that is not finite, if there is one. */
export function notFinite(record: Readonly<WeightRecord>): string | undefined {
  return Object.keys(record).find((name) => !allFinite(record[name]!.data));
}

/** Is no value NaN or infinite? */
export function allFinite(values: Float32Array): boolean {
  // less than half the time of every()
  for (let i = 0; i < values.length; i++) if (!Number.isFinite(values[i])) return false;
  return true;
}
