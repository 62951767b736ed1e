import { stat } from 'node:fs/promises';
import type { Device } from '../../device.js';
import { LgdError } from '../../errors.js';
import { resolveModel } from '../../hub.js';
import type { Precision } from '../compiled.js';
import { configFiles, NativeTeacher, readConfig, weightFiles } from './native.js';
import { OnnxTeacher, type OnnxTeacherOptions } from './onnx.js';
import { PrecomputedTeacher } from './precomputed.js';

/** How {@link loadTeacher} finds and runs a teacher. */
export interface TeacherOptions extends OnnxTeacherOptions {
  /** Where a native teacher runs; ONNX teachers run on the CPU. */
  device: Device;
  /** Images a call of a native teacher's {@link NativeTeacher.embed}; default 32. */
  batch?: number;
  /** Of a native teacher's activations; default: bfloat16 on CUDA, float32 on the CPU. */
  precision?: Precision;
}

/** Every kind of teacher; `kind` tells which. */
export type AnyTeacher = NativeTeacher | OnnxTeacher | PrecomputedTeacher;

/**
 * Loads a teacher: a folder or hub id with a CLIP ModifiedResNet (runs natively), one with any other image tower in ONNX, an .onnx file,
 * or a .safetensors file of precomputed embeddings.
 * @throws LgdError FILE_NOT_FOUND, BAD_MODEL, BAD_FILE, BAD_OPTION, DEPENDENCY_MISSING, NOT_WRITABLE, ABORTED
 */
export async function loadTeacher(source: string, options: TeacherOptions): Promise<AnyTeacher> {
  const isFolder = (await stat(source).catch(() => undefined))?.isDirectory() ?? false;
  if (source.endsWith('.safetensors') && !isFolder) return PrecomputedTeacher.load(source);
  if (source.endsWith('.onnx') && !isFolder) return OnnxTeacher.load(source, options);
  const described = await resolveModel(source, { required: [[...configFiles]], optional: [...configFiles, 'preprocessor_config.json'] }, options).catch((error: unknown) => {
    if (error instanceof LgdError && error.code === 'BAD_MODEL') return undefined; // no configuration: an ONNX folder needs none
    throw error;
  });
  if (described === undefined || (await readConfig(described.folder)) === undefined) return OnnxTeacher.load(source, options);
  const model = await resolveModel(source, { required: [[...weightFiles]], optional: [...configFiles, 'preprocessor_config.json'] }, options);
  return NativeTeacher.load(model.id, model.folder, model.files[0]!, options);
}

