import { basename, dirname, join, resolve } from 'node:path';
import { checkArgument, checkOptions, checkText, optionsFor, type OptionTable } from '../../arguments.js';
import type { Device } from '../../device.js';
import { LgdError } from '../../errors.js';
import { checkpointsOf, findCheckpoint, followed } from '../../files/checkpoint-folders.js';
import { firstWhere, foldersIn, isFile, isFolder } from '../../files/folders.js';
import { SafetensorsReader } from '../../files/safetensors-reader.js';
import { lookLocally, resolveModel } from '../../hub/hub.js';
import { checkWhole, mostImages } from '../../number-limits.js';
import type { Precision } from '../compiled.js';
import { holdsStudent, studentInfoIn } from '../student-info.js';
import { lookAtNativeTeacher, NativeTeacher, nativeTeacherOptions } from './native.js';
import { OnnxTeacher, onnxFiles, onnxTeacherOptions, type OnnxTeacherOptions } from './onnx.js';
import { PrecomputedTeacher, statedResolution } from './precomputed.js';
import type { CustomTeacherApi, PrecomputedTeacherApi } from './types.js';
import { sideFiles, weightFiles, weightFilesOf } from './weight-files.js';

/** How {@link loadTeacher} finds and runs a teacher. */
export interface TeacherOptions extends OnnxTeacherOptions {
  /** Where a native teacher runs; ONNX teachers run on the CPU. */
  device: Device;
  /** Images a call of a native teacher's {@link NativeTeacher.embed}; default 32. */
  batch?: number | undefined;
  /** Of a native teacher's activations; default: bfloat16 on CUDA, float32 on the CPU. */
  precision?: Precision | undefined;
}

const teacherOptions = { ...nativeTeacherOptions, ...onnxTeacherOptions } satisfies OptionTable<TeacherOptions>;

/**
 * Every kind of teacher; `kind` tells which. One of your own is an object with the members of {@link CustomTeacherApi}
 * or {@link PrecomputedTeacherApi}.
 */
export type AnyTeacher = NativeTeacher | OnnxTeacher | CustomTeacherApi | PrecomputedTeacherApi;

/**
 * Loads a teacher: a folder or hub id with an image tower of CLIP or SigLIP or a plain vision transformer in
 * safetensors (runs natively: {@link NativeTeacher.load} lists which, and at which resolutions), one with any image
 * tower in ONNX, an .onnx file, an earlier student (a run folder, whose best checkpoint is taken, or its last; a
 * checkpoint's folder; its file, or what it was exported to with its head), or a .safetensors file of precomputed
 * embeddings. A folder with both safetensors and ONNX runs natively, unless its tower is not known here.
 * @throws LgdError FILE_NOT_FOUND, BAD_MODEL, BAD_FILE, BAD_OPTION, DEPENDENCY_MISSING, NOT_WRITABLE, ABORTED,
 *   NON_FINITE and ZERO_EMBEDDING (of embeddings)
 */
export async function loadTeacher(source: string, options: TeacherOptions): Promise<AnyTeacher> {
  checkText(source, 'teacher', 'a folder, a hub id, an .onnx or a .safetensors file');
  checkOptions(options, 'loadTeacher()', teacherOptions);
  checkArgument('device', options.device);
  if (options.batch !== undefined) checkWhole('batch', options.batch, mostImages);
  const [native, onnx] = [optionsFor(options, nativeTeacherOptions), optionsFor(options, onnxTeacherOptions)];
  const found = await locateTeacher(source, options);
  switch (found.kind) {
    case 'student':
      return NativeTeacher.loadStudent(found.id, found.file, native);
    case 'embeddings':
      return PrecomputedTeacher.load(found.file, options.signal);
    case 'onnx':
      return OnnxTeacher.load(source, onnx);
    case 'tower':
      return NativeTeacher.load(found.id, found.folder, found.files, native);
  }
}

/** What a teacher is before its weights are read; of an ONNX file nothing is known. */
export interface TeacherLook {
  embeddingSize: number | undefined;
  /** Side of its input in pixels. */
  resolution: number | undefined;
  /** Of a native one. */
  architecture: string | undefined;
}

/**
 * Looks at what {@link loadTeacher} would load, as far as files' headers tell.
 * @returns undefined where it would have to be fetched first
 * @throws as loadTeacher does
 */
export async function lookAtTeacher(
  source: string,
  { resolution, ...options }: Pick<TeacherOptions, 'resolution' | 'localFilesOnly' | 'signal'>,
): Promise<TeacherLook | undefined> {
  return lookLocally(source, options, async (local) => {
    const found = await locateTeacher(source, { ...local, resolution });
    switch (found.kind) {
      case 'student': {
        await using reader = await SafetensorsReader.open([found.file]);
        const { architecture, embeddingSize, ...info } = studentInfoIn(reader.metadata, found.file);
        return { architecture, embeddingSize, resolution: resolution ?? info.resolution };
      }
      case 'embeddings': {
        await using reader = await SafetensorsReader.open([found.file]);
        return {
          architecture: undefined,
          embeddingSize: reader.shapes.get('embeddings')?.[1],
          resolution: statedResolution(reader.metadata, found.file),
        };
      }
      case 'onnx':
        return { architecture: undefined, embeddingSize: undefined, resolution: undefined };
      case 'tower':
        return lookAtNativeTeacher(found, resolution);
    }
  });
}

