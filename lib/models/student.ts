import { checkArgument, checkOptions, checkText, optionTable, type OptionTable } from '../arguments.js';
import type { Device } from '../device.js';
import { LgdError } from '../errors.js';
import { CompiledEncoder, compileOptions, type CompileOptions } from './compiled.js';
import type { GraphSpec } from './graph.js';
import { initialWeights, initialWeightsInTurns } from './initialise.js';
import { checkNumber, checkSeed, checkWhole, mostSide } from '../number-limits.js';
import type { Head } from './students/definition.js';
import { checkGrid } from './position-tables.js';
import { checkPatches, checkWidth, findStudent, listStudents } from './students/registry.js';
import { checkWeights, type WeightRecord } from './weights.js';

export const mostEmbeddingSize = 65_536;

/** What {@link studentGraph} builds. */
export interface GraphOptions {
  /** Classes of the architecture's own classifier; give this or embeddingSize. */
  outputs?: number | undefined;
  /** D of the distillation head (`head.0`, `head.2`), which stands in the classifier's place. */
  embeddingSize?: number | undefined;
  /** Scales the channels of the MobileNets, 0.1 to 4; default 1. */
  widthMultiplier?: number | undefined;
  /** Dropout and stochastic depth, as the architecture has them; default true. */
  dropping?: boolean | undefined;
  /**
   * Side of the square input in pixels; default 224. Vision transformers have a table of positions for it, and take
   * multiples of their patch; other students are the same at every one.
   */
  resolution?: number | undefined;
}

const withoutHead = optionTable<Omit<GraphOptions, 'outputs' | 'embeddingSize'>>()(
  'widthMultiplier? dropping? resolution?',
);
export const graphOptions = optionTable<GraphOptions>()('outputs? embeddingSize?', withoutHead);

/**
 * The graph of a student.
 * @throws LgdError BAD_OPTION for an unknown name (with the nearest one), or an option that is unknown or out of range
 */
export function studentGraph(name: string, options: GraphOptions): GraphSpec {
  checkOptions(options, 'studentGraph()', graphOptions);
  const { outputs, embeddingSize, widthMultiplier = 1, dropping = true, resolution = 224 } = options;
  const definition = findStudent(name);
  checkNumber('widthMultiplier', widthMultiplier, { least: 0.1, most: 4 });
  checkWidth(definition, widthMultiplier, 'widthMultiplier');
  checkWhole('resolution', resolution, mostSide);
  checkPatches([name], resolution, { option: 'resolution' });
  return definition.build({ head: headOf(outputs, embeddingSize), widthMultiplier, dropping, resolution });
}

function headOf(outputs: number | undefined, embeddingSize: number | undefined): Head {
  if ((outputs === undefined) === (embeddingSize === undefined)) {
    throw new LgdError('BAD_OPTION', 'give a number of classes, or the size of the embedding, and not both.', {
      option: 'outputs',
      found: outputs,
      mend: 'Set outputs or embeddingSize',
    });
  }
  if (outputs !== undefined) {
    checkWhole('outputs', outputs, 1_000_000);
    return { kind: 'classifier', outputs };
  }
  checkWhole('embeddingSize', embeddingSize, mostEmbeddingSize);
  return { kind: 'projection', embeddingSize };
}

/** What a student is, apart from its weights. */
export interface StudentKind {
  architecture: string;
  widthMultiplier: number;
  /** D. */
  embeddingSize: number;
  /** Side of the square input in pixels. */
  resolution: number;
  /** Of a network that the package does not know. */
  graph?: GraphSpec | undefined;
}

/**
 * The graph of a student in a file.
 * @throws LgdError BAD_OPTION for an unknown name without a graph, or a width that it has not
 */
export function graphOf({ architecture, widthMultiplier, embeddingSize, resolution, graph }: StudentKind): GraphSpec {
  return graph ?? studentGraph(architecture, { embeddingSize, widthMultiplier, resolution });
}

/** What a file must hold to give this student again at a resolution: a graph, unless its name tells it. */
export function kindOf({ name, widthMultiplier, embeddingSize, graph }: Student, resolution: number): StudentKind {
  const kind = { architecture: name, widthMultiplier, embeddingSize, resolution };
  const isPossible = listStudents().includes(name) && resolution % (findStudent(name).patch ?? 1) === 0;
  const known = isPossible
    ? [true, false].map((dropping) => studentGraph(name, { embeddingSize, widthMultiplier, dropping, resolution }))
    : [];
  return known.some((one) => JSON.stringify(one) === JSON.stringify(graph)) ? kind : { ...kind, graph };
}

