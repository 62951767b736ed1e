/**
 * A student for torchvision (a file), or for timm, MMDetection, MMSegmentation and Detectron2 (a folder:
 * model.safetensors, and the configuration that goes with it).
 */
import { join } from 'node:path';
import { LgdError } from '../errors.js';
import { makeFolder } from '../files/make-folder.js';
import { encodeSafetensors, readSafetensors, type TensorRecord } from '../files/safetensors.js';
import { writeFileAtomically } from '../files/write-file.js';
import type { GraphSpec } from '../models/graph.js';
import { exportedFormat, studentMetadata } from '../models/student-info.js';
import { studentGraph } from '../models/student.js';
import { isProjection } from '../models/students/definition.js';
import { fromTool, toolNaming, toTool } from '../models/tools/convert.js';
import { absentFrom, type Tool, type ToolNaming } from '../models/tools/naming.js';
import { version } from '../package.js';
import { compareEmbeddings, engineEmbeddings, exportFailed, type Comparison, type Reference } from './compare.js';
import { preprocessing } from './onnx.js';
import type { ExportSource } from './source.js';
import { toolConfig } from './tool-config.js';
import { countWritten, type Written } from './written.js';

/** A student as a tool will have it. */
export interface ToolExport {
  tool: Tool;
  head: 'keep' | 'drop';
  graph: GraphSpec;
  naming: ToolNaming;
  tensors: Map<string, TensorRecord>;
}

/** The weights' file in a tool's folder. */
const toolFile = 'model.safetensors';

/** Does this tool get a folder? */
export function isFolderTool(tool: Tool): boolean {
  return tool !== 'torchvision';
}

/** @throws LgdError BAD_OPTION for a student that the tool lacks, and for a head that it has no place for */
export function prepareTool(tool: Tool, head: 'keep' | 'drop', { info, weights }: ExportSource): ToolExport {
  const { architecture, widthMultiplier, embeddingSize, resolution } = info;
  if (info.graph !== undefined)
    throw new LgdError('BAD_OPTION', `${tool} does not know ${architecture}, a network of your own.`, {
      option: 'format',
      found: tool,
      allowed: 'lgdistill, onnx, transformers',
      mend: 'Export it as ONNX',
    });
  const graph = studentGraph(architecture, { embeddingSize, widthMultiplier, dropping: false, resolution });
  const naming = toolNaming(tool, { architecture, widthMultiplier, graph });
  if (head === 'keep' && !naming.modules.has('head.0')) {
    throw new LgdError('BAD_OPTION', `the ${naming.model} of ${tool} has no place for the projection head.`, {
      option: 'head',
      found: head,
      allowed: 'drop',
      mend: 'Drop it; onnx, transformers and torchvision keep it',
    });
  }
  return {
    tool,
    head,
    graph,
    naming,
    tensors: toTool(weights, graph, naming, { head: head === 'keep', batches: info.step }),
  };
}

/** @throws LgdError NOT_WRITABLE */
export async function writeTool(
  path: string,
  { tool, head, naming, tensors }: ToolExport,
  { info }: ExportSource,
  to: string,
): Promise<Written> {
  const metadata = {
    format: exportedFormat,
    tool,
    head,
    model: naming.model,
    preprocessing: JSON.stringify(preprocessing(info)),
    version,
    ...studentMetadata(info),
  };
  if (isFolderTool(tool)) {
    await makeFolder(path);
    const { name, text } = toolConfig(tool, naming, info, to);
    await writeFileAtomically(join(path, name), text);
  }
  await writeFileAtomically(fileOf(path, tool), encodeSafetensors(tensors, metadata));
  return countWritten(tensors.values());
}

function fileOf(path: string, tool: Tool): string {
  return isFolderTool(tool) ? join(path, toolFile) : path;
}

/**
 * Reads the file back: exactly the tool's keys, with shapes and dtypes; and the student built of it as the tool builds
 * it (with the tool's eps) gives the student's embeddings. Where the head is dropped, the student's own is put on the
 * features.
 * @throws LgdError EXPORT_FAILED
 */
export async function compareTool(
  path: string,
  { tool, head, graph, naming, tensors }: ToolExport,
  { info, weights }: ExportSource,
  reference: Reference,
): Promise<Comparison> {
  const file = await readSafetensors(fileOf(path, tool)).catch((cause: unknown) => {
    throw exportFailed('it cannot be read', cause);
  });
  const missing = [...tensors.keys()].filter((name) => !file.tensors.has(name));
  const unexpected = [...file.tensors.keys()].filter((name) => !tensors.has(name));
  if (missing.length + unexpected.length > 0)
    throw exportFailed(
      `of its keys ${missing.length} are missing and ${unexpected.length} unexpected: ${[...missing, ...unexpected].slice(0, 3).join(', ')}`,
    );
  for (const [name, { shape, data }] of tensors) {
    const found = file.tensors.get(name)!;
    if (found.shape.join() !== shape.join() || found.data.constructor !== data.constructor)
      throw exportFailed(`${name} has another shape or dtype`);
  }
  const { weights: found } = fromTool(file.tensors, graph, { ...naming, eps: undefined });
  const own = head === 'keep' ? [] : Object.entries(weights).filter(([name]) => isProjection(name));
  const lacking = absentFrom(naming, graph); // layers that the tool's architecture ends before
  const absent = Object.entries(weights).filter(([name]) => lacking.has(name));
  return compareEmbeddings(
    reference,
    await engineEmbeddings(
      info,
      { ...Object.fromEntries([...absent, ...own]), ...found },
      reference,
      withEps(graph, naming),
    ),
  );
}

/** The graph with the tool's eps in its norms. */
function withEps(graph: GraphSpec, { eps }: ToolNaming): GraphSpec {
  if (eps === undefined) return graph;
  return {
    ...graph,
    nodes: graph.nodes.map((node) =>
      node.op === 'batchNorm' ? { ...node, attributes: { ...node.attributes, eps } } : node,
    ),
  };
}
