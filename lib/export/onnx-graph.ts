/** A student's graph as an ONNX graph: operator set 14, float32, NCHW, any batch. */
import type { GraphNode } from '../addon/native.js';
import { LgdError } from '../errors.js';
import type { GraphSpec } from '../models/graph.js';
import { paddingOf, sidesOf } from '../models/sides.js';
import type { WeightRecord } from '../models/weights.js';
import type { OnnxGraph, OnnxValueInfo } from '../onnx/format.js';
import { attributesOf, OnnxBuilder, type OnnxAttributes } from './onnx-builder.js';
import { firstToken, positions, selfAttention } from './onnx-sequence.js';

/** The operator set: the first with HardSwish. */
export const opset = 14;

/** A text bank as the last layer. */
export interface OnnxClassifier {
  /** [K,D], unit rows. */
  data: Float32Array;
  /** K. */
  size: number;
  /** Logits are cosines times this. */
  scale: number;
}

export interface OnnxGraphOptions {
  /** Side of the square input in pixels. */
  resolution: number;
  /** Name of the graph's result, [batch,D]. */
  output: string;
  /** Batch norms become part of the convolutions before them. */
  fold: boolean;
  /** Adds the output `logits` [batch,K]. */
  classifier?: OnnxClassifier;
}

/**
 * @param weights of every parameter and buffer of the graph
 * @throws LgdError BAD_MODEL for an operation that no student has
 */
export function onnxGraph(
  graph: GraphSpec,
  weights: Readonly<WeightRecord>,
  { resolution, output, fold, classifier }: OnnxGraphOptions,
): OnnxGraph {
  const input = 'pixel_values';
  const logits = 'logits';
  const builder = new OnnxBuilder([input, output, logits]);
  const values = [input];
  const folded = new Set<GraphNode>();
  const sides = sidesOf(graph, resolution);
  graph.nodes.forEach((node, i) => {
    const next = fold && node.op === 'conv' ? normAfter(graph, i) : undefined;
    if (next !== undefined) folded.add(next);
    if (folded.has(node))
      values.push(values[node.inputs[0]!]!); // part of the convolution
    else
      values.push(
        next === undefined
          ? translate(builder, graph, i, values, sides, weights)
          : foldedConv(builder, node, next, values, sides, weights),
      );
  });
  const flatten = { opType: 'Flatten', attribute: attributesOf({ integers: { axis: 1 } }) };
  builder.copy(flatten, output, [values[graph.output]!]);
  const outputs = [
    value(output, ['batch', channelsAt(graph, graph.output, weights)], 'not normalised; comparable by cosine'),
  ];
  if (classifier !== undefined) {
    classify(builder, output, logits, classifier);
    outputs.push(value(logits, ['batch', classifier.size], 'cosines with the text bank, scaled; one for each name'));
  }
  return {
    name: graph.name,
    docString: '',
    node: builder.nodes,
    initializer: [...builder.tensors.values()],
    input: [value(input, ['batch', 3, resolution, resolution], 'RGB, (pixel / 255 - mean) / std')],
    output: outputs,
  };
}

function value(name: string, shape: (number | string)[], docString: string): OnnxValueInfo {
  const dim = shape.map((length) => (typeof length === 'number' ? { dimValue: BigInt(length) } : { dimParam: length }));
  return { name, docString, type: { tensorType: { elemType: 1, shape: { dim } } } };
}

/** The batch norm that alone reads what node i makes, if there is one. */
function normAfter(graph: GraphSpec, i: number): GraphNode | undefined {
  const readers = graph.nodes.filter(({ inputs }) => inputs.includes(i + 1));
  return readers.length === 1 && readers[0]!.op === 'batchNorm' && graph.output !== i + 1 ? readers[0] : undefined;
}

/**
 * y = scale (x - mean) / sqrt(var + eps) + bias over a convolution is a convolution: its weights times scale / sqrt(var
 * + eps), and a bias.
 */
function foldedConv(
  builder: OnnxBuilder,
  conv: GraphNode,
  norm: GraphNode,
  values: string[],
  sides: readonly number[],
  weights: Readonly<WeightRecord>,
): string {
  const [kernel, ownBias] = conv.parameters!;
  const { shape, data } = weights[kernel!]!;
  const before = ownBias === undefined ? undefined : weights[ownBias]!.data;
  const [scale, shift, mean, variance] = norm.parameters!.map((name) => weights[name]!.data) as [
    Float32Array,
    Float32Array,
    Float32Array,
    Float32Array,
  ];
  const channels = shape[0]!;
  const size = data.length / channels;
  const [weight, bias] = [new Float32Array(data.length), new Float32Array(channels)];
  for (let c = 0; c < channels; c++) {
    const factor = scale[c]! / Math.sqrt(variance[c]! + numberOf(norm, 'eps'));
    for (let k = c * size; k < (c + 1) * size; k++) weight[k] = data[k]! * factor;
    bias[c] = shift[c]! + ((before?.[c] ?? 0) - mean[c]!) * factor;
  }
  const inputs = [
    values[conv.inputs[0]!]!,
    builder.tensor(`${conv.name}.weight`, shape, weight),
    builder.tensor(`${conv.name}.bias`, [channels], bias),
  ];
  return builder.node('Conv', conv.name, inputs, {
    integers: convAttributes(conv, shape, sides[conv.inputs[0]!]!),
  });
}