/** Do these weights make an embedding, or was the projection head left out? */
export function hasHead({ graph }: StudentKind, weights: Readonly<WeightRecord>): boolean {
  return (graph === undefined ? ['head.0.weight'] : graph.parameters.map(({ name }) => name)).every(
    (name) => weights[name] !== undefined,
  );
}

/** What {@link createStudent} makes. */
export interface StudentOptions extends Omit<GraphOptions, 'outputs'> {
  device: Device;
  embeddingSize: number;
  /** Of the start values; default 0. */
  seed?: number | undefined;
}

const studentOptions = {
  device: 'needed',
  embeddingSize: 'needed',
  ...withoutHead,
  seed: 'optional',
} satisfies OptionTable<StudentOptions>;

/**
 * A student to distil: its graph and weights on the host, compiled for a batch size and resolution when training or
 * evaluation asks for it. {@link createStudent} makes one that the package knows. `new Student` makes one of a graph of
 * your own, built with GraphBuilder, whose result is the embedding, [B,1,1,D]. A Distiller trains and resumes it, and
 * its file holds the graph, so that commands, exports and loadStudent read it. Those that take features or a head apart
 * want the head in two linear layers, `head.0` and `head.2`, a relu between them.
 */
export class Student {
  readonly #seed: number;
  #weights: WeightRecord | undefined;

  /**
   * @param name of its architecture; in a file it says which the student is, unless that holds a graph
   * @param embeddingSize D
   * @param widthMultiplier as its file tells it; 1 where the graph has none
   * @param seed of the start values
   * @throws LgdError BAD_OPTION
   */
  constructor(
    readonly name: string,
    readonly device: Device,
    readonly embeddingSize: number,
    readonly widthMultiplier: number,
    readonly graph: GraphSpec,
    seed: number,
  ) {
    checkText(name, 'name', 'a name of the student');
    checkArgument('graph', graph);
    this.#seed = seed;
  }

  /**
   * Parameters and buffers that {@link compile} starts from: what {@link load} took, or start values drawn from the
   * seed.
   */
  get weights(): WeightRecord {
    this.#weights ??= initialWeights(this.graph, this.#seed);
    return this.#weights;
  }

  /**
   * Draws the start values now, letting timers and other callbacks run meanwhile; {@link weights} and {@link compile}
   * would draw them at once. Nothing to do where there are weights.
   * @throws LgdError ABORTED
   */
  async drawWeights(signal?: AbortSignal): Promise<void> {
    const drawn = this.#weights ?? (await initialWeightsInTurns(this.graph, this.#seed, signal));
    this.#weights ??= drawn; // load() may have come first
  }

  /** Replaces the weights. The arrays are kept, not copied. @throws LgdError BAD_MODEL */
  load(record: Readonly<WeightRecord>): void {
    checkWeights(this.graph, record);
    this.#weights = Object.fromEntries(this.graph.parameters.map(({ name }) => [name, record[name]!]));
  }

  /** A compiled copy with the student's weights. @throws LgdError BAD_OPTION, BAD_MODEL, BAD_SHAPE, OUT_OF_MEMORY */
  compile(options: CompileOptions): CompiledEncoder {
    checkOptions(options, 'compile()', compileOptions);
    checkGrid(this.graph, options.resolution);
    return compileEmbedder(this.device, this, options);
  }
}

/**
 * Compiles a network whose one result is an embedding of the size that is said of it; a file with a graph of its own
 * may say another.
 * @throws LgdError BAD_OPTION, BAD_MODEL, BAD_SHAPE, OUT_OF_MEMORY
 */
export function compileEmbedder(
  device: Device,
  { name, graph, embeddingSize, weights }: Pick<Student, 'name' | 'graph' | 'embeddingSize' | 'weights'>,
  options: CompileOptions,
): CompiledEncoder {
  const compiled = new CompiledEncoder(device, graph, options);
  try {
    const { outputSize } = compiled.info;
    if (outputSize !== embeddingSize || graph.further !== undefined) {
      throw new LgdError(
        'BAD_MODEL',
        `the graph of ${name} does not give one embedding of ${embeddingSize} values an image, but ${outputSize} values.`,
        { mend: 'End it with a linear layer of so many features, as its one result' },
      );
    }
    compiled.load(weights);
    return compiled;
  } catch (error) {
    compiled.dispose();
    throw error;
  }
}

/**
 * A student with a projection head and start values drawn from a seed.
 * @throws LgdError BAD_OPTION
 */
export function createStudent(name: string, options: StudentOptions): Student {
  checkOptions(options, 'createStudent()', studentOptions);
  const { device, seed = 0, ...rest } = options;
  checkArgument('device', device);
  const graph = studentGraph(name, rest);
  return new Student(name, device, options.embeddingSize, options.widthMultiplier ?? 1, graph, checkSeed(seed));
}
