/**
 * The manifest of a checkpoint, by which its files are checked: it is written last, and holds the size and the SHA-256
 * of every other one.
 */
import { realpath, stat, type FileHandle } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { LgdError, systemErrorCode } from '../errors.js';
import { hashFile } from './hash-file.js';
import { isObject, membersOf } from './json.js';
import { readFile } from './open.js';
import { openSafetensors, readTensors, type SafetensorsFile } from './safetensors.js';

export interface Manifest {
  format: string;
  version: string;
  step: number;
  epoch: number;
  /** What makes a checkpoint the best of its run, and the best so far; null before there is one. */
  best: { metric: string; value: number; step: number } | null;
  files: Record<string, FileMark>;
}

interface FileMark {
  bytes: number;
  sha256: string;
}

export const manifestFile = 'manifest.json';
export const manifestFormat = 'lgdistill-checkpoint';

/** @throws LgdError BAD_CHECKPOINT: not there, or not a checkpoint's */
export async function readManifest(folder: string): Promise<Manifest> {
  const manifest = await parseManifest(folder);
  if (manifest === undefined)
    throw badCheckpoint(join(folder, manifestFile), 'it is not there, so the checkpoint was never finished');
  if (!isManifest(manifest)) throw badCheckpoint(join(folder, manifestFile), "it is not a checkpoint's manifest");
  return manifest;
}

/**
 * The manifest in a folder that is a checkpoint's; undefined for another folder, whatever else is called so there.
 * @throws LgdError BAD_CHECKPOINT: it cannot be read
 */
export async function manifestIn(folder: string): Promise<Manifest | undefined> {
  const manifest = await parseManifest(folder);
  return isManifest(manifest) ? manifest : undefined;
}

async function parseManifest(folder: string): Promise<unknown> {
  const path = join(folder, manifestFile);
  try {
    return JSON.parse(await readFile(path, 'utf8'));
  } catch (cause) {
    if (systemErrorCode(cause) === 'ENOENT') return undefined;
    throw badCheckpoint(path, (cause as Error).message, cause);
  }
}

function isManifest(value: unknown): value is Manifest {
  const { format, files } = membersOf(value);
  const isMark = (mark: unknown) => {
    const { bytes, sha256 } = membersOf(mark);
    return typeof bytes === 'number' && typeof sha256 === 'string';
  };
  return format === manifestFormat && isObject(files) && Object.values(files).every(isMark);
}

/**
 * Checks a file of a checkpoint.
 * @param opened the same file, where it is open already
 * @throws LgdError BAD_CHECKPOINT
 */
export async function checkFile(path: string, { bytes, sha256 }: FileMark, opened?: FileHandle): Promise<void> {
  const found = await (opened?.stat() ?? stat(path)).catch((cause: unknown) => {
    throw badCheckpoint(path, 'it is missing', cause);
  });
  if (found.size !== bytes)
    throw badCheckpoint(path, `it has ${found.size} bytes, but ${bytes} by its ${manifestFile}`);
  const hash = await hashFile(opened ?? path).catch((cause: unknown) => {
    throw badCheckpoint(path, `it cannot be read (${(cause as Error).message})`, cause);
  });
  if (hash !== sha256) throw badCheckpoint(path, `its content does not match its checksum in ${manifestFile}`);
}

/** What to do about a checkpoint that cannot be used. */
export const takeAnother = 'Take the checkpoint before it (lgdistill resume RUN --from previous), or another copy';

export function badCheckpoint(path: string, why: string, cause?: unknown): LgdError {
  return new LgdError('BAD_CHECKPOINT', `${path} is damaged: ${why}.`, { mend: takeAnother, cause });
}

/**
 * Reads a safetensors file, after checking it where it is one of a checkpoint. The file is opened once: a run that goes
 * on may move the link to it, or remove it.
 * @throws LgdError FILE_NOT_FOUND, BAD_FILE, BAD_CHECKPOINT
 */
export async function readListed(path: string): Promise<SafetensorsFile> {
  const place = await realpath(path).catch(() => path); // what is wrong with it, opening it says
  await using file = await openSafetensors(place);
  const mark = (await manifestIn(dirname(place)))?.files[basename(place)];
  if (mark !== undefined) await checkFile(place, mark, file.handle);
  return await readTensors(file);
}
