import { availableParallelism } from 'node:os';
import type { InferenceSession, Tensor } from 'onnxruntime-node';
import { LgdError, mendOfMissing, systemErrorCode } from '../errors.js';
import { isFile } from '../files/folders.js';

/** onnxruntime-node's exports; types alone, the module is loaded on first use. */
export type OnnxRuntime = typeof import('onnxruntime-node');
export type OnnxSession = InferenceSession;
export type OnnxTensor = Tensor;

/**
 * Loads onnxruntime-node, so that importing this package alone loads no inference engine.
 * @throws LgdError DEPENDENCY_MISSING with the commands to type
 */
export async function importOnnxRuntime(
  load: () => Promise<unknown> = () => import('onnxruntime-node'),
): Promise<OnnxRuntime> {
  try {
    const loaded = (await load()) as OnnxRuntime & { default?: OnnxRuntime };
    return loaded.default ?? loaded;
  } catch (cause) {
    const { message } = cause as Error;
    // Its binding registers itself once a process; Node forgets that with the last thread that had it.
    const wasLoaded = systemErrorCode(cause) === 'ERR_DLOPEN_FAILED' && message.includes('did not self-register');
    throw new LgdError('DEPENDENCY_MISSING', `onnxruntime-node could not be loaded: ${message}.`, {
      mend: wasLoaded
        ? 'It works in one thread of a process, and went with the worker thread that had it: load it in one thread alone, such as the main one, and let that one do the work of the others'
        : mendOfMissing(cause, 'npm install onnxruntime-node@1.14.0'),
      cause,
    });
  }
}

/**
 * Opens an ONNX file on the CPU with as many threads as the process may use.
 * @param bytes the file's content, if it is on no disk
 * @throws LgdError FILE_NOT_FOUND, BAD_MODEL, DEPENDENCY_MISSING, DEVICE_UNAVAILABLE (the system starts no further
 *   thread), OUT_OF_MEMORY
 */
export async function openOnnxSession(
  file: string,
  threads: number = availableParallelism(),
  bytes?: Uint8Array,
): Promise<OnnxSession> {
  const runtime = await importOnnxRuntime();
  if (!(structuredClone(new Float32Array()) instanceof Float32Array)) {
    // It refuses the results of its own addon, whose arrays are Node's.
    throw new LgdError(
      'DEPENDENCY_MISSING',
      'onnxruntime-node works with the typed arrays of Node alone, and here there are others, as under Jest.',
      {
        mend: "In the setup() of Jest's test environment, write Object.assign(this.global, { Float32Array, BigInt64Array })",
      },
    );
  }
  if (bytes === undefined && !(await isFile(file))) {
    throw new LgdError('FILE_NOT_FOUND', `there is no file ${file}.`, {
      mend: 'Name a folder with an onnx/ folder inside, or an ONNX file',
    });
  }
  try {
    // Severity 4: failures arrive as exceptions; the engine's own log would print them a second time.
    const options = {
      executionProviders: ['cpu'],
      intraOpNumThreads: threads,
      interOpNumThreads: 1,
      logSeverityLevel: 4,
    } as const;
    return await (bytes === undefined
      ? runtime.InferenceSession.create(file, options)
      : runtime.InferenceSession.create(bytes, options));
  } catch (cause) {
    throw sessionError(file, cause);
  }
}

/** What onnxruntime says that opens no session: the file is at fault, or the system. */
export function sessionError(file: string, cause: unknown): LgdError {
  const { message } = cause as Error;
  if (message.includes('pthread_create failed')) {
    return new LgdError('DEVICE_UNAVAILABLE', `the system starts no further thread to run ${file}.`, {
      mend: 'Raise its limit (ulimit -u; the pids limit of a container)',
      cause,
    });
  }
  if (/\bbad_alloc\b|\bbad allocation\b|Failed to allocate memory/u.test(message)) {
    return new LgdError('OUT_OF_MEMORY', `there is too little memory to open ${file}: ${message}.`, {
      mend: 'Close what else uses the memory, or raise its limit (ulimit -v; that of a container)',
      cause,
    });
  }
  return new LgdError('BAD_MODEL', `onnxruntime cannot open ${file}: ${message}.`, {
    mend: 'Fetch or export the file again (opset 18 or lower)',
    cause,
  });
}
