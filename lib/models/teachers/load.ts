import { basename, join } from 'node:path';
import { checkArgument, checkOptions, checkText, optionsFor, type OptionTable } from '../../arguments.js';
import type { Device } from '../../device.js';
import { LgdError } from '../../errors.js';
import { isFolder } from '../../files/folders.js';
import { SafetensorsReader } from '../../files/safetensors-reader.js';
import { resolveModel } from '../../hub.js';
import { mostImages } from '../../number-limits.js';
import { checkWhole, type Precision } from '../compiled.js';
import { holdsStudent } from '../student-info.js';
import { NativeTeacher, nativeTeacherOptions } from './native.js';
import { OnnxTeacher, onnxFiles, onnxTeacherOptions, type OnnxTeacherOptions } from './onnx.js';
import { PrecomputedTeacher } from './precomputed.js';
import type { CustomTeacherApi, PrecomputedTeacherApi } from './types.js';
import { shardsOf, sideFiles, weightFiles } from './weight-files.js';

/** How {@link loadTeacher} finds and runs a teacher. */
export interface TeacherOptions extends OnnxTeacherOptions {
  /** Where a native teacher runs; ONNX teachers run on the CPU. */
  device: Device;
  /** Images a call of a native teacher's {@link NativeTeacher.embed}; default 32. */
  batch?: number;
  /** Of a native teacher's activations; default: bfloat16 on CUDA, float32 on the CPU. */
  precision?: Precision;
}

const teacherOptions = { ...nativeTeacherOptions, ...onnxTeacherOptions } satisfies OptionTable<TeacherOptions>;

/** Every kind of teacher; `kind` tells which. One of your own is an object with the members of {@link CustomTeacherApi} or {@link PrecomputedTeacherApi}. */
export type AnyTeacher = NativeTeacher | OnnxTeacher | CustomTeacherApi | PrecomputedTeacherApi;

/**
 * Loads a teacher: a folder or hub id with an image tower of CLIP or SigLIP in safetensors (runs natively: {@link NativeTeacher.load} lists which), one with any image tower in ONNX,
 * an .onnx file, an earlier student (its file, a checkpoint's folder, or what it was exported to with its head), or a .safetensors file of precomputed embeddings. A folder with both safetensors and ONNX runs natively, unless its tower is not known here.
 * @throws LgdError FILE_NOT_FOUND, BAD_MODEL, BAD_FILE, BAD_OPTION, DEPENDENCY_MISSING, NOT_WRITABLE, ABORTED
 */
export async function loadTeacher(source: string, options: TeacherOptions): Promise<AnyTeacher> {
  checkText(source, 'teacher', 'a folder, a hub id, an .onnx or a .safetensors file');
  checkOptions(options, 'loadTeacher()', teacherOptions);
  checkArgument('device', options.device);
  if (options.batch !== undefined) checkWhole('batch', options.batch, mostImages);
  const [native, onnx] = [optionsFor(options, nativeTeacherOptions), optionsFor(options, onnxTeacherOptions)];
  const inFolder = await isFolder(source);
  if (source.endsWith('.safetensors') && !inFolder) {
    if (await isStudent(source)) return NativeTeacher.loadStudent(basename(source, '.safetensors'), source, native);
    return PrecomputedTeacher.load(source);
  }
  if (source.endsWith('.onnx') && !inFolder) return OnnxTeacher.load(source, onnx);
  const model = await resolveModel(source, { required: [[...weightFiles, ...onnxFiles]], optional: sideFiles }, options).catch(inFolder ? checkNoRun(source) : undefined);
  if (model.files[0]!.endsWith('.onnx')) return OnnxTeacher.load(source, onnx);
  const files = await shardsOf(source, model, options);
  if (files.length === 1 && (await isStudent(files[0]!))) return NativeTeacher.loadStudent(model.id, files[0]!, native);
  if (!(await NativeTeacher.recognises(files, model.folder))) {
    const other = await resolveModel(source, { required: [onnxFiles] }, options).catch(() => undefined);
    if (other !== undefined) return OnnxTeacher.load(source, onnx);
  }
  return NativeTeacher.load(model.id, model.folder, files, native);
}

/** For a folder without a model: that of a run has its students in checkpoints, and which one is meant is to be said. */
function checkNoRun(folder: string): (error: unknown) => Promise<never> {
  return async (error) => {
    for (const name of ['best', 'last']) {
      const checkpoint = join(folder, 'checkpoints', name);
      if (!(await isFolder(checkpoint))) continue;
      throw new LgdError('BAD_MODEL', 'this is the folder of a run, not of a model.', { option: 'teacher', found: folder, mend: `Give a checkpoint of it: ${checkpoint}`, cause: error });
    }
    throw error;
  };
}

async function isStudent(file: string): Promise<boolean> {
  await using reader = await SafetensorsReader.open([file]);
  return holdsStudent(reader.metadata);
}
