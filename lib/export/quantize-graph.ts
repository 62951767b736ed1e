/**
 * A float32 ONNX graph with norms folded as one that computes in 8-bit integers, in QDQ form: QuantizeLinear and
 * DequantizeLinear around the operations, which a runtime takes for their integer twins.
 *
 * x = scale (q - zero). Activations: uint8, one scale and zero a tensor. Weights: int8, zero 0, one scale for each
 * output channel. Biases: int32, of the scale of input times weight.
 *
 * What reads the input stays in float32: of three channels, runtimes take longer for integers (onnxruntime 1.30 twice as
 * long, beside rounding the pixels). Not so where there is a MaxPool: behind a convolution of floats, onnxruntime 1.14
 * gives other numbers from the second image on (unless its enableMemPattern is off).
 */
import type { OnnxGraph, OnnxNode, OnnxTensorData } from '../onnx/format.js';
import { OnnxBuilder } from './onnx-builder.js';

/** The least and the largest value that an activation was seen to take. */
export interface Range {
  min: number;
  max: number;
}

/**
 * Weights are -64 to 64: on x86 without VNNI, runtimes add two products of uint8 and int8 in 16 bits (vpmaddubsw), and
 * 2 * 255 * 64 is the most that fits.
 */
const mostWeight = 64;

/** Operations that have an integer twin in onnxruntime, or here. */
const integerOps: ReadonlySet<string> = new Set([
  'Conv',
  'Gemm',
  'Add',
  'Mul',
  'Sigmoid',
  'HardSwish',
  'HardSigmoid',
  'GlobalAveragePool',
  'AveragePool',
  'MaxPool',
  'Flatten',
]);

/** Those that keep integers as they are, or choose among them. */
const passing: ReadonlySet<string> = new Set(['MaxPool', 'Flatten']);

/** Those that integers compute by ending where the function ends. */
const clipping: ReadonlySet<string> = new Set(['Relu', 'Clip']);

type Gate = 'HardSwish' | 'HardSigmoid';

/** Who makes and who reads a graph's values, and which of them become integers. */
class Plan {
  readonly #readers = new Map<string, OnnxNode[]>();
  readonly #makers = new Map<string, OnnxNode>();
  readonly #outputs: ReadonlySet<string>;
  /** The names of values that become integers. */
  readonly values: ReadonlySet<string>;
  /** Those of them whose range is to be measured. */
  readonly measured: readonly string[];

  constructor(graph: OnnxGraph) {
    this.#outputs = new Set(graph.output.map(({ name }) => name));
    for (const node of graph.node) {
      for (const name of node.input) this.#readers.set(name, [...this.readersOf(name), node]);
      this.#makers.set(node.output[0]!, node);
    }
    const constants = new Set(graph.initializer.map(({ name }) => name));
    const image = graph.node.some(({ opType }) => opType === 'MaxPool') ? [graph.input[0]!.name] : [];
    this.values = new Set(
      [...image, ...this.#makers.keys()].filter(
        (name) =>
          !this.#outputs.has(name) &&
          !this.#isScaledForSigmoid(name, constants) &&
          this.readersOf(name).some(({ opType, output }) => integerOps.has(opType) && !this.#outputs.has(output[0]!)),
      ),
    );
    this.measured = [...this.values].filter((name) => !this.#isSigmoid(name) && this.gateOf(name) !== 'HardSigmoid');
  }

  readersOf(name: string): readonly OnnxNode[] {
    return this.#readers.get(name) ?? [];
  }

  /**
   * The 1.702 u of quickGelu, of whose u there are integers already. onnxruntime 1.14 crashes where it is an output, to
   * be measured: it makes one operation of all three, whoever else reads them.
   */
  #isScaledForSigmoid(name: string, constants: ReadonlySet<string>): boolean {
    const { opType, input = [] }: Partial<OnnxNode> = this.#makers.get(name) ?? {}; // the image has none
    return (
      opType === 'Mul' &&
      input.some((of) => constants.has(of)) &&
      this.readersOf(name).every((reader) => reader.opType === 'Sigmoid')
    );
  }

  #isSigmoid(name: string): boolean {
    return this.#makers.get(name)?.opType === 'Sigmoid';
  }

  /** A ReLU whose work the integers' range does: negative values, and those above 6, are out of it. */
  isAbsorbed({ opType, input, output }: OnnxNode): boolean {
    return (
      clipping.has(opType) &&
      this.values.has(output[0]!) &&
      !this.values.has(input[0]!) &&
      !this.#outputs.has(input[0]!) &&
      this.readersOf(input[0]!).length === 1 &&
      this.#makers.has(input[0]!)
    );
  }

