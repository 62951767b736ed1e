/**
 * Networks that tell of their values as they compute them. Only ends and samples leave onnxruntime: all values of a
 * network would be a hundred megabytes an image, in arrays that are freed late.
 */
import type { OnnxModel } from '../onnx/format.js';
import { OnnxBuilder } from './onnx-builder.js';
import { namesOf } from './quantize-graph.js';

/** Values of an activation that are looked at in an image: of more, evenly spread ones. */
const mostValues = 2 ** 17;

/** Names of the outputs that tell of a value: its least, its largest, and how many there are of it. */
type Ends = Record<'min' | 'max' | 'size', string>;

/** A network with further outputs, and what those tell of each value. */
export interface Measuring<T> {
  model: OnnxModel;
  outputs: ReadonlyMap<string, T>;
}

/** @param names of values whose least and largest are to be outputs */
export function measuringEnds(model: OnnxModel, names: readonly string[]): Measuring<Ends> {
  return measuring(model, names, (builder, name) => {
    const end = (op: 'Min' | 'Max') =>
      builder.node(`Reduce${op}`, `${name}/${op}`, [name], { integers: { keepdims: 0 } });
    const size = builder.node('Size', `${name}/count`, [name]);
    return {
      min: end('Min'),
      max: end('Max'),
      size: builder.node('Cast', `${name}/size`, [size], { integers: { to: 1 } }),
    };
  });
}

/**
 * For one image a run.
 * @param sizes how many values each has
 */
export function measuringSamples(model: OnnxModel, sizes: ReadonlyMap<string, number>): Measuring<{ sample: string }> {
  return measuring(model, [...sizes.keys()], (builder, name) => {
    const size = sizes.get(name)!;
    const step = Math.ceil(size / mostValues) | 1; // odd, as sides are even: of every row and column
    const flat = builder.node('Reshape', `${name}/values`, [name, builder.integers('all', [-1])]);
    if (step === 1) return { sample: flat };
    const places = [
      ['first', 0],
      [`${name}/size`, size],
      ['axis', 0],
      [`${name}/step`, step],
    ] as const;
    const slice = places.map(([what, value]) => builder.integers(what, [value]));
    return { sample: builder.node('Slice', `${name}/sample`, [flat, ...slice]) };
  });
}

function measuring<T extends Record<string, string>>(
  model: OnnxModel,
  names: readonly string[],
  tell: (builder: OnnxBuilder, name: string) => T,
): Measuring<T> {
  const { graph } = model;
  const builder = new OnnxBuilder(namesOf(graph));
  const outputs = new Map(names.map((name) => [name, tell(builder, name)]));
  const made = [...outputs.values()].flatMap((of) =>
    Object.values(of).map((name) => ({ name, docString: '', type: { tensorType: { elemType: 1 } } })),
  );
  return {
    outputs,
    model: {
      ...model,
      graph: {
        ...graph,
        node: [...graph.node, ...builder.nodes],
        initializer: [...graph.initializer, ...builder.tensors.values()],
        output: [...graph.output, ...made],
      },
    },
  };
}
