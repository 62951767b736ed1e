import { existsSync, readlinkSync, statfsSync } from 'node:fs';
import { dirname, resolve } from 'node:path';

/**
 * What to do about an error that says nothing more particular; every code has it, so no error leaves its reader without
 * a next step.
 */
const generalMends = {
  ADDON_NOT_FOUND: 'Build the native addon with `npm run build:native`',
  ABORTED: 'Start it again when it is wanted',
  BAD_BANK: 'Build the bank again with `lgdistill bank build`',
  BAD_CHECKPOINT: 'Take the checkpoint before it (`lgdistill resume RUN --from previous`), or another copy',
  BAD_CONFIG: 'Correct the configuration; `lgdistill distill --help` lists every option',
  BAD_DATASET: 'Check the images and how they lie in folders',
  BAD_FILE: 'Fetch or write the file again',
  BAD_IMAGE: 'Mend or remove the image',
  BAD_MODEL: 'Check that the model is complete, and of a kind that is supported',
  BAD_NAMES: 'Correct the list; `lgdistill names` proposes a mended one',
  BAD_OPTION: 'Give a value that is allowed',
  BAD_SHAPE: 'Give an array of the right size',
  CLASS_MISMATCH: 'Give a mapping from class folders to names, or rename one or the other',
  DEPENDENCY_MISSING: 'Run `lgdistill doctor`: it says which package is missing and how to install it',
  DEVICE_ERROR: 'Run it again; if it comes back, run `lgdistill doctor`, and try device cpu',
  DEVICE_LOST:
    'Start again in a new process, a run with `lgdistill resume`; `sudo dmesg | grep -i xid` says whether the GPU is at fault',
  DEVICE_UNAVAILABLE: 'Run `lgdistill doctor`, or use device cpu',
  DISPOSED: 'Make the object again, or dispose of it later',
  EXPORT_FAILED: 'Check the disk, and export again',
  FILE_NOT_FOUND: 'Check the path',
  NATIVE_ERROR: 'Report it, with what `lgdistill doctor` prints',
  NON_FINITE:
    'Look for where these numbers come from: a broken file, a division by zero, a learning rate that is too high',
  NOT_WRITABLE: 'Choose a folder this user may write to, with enough free space',
  OUT_OF_MEMORY:
    'Take a smaller train.batchSize, data.resolution, loss.queueSize or data.cacheMemory, or close what else uses the memory',
  TOO_MANY_BROKEN_IMAGES: 'Mend or remove those files, or allow a larger share',
  ZERO_EMBEDDING: 'Leave that row out: a zero vector has no direction to compare',
} as const satisfies Record<string, string>;

/**
 * Every error code this package throws. Codes are stable: programs may switch on them.
 * @useDeclaredType
 */
export type ErrorCode = keyof typeof generalMends;

/** Every error code. */
export const errorCodes = Object.keys(generalMends) as readonly ErrorCode[];

/** What an {@link LgdError} tells beyond its message. */
export interface ErrorDetails {
  /** Dotted path of the option at fault, as in the configuration file: `train.batchSize`. */
  option?: string | undefined;
  /** What was found. */
  found?: unknown | undefined;
  /** What would have been accepted. */
  allowed?: string | undefined;
  /**
   * What to do about it, one imperative sentence; left out, the code's general one stands in `mend` and not in the
   * message.
   */
  mend?: string | undefined;
  /** The error underneath. */
  cause?: unknown | undefined;
}

const brand = Symbol.for('lgdistill.LgdError'); // the same in every copy of this module in a process

/**
 * The one error type of this package. `code` is stable; the message says what was found, what is allowed and how to
 * mend it. Asynchronous native calls carry the stack of the caller. `instanceof` knows it across the copies of the
 * package that `import` and `require` load.
 */
export class LgdError extends Error {
  static {
    Object.defineProperty(this.prototype, brand, { value: true });
  }

  /** Of this class, whichever copy of the package made it; a class that extends it knows its own alone, as usual. */
  static override [Symbol.hasInstance](value: unknown): boolean {
    if (this !== LgdError) return Function.prototype[Symbol.hasInstance].call(this, value);
    return typeof value === 'object' && value !== null && brand in value;
  }

  override readonly name = 'LgdError';
  readonly code: ErrorCode;
  readonly option: string | undefined;
  readonly found: unknown;
  readonly allowed: string | undefined;
  /** What to do about it. */
  readonly mend: string;

