/**
 * ONNX files: the messages of onnx.proto (https://github.com/onnx/onnx, docs/IR.md) that a network of float32 tensors
 * needs, by their public names and field numbers. Fields that are not listed are kept out on writing and passed over on
 * reading. Whoever needs it imports it then: its messages take a quarter of the time in which everything else is
 * loaded.
 */
import { create, createFileRegistry, fromBinary, toBinary, type DescMessage, type Message } from '@bufbuild/protobuf';
import {
  FieldDescriptorProto_Label as Label,
  FieldDescriptorProto_Type as Type,
  FileDescriptorProtoSchema,
} from '@bufbuild/protobuf/wkt';

/** A model: its graph, the operator set it is written in, and free metadata. */
export interface OnnxModel {
  irVersion: bigint;
  producerName: string;
  producerVersion: string;
  docString: string;
  graph: OnnxGraph;
  opsetImport: { domain: string; version: bigint }[];
  metadataProps: { key: string; value: string }[];
}

export interface OnnxGraph {
  name: string;
  docString: string;
  node: OnnxNode[];
  initializer: OnnxTensorData[];
  input: OnnxValueInfo[];
  output: OnnxValueInfo[];
}

/** One operation; inputs and outputs are names of values. */
export interface OnnxNode {
  name: string;
  opType: string;
  input: string[];
  output: string[];
  attribute: OnnxAttribute[];
}

/** `type` says which of the other fields holds it: 1 a float, 2 an integer, 7 integers. */
export interface OnnxAttribute {
  name: string;
  type: number;
  f?: number;
  i?: bigint;
  ints?: bigint[];
}

/** `dataType` 1 is float32; `rawData` is little-endian. */
export interface OnnxTensorData {
  name: string;
  dims: bigint[];
  dataType: number;
  rawData: Uint8Array;
}

/** Without a shape, the runtime infers it. */
export interface OnnxValueInfo {
  name: string;
  docString: string;
  type: { tensorType: { elemType: number; shape?: { dim: { dimValue?: bigint; dimParam?: string }[] } } };
}

type Field = readonly [
  number: number,
  type: 'string' | 'bytes' | 'float' | 'int32' | 'int64' | `.${string}`,
  repeated?: 'repeated',
];

const messages: Readonly<Record<string, Readonly<Record<string, Field>>>> = {
  ModelProto: {
    ir_version: [1, 'int64'],
    producer_name: [2, 'string'],
    producer_version: [3, 'string'],
    doc_string: [6, 'string'],
    graph: [7, '.GraphProto'],
    opset_import: [8, '.OperatorSetIdProto', 'repeated'],
    metadata_props: [14, '.StringStringEntryProto', 'repeated'],
  },
  GraphProto: {
    node: [1, '.NodeProto', 'repeated'],
    name: [2, 'string'],
    initializer: [5, '.TensorProto', 'repeated'],
    doc_string: [10, 'string'],
    input: [11, '.ValueInfoProto', 'repeated'],
    output: [12, '.ValueInfoProto', 'repeated'],
  },
  NodeProto: {
    input: [1, 'string', 'repeated'],
    output: [2, 'string', 'repeated'],
    name: [3, 'string'],
    op_type: [4, 'string'],
    attribute: [5, '.AttributeProto', 'repeated'],
  },
  AttributeProto: {
    name: [1, 'string'],
    f: [2, 'float'],
    i: [3, 'int64'],
    ints: [8, 'int64', 'repeated'],
    type: [20, 'int32'],
  },
  TensorProto: { dims: [1, 'int64', 'repeated'], data_type: [2, 'int32'], name: [8, 'string'], raw_data: [9, 'bytes'] },
  ValueInfoProto: { name: [1, 'string'], type: [2, '.TypeProto'], doc_string: [3, 'string'] },
  TypeProto: { tensor_type: [1, '.TensorTypeProto'] },
  TensorTypeProto: { elem_type: [1, 'int32'], shape: [2, '.TensorShapeProto'] },
  TensorShapeProto: { dim: [1, '.DimensionProto', 'repeated'] },
  DimensionProto: { dim_value: [1, 'int64'], dim_param: [2, 'string'] },
  OperatorSetIdProto: { domain: [1, 'string'], version: [2, 'int64'] },
  StringStringEntryProto: { key: [1, 'string'], value: [2, 'string'] },
};

const types = {
  string: Type.STRING,
  bytes: Type.BYTES,
  float: Type.FLOAT,
  int32: Type.INT32,
  int64: Type.INT64,
} as const;

let model: DescMessage | undefined;

function modelDescriptor(): DescMessage {
  model ??= createFileRegistry(
    create(FileDescriptorProtoSchema, {
      name: 'onnx.proto',
      package: 'onnx',
      syntax: 'proto2',
      messageType: Object.entries(messages).map(([name, fields]) => ({
        name,
        field: Object.entries(fields).map(([field, [number, type, repeated]]) => ({
          name: field,
          number,
          label: repeated ? Label.REPEATED : Label.OPTIONAL,
          ...(type.startsWith('.')
            ? { type: Type.MESSAGE, typeName: `.onnx${type}` }
            : { type: types[type as keyof typeof types] }),
        })),
      })),
    }),
    () => undefined,
  ).getMessage('onnx.ModelProto')!;
  return model;
}

/** The bytes of a model. */
export function encodeOnnx(content: OnnxModel): Uint8Array {
  return toBinary(modelDescriptor(), create(modelDescriptor(), content as unknown as Message));
}

/**
 * Reads the bytes of a model; what onnx.proto has beyond {@link OnnxModel} is passed over.
 * @throws Error where they are no such message
 */
export function decodeOnnx(bytes: Uint8Array): OnnxModel {
  return fromBinary(modelDescriptor(), bytes, { readUnknownFields: false }) as unknown as OnnxModel;
}
