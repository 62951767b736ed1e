/** A student as one file: its weights under torchvision's names, and in the metadata all that is needed to use it. */
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Device } from '../device.js';
import { LgdError } from '../errors.js';
import { createStudent, type Student } from '../models/student.js';
import type { ChannelTriple } from '../models/teachers/types.js';
import type { WeightRecord } from '../models/weights.js';
import { readSafetensors, writeSafetensors } from '../safetensors.js';
import { version } from '../version.js';
import { groupMembers } from './group-folder.js';

/** What a student's file says about it. */
export interface StudentInfo {
  architecture: string;
  widthMultiplier: number;
  /** D. */
  embeddingSize: number;
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

/** The student's file in a checkpoint folder. */
export const studentFile = 'model.safetensors';
const format = 'lgdistill-student';

/** What a student's file, and any other file it is exported to, says in its metadata. */
export function studentMetadata(info: StudentInfo): Record<string, string> {
  return Object.fromEntries(Object.entries(info).map(([key, value]) => [key, typeof value === 'string' ? value : JSON.stringify(value)]));
}

/** @throws LgdError NOT_WRITABLE */
export async function writeStudent(file: string, info: StudentInfo, weights: WeightRecord): Promise<void> {
  await writeSafetensors(file, Object.entries(weights), { format, version, ...studentMetadata(info) });
}

/**
 * Reads a student's file.
 * @param path the file, a checkpoint folder, or a run folder (its best checkpoint, or its last where there is no best)
 * @throws LgdError FILE_NOT_FOUND, BAD_FILE, BAD_MODEL
 */
export async function readStudent(path: string): Promise<{ file: string; info: StudentInfo; weights: WeightRecord }> {
  const file = await findStudentFile(path);
  const { tensors, metadata } = await readSafetensors(file);
  const bad = (why: string) => new LgdError('BAD_MODEL', `${file} is not a student: ${why}.`, { mend: 'Give the model.safetensors of a checkpoint, or the run folder' });
  if (metadata['format'] !== format) throw bad('its metadata do not say so');
  const weights: WeightRecord = {};
  for (const [name, { shape, data }] of tensors) {
    if (!(data instanceof Float32Array)) throw bad(`${name} is not of floats`);
    weights[name] = { shape, data };
  }
  return { file, info: parseInfo(metadata, bad), weights };
}

/** Finds the file that {@link readStudent} reads. @throws LgdError FILE_NOT_FOUND */
export async function findStudentFile(path: string): Promise<string> {
  const candidates = [path, join(path, studentFile), join(path, 'checkpoints', 'best', studentFile), join(path, 'checkpoints', 'last', studentFile)];
  for (const file of candidates) {
    if ((await stat(file).catch(() => undefined))?.isFile()) return file;
  }
  const members = await groupMembers(path);
  if (members.length > 0) {
    throw new LgdError('FILE_NOT_FOUND', `${path} holds several students.`, { allowed: members.map((name) => join(path, name)).join(', '), mend: 'Name one of them' });
  }
  throw new LgdError('FILE_NOT_FOUND', `there is no student in ${path}.`, { allowed: 'a model.safetensors, a checkpoint folder or a run folder', mend: 'Check the path' });
}

/** Reads a student's file and makes the student on a device. @throws as {@link readStudent} */
export async function loadStudent(path: string, { device }: { device: Device }): Promise<{ student: Student; info: StudentInfo }> {
  const { info, weights } = await readStudent(path);
  const student = createStudent(info.architecture, { device, embeddingSize: info.embeddingSize, widthMultiplier: info.widthMultiplier });
  student.load(weights);
  return { student, info };
}

function parseInfo(metadata: Record<string, string>, bad: (why: string) => LgdError): StudentInfo {
  const text = (key: keyof StudentInfo): string => {
    const value = metadata[key];
    if (value === undefined) throw bad(`its metadata have no ${key}`);
    return value;
  };
  const parsed = (key: keyof StudentInfo, accept: (value: unknown) => boolean): never => {
    let value: unknown;
    try {
      value = JSON.parse(text(key));
    } catch {
      value = undefined;
    }
    if (!accept(value)) throw bad(`its ${key} is ${text(key).slice(0, 80)}`);
    return value as never;
  };
  const isCount = (value: unknown) => Number.isInteger(value) && (value as number) >= 0;
  const isTriple = (value: unknown) => Array.isArray(value) && value.length === 3 && value.every(Number.isFinite);
  const isTexts = (value: unknown) => Array.isArray(value) && value.every((entry) => typeof entry === 'string');
  return {
    architecture: text('architecture'),
    widthMultiplier: parsed('widthMultiplier', Number.isFinite),
    embeddingSize: parsed('embeddingSize', isCount),
    resolution: parsed('resolution', isCount),
    mean: parsed('mean', isTriple),
    std: parsed('std', isTriple),
    names: parsed('names', isTexts),
    templates: parsed('templates', isTexts),
    bankHash: text('bankHash'),
    textEncoder: text('textEncoder'),
    teacher: text('teacher'),
    method: text('method'),
    step: parsed('step', isCount),
    epoch: parsed('epoch', isCount),
  };
}
