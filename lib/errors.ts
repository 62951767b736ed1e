/** Every error code this package throws. Codes are stable: programs may switch on them. */
export type ErrorCode =
  | 'ADDON_NOT_FOUND'
  | 'ABORTED'
  | 'BAD_BANK'
  | 'BAD_CHECKPOINT'
  | 'BAD_CONFIG'
  | 'BAD_DATASET'
  | 'BAD_FILE'
  | 'BAD_IMAGE'
  | 'BAD_MODEL'
  | 'BAD_NAMES'
  | 'BAD_OPTION'
  | 'BAD_SHAPE'
  | 'CLASS_MISMATCH'
  | 'DEPENDENCY_MISSING'
  | 'DEVICE_ERROR'
  | 'DEVICE_UNAVAILABLE'
  | 'DISPOSED'
  | 'EXPORT_FAILED'
  | 'FILE_NOT_FOUND'
  | 'NATIVE_ERROR'
  | 'NON_FINITE'
  | 'NOT_WRITABLE'
  | 'OUT_OF_MEMORY'
  | 'TOO_MANY_BROKEN_IMAGES'
  | 'ZERO_EMBEDDING';

/** What an {@link LgdError} tells beyond its message. */
export interface ErrorDetails {
  /** Dotted path of the option at fault, as in the configuration file: `train.batchSize`. */
  option?: string;
  /** What was found. */
  found?: unknown;
  /** What would have been accepted. */
  allowed?: string;
  /** What to do about it, one imperative sentence. */
  mend?: string;
  /** The error underneath. */
  cause?: unknown;
}

/**
 * The one error type of this package. `code` is stable; the message says what was found, what is allowed and how to mend it.
 * Asynchronous native calls carry the stack of the caller.
 */
export class LgdError extends Error {
  override readonly name = 'LgdError';
  readonly code: ErrorCode;
  readonly option: string | undefined;
  readonly found: unknown;
  readonly allowed: string | undefined;
  readonly mend: string | undefined;

  constructor(code: ErrorCode, message: string, details: ErrorDetails = {}) {
    super(compose(message, details), details.cause === undefined ? undefined : { cause: details.cause });
    this.code = code;
    this.option = details.option;
    this.found = details.found;
    this.allowed = details.allowed;
    this.mend = details.mend;
  }

  /** Plain data for `--json` output. */
  toJSON(): Record<string, unknown> {
    const { code, message, option, found, allowed, mend } = this;
    return { code, message, option, found, allowed, mend };
  }
}

function compose(message: string, { option, found, allowed, mend }: ErrorDetails): string {
  const parts = [option === undefined ? message : `${option}: ${message}`];
  if (found !== undefined) parts.push(`Found: ${describe(found)}.`);
  if (allowed !== undefined) parts.push(`Allowed: ${allowed}.`);
  if (mend !== undefined) parts.push(mend.endsWith('.') ? mend : `${mend}.`);
  return parts.join(' ');
}

function describe(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value);
  const text = typeof value === 'object' && value !== null ? JSON.stringify(value) : String(value);
  return text.length > 200 ? `${text.slice(0, 197)}...` : text;
}

/** The code of a Node system error (`ENOENT`, `ENOSPC` ...), or undefined. */
export function systemErrorCode(error: unknown): string | undefined {
  const code = (error as NodeJS.ErrnoException | null)?.code;
  return typeof code === 'string' ? code : undefined;
}

/** Turns a failed write into an {@link LgdError} that says which path and why (full disk, read-only folder ...). */
export function writeError(path: string, cause: unknown): LgdError {
  if (cause instanceof LgdError) return cause;
  const reason: Record<string, string> = {
    ENOSPC: 'the disk is full',
    EROFS: 'the file system is read-only',
    EACCES: 'permission is denied',
    EPERM: 'permission is denied',
    ENOENT: 'a folder on the way does not exist',
    ENOTDIR: 'a part of the path is not a folder',
    EDQUOT: 'the disk quota is used up',
  };
  const code = systemErrorCode(cause);
  const why = (code && reason[code]) ?? (cause instanceof Error ? cause.message : String(cause));
  return new LgdError('NOT_WRITABLE', `cannot write ${path}: ${why}.`, {
    mend: code === 'ENOSPC' || code === 'EDQUOT' ? 'Free some space, or choose another output folder' : 'Choose a folder this user may write to',
    cause,
  });
}

/**
 * Stops a long call whose signal has fired.
 * @throws LgdError ABORTED, with the signal's reason as its cause
 */
export function throwIfAborted(signal: AbortSignal | undefined, what: string): void {
  if (signal?.aborted) throw new LgdError('ABORTED', `${what} was stopped.`, { cause: signal.reason as unknown });
}
