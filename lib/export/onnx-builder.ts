/** An ONNX graph under construction: its nodes and tensors, by name. */
import type { OnnxAttribute, OnnxNode, OnnxTensorData } from '../onnx/format.js';

export interface OnnxAttributes {
  integers?: Readonly<Record<string, number | readonly number[]>>;
  floats?: Readonly<Record<string, number>>;
}

type TensorValues = Float32Array | Uint8Array | Int8Array | Int32Array;

/** onnx.proto's TensorProto.DataType. */
const dataTypeOf = (values: TensorValues): number => {
  if (values instanceof Float32Array) return 1;
  if (values instanceof Uint8Array) return 2;
  return values instanceof Int8Array ? 3 : 6;
};

/** Collects nodes and tensors; values go by name. */
export class OnnxBuilder {
  readonly nodes: OnnxNode[] = [];
  readonly tensors = new Map<string, OnnxTensorData>();
  readonly #names = new Set<string>();

  /** An operation. @returns the name of its result, as near to `name` as is free */
  node(opType: string, name: string, input: string[], { integers = {}, floats = {} }: OnnxAttributes = {}): string {
    const attribute: OnnxAttribute[] = [
      ...Object.entries(integers).map(([key, value]) =>
        typeof value === 'number'
          ? { name: key, type: 2, i: BigInt(value) }
          : { name: key, type: 7, ints: value.map(BigInt) },
      ),
      ...Object.entries(floats).map(([key, value]) => ({ name: key, type: 1, f: value })),
    ];
    return this.copy({ opType, attribute }, name, input);
  }

  /** Another graph's operation. @returns as {@link OnnxBuilder.node} */
  copy({ opType, attribute }: Pick<OnnxNode, 'opType' | 'attribute'>, name: string, input: string[]): string {
    let output = name;
    for (let i = 2; this.#names.has(output); i++) output = `${name}.${i}`;
    this.#names.add(output);
    this.nodes.push({ name: output, opType, input, output: [output], attribute });
    return output;
  }

  /** A constant tensor. @returns its name */
  tensor(name: string, shape: readonly number[], values: TensorValues): string {
    if (!this.tensors.has(name)) {
      this.tensors.set(name, {
        name,
        dims: shape.map(BigInt),
        dataType: dataTypeOf(values),
        rawData: new Uint8Array(values.buffer, values.byteOffset, values.byteLength),
      });
    }
    return name;
  }
}