  /** The name under which what a node makes goes on: that of the ReLU that it absorbs, if there is one. */
  resultOf({ output }: OnnxNode): string {
    const reader = this.readersOf(output[0]!)[0];
    return reader !== undefined && this.isAbsorbed(reader) ? reader.output[0]! : output[0]!;
  }

  /**
   * What reads a value, if that is hard-swish alone or hard-sigmoid alone: integers compute them, in [-3, max] and
   * [-3, 3]. A value whose range does another's work is none.
   */
  gateOf(name: string): Gate | undefined {
    const maker = this.#makers.get(name);
    if (maker === undefined || passing.has(maker.opType) || clipping.has(maker.opType)) return undefined;
    return (['HardSwish', 'HardSigmoid'] as const).find((gate) =>
      this.readersOf(name).every(({ opType }) => opType === gate),
    );
  }
}

/**
 * The names of values whose {@link Range} {@link quantizeGraph} needs: all but sigmoids, which are 0 to 1, and what
 * hard-sigmoid reads.
 */
export function valuesToMeasure(graph: OnnxGraph): readonly string[] {
  return new Plan(graph).measured;
}

/** Scale and zero of a value's 256 integers, x = scale (q - zero). */
export interface Step {
  scale: number;
  zero: number;
}

/** For each of {@link valuesToMeasure}: what integers {@link quantizeGraph} makes of it in a range. */
export function stepsOf(graph: OnnxGraph): Map<string, (range: Range) => Step> {
  const plan = new Plan(graph);
  return new Map(plan.measured.map((name) => [name, (range) => stepOf(range, plan.gateOf(name))]));
}

/** An activation as integers. */
interface Integers extends Step {
  /** The name of the tensor of integers. */
  uint8: string;
  /** The name of the tensor of floats that they stand for. */
  float: string;
}

/**
 * @param graph of onnxGraph, its norms folded; its tensors are not changed
 * @param ranges of every one of {@link valuesToMeasure}
 */
export function quantizeGraph(graph: OnnxGraph, ranges: ReadonlyMap<string, Range>): OnnxGraph {
  const plan = new Plan(graph);
  const builder = new OnnxBuilder(namesOf(graph));
  const tensors = new Map(graph.initializer.map((tensor) => [tensor.name, tensor]));
  const integers = new Map<string, Integers>();
  // onnxruntime 1.14 opens no network in which a node reads one dequantised value twice: the second is another
  const floatOf = (name: string, i: number, all: readonly string[]) => {
    const x = integers.get(name);
    if (x === undefined) return name;
    return all.indexOf(name) === i ? x.float : dequantized(builder, name, x).float;
  };
  const quantize = (name: string): void => {
    if (!plan.values.has(name)) return;
    const { scale, zero } = stepOf(ranges.get(name) ?? { min: 0, max: 1 }, plan.gateOf(name));
    const uint8 = builder.node('QuantizeLinear', `${name}/uint8`, [name, ...scaleAndZero(builder, name, scale, zero)]);
    integers.set(name, dequantized(builder, name, { uint8, scale, zero }));
  };

  quantize(graph.input[0]!.name);
  for (const node of graph.node) {
    if (plan.isAbsorbed(node)) continue;
    const name = plan.resultOf(node);
    const x = integers.get(node.input[0]!);
    if (x !== undefined && passing.has(node.opType) && plan.values.has(node.output[0]!)) {
      const uint8 = builder.copy(node, builder.free(`${name}/uint8`), [x.uint8]);
      integers.set(name, dequantized(builder, name, { ...x, uint8 }));
    } else if (x !== undefined && plan.gateOf(node.input[0]!) !== undefined) {
      const gate = gateOf(builder, `${name}/gate`, x);
      if (node.opType === 'HardSigmoid') {
        integers.set(name, gate);
      } else {
        builder.copy({ opType: 'Mul', attribute: [] }, name, [x.float, gate.float]);
        quantize(name);
      }
    } else {
      const hasWeights = x !== undefined && (node.opType === 'Conv' || node.opType === 'Gemm');
      const inputs = hasWeights
        ? [
            x.float,
            ...constants(
              builder,
              name,
              node.input.slice(1).map((input) => tensors.get(input)!),
              x.scale,
            ),
          ]
        : node.input.map(floatOf);
      builder.copy(node, name, inputs);
      quantize(name);
    }
  }
  const used = new Set(builder.nodes.flatMap(({ input }) => input));
  const kept = graph.initializer.filter(({ name }) => used.has(name));
  return { ...graph, node: builder.nodes, initializer: [...builder.tensors.values(), ...kept] };
}

