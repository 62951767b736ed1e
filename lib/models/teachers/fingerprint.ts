/** What tells a teacher from any other, whatever it is called: SHA-256 of what it computes with. */
import { createHash } from 'node:crypto';
import { readdir } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { throwIfAborted, unlessAbsent } from '../../errors.js';
import { openToRead } from '../../files/open.js';
import { nextTurn } from '../../turn.js';
import type { GraphSpec } from '../graph.js';
import type { WeightRecord } from '../weights.js';

const bytesAtOnce = 1 << 20;

/** Of a graph and its weights. @param what is under way, where the signal stops it. @throws LgdError ABORTED */
export async function hashWeights(
  graph: GraphSpec,
  weights: Readonly<WeightRecord>,
  signal?: AbortSignal,
  what = 'reading the teacher',
): Promise<string> {
  const hash = createHash('sha256').update(JSON.stringify(graph));
  for (const { name } of graph.parameters) {
    const { data } = weights[name]!;
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    for (let from = 0; from < bytes.length; from += bytesAtOnce) {
      hash.update(bytes.subarray(from, from + bytesAtOnce));
      await nextTurn(signal, what);
    }
  }
  return hash.digest('hex');
}

/**
 * Of an ONNX file, and of its weights in files of their own, by the names that exporters give those (`model.onnx.data`,
 * `model.onnx_data`, `model.onnx_data_1`).
 * @throws LgdError ABORTED, BAD_FILE (the folder may not be listed)
 */
export async function hashModel(file: string, signal?: AbortSignal): Promise<string> {
  const [folder, name] = [dirname(file), basename(file)];
  const beside = (await readdir(folder).catch(unlessAbsent<string[]>(folder, [])))
    .filter((other) => other.startsWith(name) && /^(?:\.data|_data(?:_\d+)?)$/u.test(other.slice(name.length)))
    .sort();
  const hash = createHash('sha256');
  for (const part of [name, ...beside]) {
    for await (const bytes of (await openToRead(join(folder, part))).createReadStream({ highWaterMark: bytesAtOnce })) {
      throwIfAborted(signal, 'reading the teacher');
      hash.update(bytes as Buffer);
    }
  }
  return hash.digest('hex');
}
