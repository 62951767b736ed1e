import { checkArgument } from '../arguments.js';
import { PhiloxStream } from '../data/philox.js';
import { LgdError } from '../errors.js';
import { checkSeed } from '../number-limits.js';
import { nextTurn } from '../turn.js';
import type { GraphParameter, GraphSpec, Initialisation } from './graph.js';
import type { WeightRecord } from './weights.js';

/**
 * Start values of every parameter and buffer of a graph, as its Initialisation entries say (torchvision's
 * distributions; not its bits). Each parameter's draws depend on the seed and on its name alone, so a backbone starts
 * alike under any head.
 * @param seed a whole number from 0
 * @throws LgdError BAD_OPTION
 */
export function initialWeights(graph: GraphSpec, seed: number): WeightRecord {
  checkArgument('graph', graph);
  const record = emptyWeights(graph);
  for (const parameter of graph.parameters)
    for (const piece of draw(parameter, seed, record[parameter.name]!.data)) void piece;
  return record;
}

/**
 * {@link initialWeights} in pieces: at once, a ResNet-50's would hold up the main thread for seconds.
 * @throws LgdError ABORTED
 */
export async function initialWeightsInTurns(
  graph: GraphSpec,
  seed: number,
  signal?: AbortSignal,
): Promise<WeightRecord> {
  const record = emptyWeights(graph);
  let since = 0;
  for (const parameter of graph.parameters) {
    for (const drawn of draw(parameter, seed, record[parameter.name]!.data)) {
      since += drawn;
      if (since < valuesAtOnce) continue;
      since = 0;
      await nextTurn(signal, 'drawing the start weights');
    }
  }
  return record;
}

const valuesAtOnce = 32_768; // a few milliseconds

function emptyWeights({ parameters }: GraphSpec): WeightRecord {
  return Object.fromEntries(
    parameters.map(({ name, shape }) => [
      name,
      { shape: [...shape], data: new Float32Array(shape.reduce((a, b) => a * b, 1)) },
    ]),
  );
}

/** Draws a parameter into `data`, and tells after each piece how many values it has. */
function* draw({ name, init }: GraphParameter, seed: number, data: Float32Array): Generator<number, void, undefined> {
  const size = sizeOf(init);
  if (!Number.isFinite(size)) {
    throw new LgdError('BAD_MODEL', `${name} has no such start.`, {
      found: init,
      allowed: "{ kind: 'constant', value }, { kind: 'normal', std } or { kind: 'uniform', bound }",
      mend: 'Give one of these, with a number',
    });
  }
  if (init.kind === 'constant') {
    data.fill(size);
    return;
  }
  const stream = new PhiloxStream(BigInt(checkSeed(seed)), streamOf(name));
  for (let begin = 0; begin < data.length; begin += valuesAtOnce) {
    const end = Math.min(begin + valuesAtOnce, data.length);
    if (init.kind === 'uniform') for (let i = begin; i < end; i++) data[i] = size * (2 * stream.next() - 1);
    else drawNormal(stream, size, data, begin, end);
    yield end - begin;
  }
}

/** The number that a start is drawn by; NaN where it is none that there is, which would start a network as NaN. */
function sizeOf(init: Initialisation): number {
  switch (init.kind) {
    case 'constant':
      return init.value;
    case 'normal':
      return init.std;
    case 'uniform':
      return init.bound;
    default:
      return NaN;
  }
}

/** By Box and Muller's transform, two at a time. */
function drawNormal(stream: PhiloxStream, std: number, data: Float32Array, begin: number, end: number): void {
  for (let i = begin; i < end; i += 2) {
    const radius = std * Math.sqrt(-2 * Math.log(1 - stream.next())); // 1 - next() is never 0
    const angle = 2 * Math.PI * stream.next();
    data[i] = radius * Math.cos(angle);
    if (i + 1 < end) data[i + 1] = radius * Math.sin(angle);
  }
}

/** 64-bit FNV-1a of a name. */
function streamOf(name: string): bigint {
  let hash = 0xcbf29ce484222325n;
  for (const byte of Buffer.from(name)) hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x100000001b3n);
  return hash;
}