  constructor(code: ErrorCode, message: string, details: ErrorDetails = {}) {
    super(compose(message, details), details.cause === undefined ? undefined : { cause: details.cause });
    this.code = code;
    this.option = details.option;
    this.found = details.found;
    this.allowed = details.allowed;
    // an addon of another version may know other codes
    this.mend = details.mend ?? (generalMends as Partial<Record<ErrorCode, string>>)[code] ?? generalMends.NATIVE_ERROR;
  }

  /** Plain data for `--json` output. */
  toJSON(): Record<string, unknown> {
    const { code, message, option, found, allowed, mend } = this;
    return { code, message, option, found, allowed, mend };
  }
}

function compose(message: string, { option, found, allowed, mend }: ErrorDetails): string {
  // what it quotes from another error may have a full stop of its own
  const sentence = message.replace(/([.?!])\.$/u, '$1');
  const parts = [option === undefined ? sentence : `${option}: ${sentence}`];
  if (found !== undefined) parts.push(`Found: ${describe(found)}.`);
  if (allowed !== undefined) parts.push(`Allowed: ${allowed}.`);
  if (mend !== undefined) parts.push(/[.?!]$/u.test(mend) ? mend : `${mend}.`);
  return parts.join(' ');
}

/** A value in few words, whatever it is: of an array of numbers its length, of an object with a class that class. */
export function describe(value: unknown): string {
  if (typeof value === 'function') return value.name === '' ? 'a function' : `the function ${value.name}`;
  if (ArrayBuffer.isView(value) && 'length' in value)
    return `${value.constructor.name} of ${String(value.length)} values`;
  const prototype: unknown = typeof value === 'object' && value !== null ? Object.getPrototypeOf(value) : undefined;
  if (prototype !== undefined && prototype !== null && prototype !== Object.prototype && !Array.isArray(value))
    return `an object of class ${(value as { constructor?: { name?: string } }).constructor?.name || 'without a name'}`;
  const text = shorten(value);
  return text.length > 200 ? `${beginning(text, 197)}...` : text;
}

/** The beginning of a text, of so many code units at most, that splits no sign: no emoji, no letter with its marks. */
export function beginning(text: string, length: number): string {
  const around = graphemes()
    .segment(text.slice(0, length + longestSign))
    .containing(length);
  return text.slice(0, around !== undefined && length - around.index < longestSign ? around.index : length);
}

/** The end of a text, as {@link beginning}. */
export function ending(text: string, length: number): string {
  const from = Math.max(0, text.length - length - longestSign);
  const cut = text.length - length - from;
  const around = graphemes().segment(text.slice(from)).containing(cut);
  const isWhole = around === undefined || around.index === cut || around.segment.length > longestSign;
  return text.slice(from + (isWhole ? cut : around.index + around.segment.length));
}

let segmenter: Intl.Segmenter | undefined; // takes milliseconds to make
const graphemes = () => (segmenter ??= new Intl.Segmenter('en', { granularity: 'grapheme' }));
const longestSign = 64; // code units looked at around a cut

function shorten(value: unknown): string {
  if (typeof value === 'bigint') return `${value}n`;
  if (typeof value !== 'string' && (typeof value !== 'object' || value === null)) return String(value);
  try {
    return (JSON.stringify(value) as string | undefined) ?? 'an object'; // of its own mind
  } catch {
    return Array.isArray(value) ? 'an array' : 'an object'; // cyclic, or with a bigint in it
  }
}

/** Is it an error of this package, of one of these codes? */
export function hasCode(error: unknown, ...codes: ErrorCode[]): error is LgdError {
  return error instanceof LgdError && codes.includes(error.code);
}

/** Is it a fault of weights, embeddings or losses? */
export function isOfTheNumbers(error: unknown): error is LgdError {
  return hasCode(error, 'NON_FINITE', 'ZERO_EMBEDDING');
}

/**
 * What a caller's own code threw: an error as it is; anything else, which may be nothing at all, beneath an error that
 * says who threw it.
 * @param giver whose code it is
 * @param call the method
 * @param option what the caller knows it by
 */
export function thrownBy(
  cause: unknown,
  code: ErrorCode,
  { giver, call, option }: { giver: string; call: string; option: string },
): Error {
  if (cause instanceof Error) return cause;
  const what = cause === undefined || cause === null ? String(cause) : 'something that is no error';
  return new LgdError(code, `${giver} threw ${what}.`, {
    option,
    found: cause ?? undefined,
    mend: `Let its ${call}() throw an Error that says what went wrong`,
    cause,
  });
}

