import type { GraphNode } from '../addon/native.js';
import { checkArgument, checkOptions, checkText, optionTable } from '../arguments.js';
import { LgdError } from '../errors.js';
import { checkNumber } from '../number-limits.js';

/**
 * Activation functions, by torchvision's names. The last three are u Phi(u), its tanh form, and u sigmoid(1.702 u).
 */
export type Activation =
  'relu' | 'relu6' | 'silu' | 'hardswish' | 'sigmoid' | 'hardsigmoid' | 'gelu' | 'geluTanh' | 'quickGelu';

/** How a parameter starts; initialise.ts draws it. */
export type Initialisation =
  { kind: 'constant'; value: number } | { kind: 'normal'; std: number } | { kind: 'uniform'; bound: number };

/** A parameter or buffer of a graph. */
export interface GraphParameter {
  /** Its name in the state dict. */
  name: string;
  /** torchvision's shape: OIHW, [O,I], [C]. */
  shape: number[];
  /** false: a buffer (a running statistic). */
  trainable: boolean;
  /** Takes part in weight decay when norm scales and biases are left out of it. */
  decay: boolean;
  init: Initialisation;
}

/** A network as plain data: what native/graph compiles. native/graph/graph.h lists the operations. */
export interface GraphSpec {
  name: string;
  /** In execution order. Node i makes value i + 1; value 0 is the image batch. */
  nodes: GraphNode[];
  parameters: GraphParameter[];
  /** The value that is the result: [B,1,1,C] of an encoder, a map of a dense head. */
  output: number;
  /** More results, which follow it in the output tensor. */
  further?: number[] | undefined;
}

/** A value in a graph under construction: what a node makes, or the image batch. */
export interface Value {
  readonly index: number;
  readonly channels: number;
  /** Name of the node that makes it. */
  readonly name: string;
}

/**
 * Sizes of a convolution; kernel, stride and dilation are 1 by default, bias is left out. A depthwise one has as many
 * channels as its input, a kernel of 3, 5 or 7, and stride 1 or 2.
 */
export interface ConvOptions {
  channels: number;
  kernel?: number | undefined;
  stride?: number | undefined;
  /**
   * Pixels on each side; default: (kernel - 1) / 2 times dilation, which keeps the size at stride 1; an even kernel needs
   * one to be given. `same` is TensorFlow's: side / stride positions, rounded up, with zeros only where they reach beyond
   * the image, half of them before it and the odd one behind. The sides of an image must then be even or odd alike.
   */
  padding?: number | 'same' | undefined;
  dilation?: number | undefined;
  /** 1 (default), or the input's channels: a depthwise convolution. */
  groups?: number | undefined;
  bias?: boolean | undefined;
  /** Start of the weights; default: Kaiming normal, mode fan_out. */
  init?: Initialisation | undefined;
  /** Start of the bias; default 0. */
  biasInit?: Initialisation | undefined;
  /** Use the weights of an earlier convolution of this name, as a head does on every level; default false. */
  shared?: boolean | undefined;
}

const convOptions = optionTable<ConvOptions>()(
  'channels kernel? stride? padding? dilation? groups? bias? init? biasInit? shared?',
);

/** Sizes of a linear layer. */
export interface LinearOptions {
  features: number;
  /** Default true. */
  bias?: boolean | undefined;
  /** Starts of weight and bias; default: PyTorch's Linear. */
  init?: { weight: Initialisation; bias: Initialisation } | undefined;
}

const linearOptions = optionTable<LinearOptions>()('features bias? init?');

const positionsOptions = { count: 'needed', first: 'optional', constant: 'optional' } as const;
const selfAttentionOptions = { causal: 'optional' } as const;
const rotaryOptions = { heads: 'needed', count: 'needed', first: 'optional' } as const;

/** What all nodes of a graph share. */
export interface BuilderOptions {
  /** Of every batch norm; torch.nn.BatchNorm2d's defaults. */
  norm?: { eps: number; momentum: number } | undefined;
  /** false leaves dropout and stochastic depth out. */
  dropping?: boolean | undefined;
  /** A graph to go on from, its nodes and parameters before those to come. */
  start?: Pick<GraphSpec, 'nodes' | 'parameters'> | undefined;
}

