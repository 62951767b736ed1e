/** What tells a teacher from any other, whatever it is called: SHA-256 of what it computes with. */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { nextTurn } from '../../turn.js';
import type { GraphSpec } from '../graph.js';
import type { WeightRecord } from '../weights.js';

const bytesAtOnce = 1 << 20;

/** Of a graph and its weights. @throws LgdError ABORTED */
export async function hashWeights(graph: GraphSpec, weights: Readonly<WeightRecord>, signal?: AbortSignal): Promise<string> {
  const hash = createHash('sha256').update(JSON.stringify(graph));
  for (const { name } of graph.parameters) {
    const { data } = weights[name]!;
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    for (let from = 0; from < bytes.length; from += bytesAtOnce) {
      hash.update(bytes.subarray(from, from + bytesAtOnce));
      await nextTurn(signal, 'reading the teacher');
    }
  }
  return hash.digest('hex');
}

/** Of a model's file. */
export async function hashFile(path: string, signal?: AbortSignal): Promise<string> {
  const hash = createHash('sha256');
  for await (const part of createReadStream(path, { signal })) hash.update(part as Buffer);
  return hash.digest('hex');
}
