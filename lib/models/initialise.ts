import { PhiloxStream } from '../data/philox.js';
import type { GraphParameter, GraphSpec } from './graph.js';
import type { WeightRecord } from './weights.js';

/**
 * Start values of every parameter and buffer of a graph, as its Initialisation entries say (torchvision's distributions; not its bits).
 * Each parameter's draws depend on the seed and on its name alone, so a backbone starts alike under any head.
 * @param seed a whole number from 0
 */
export function initialWeights(graph: GraphSpec, seed: number): WeightRecord {
  const record: WeightRecord = {};
  for (const parameter of graph.parameters) record[parameter.name] = { shape: [...parameter.shape], data: draw(parameter, seed) };
  return record;
}

function draw({ name, shape, init }: GraphParameter, seed: number): Float32Array {
  const data = new Float32Array(shape.reduce((a, b) => a * b, 1));
  if (init.kind === 'constant') return data.fill(init.value);
  const stream = new PhiloxStream(BigInt(seed), streamOf(name));
  if (init.kind === 'uniform') {
    for (let i = 0; i < data.length; i++) data[i] = init.bound * (2 * stream.next() - 1);
    return data;
  }
  for (let i = 0; i < data.length; i += 2) {
    // Box and Muller's transform; 1 - next() is never 0
    const radius = init.std * Math.sqrt(-2 * Math.log(1 - stream.next()));
    const angle = 2 * Math.PI * stream.next();
    data[i] = radius * Math.cos(angle);
    if (i + 1 < data.length) data[i + 1] = radius * Math.sin(angle);
  }
  return data;
}

/** 64-bit FNV-1a of a name. */
function streamOf(name: string): bigint {
  let hash = 0xcbf29ce484222325n;
  for (const byte of Buffer.from(name)) hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x100000001b3n);
  return hash;
}