/** Why, of whatever a caller's own code may have thrown. */
export function messageOf(thrown: unknown): string {
  if (thrown instanceof Error) return String(thrown.message);
  return typeof thrown === 'string' ? thrown : describe(thrown);
}

/** The code of a Node system error (`ENOENT`, `ENOSPC` ...), or undefined. */
export function systemErrorCode(error: unknown): string | undefined {
  const code = (error as NodeJS.ErrnoException | null)?.code;
  return typeof code === 'string' ? code : undefined;
}

/** Does an error say that nothing is at a path? */
export function meansAbsent(error: unknown): boolean {
  return ['ENOENT', 'ENOTDIR'].includes(systemErrorCode(error) ?? '');
}

/**
 * What to take for an error that says that nothing is at a path, or no link; any other is thrown.
 * @throws LgdError BAD_FILE
 */
export function unlessAbsent<T>(path: string, value: T): (cause: unknown) => T {
  return (cause) => {
    if (meansAbsent(cause) || systemErrorCode(cause) === 'EINVAL') return value;
    throw readError(path, cause);
  };
}

const ofOpenFiles: Record<string, readonly [why: string, mend: string]> = {
  EMFILE: ['this process has too many open files', 'Allow it more of them: ulimit -n 1024'],
  ENFILE: ['the system has too many open files', 'Close what else opens files'],
};

/**
 * Turns a failed read into an {@link LgdError} that says which path and why (a folder, no permission ...).
 * @param details code: default BAD_FILE; option: what named the path; kind: what stands before the path, `the folder `
 */
export function readError(
  path: string,
  cause: unknown,
  { code = 'BAD_FILE', option, kind = '' }: { code?: ErrorCode; option?: string; kind?: string } = {},
): LgdError {
  if (cause instanceof LgdError) {
    const { message, mend } = cause;
    // what it says, whose advice is given below
    return code === 'BAD_FILE' || cause.code !== 'BAD_FILE'
      ? cause
      : new LgdError(code, message.split(` ${mend}`)[0]!, { option, mend, cause });
  }
  const lost = 'Check the disk, or the mount';
  const reasons: Record<string, readonly [why: string, mend: string]> = {
    ENOENT: ['it is not there', 'Check the path'],
    ENOTDIR: ['a part of the path is not a folder', 'Check the path'],
    EISDIR: ['it is a folder', 'Give the file to read'],
    ELOOP: ['its symbolic links lead round in a circle', 'Mend those links, or give another path'],
    ENAMETOOLONG: ['its path is too long', 'Check the path, or move it to a folder further up'],
    EACCES: ['permission is denied', 'Check its permissions'],
    EPERM: ['permission is denied', 'Check its permissions'],
    ...ofOpenFiles,
    EIO: ['the disk fails', lost],
    ENOTCONN: ['the mount is gone', lost],
    ECONNABORTED: ['the mount is gone', lost], // of a call under way when a file system in user space ends
    ESTALE: ['the mount is gone', lost],
    ERR_ENCODING_INVALID_ENCODED_DATA: ['it is not UTF-8 text', 'Save it as UTF-8'],
  };
  const [why, mend] = reasons[systemErrorCode(cause) ?? ''] ?? [
    messageOf(cause),
    'Check its permissions, and the disk',
  ];
  const inside = (cause as NodeJS.ErrnoException | null)?.path; // a listing of folders at any depth fails in one of them
  const place = inside?.startsWith(`${path}/`) === true ? inside : path;
  return new LgdError(code, `cannot read ${kind}${place}: ${why}.`, { option, mend, cause });
}

/** What to do where this process may load no native addon. */
export const mendOfForbidden = 'Run Node without --no-addons; where it has --permission, also with --allow-addons';

/** Why a library that is there and whole does not load, as the dynamic linker says it. */
export const unmapped = /failed to map segment from shared object/u;

/** What to do about it. */
export const mendOfUnmapped =
  'Install it on a file system that is not mounted noexec; where `ulimit -v` is set, raise it';

/**
 * What to do where a package cannot be loaded: install it, unless it is there and Jest lets no `import()` run, or Node
 * no addon, or the system no code.
 */