const numberOf = ({ attributes = {} }: GraphNode, name: string): number => attributes[name] as number;

function convAttributes(node: GraphNode, [, , height, width]: number[], side: number): OnnxAttributes['integers'] {
  const [stride, dilation, groups] = ['stride', 'dilation', 'groups'].map((name) => numberOf(node, name)) as [
    number,
    number,
    number,
  ];
  const [before, after] = paddingOf(node, height!, side);
  return {
    kernel_shape: [height!, width!],
    strides: [stride, stride],
    pads: [before, before, after, after],
    dilations: [dilation, dilation],
    group: groups,
  };
}

/** Operations that take [B,C] in place of [B,C,1,1]. */
const ofRows: ReadonlySet<string> = new Set(['linear', 'activation', 'batchNorm', 'dropout', 'stochasticDepth']);

/** Is all that is made of a value made by operations that take rows? */
function isFlat(graph: GraphSpec, value: number): boolean {
  return graph.nodes.every(({ op, inputs }, i) => !inputs.includes(value) || (ofRows.has(op) && isFlat(graph, i + 1)));
}

/** Channels of a value, by the layer with weights that it comes from. */
function channelsAt(graph: GraphSpec, value: number, weights: Readonly<WeightRecord>): number {
  if (value === 0) return 3; // the images
  const { op, inputs, parameters } = graph.nodes[value - 1]!;
  if (op === 'conv' || op === 'linear') return weights[parameters![0]!]!.shape[0]!;
  return channelsAt(graph, inputs[0]!, weights) / (op === 'selfAttention' ? 3 : 1);
}

function translate(
  builder: OnnxBuilder,
  graph: GraphSpec,
  i: number,
  values: string[],
  sides: readonly number[],
  weights: Readonly<WeightRecord>,
): string {
  const node = graph.nodes[i]!;
  const { op, name, parameters: names = [] } = node;
  const [first, second] = node.inputs.map((index) => values[index]!) as [string, string];
  const parameters = () =>
    names.map((parameter) => builder.tensor(parameter, weights[parameter]!.shape, weights[parameter]!.data));
  switch (op) {
    case 'conv':
      return builder.node('Conv', name, [first, ...parameters()], {
        integers: convAttributes(node, weights[names[0]!]!.shape, sides[node.inputs[0]!]!),
      });
    case 'batchNorm':
      return builder.node('BatchNormalization', name, [first, ...parameters()], {
        floats: { epsilon: numberOf(node, 'eps') },
      });
    case 'layerNorm':
      return layerNorm(
        builder,
        name,
        first,
        names.map((parameter) => [parameter, weights[parameter]!.data]),
        numberOf(node, 'eps'),
      );
    case 'layerScale':
      return builder.node('Mul', name, [first, perChannel(builder, name, weights[names[0]!]!.data)]);
    case 'linear': {
      // [B,C] in place of [B,C,1,1], where all readers take it
      if (!isFlat(graph, i + 1)) return pointwise(builder, name, first, names, weights);
      const row = builder.node('Flatten', `${first}.flat`, [first], { integers: { axis: 1 } });
      return builder.node('Gemm', name, [row, ...parameters()], { integers: { transB: 1 } });
    }
    case 'activation':
      return activation(builder, node.attributes!['kind'] as string, name, first);
    case 'add':
      return builder.node('Add', name, [first, second]);
    case 'channelScale':
      return builder.node('Mul', name, [first, second]);
    case 'maxPool': {
      const [kernel, stride, padding] = ['kernel', 'stride', 'padding'].map((key) => numberOf(node, key)) as [
        number,
        number,
        number,
      ];
      return builder.node('MaxPool', name, [first], {
        integers: {
          kernel_shape: [kernel, kernel],
          strides: [stride, stride],
          pads: [padding, padding, padding, padding],
        },
      });
    }
    case 'avgPool': {
      const kernel = numberOf(node, 'kernel');
      return builder.node('AveragePool', name, [first], {
        integers: { kernel_shape: [kernel, kernel], strides: [kernel, kernel] },
      });
    }
    case 'dropout':
    case 'stochasticDepth':
      return first; // of training alone
    case 'positions':
      return positions(builder, node, first, weights);
    case 'firstToken':
      return firstToken(builder, name, first);
    case 'selfAttention':
      return selfAttention(builder, node, first, channelsAt(graph, node.inputs[0]!, weights) / 3);
    case 'globalPool':
      return builder.node('GlobalAveragePool', name, [first]);
    default:
      throw new LgdError('BAD_MODEL', `the operation ${op} (${name}) has no translation to ONNX here.`, {
        mend: 'Export another student',
      });
  }
}

/** A tensor [C,1,1], which meets the channels of a map. */
function perChannel(builder: OnnxBuilder, name: string, data: Float32Array): string {
  return builder.tensor(name, [data.length, 1, 1], data);
}