const builderOptions = optionTable<BuilderOptions>()('norm? dropping? start?');

export const zeros: Initialisation = { kind: 'constant', value: 0 };
const ones: Initialisation = { kind: 'constant', value: 1 };

/** Kaiming normal, mode fan_out (He et al. 2015): what torchvision starts convolutions with. `shape` is OIHW. */
function kaimingFanOut([out = 1, , height = 1, width = 1]: number[]): Initialisation {
  return { kind: 'normal', std: Math.sqrt(2 / (out * height * width)) };
}

/** PyTorch's Linear: weight and bias uniform within 1 / sqrt(inputs). */
function linearDefault(inputs: number): { weight: Initialisation; bias: Initialisation } {
  const init: Initialisation = { kind: 'uniform', bound: 1 / Math.sqrt(inputs) };
  return { weight: init, bias: init };
}

/**
 * Builds a {@link GraphSpec} node by node. Methods take the name of the module as PyTorch's state dict spells it
 * (`features.0.0`), from which parameters get theirs (`features.0.0.weight`); nodes without parameters are named after
 * their input. What a device cannot run is refused when the graph is compiled: docs/limits.md lists what trains.
 */
export class GraphBuilder {
  /** The image batch, [B,H,W,3]. */
  readonly images: Value = { index: 0, channels: 3, name: 'images' };
  readonly #nodes: GraphNode[];
  readonly #parameters: GraphParameter[];
  readonly #norm: { eps: number; momentum: number };
  readonly #dropping: boolean;

  /** @throws LgdError BAD_OPTION */
  constructor(
    readonly name: string,
    options: BuilderOptions = {},
  ) {
    checkText(name, 'name', 'a name of the network');
    checkOptions(options, 'new GraphBuilder()', builderOptions);
    const { norm = { eps: 1e-5, momentum: 0.1 }, dropping = true, start } = options;
    this.#norm = norm;
    this.#dropping = dropping;
    this.#nodes = [...(start?.nodes ?? [])];
    this.#parameters = [...(start?.parameters ?? [])];
  }

  /** A convolution. @throws LgdError BAD_OPTION, BAD_MODEL (the name is taken, or nothing of it can be shared) */
  conv(x: Value, name: string, options: ConvOptions): Value {
    checkOptions(options, 'conv()', convOptions);
    const { channels, kernel = 1, stride = 1, dilation = 1, groups = 1, bias = false } = options;
    const { padding = ((kernel - 1) / 2) * dilation } = options;
    const padded: Record<string, number> = padding === 'same' ? { padding: 0, same: stride } : { padding };
    const shape = [channels, x.channels / groups, kernel, kernel];
    const parameter = (...[of, sizes, init, decay]: [string, number[], Initialisation, boolean]) =>
      options.shared === true ? this.#known(of, sizes) : this.#parameter(of, sizes, init, decay);
    const parameters = [parameter(`${name}.weight`, shape, options.init ?? kaimingFanOut(shape), true)];
    if (bias) parameters.push(parameter(`${name}.bias`, [channels], options.biasInit ?? zeros, false));
    return this.#node('conv', name, [x], channels, { stride, ...padded, dilation, groups }, parameters);
  }

  /** A linear layer over the channels of each position. @throws LgdError BAD_OPTION, BAD_MODEL (the name is taken) */
  linear(x: Value, name: string, options: LinearOptions): Value {
    checkOptions(options, 'linear()', linearOptions);
    const { features, bias = true, init = linearDefault(x.channels) } = options;
    const parameters = [this.#parameter(`${name}.weight`, [features, x.channels], init.weight, true)];
    if (bias) parameters.push(this.#parameter(`${name}.bias`, [features], init.bias, false));
    return this.#node('linear', name, [x], features, {}, parameters);
  }

  /** Batch norm: scale, bias and running statistics. */
  batchNorm(x: Value, name: string): Value {
    const parameters = [
      this.#parameter(`${name}.weight`, [x.channels], ones, false),
      this.#parameter(`${name}.bias`, [x.channels], zeros, false),
      this.#parameter(`${name}.running_mean`, [x.channels], zeros, false, false),
      this.#parameter(`${name}.running_var`, [x.channels], ones, false, false),
    ];
    return this.#node('batchNorm', name, [x], x.channels, this.#norm, parameters);
  }

  /** Layer norm over the channels of each position; on CUDA multiples of 8, in training at most 2048. */
  layerNorm(x: Value, name: string, eps = 1e-5): Value {
    return this.#node('layerNorm', name, [x], x.channels, { eps }, [
      this.#parameter(`${name}.weight`, [x.channels], ones, false),
      this.#parameter(`${name}.bias`, [x.channels], zeros, false),
    ]);
  }