export function mendOfMissing(cause: unknown, install: string): string {
  // sharp's error has the code in its message
  const text = `${systemErrorCode(cause) ?? ''} ${(cause as Error | undefined)?.message ?? ''}`;
  if (text.includes('ERR_DLOPEN_DISABLED')) return mendOfForbidden;
  if (unmapped.test(text)) return mendOfUnmapped;
  return text.includes('ERR_VM_DYNAMIC_IMPORT_CALLBACK_MISSING_FLAG')
    ? 'Start Jest with NODE_OPTIONS=--experimental-vm-modules'
    : `Type: ${install}`;
}

/** Where a link leads; of anything else its own path. */
function leadsTo(path: string): string {
  try {
    return resolve(dirname(path), readlinkSync(path));
  } catch {
    return path;
  }
}

/** Has a disk room for bytes, but no numbers of files left? */
function takesNoFiles(folder: string): boolean {
  try {
    const { bavail, bsize, files, ffree } = statfsSync(folder);
    return files > 0 && ffree === 0 && bavail * bsize > 2 ** 20;
  } catch {
    return false;
  }
}

/** Turns a failed write into an {@link LgdError} that says which path and why (full disk, read-only folder ...). */
export function writeError(path: string, cause: unknown): LgdError {
  if (cause instanceof LgdError) return cause;
  const space = 'Free some space, or choose another output folder';
  const permitted = 'Choose a folder this user may write to';
  const lost = ['the mount is gone', 'Mount it again, or choose another folder'] as const;
  const code = systemErrorCode(cause);
  const target = leadsTo(path);
  const leadsNowhere = target !== path && !existsSync(path);
  const folder = dirname(target);
  const reasons: Record<string, readonly [why: string, mend: string]> = {
    ...ofOpenFiles,
    ENOSPC:
      code === 'ENOSPC' && takesNoFiles(folder)
        ? ['the disk takes no more files', 'Remove files from that disk, or choose another output folder']
        : ['the disk is full', space],
    EDQUOT: ['the disk quota is used up', space],
    EFBIG: [
      'files may not grow that large there',
      'Raise the limit (`ulimit -f`), or choose a disk that takes larger files',
    ],
    EIO: ['the disk fails', 'Check the disk, or choose another output folder'],
    ENOTCONN: lost,
    ECONNABORTED: lost,
    ESTALE: lost,
    EROFS: ['the file system is read-only', permitted],
    EACCES: ['permission is denied', permitted],
    EPERM: ['permission is denied', `${permitted}; on a mounted bucket, mount it with a cache of writes`],
    ERR_ACCESS_DENIED: ["Node's permission model does not allow it", 'Run Node with --allow-fs-write for that folder'],
    ENOENT: existsSync(folder)
      ? ['nothing can be made there', 'Choose another place'] // /proc says so of what is to be made in it
      : ['a folder on the way does not exist', `Make the folder ${folder}, or choose another path`],
    ENOTDIR: ['a part of the path is not a folder', 'Choose a path through folders only'],
    EEXIST: leadsNowhere
      ? [`it is a link to ${target}, which is not there`, 'Make that folder, or remove the link']
      : ['there is a file in its place', 'Choose another place, or move that file'],
    EISDIR: ['it is a folder', 'Give the file to write'],
    ENAMETOOLONG: ['it, or a name in it, is too long', 'Choose a shorter one'],
    ELOOP: ['its symbolic links lead round in a circle', 'Choose another path, or mend those links'],
  };
  const [why, mend] = reasons[code ?? ''] ?? [messageOf(cause), 'Choose another place, and check the disk'];
  return new LgdError('NOT_WRITABLE', `cannot write ${path}: ${why}.`, { mend, cause });
}

/**
 * Stops a long call whose signal has fired.
 * @throws LgdError ABORTED, with the signal's reason as its cause; as {@link checkSignal}
 */
export function throwIfAborted(signal: AbortSignal | undefined, what: string): void {
  checkSignal(signal);
  if (signal?.aborted) throw new LgdError('ABORTED', `${what} was stopped.`, { cause: signal.reason as unknown });
}

/** What is no signal, such as its controller, would never stop anything. @throws LgdError BAD_OPTION */
export function checkSignal(signal: AbortSignal | undefined): void {
  if (signal && typeof signal.aborted !== 'boolean')
    throw new LgdError('BAD_OPTION', 'not an AbortSignal.', {
      option: 'signal',
      found: signal,
      allowed: 'an AbortSignal, such as controller.signal',
    });
}
