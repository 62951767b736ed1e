/**
 * A dense network as one safetensors file: weights under their graph's names, and in the metadata all that is needed to
 * build the graph again.
 */
import { join } from 'node:path';
import { checkText } from '../arguments.js';
import { describe, LgdError } from '../errors.js';
import { isFolder } from '../files/folders.js';
import { isObject, isTexts, parsed } from '../files/json.js';
import { openSafetensors, readSafetensors, writeSafetensors } from '../files/safetensors.js';
import type { GraphSpec } from '../models/graph.js';
import type { SegmentationHead } from '../models/heads/segmentation.js';
import { studentGraph } from '../models/student.js';
import { listStudents } from '../models/students/registry.js';
import { faultOf, isSide } from '../models/teachers/preprocessor.js';
import type { ChannelTriple } from '../models/teachers/types.js';
import { type WeightRecord, weightsAmong } from '../models/weights.js';
import { version } from '../package.js';

/** What a dense network is for. */
export type DenseTask = 'segmentation' | 'detection';
const tasks: readonly DenseTask[] = ['segmentation', 'detection'];

/** What the file of a dense network says about it. */
export interface DenseInfo {
  task: DenseTask;
  architecture: string;
  widthMultiplier: number;
  /** Of a segmentation network. */
  head: SegmentationHead;
  outputStride: number;
  /** Side of the square input it was trained with, in pixels. */
  resolution: number;
  mean: ChannelTriple;
  std: ChannelTriple;
  /** K class names. */
  names: readonly string[];
  step: number;
}

/** The files of dense networks in their folder: the best, and the last. */
export const denseFile = 'model.safetensors';
export const lastDenseFile = 'last.safetensors';
const format = 'lgdistill-dense';

/** @throws LgdError NOT_WRITABLE */
export async function writeDense(file: string, info: DenseInfo, weights: WeightRecord): Promise<void> {
  await writeSafetensors(file, Object.entries(weights), { format, version, dense: JSON.stringify(info) });
}

/** What the folder's config.json says that it was trained for; undefined for that of a distillation. */
export function taskOf(config: unknown): DenseTask | undefined {
  const found = (config as { task?: unknown } | null | undefined)?.task;
  return tasks.find((task) => task === found);
}

/** Those of a folder's files that are dense networks: a student's file may have the name of one. */
export async function denseFiles(folder: string): Promise<string[]> {
  const files = [denseFile, lastDenseFile].map((name) => join(folder, name));
  const found = await Promise.all(
    files.map(async (file) => {
      try {
        await using opened = await openSafetensors(file);
        return opened.metadata['format'] === format;
      } catch {
        return false; // not there, or nothing that this version wrote
      }
    }),
  );
  return files.filter((_, i) => found[i]);
}

/**
 * Reads a dense network.
 * @param path the file, or the folder that training wrote
 * @throws LgdError BAD_OPTION, FILE_NOT_FOUND, BAD_FILE, BAD_MODEL (not a network for this task)
 */
export async function readDense(
  path: string,
  task: DenseTask,
): Promise<{ file: string; info: DenseInfo; weights: WeightRecord }> {
  checkText(path, 'model', 'the folder that training wrote, or a file');
  const file = (await isFolder(path)) ? join(path, denseFile) : path;
  const { tensors, metadata } = await readSafetensors(file);
  const bad = (why: string) =>
    new LgdError('BAD_MODEL', `${file} is not a network for ${task}: ${why}.`, {
      mend: `Give the folder that lgdistill ${task === 'segmentation' ? 'segment' : 'detect'} train wrote`,
    });
  if (metadata['format'] !== format) throw bad('its metadata do not say so');
  const info = parseInfo(metadata['dense'], bad);
  if (info.task !== task) throw bad(`it is for ${info.task}`);
  return { file, info, weights: weightsAmong(tensors, bad) };
}

const heads: readonly SegmentationHead[] = ['fcn', 'lraspp'];

function parseInfo(json: string | undefined, bad: (why: string) => LgdError): DenseInfo {
  const found = parsed(json);
  if (!isObject(found)) throw bad('its metadata do not describe it');
  const { task, architecture, widthMultiplier, head, outputStride, resolution, mean, std, names, step } =
    found as Record<keyof DenseInfo, unknown>;
  const fits: Record<keyof DenseInfo, boolean> = {
    task: tasks.some((one) => one === task),
    architecture: typeof architecture === 'string' && listStudents().includes(architecture),
    widthMultiplier: Number.isFinite(widthMultiplier),
    head: heads.some((one) => one === head),
    outputStride: [8, 16, 32].some((one) => one === outputStride),
    resolution: isSide(resolution),
    mean: faultOf('mean', mean) === undefined,
    std: faultOf('std', std) === undefined,
    names: isTexts(names) && names.length > 0,
    step: Number.isSafeInteger(step) && (step as number) >= 0,
  };
  for (const [key, isRight] of Object.entries(fits) as [keyof DenseInfo, boolean][])
    if (!isRight) throw bad(`its ${key} is ${key in found ? describe(found[key]) : 'missing'}`);
  return found as unknown as DenseInfo;
}

/**
 * The student's graph that a dense network grew from; the size of its projection head does not matter.
 * @throws LgdError BAD_OPTION
 */
export function backboneOf({
  architecture,
  widthMultiplier,
}: Pick<DenseInfo, 'architecture' | 'widthMultiplier'>): GraphSpec {
  return studentGraph(architecture, { embeddingSize: 8, widthMultiplier, dropping: false });
}