  /**
   * Each channel of x times a learnable factor (layer scale, Touvron et al. 2021): the parameter `name`, [C].
   * @param start of the factors; default 1
   */
  layerScale(x: Value, name: string, start = 1): Value {
    return this.#node('layerScale', name, [x], x.channels, {}, [
      this.#parameter(name, [x.channels], { kind: 'constant', value: start }, false),
    ]);
  }

  /** An activation function. */
  activation(x: Value, kind: Activation): Value {
    return this.#node('activation', `${x.name}.${kind}`, [x], x.channels, { kind });
  }

  /** max(x, 0). */
  relu(x: Value): Value {
    return this.activation(x, 'relu');
  }

  /** The sum of two values of one shape. */
  add(a: Value, b: Value): Value {
    return this.#node('add', `${a.name}.add`, [a, b], a.channels);
  }

  /** Each channel of x times s, [B,1,1,C], which in a training graph nothing else may read. */
  channelScale(x: Value, s: Value): Value {
    return this.#node('channelScale', `${s.name}.scale`, [x, s], x.channels);
  }

  /**
   * The largest value of each window; `kernel` is 1 to 8, `padding` at most half of it, in pixels. Windows that do not
   * fit whole are left out (no ceil_mode).
   * @throws LgdError BAD_OPTION
   */
  maxPool(x: Value, options: { kernel: number; stride: number; padding: number }): Value {
    checkOptions(options, 'maxPool()', { kernel: 'needed', stride: 'needed', padding: 'needed' });
    return this.#node('maxPool', `${x.name}.maxPool`, [x], x.channels, options);
  }

  /** Mean of windows that touch without overlap; pixels that fill none are left out. */
  avgPool(x: Value, kernel: number): Value {
    return this.#node('avgPool', `${x.name}.avgPool`, [x], x.channels, { kernel });
  }

  /** Mean over all positions. */
  globalPool(x: Value): Value {
    return this.#node('globalPool', `${x.name}.pool`, [x], x.channels);
  }

  /** Bilinear enlargement by a whole factor, corners not aligned. */
  resize(x: Value, factor: number): Value {
    return this.#node('resize', `${x.name}.resize`, [x], x.channels, { factor });
  }

  /** Sets values to zero with probability p in training, and scales the rest; nothing where dropping is off. */
  dropout(x: Value, p: number): Value {
    return this.#dropping && p !== 0 ? this.#node('dropout', `${x.name}.dropout`, [x], x.channels, { p }) : x;
  }

  /** Drops whole images of a residual branch (Huang et al. 2016). */
  stochasticDepth(x: Value, p: number): Value {
    return this.#dropping && p !== 0
      ? this.#node('stochasticDepth', `${x.name}.stochasticDepth`, [x], x.channels, { p })
      : x;
  }

  /** torchvision's Conv2dNormActivation, by its names: `name.0` the convolution, `name.1` its norm. */
  convNorm(x: Value, name: string, options: ConvOptions, activation?: Activation): Value {
    const normed = this.batchNorm(this.conv(x, `${name}.0`, options), `${name}.1`);
    return activation === undefined ? normed : this.activation(normed, activation);
  }

  /** Squeeze and excitation (Hu et al. 2018): x times gate(fc2(activation(fc1(mean of x)))). */
  squeezeExcite(x: Value, name: string, squeezed: number, activation: Activation, gate: Activation): Value {
    const hidden = this.conv(this.globalPool(x), `${name}.fc1`, { channels: squeezed, bias: true });
    const excited = this.conv(this.activation(hidden, activation), `${name}.fc2`, { channels: x.channels, bias: true });
    return this.channelScale(x, this.activation(excited, gate));
  }

  /** The first of a sequence, [B,1,1,C]. */
  firstToken(x: Value): Value {
    return this.#node('firstToken', `${x.name}.first`, [x], x.channels);
  }

  /**
   * A sequence of `first` tokens that are the same for every image (default 0) and of all positions of x, each with its
   * row of the table `position` added, of `count` rows. The constant tokens are rows of the table alone, [count, C]; or
   * with `constant` a table of their own, [1, first, C], added to theirs of `position`, then [1, count, C], as in timm.
   * `first` is less than `count`: the others are for x.
   * @throws LgdError BAD_OPTION, BAD_MODEL (a name is taken, or a table has no such size)
   */
  positions(
    x: Value,
    position: string,
    options: { count: number; first?: number | undefined; constant?: string | undefined },
  ): Value {
    checkOptions(options, 'positions()', positionsOptions);
    const { count, first = 0, constant } = options;
    const table = (name: string, rows: number, std: number) => {
      const shape = [rows, x.channels];
      return this.#parameter(name, constant === undefined ? shape : [1, ...shape], { kind: 'normal', std }, false);
    };
    const parameters = [table(position, count, constant === undefined ? x.channels ** -0.5 : 0.02)];
    if (constant !== undefined) parameters.push(table(constant, first, 1e-6));
    checkNumber('first', first, { whole: true, least: 0, most: count - 1 });
    return this.#node('positions', position, [x], x.channels, { first }, parameters);
  }

  /**
   * Attention of a sequence over itself; qkv holds queries, keys and values, a third of its channels each.
   * @param options `causal`: over earlier tokens and the own one alone; default false
   * @throws LgdError BAD_OPTION
   */
  selfAttention(qkv: Value, heads: number, options: { causal?: boolean | undefined } = {}): Value {
    checkOptions(options, 'selfAttention()', selfAttentionOptions);
    const { causal = false } = options;
    return this.#node('selfAttention', `${qkv.name}.attention`, [qkv], qkv.channels / 3, {
      heads,
      causal: Number(causal),
    });
  }

  // What follows works in forward-only graphs: the engine has no backward of it.

  /** A sequence of the mean and all positions of x, each with its row of `position` [positions + 1, C] added. */
  tokens(x: Value, position: string, positions: number): Value {
    const parameters = [
      this.#parameter(position, [positions + 1, x.channels], { kind: 'normal', std: x.channels ** -0.5 }, true),
    ];
    return this.#node('tokens', position, [x], x.channels, {}, parameters);
  }

  /** Attention of one query an image, [B,1,1,C], over keys and values that are sequences. */
  queryAttention(q: Value, k: Value, v: Value, heads: number): Value {
    return this.#node('queryAttention', `${q.name}.attention`, [q, k, v], q.channels, { heads });
  }

  /** A vector of its own for every image, [B,1,1,channels]: a learned query. */
  repeat(name: string, channels: number): Value {
    return this.#node('repeat', name, [this.images], channels, {}, [
      this.#parameter(name, [channels], { kind: 'normal', std: channels ** -0.5 }, true),
    ]);
  }

  /**
   * A sequence of word vectors with positions added, from token ids: a graph's images are then [B,3,T,1], the digits of
   * the ids in base 256, lowest first.
   */
  words(
    ids: Value,
    {
      word,
      position,
      words,
      positions,
      channels,
    }: { word: string; position: string; words: number; positions: number; channels: number },
  ): Value {
    const parameters = [
      this.#parameter(word, [words, channels], { kind: 'normal', std: 0.02 }, true),
      this.#parameter(position, [positions, channels], { kind: 'normal', std: 0.01 }, true),
    ];
    return this.#node('words', word, [ids], channels, {}, parameters);
  }

  /**
   * Rotary positions in front of {@link selfAttention}: queries and keys of the tokens behind the `first` ones (default
   * 0) turned by the table `angles`, [count, W], with W the channels of a head: W / 2 cosines a token, then as many
   * sines. Channel c of a head turns against c + W / 2. Later calls of the same name share the table.
   * @throws LgdError BAD_OPTION, BAD_MODEL (the table has another size)
   */
  rotary(qkv: Value, angles: string, options: { heads: number; count: number; first?: number | undefined }): Value {
    checkOptions(options, 'rotary()', rotaryOptions);
    const { heads, count, first = 0 } = options;
    const shape = [count, qkv.channels / 3 / heads];
    const table = this.#parameters.some(({ name }) => name === angles)
      ? this.#known(angles, shape)
      : this.#parameter(angles, shape, zeros, false);
    return this.#node('rotary', `${qkv.name}.rotary`, [qkv], qkv.channels, { heads, first }, [table]);
  }

  /** The first half of the channels through a SiLU, times the other half: [B,T,1,C] of [B,T,1,2C]. */
  swiglu(x: Value): Value {
    return this.#node('swiglu', `${x.name}.swiglu`, [x], x.channels / 2);
  }

  /** Of a sequence the token where `id` stands first among the ids, or the last one, [B,1,1,C]. */
  endToken(x: Value, ids: Value, id: number): Value {
    return this.#node('endToken', `${x.name}.end`, [x, ids], x.channels, { id });
  }

  /** The graph, with `output` as its result, and others behind it. */
  finish(output: Value, ...further: Value[]): GraphSpec {
    const graph = { name: this.name, nodes: this.#nodes, parameters: this.#parameters, output: output.index };
    return further.length === 0 ? graph : { ...graph, further: further.map(({ index }) => index) };
  }

  #node(
    op: string,
    name: string,
    inputs: Value[],
    channels: number,
    attributes: Record<string, number | string> = {},
    parameters: string[] = [],
  ): Value {
    const foreign = inputs.find((value) => value.index > 0 && this.#nodes[value.index - 1]?.name !== value.name);
    if (foreign !== undefined)
      throw new LgdError(
        'BAD_MODEL',
        `the graph ${this.name}: ${name} reads ${foreign.name}, a value of another graph.`,
        { mend: 'Make all values of a graph with one GraphBuilder' },
      );
    this.#nodes.push({ op, name, inputs: inputs.map((value) => value.index), parameters, attributes });
    return { index: this.#nodes.length, channels, name };
  }

  /** @throws LgdError BAD_MODEL unless there is a parameter of this name and shape */
  #known(name: string, shape: number[]): string {
    if (this.#parameters.some((parameter) => parameter.name === name && parameter.shape.join() === shape.join()))
      return name;
    throw new LgdError('BAD_MODEL', `the graph ${this.name} has no ${name} [${shape.join()}] to share.`, {
      mend: 'Build the convolution that has the weights first',
    });
  }

  #parameter(name: string, shape: number[], init: Initialisation, decay: boolean, trainable = true): string {
    if (!shape.every((size) => Number.isSafeInteger(size) && size > 0)) {
      throw new LgdError('BAD_MODEL', `the graph ${this.name}: ${name} has no such shape.`, {
        found: shape,
        allowed: 'whole numbers from 1',
        mend: 'Look at the sizes of this layer and of what it reads; groups must divide the channels',
      });
    }
    if (this.#parameters.some((parameter) => parameter.name === name))
      throw new LgdError('BAD_MODEL', `the graph ${this.name} names ${name} twice.`, {
        mend: 'Give each layer a name of its own',
      });
    this.#parameters.push({ name, shape, trainable, decay, init });
    return name;
  }
}

/** torchvision's rounding of scaled channel counts: to a multiple of 8, never more than a tenth below `value`. */
export function makeDivisible(value: number): number {
  const rounded = Math.max(8, 8 * Math.floor((value + 4) / 8));
  return rounded < 0.9 * value ? rounded + 8 : rounded;
}

/** Parameters as torchvision counts them: trainable ones, without buffers. @throws LgdError BAD_OPTION */
export function countParameters(graph: GraphSpec): number {
  checkArgument('graph', graph);
  return graph.parameters
    .filter((parameter) => parameter.trainable)
    .reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0);
}
