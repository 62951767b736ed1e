/** A student's backbone: its graph up to the pooled features, and with a linear classifier on them. */
import { LgdError } from '../errors.js';
import type { GraphParameter, GraphSpec } from './graph.js';
import { zeros } from './graph.js';
import { initialWeightsInTurns } from './initialise.js';
import type { WeightRecord } from './weights.js';

/** The linear layer that {@link classifierGraph} adds: `linear.weight` [K,C], `linear.bias` [K]. */
const classifier = 'linear';

/**
 * The graph of a student up to its pooled features, before the projection head.
 * @throws LgdError BAD_MODEL for a graph without a projection head
 */
export function featureGraph(graph: GraphSpec): GraphSpec {
  const head = graph.nodes.findIndex(({ parameters = [] }) => parameters.includes('head.0.weight'));
  if (head === -1)
    throw new LgdError('BAD_MODEL', `${graph.name} has no projection head, before which the features would be.`, {
      mend: 'Give a student with its projection head',
    });
  return upTo(
    { name: graph.name, nodes: graph.nodes, parameters: graph.parameters, output: graph.nodes[head]!.inputs[0]! },
    head,
  );
}

/** A graph's first nodes, and their parameters. */
export function upTo(graph: GraphSpec, count: number): GraphSpec {
  const nodes = graph.nodes.slice(0, count);
  const used = new Set(nodes.flatMap(({ parameters = [] }) => parameters));
  return { ...graph, nodes, parameters: graph.parameters.filter(({ name }) => used.has(name)) };
}

/** Size of a student's pooled features. */
export function featureSize(graph: GraphSpec): number {
  return graph.parameters.find(({ name }) => name === 'head.0.weight')!.shape[1]!;
}

/**
 * The graph of a student's backbone with a linear classifier on its pooled features, in the place of the projection
 * head.
 * @throws LgdError BAD_MODEL for a graph without a projection head
 */
export function classifierGraph(graph: GraphSpec, classes: number): GraphSpec {
  const backbone = featureGraph(graph);
  const parameters: GraphParameter[] = [
    {
      name: `${classifier}.weight`,
      shape: [classes, featureSize(graph)],
      trainable: true,
      decay: true,
      init: { kind: 'normal', std: 0.01 },
    },
    { name: `${classifier}.bias`, shape: [classes], trainable: true, decay: false, init: zeros },
  ];
  return {
    ...backbone,
    nodes: [
      ...backbone.nodes,
      {
        op: 'linear',
        name: classifier,
        inputs: [backbone.output],
        parameters: parameters.map(({ name }) => name),
        attributes: {},
      },
    ],
    parameters: [...backbone.parameters, ...parameters],
    output: backbone.nodes.length + 1,
  };
}

/**
 * Start values of a network on a student's backbone: the student's where it has them, else drawn from the seed.
 * @throws LgdError ABORTED
 */
export async function startWeights(
  graph: GraphSpec,
  student: Readonly<WeightRecord>,
  seed: number,
  signal: AbortSignal | undefined,
): Promise<WeightRecord> {
  return { ...(await initialWeightsInTurns(graph, seed, signal)), ...weightsOf(graph, student) };
}

/** The weights of a graph's parameters among those of a larger one. */
export function weightsOf(graph: GraphSpec, weights: Readonly<WeightRecord>): WeightRecord {
  return Object.fromEntries(
    graph.parameters.flatMap(({ name }) => (weights[name] === undefined ? [] : [[name, weights[name]] as const])),
  );
}
