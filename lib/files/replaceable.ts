/** What a file that is to be written may take the place of. */
import type { Stats } from 'node:fs';
import { open, realpath, stat } from 'node:fs/promises';
import { basename, dirname } from 'node:path';
import { LgdError, meansAbsent, systemErrorCode, writeError } from '../errors.js';
import { isOfKind, type FileKind } from './file-kind.js';
import { statIfThere } from './folders.js';
import { manifestIn } from './manifest.js';
import { closeRead } from './open.js';
import { isRunRecord } from './run-record.js';

const words: Readonly<Record<FileKind, string>> = {
  safetensors: 'a safetensors file',
  onnx: 'an ONNX file',
  report: 'a report',
  config: 'a configuration',
  pack: 'a pack',
  journal: 'the journal of a pack',
  'names of images': 'a table of names of images',
};
const firstBytes = 4096;

/** What is said of a place for a file. */
interface Place {
  /** What names it, for the message. */
  option: string;
  /** What the mend says besides. */
  more?: string;
  /** Files that it is made from, which it must not replace. */
  inputs?: readonly string[];
}

/**
 * May a file of this kind be written there? Yes where there is nothing, an empty file, or one of the same kind, which
 * is then replaced, unless it is a part of a checkpoint, a run's record of its configuration, or what the new one is
 * made from.
 * @throws LgdError BAD_OPTION; NOT_WRITABLE for a file that cannot be read
 */
export async function checkReplaceable(
  path: string,
  kind: FileKind,
  { option, more = '', inputs = [] }: Place,
): Promise<void> {
  const found = await fileInPlace(path, option, { more });
  if (found === undefined) return;
  const bytes = await beginningOf(path);
  if (bytes.byteLength > 0 && !isOfKind(bytes, kind))
    throw new LgdError('BAD_OPTION', `there is a file already, which is not ${words[kind]}.`, {
      option,
      found: path,
      allowed: `a new file, or ${words[kind]} to replace`,
      mend: `Choose another place${more}, or remove that file first`,
    });
  const mend = `Choose another place${more}`;
  for (const input of inputs) {
    const other = await statIfThere(input);
    if (other?.dev === found.dev && other.ino === found.ino)
      throw new LgdError('BAD_OPTION', 'this file is what it would be made from.', { option, found: path, mend });
  }
  if (await isOfCheckpoint(path))
    throw new LgdError('BAD_OPTION', 'this file is a part of a checkpoint, which would be damaged.', {
      option,
      found: path,
      mend,
    });
  if (kind === 'config' && (await isRunRecord(path)))
    throw new LgdError('BAD_OPTION', 'this file says what a run was begun with, which could not go on without it.', {
      option,
      found: path,
      mend,
    });
}

/**
 * The file whose place another is to take; undefined where there is none.
 * @param option what names the place
 * @param details more: what the mend says besides
 * @throws LgdError BAD_OPTION or the code given: a folder, or a pipe or device, which would be lost; NOT_WRITABLE
 */
export async function fileInPlace(
  path: string,
  option: string,
  { code = 'BAD_OPTION', more = '' }: { code?: 'BAD_OPTION' | 'BAD_CONFIG'; more?: string } = {},
): Promise<Stats | undefined> {
  const found = await statPlace(path);
  if (found === undefined || found.isFile()) return found;
  throw new LgdError(code, found.isDirectory() ? 'is a folder.' : 'is no regular file.', {
    option,
    found: path,
    mend: `Give the file to write${more}`,
  });
}

/** What stands where something is to be written; undefined where there is nothing. @throws LgdError NOT_WRITABLE */
export async function statPlace(path: string): Promise<Stats | undefined> {
  return stat(path).catch((cause: unknown) => {
    if (!meansAbsent(cause) && systemErrorCode(cause) !== 'EINVAL') throw writeError(path, cause);
    return undefined;
  });
}

async function beginningOf(path: string): Promise<Uint8Array> {
  const file = await open(path, 'r').catch((cause: unknown) => {
    throw writeError(path, cause);
  });
  try {
    const { buffer, bytesRead } = await file
      .read(Buffer.alloc(firstBytes), 0, firstBytes, 0)
      .catch((cause: unknown) => {
        throw writeError(path, cause);
      });
    return buffer.subarray(0, bytesRead);
  } finally {
    await closeRead(file);
  }
}

async function isOfCheckpoint(path: string): Promise<boolean> {
  const file = await realpath(path).catch(() => path);
  const manifest = await manifestIn(dirname(file)).catch(() => undefined);
  return manifest !== undefined && Object.hasOwn(manifest.files, basename(file));
}
