/** Sequences in ONNX: maps one position wide, [B,C,T,1], so that what takes maps takes them. */
import type { GraphNode } from '../addon/native.js';
import type { WeightRecord } from '../models/weights.js';
import type { OnnxBuilder } from './onnx-builder.js';

/** A map [B,C,h,w] as a sequence behind constant tokens, with the tables added: x padded by zeros, plus one table. */
export function positions(
  builder: OnnxBuilder,
  { name, parameters = [], attributes }: GraphNode,
  x: string,
  weights: Readonly<WeightRecord>,
): string {
  const first = Number(attributes!['first']);
  const { shape, data } = weights[parameters[0]!]!;
  const constant = parameters[1] === undefined ? undefined : weights[parameters[1]]!.data;
  const [count, channels] = shape.slice(-2) as [number, number];
  const table = new Float32Array(data.length); // [C,T]
  for (let t = 0; t < count; t++)
    for (let c = 0; c < channels; c++)
      table[c * count + t] = data[t * channels + c]! + (t < first ? (constant?.[t * channels + c] ?? 0) : 0);
  const sequence = builder.node('Reshape', `${name}.sequence`, [
    x,
    builder.integers('as_sequence', [0, channels, -1, 1]),
  ]);
  const padded =
    first === 0
      ? sequence
      : builder.node('Pad', `${name}.padded`, [
          sequence,
          builder.integers(`${name}.pads`, [0, 0, first, 0, 0, 0, 0, 0]),
        ]);
  return builder.node('Add', `${name}.sum`, [padded, builder.tensor(name, [1, channels, count, 1], table)]);
}

/** Of a sequence the first token, [B,C,1,1]. */
export function firstToken(builder: OnnxBuilder, name: string, x: string): string {
  return builder.node('Gather', name, [x, builder.integers('first', [0])], { integers: { axis: 2 } });
}

/** [B,3C,T,1] to [B,C,T,1]; in between, heads are an axis of their own, [B,heads,W,T]. */
export function selfAttention(
  builder: OnnxBuilder,
  { name, attributes }: GraphNode,
  qkv: string,
  channels: number,
): string {
  const heads = Number(attributes!['heads']);
  const width = channels / heads;
  const split = builder.node('Reshape', `${name}.heads`, [
    qkv,
    builder.integers(`heads_of_${channels}`, [0, 3, heads, width, -1]),
  ]);
  const [q, k, v] = ['q', 'k', 'v'].map((part, i) =>
    builder.node('Gather', `${name}.${part}`, [split, builder.integers(`part_${part}`, i)], { integers: { axis: 1 } }),
  ) as [string, string, string];
  const turned = (part: string, x: string) =>
    builder.node('Transpose', `${name}.${part}`, [x], { integers: { perm: [0, 1, 3, 2] } });
  const scores = builder.node('Mul', `${name}.scaled`, [
    builder.node('MatMul', `${name}.scores`, [turned('queries', q), k]),
    builder.tensor(`scale_of_${width}`, [], Float32Array.of(1 / Math.sqrt(width))),
  ]);
  const seen = Number(attributes!['causal']) === 1 ? hideLater(builder, name, scores) : scores;
  const shares = builder.node('Softmax', `${name}.softmax`, [seen], { integers: { axis: -1 } });
  const sums = builder.node('MatMul', `${name}.sums`, [v, turned('shares', shares)]);
  return builder.node('Reshape', name, [sums, builder.integers(`as_sequence_of_${channels}`, [0, channels, -1, 1])]);
}

/** Scores [B,heads,T,T] of causal attention: -Infinity for tokens behind the one that asks. */
function hideLater(builder: OnnxBuilder, name: string, scores: string): string {
  const hidden = builder.node('Expand', `${name}.hidden`, [
    builder.tensor('hidden', [], Float32Array.of(-Infinity)),
    builder.node('Shape', `${name}.shape`, [scores]),
  ]);
  const later = builder.node('Trilu', `${name}.later`, [hidden, builder.integers('above', 1)]); // others become 0
  return builder.node('Add', `${name}.seen`, [scores, later]);
}
