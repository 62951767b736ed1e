/** Weights of a student under another tool's names, and back. */
import { LgdError } from '../../errors.js';
import type { TensorRecord } from '../../files/safetensors.js';
import type { GraphSpec } from '../graph.js';
import { isProjection } from '../students/definition.js';
import { findStudent, listStudents } from '../students/registry.js';
import type { WeightRecord } from '../weights.js';
import { namings } from './families.js';
import { nameIn, tools, unsupported, type NamedStudent, type Tool, type ToolNaming } from './naming.js';

/** A student's names in a tool. @throws LgdError BAD_OPTION where the tool has no such student */
export function toolNaming(tool: Tool, student: NamedStudent): ToolNaming {
  return namingOr(tool, student, (allowed) =>
    unsupported(
      tool,
      student,
      allowed,
      `Export it to ${[tools.filter((other) => other !== tool && has(other, student)).join(', '), 'onnx'].filter(Boolean).join(' or ')}`,
    ),
  );
}

function namingOr(tool: Tool, student: NamedStudent, refuse: (allowed: string) => LgdError): ToolNaming {
  const definition = findStudent(student.architecture);
  const naming = namings[definition.family][tool];
  if (naming === undefined)
    throw refuse(
      listStudents()
        .filter((name) => namings[findStudent(name).family][tool] !== undefined)
        .join(', '),
    );
  return naming(student, definition, refuse);
}

function has(tool: Tool, student: NamedStudent): boolean {
  try {
    namingOr(tool, student, (allowed) => unsupported(tool, student, allowed, ''));
    return true;
  } catch {
    return false;
  }
}

const counter = 'num_batches_tracked';

/**
 * A student's weights as a tool's state dict has them: its names, torchvision's shapes, float32, and for each norm
 * PyTorch's counter (int64, a scalar). Where the tool's norms have another eps, their scales make up for it: w sqrt(var
 * + eps') / sqrt(var + eps), which in evaluation is exactly the same.
 * @param batches the counters' value
 */
export function toTool(
  weights: Readonly<WeightRecord>,
  graph: GraphSpec,
  { modules, eps }: ToolNaming,
  { head, batches }: { head: boolean; batches: number },
): Map<string, TensorRecord> {
  const result = new Map<string, TensorRecord>();
  for (const node of graph.nodes) {
    const { op, name, parameters = [], attributes } = node;
    const theirs = modules.get(name);
    if (theirs === undefined || (isProjection(name) && !head)) continue;
    for (const parameter of parameters) {
      const { shape, data } = weights[parameter]!;
      result.set(nameIn(theirs, node, parameter), {
        shape: [...shape],
        data:
          op === 'batchNorm' && parameter === `${name}.weight`
            ? rescaled(weights, name, Number(attributes!['eps']), eps)
            : data,
      });
    }
    if (op === 'batchNorm') result.set(`${theirs}.${counter}`, { shape: [], data: BigInt64Array.of(BigInt(batches)) });
  }
  return result;
}

/**
 * The other way: what of a student is in a file with a tool's names. Counters are passed over.
 * @returns the student's parameters that are there, and names of tensors that are no parameter of the student's
 */
export function fromTool(
  tensors: ReadonlyMap<string, TensorRecord>,
  graph: GraphSpec,
  { modules, eps }: ToolNaming,
): { weights: WeightRecord; others: string[] } {
  const weights: WeightRecord = {};
  const used = new Set<string>();
  for (const node of graph.nodes) {
    const theirs = modules.get(node.name);
    if (theirs === undefined) continue;
    for (const parameter of node.parameters ?? []) {
      const found = nameIn(theirs, node, parameter);
      const tensor = tensors.get(found);
      if (tensor === undefined) continue;
      // NumPy's own kind
      const data = tensor.data instanceof Float64Array ? new Float32Array(tensor.data) : tensor.data;
      if (!(data instanceof Float32Array))
        throw new LgdError('BAD_MODEL', `${found} is not of floats.`, {
          mend: 'Give a file of floating-point weights',
        });
      used.add(found);
      weights[parameter] = { shape: tensor.shape, data };
    }
  }
  if (eps !== undefined) {
    for (const { op, name, attributes } of graph.nodes) {
      const [scale, variance] = [weights[`${name}.weight`], weights[`${name}.running_var`]];
      if (op !== 'batchNorm' || scale?.data.length !== variance?.data.length || scale === undefined) continue;
      weights[`${name}.weight`] = { ...scale, data: rescaled(weights, name, eps, Number(attributes!['eps'])) };
    }
  }
  return { weights, others: [...tensors.keys()].filter((name) => !used.has(name) && !name.endsWith(counter)) };
}

/** Scales of a norm with another eps. */
function rescaled(weights: Readonly<WeightRecord>, norm: string, from: number, to: number | undefined): Float32Array {
  const scale = weights[`${norm}.weight`]!.data;
  if (to === undefined || to === from) return scale;
  const variance = weights[`${norm}.running_var`]!.data;
  return scale.map((value, c) => value * Math.sqrt((variance[c]! + to) / (variance[c]! + from)));
}
