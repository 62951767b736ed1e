/**
 * Reading images from file systems that fail for a moment: an error of the system is none of the image, and is not held
 * against it.
 */
import { open, type FileHandle } from 'node:fs/promises';
import { LgdError, throwIfAborted, type ErrorCode } from '../errors.js';
import { closeRead } from '../files/open.js';
import { pause } from '../turn.js';
import { checkBytes } from './decode.js';

/**
 * System errors that tell of a file: it is gone, is no file, or this user may not read it. All others tell of the file
 * system, the network or the process.
 */
const ofTheFile: ReadonlySet<string> = new Set([
  'ENOENT',
  'ENOTDIR',
  'EISDIR',
  'EACCES',
  'EPERM',
  'ELOOP',
  'ENAMETOOLONG',
]);

/** Milliseconds between attempts: 4.4 seconds in all. */
const defaultPauses: readonly number[] = [100, 300, 1000, 3000];

const work = 'reading the images';

/** How {@link PatientReader} reads. */
export interface PatienceOptions {
  /** Where the images come from, for messages. */
  root: string;
  /** Milliseconds between attempts. */
  readPauses?: readonly number[];
  signal?: AbortSignal | undefined;
}

/** Reads images, again after a pause where the system fails. */
export class PatientReader {
  /** The last attempts of some image failed, and nothing was read since: the next failure is not waited for. */
  #gaveUp = false;

  constructor(readonly options: PatienceOptions) {}

  /**
   * @param id names the image
   * @param read makes one attempt
   * @throws LgdError BAD_FILE where the system goes on failing, BAD_OPTION for what is no bytes, ABORTED where the
   *   signal fires before an attempt ({@link isNotOfTheImage} knows both); and whatever else `read` throws. An attempt
   *   that never ends is for the caller to let go, who waits for many images at once
   */
  async read<Bytes extends Uint8Array>(id: string, read: () => Bytes | Promise<Bytes>): Promise<Bytes> {
    const { root, readPauses = defaultPauses, signal } = this.options;
    for (let attempt = 0; ; attempt++) {
      throwIfAborted(signal, work);
      try {
        const bytes = await read();
        checkBytes(bytes, id);
        this.#gaveUp = false;
        return bytes;
      } catch (cause) {
        const fault = systemFault(cause);
        if (fault === undefined) throw cause;
        if (this.#gaveUp || attempt >= readPauses.length) {
          this.#gaveUp = true;
          const what = ofTheFile.has(fault.code!)
            ? 'Bring that file back, or let it be read'
            : 'See to the disk, the network or the limit of open files, or remove that image if it alone fails';
          throw new LgdError('BAD_FILE', `the system fails to read ${id} of ${root}: ${fault.message}.`, {
            mend: `${what}; then start again (\`lgdistill resume\` continues a run)`,
            cause,
          });
        }
      }
      await pause(readPauses[attempt]!, work, signal);
    }
  }
}

const notOfTheImage: ReadonlySet<ErrorCode> = new Set([
  'ABORTED',
  'OUT_OF_MEMORY',
  'DEPENDENCY_MISSING',
  'DEVICE_UNAVAILABLE',
  'BAD_OPTION',
  'NATIVE_ERROR',
]);

/**
 * Does an error of reading or decoding say nothing of the image at hand: {@link PatientReader} gave up or was stopped,
 * or memory, a thread or a library is missing, or a caller's own `read` has a name in it that does not exist? Other
 * errors of `read`, TypeError among them, may be what its data made of it: fetch() and parsers throw such.
 */
export function isNotOfTheImage(error: unknown): boolean {
  return (
    error instanceof ReferenceError ||
    (error instanceof LgdError && (notOfTheImage.has(error.code) || systemFault(error) !== undefined))
  );
}

/**
 * The system's error that is at the bottom of one, unless it tells of the image's own file: that of a file of many
 * images stands under an error of {@link readOfMany}, or of another reader of such.
 */
function systemFault(error: unknown): NodeJS.ErrnoException | undefined {
  let isOfMany = false;
  for (let cause = error; cause instanceof Error; cause = cause.cause) {
    isOfMany ||= cause instanceof LgdError;
    const { code, errno } = cause as NodeJS.ErrnoException;
    if (typeof errno === 'number' && code !== undefined) return ofTheFile.has(code) && !isOfMany ? undefined : cause;
  }
  return undefined;
}

/**
 * Reads from a file that holds many images: where that one is gone, or may not be read, none of them is broken.
 * @throws LgdError BAD_FILE
 */
export async function readOfMany<Result>(path: string, read: (file: FileHandle) => Promise<Result>): Promise<Result> {
  let file: FileHandle | undefined;
  try {
    file = await open(path, 'r'); // a regular file, as its headers were read
    return await read(file);
  } catch (cause) {
    if (cause instanceof LgdError) throw cause;
    throw new LgdError('BAD_FILE', `cannot read ${path}: ${(cause as Error).message}.`, {
      mend: 'Check the file and its permissions',
      cause,
    });
  } finally {
    await closeRead(file);
  }
}
