/** What a student's file, and any file that it is exported to, says in its metadata; and the student in such a file. */
import { hasCode, LgdError } from '../errors.js';
import { isObject, isTexts, isWritable, parsed } from '../files/json.js';
import type { SafetensorsFile } from '../files/safetensors.js';
import { checkGrid } from './position-tables.js';
import { graphOf, type StudentKind } from './student.js';
import { faultOf } from './teachers/preprocessor.js';
import type { ChannelTriple } from './teachers/types.js';
import { fromTool, toolNaming } from './tools/convert.js';
import { tools, type Tool } from './tools/naming.js';
import { type WeightRecord, weightsAmong } from './weights.js';

/** What a student's file says about it. */
export interface StudentInfo extends StudentKind {
  /** Side of the square input it was trained with, in pixels. */
  resolution: number;
  /** Its input is (pixel - mean) / std with pixels in 0..1. */
  mean: ChannelTriple;
  std: ChannelTriple;
  /** The text bank it was trained with; empty for methods seed and feature without names. */
  names: readonly string[];
  templates: readonly string[];
  bankHash: string;
  textEncoder: string;
  teacher: string;
  method: string;
  step: number;
  epoch: number;
}

/** `format` in the metadata of a student's own file, and in those of a file for another tool. */
export const studentFormat = 'lgdistill-student';
export const exportedFormat = 'lgdistill-export';

/** Does a file's metadata say that it holds a student, under whatever names? */
export function holdsStudent(metadata: Readonly<Record<string, string>>): boolean {
  return metadata['format'] === studentFormat || metadata['format'] === exportedFormat;
}

/** What a student's file, and any other file it is exported to, says in its metadata. */
export function studentMetadata(info: StudentInfo): Record<string, string> {
  return Object.fromEntries(
    Object.entries(info)
      .filter(([, value]) => value !== undefined)
      .map(([key, value]) => [key, typeof value === 'string' ? value : JSON.stringify(value)]),
  );
}

/**
 * The student in a file: its own, or one for another tool, whose names are turned back.
 * @throws LgdError BAD_MODEL
 */
export function studentContent(
  { tensors, metadata }: SafetensorsFile,
  file: string,
): { info: StudentInfo; weights: WeightRecord } {
  const bad = (why: string) =>
    new LgdError('BAD_MODEL', `${file} is not a student: ${why}.`, {
      mend: 'Give the model.safetensors of a checkpoint, or the run folder',
    });
  if (!holdsStudent(metadata)) throw bad('its metadata do not say so');
  const info = parseInfo(metadata, bad);
  checkKind(info, file);
  if (metadata['format'] === exportedFormat)
    return { info, weights: exportedWeights(tensors, metadata['tool'] ?? '', info, bad) };
  return { info, weights: weightsAmong(tensors, bad) };
}

/** A student that there is none of is a fault of its file, and not of what the caller said. @throws LgdError BAD_MODEL */
function checkKind(info: StudentInfo, file: string): void {
  try {
    checkGrid(graphOf(info), info.resolution);
  } catch (cause) {
    if (!hasCode(cause, 'BAD_OPTION')) throw cause;
    throw new LgdError('BAD_MODEL', `${file} is of no student that there is: ${cause.message}`, {
      mend: 'Export it again from its run, or take the version of lgdistill that wrote it',
      cause,
    });
  }
}

function exportedWeights(
  tensors: SafetensorsFile['tensors'],
  tool: string,
  info: StudentInfo,
  bad: (why: string) => LgdError,
): WeightRecord {
  if (!(tools as readonly string[]).includes(tool)) throw bad(`it is for ${tool || 'an unknown tool'}`);
  const { architecture, widthMultiplier } = info;
  const graph = graphOf(info);
  return fromTool(tensors, graph, toolNaming(tool as Tool, { architecture, widthMultiplier, graph })).weights;
}

function parseInfo(metadata: Record<string, string>, bad: (why: string) => LgdError): StudentInfo {
  const text = (key: keyof StudentInfo): string => {
    const value = metadata[key];
    if (value === undefined) throw bad(`its metadata have no ${key}`);
    return value;
  };
  const read = (key: keyof StudentInfo, accept: (value: unknown) => boolean): never => {
    const value = parsed(text(key));
    if (!accept(value)) throw bad(`its ${key} is ${text(key).slice(0, 80)}`);
    return value as never;
  };
  const isCount = (value: unknown) => Number.isSafeInteger(value) && (value as number) >= 0;
  const isSize = (value: unknown) => isCount(value) && value !== 0;

  const isNode = (value: unknown) =>
    isObject(value) &&
    typeof value['op'] === 'string' &&
    typeof value['name'] === 'string' &&
    Array.isArray(value['inputs']) &&
    (value['parameters'] === undefined || isTexts(value['parameters'])) &&
    (value['attributes'] === undefined || isObject(value['attributes']));
  const isParameter = (value: unknown) =>
    isObject(value) &&
    typeof value['name'] === 'string' &&
    Array.isArray(value['shape']) &&
    value['shape'].every(isSize);
  const isGraph = (value: unknown) =>
    isObject(value) &&
    isWritable(value) &&
    typeof value['name'] === 'string' &&
    isCount(value['output']) &&
    Array.isArray(value['nodes']) &&
    value['nodes'].every(isNode) &&
    Array.isArray(value['parameters']) &&
    value['parameters'].every(isParameter);
  return {
    architecture: text('architecture'),
    widthMultiplier: read('widthMultiplier', Number.isFinite),
    embeddingSize: read('embeddingSize', isSize),
    ...(metadata['graph'] !== undefined && { graph: read('graph', isGraph) }),
    resolution: read('resolution', isSize),
    mean: read('mean', (value) => faultOf('mean', value) === undefined),
    std: read('std', (value) => faultOf('std', value) === undefined),
    names: read('names', isTexts),
    templates: read('templates', isTexts),
    bankHash: text('bankHash'),
    textEncoder: text('textEncoder'),
    teacher: text('teacher'),
    method: text('method'),
    step: read('step', isCount),
    epoch: read('epoch', isCount),
  };
}
