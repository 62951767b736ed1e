/** An ONNX graph under construction: its nodes and tensors, by name. */
import type { OnnxAttribute, OnnxNode, OnnxTensorData } from '../onnx/format.js';

export interface OnnxAttributes {
  integers?: Readonly<Record<string, number | readonly number[]>>;
  floats?: Readonly<Record<string, number>>;
}

type TensorValues = Float32Array | Uint8Array | Int8Array | Int32Array | BigInt64Array;

/** onnx.proto's TensorProto.DataType. */
const dataTypeOf = (values: TensorValues): number => {
  if (values instanceof Float32Array) return 1;
  if (values instanceof Uint8Array) return 2;
  if (values instanceof BigInt64Array) return 7;
  return values instanceof Int8Array ? 3 : 6;
};

export function attributesOf({ integers = {}, floats = {} }: OnnxAttributes): OnnxAttribute[] {
  return [
    ...Object.entries(integers).map(([key, value]) =>
      typeof value === 'number'
        ? { name: key, type: 2, i: BigInt(value) }
        : { name: key, type: 7, ints: value.map(BigInt) },
    ),
    ...Object.entries(floats).map(([key, value]) => ({ name: key, type: 1, f: value })),
  ];
}

/** Collects nodes and tensors; values go by name, which two of them never share. */
export class OnnxBuilder {
  readonly nodes: OnnxNode[] = [];
  readonly tensors = new Map<string, OnnxTensorData>();
  readonly #names: Set<string>;

  /** @param reserved names that others have, or that {@link OnnxBuilder.copy} gives */
  constructor(reserved: Iterable<string> = []) {
    this.#names = new Set(reserved);
  }

  /** An operation. @returns the name of its result, as near to `name` as is free */
  node(opType: string, name: string, input: string[], attributes: OnnxAttributes = {}): string {
    return this.copy({ opType, attribute: attributesOf(attributes) }, this.free(name), input);
  }

  /** An operation whose result has this very name: one that was reserved, or is {@link OnnxBuilder.free}. */
  copy({ opType, attribute }: Pick<OnnxNode, 'opType' | 'attribute'>, name: string, input: string[]): string {
    this.nodes.push({ name, opType, input, output: [name], attribute });
    return name;
  }

  /** A constant tensor. @returns its name: that of an equal one which was given this name before, or a free one */
  tensor(name: string, shape: readonly number[], values: TensorValues): string {
    const rawData = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    const dims = shape.map(BigInt);
    const known = this.tensors.get(name);
    if (known?.dims.join() === dims.join() && Buffer.compare(known.rawData, rawData) === 0) return name;
    const own = this.free(name);
    this.tensors.set(own, { name: own, dims, dataType: dataTypeOf(values), rawData });
    return own;
  }

  /** A constant of whole numbers, such as sizes or places: a list, or one number of no axis. */
  integers(name: string, values: number | readonly number[]): string {
    const list = typeof values === 'number' ? [values] : values;
    return this.tensor(name, typeof values === 'number' ? [] : [list.length], BigInt64Array.from(list.map(BigInt)));
  }

  /** The name, or one near to it that nothing has; it is taken from now on. */
  free(name: string): string {
    let own = name;
    for (let i = 2; this.#names.has(own); i++) own = `${name}.${i}`;
    this.#names.add(own);
    return own;
  }
}