/** Where a teacher lies, and of which kind it is. */
type Located =
  | { kind: 'student'; id: string; file: string }
  | { kind: 'embeddings'; file: string }
  | { kind: 'onnx' }
  | { kind: 'tower'; id: string; folder: string; files: string[] };

async function locateTeacher(
  source: string,
  options: Pick<TeacherOptions, 'resolution' | 'localFilesOnly' | 'cacheDir' | 'signal' | 'onProgress'>,
): Promise<Located> {
  const place = await placeOf(source);
  const inFolder = await isFolder(place);
  if (place.endsWith('.safetensors') && !inFolder) {
    const { student, embeddings } = await contentOf(place);
    if (student) return { kind: 'student', id: basename(source, '.safetensors'), file: place };
    if (embeddings && options.resolution !== undefined)
      throw new LgdError('BAD_OPTION', 'embeddings that were computed before are of no resolution to choose.', {
        option: 'resolution',
        found: options.resolution,
        mend: 'Leave it out',
      });
    if (embeddings) return { kind: 'embeddings', file: place };
    throw new LgdError('BAD_MODEL', `${source} holds neither embeddings nor a student.`, {
      option: 'teacher',
      mend: `If it is a model's, give the folder with its other files: ${dirname(source)}`,
    });
  }
  if (source.endsWith('.onnx') && !inFolder) return { kind: 'onnx' };
  const model = await resolveModel(
    place,
    { required: [[...weightFiles, ...onnxFiles]], optional: sideFiles },
    options,
  ).catch(inFolder ? checkNoRuns(place) : undefined);
  if (model.files[0]!.endsWith('.onnx')) return { kind: 'onnx' };
  const weights = await weightFilesOf(place, model, options);
  if (weights.files.length === 1 && (await contentOf(weights.files[0]!)).student)
    return { kind: 'student', id: place === source ? model.id : basename(resolve(source)), file: weights.files[0]! };
  if (await NativeTeacher.recognises(weights.files, weights.folder, options.resolution))
    return { kind: 'tower', id: model.id, ...weights };
  // timm's repositories have its own layout in model.safetensors and open_clip's beside it; the hub's cache may have
  // the former alone.
  const others =
    basename(weights.files[0]!) === 'model.safetensors' ? ['open_clip_model.safetensors', ...onnxFiles] : onnxFiles;
  const other = await resolveModel(source, { required: [others], optional: sideFiles }, options).catch(() => undefined);
  if (other?.files[0]!.endsWith('.onnx')) return { kind: 'onnx' };
  return {
    kind: 'tower',
    id: model.id,
    ...(other === undefined ? weights : await weightFilesOf(source, other, options)),
  };
}

/**
 * Where the model lies that a path names: of a run folder in its best checkpoint, or in its last, as for whatever else
 * takes a student; `best` and `last` may be files that name the checkpoint.
 */
async function placeOf(source: string): Promise<string> {
  const place = await followed(source);
  const isOfModel = (name: string) => isFile(join(place, name));
  if ((await firstWhere(weightFiles, isOfModel)) !== undefined) return place;
  if (!(await isFolder(checkpointsOf(place)))) return place;
  for (const which of ['best', 'last'] as const) {
    const checkpoint = await findCheckpoint(place, which);
    if (checkpoint !== undefined && (await isFolder(checkpoint))) return checkpoint; // what a link names may be gone
  }
  return place;
}

/** For a folder without a model: of a run that has no checkpoint yet, or of several runs, of which one is meant. */
function checkNoRuns(folder: string): (error: unknown) => Promise<never> {
  return async (error) => {
    if (await isFolder(checkpointsOf(folder)))
      throw new LgdError('BAD_MODEL', 'in this folder is no model, and, if it is a run, no whole checkpoint.', {
        option: 'teacher',
        found: folder,
        mend: 'Wait for the first checkpoint of a run, or resume one that ended; a model has its weights in its folder',
        cause: error,
      });
    const all = (await foldersIn(folder).catch(() => [])).map((name) => join(folder, name));
    const haveRuns = await Promise.all(all.map((run) => isFolder(checkpointsOf(run))));
    const runs = all.filter((_, i) => haveRuns[i]);
    if (runs.length === 0) throw error;
    throw new LgdError('BAD_MODEL', 'this is a folder of runs, not of a model.', {
      option: 'teacher',
      found: folder,
      allowed: runs.slice(0, 5).join(', '),
      mend: 'Name one of its runs',
      cause: error,
    });
  };
}

/** What a safetensors file's header says it holds. */
async function contentOf(file: string): Promise<{ student: boolean; embeddings: boolean }> {
  await using reader = await SafetensorsReader.open([file]);
  return { student: holdsStudent(reader.metadata), embeddings: reader.shapes.has('embeddings') };
}