/** The names of a graph's values and tensors. */
export const namesOf = ({ input, node, initializer }: OnnxGraph): string[] => [
  ...[...input, ...initializer].map(({ name }) => name),
  ...node.flatMap(({ output }) => output),
];

function scaleAndZero(builder: OnnxBuilder, name: string, scale: number, zero: number): string[] {
  return [
    builder.tensor(`${name}/scale`, [], Float32Array.of(scale)),
    builder.tensor(`${name}/zero`, [], Uint8Array.of(zero)),
  ];
}

function dequantized(builder: OnnxBuilder, name: string, integers: Omit<Integers, 'float'>): Integers {
  const { uint8, scale, zero } = integers;
  const inputs = [uint8, ...scaleAndZero(builder, name, scale, zero)];
  return { ...integers, float: builder.node('DequantizeLinear', `${name}/float`, inputs) };
}

/**
 * The integers of a range, which is made to hold 0.
 * @param gate the range is [-3, max] instead, and 3 / scale is whole
 */
function stepOf({ min, max }: Range, gate: Gate | undefined): Step {
  if (gate !== undefined) {
    const most = gate === 'HardSigmoid' ? 3 : Math.max(0, max);
    const zero = Math.max(1, Math.floor((3 * 255) / (most + 3)));
    return { scale: Math.fround(3 / zero), zero };
  }
  const [least, most] = [Math.min(0, min), Math.max(0, max)];
  const scale = positive(Math.fround((most - least) / 255));
  return { scale, zero: Math.min(255, Math.round(-least / scale)) };
}

/** A scale of nothing but zeros, or of values that are none to a float32, may be any. */
const positive = (scale: number): number => (scale > 1e-30 ? scale : 1);

/**
 * Hard-sigmoid, clip(x + 3, 0, 6) / 6, of x = scale (q - 3 / scale), q of 0 or more: the same integers by a sixth of
 * the scale and a zero of 0, as far as 6 / scale. Hard-swish is x times that.
 */
function gateOf(builder: OnnxBuilder, name: string, { uint8, scale, zero }: Integers): Integers {
  const clipped =
    2 * zero >= 255
      ? uint8
      : builder.node('Clip', `${name}/uint8`, [uint8, '', builder.tensor(`${name}/most`, [], Uint8Array.of(2 * zero))]);
  return dequantized(builder, name, { uint8: clipped, scale: Math.fround(scale / 6), zero: 0 });
}

/**
 * Weights [O,...] and bias [O] as integers.
 * @param inputScale of the activation that the weights are for
 * @returns the names of what stands in their place
 */
function constants(builder: OnnxBuilder, name: string, [weight, bias]: OnnxTensorData[], inputScale: number): string[] {
  const values = floatsOf(weight!);
  const biases = bias === undefined ? undefined : floatsOf(bias);
  const channels = Number(weight!.dims[0]);
  const size = values.length / channels;
  const integers = new Int8Array(values.length);
  const scales = new Float32Array(channels);
  for (let c = 0; c < channels; c++) {
    let most = 0;
    for (let k = c * size; k < (c + 1) * size; k++) most = Math.max(most, Math.abs(values[k]!));
    // of a channel with next to no weights, its bias alone must fit into 32 bits
    const scale = positive(
      Math.fround(Math.max(most / mostWeight, Math.abs(biases?.[c] ?? 0) / (inputScale * 2 ** 30))),
    );
    scales[c] = scale;
    for (let k = c * size; k < (c + 1) * size; k++) integers[k] = Math.round(values[k]! / scale);
  }
  const perChannel = (part: string, whole: Int8Array | Int32Array, shape: readonly number[], factors: Float32Array) =>
    builder.node(
      'DequantizeLinear',
      `${name}/${part}`,
      [
        builder.tensor(`${name}/${part}/integers`, shape, whole),
        builder.tensor(`${name}/${part}/scale`, [channels], factors),
        builder.tensor(
          `${name}/${part}/zero`,
          [channels],
          whole instanceof Int8Array ? new Int8Array(channels) : new Int32Array(channels),
        ),
      ],
      { integers: { axis: 0 } },
    );
  const names = [perChannel('weight', integers, weight!.dims.map(Number), scales)];
  if (biases === undefined) return names;
  const biasScales = scales.map((scale) => scale * inputScale);
  const whole = Int32Array.from(biases, (value, c) => Math.round(value / biasScales[c]!));
  return [...names, perChannel('bias', whole, [channels], biasScales)];
}

const floatsOf = ({ rawData: { buffer, byteOffset, byteLength } }: OnnxTensorData): Float32Array =>
  new Float32Array(buffer, byteOffset, byteLength / 4);