/** Over the channels of a map; operator set 17 is the first with such an operation, over the last axes. */
function layerNorm(
  builder: OnnxBuilder,
  name: string,
  x: string,
  [weight, bias]: readonly [name: string, data: Float32Array][],
  eps: number,
): string {
  const meanOf = (value: string, of: string) =>
    builder.node('ReduceMean', `${name}.${of}`, [value], { integers: { axes: [1], keepdims: 1 } });
  const centred = builder.node('Sub', `${name}.centred`, [x, meanOf(x, 'mean')]);
  const variance = meanOf(builder.node('Mul', `${name}.squares`, [centred, centred]), 'variance');
  const least = builder.tensor(`${name}.eps`, [], Float32Array.of(eps));
  const deviation = builder.node('Sqrt', `${name}.deviation`, [
    builder.node('Add', `${name}.variance_eps`, [variance, least]),
  ]);
  const normed = builder.node('Div', `${name}.normed`, [centred, deviation]);
  const scaled = builder.node('Mul', `${name}.scaled`, [normed, perChannel(builder, ...weight!)]);
  return builder.node('Add', name, [scaled, perChannel(builder, ...bias!)]);
}

/** A linear layer as a convolution of one position. */
function pointwise(
  builder: OnnxBuilder,
  name: string,
  x: string,
  [weight, ...bias]: readonly string[],
  weights: Readonly<WeightRecord>,
): string {
  const { shape, data } = weights[weight!]!;
  const inputs = [
    x,
    builder.tensor(weight!, [...shape, 1, 1], data),
    ...bias.map((own) => builder.tensor(own, weights[own]!.shape, weights[own]!.data)),
  ];
  return builder.node('Conv', name, inputs, { integers: { kernel_shape: [1, 1] } });
}

function activation(builder: OnnxBuilder, kind: string, name: string, x: string): string {
  switch (kind) {
    case 'relu':
      return builder.node('Relu', name, [x]);
    case 'relu6':
      return builder.node('Clip', name, [
        x,
        builder.tensor('relu6.min', [], Float32Array.of(0)),
        builder.tensor('relu6.max', [], Float32Array.of(6)),
      ]);
    case 'silu':
      return builder.node('Mul', name, [x, builder.node('Sigmoid', `${name}.sigmoid`, [x])]);
    case 'hardswish':
      return builder.node('HardSwish', name, [x]);
    case 'sigmoid':
      return builder.node('Sigmoid', name, [x]);
    case 'gelu':
    case 'geluTanh':
    case 'quickGelu':
      return gelu(builder, kind, name, x);
    case 'hardsigmoid':
      return builder.node('HardSigmoid', name, [x], { floats: { alpha: 1 / 6, beta: 0.5 } });
    default:
      throw new LgdError('BAD_MODEL', `the activation ${kind} (${name}) has no translation to ONNX here.`, {
        mend: 'Export another student',
      });
  }
}

/** x times Phi(x), which two of them take a sigmoid for. */
function gelu(builder: OnnxBuilder, kind: 'gelu' | 'geluTanh' | 'quickGelu', name: string, x: string): string {
  const node = (opType: string, of: string, ...input: string[]) => builder.node(opType, `${name}.${of}`, input);
  const scalar = (value: number) => builder.tensor(`gelu.${value}`, [], Float32Array.of(value));
  if (kind === 'gelu') {
    const erf = node('Erf', 'erf', node('Div', 'by_root', x, scalar(Math.SQRT2)));
    const twice = node('Mul', 'twice', x, node('Add', 'erf_1', erf, scalar(1)));
    return builder.node('Mul', name, [twice, scalar(0.5)]);
  }
  if (kind === 'quickGelu')
    return builder.node('Mul', name, [x, node('Sigmoid', 'gate', node('Mul', 'scaled', x, scalar(1.702)))]);
  const cube = node('Mul', 'cube', node('Mul', 'square', x, x), x);
  const bent = node('Add', 'bent', x, node('Mul', 'cubic', cube, scalar(0.044715)));
  const gate = node('Sigmoid', 'gate', node('Mul', 'scaled', bent, scalar(2 * Math.sqrt(2 / Math.PI))));
  return builder.node('Mul', name, [x, gate]);
}

/** logits = scale * bank * (embedding / length). */
function classify(
  builder: OnnxBuilder,
  embedding: string,
  logits: string,
  { data, size, scale }: OnnxClassifier,
): void {
  const length = builder.node('ReduceL2', `${embedding}.length`, [embedding], { integers: { axes: [1], keepdims: 1 } });
  const positive = builder.node('Max', `${embedding}.positive_length`, [
    length,
    builder.tensor('least_length', [], Float32Array.of(1e-12)),
  ]);
  const unit = builder.node('Div', `${embedding}.unit`, [embedding, positive]);
  const attribute = attributesOf({ integers: { transB: 1 }, floats: { alpha: scale } });
  const bank = builder.tensor('textual_bank', [size, data.length / size], data);
  builder.copy({ opType: 'Gemm', attribute }, logits, [unit, bank]);
}
