import { createHash } from 'node:crypto';
import type { FileHandle } from 'node:fs/promises';
import { closeRead, openToRead } from './open.js';

/**
 * SHA-256 of a file, in hexadecimal.
 * @param file its path, or what has it open: that stays open.
 * @throws the system's error where it cannot be read
 */
export async function hashFile(file: string | FileHandle): Promise<string> {
  if (typeof file !== 'string') return hashOpen(file);
  const opened = await openToRead(file);
  try {
    return await hashOpen(opened);
  } finally {
    await closeRead(opened);
  }
}

/** From its beginning, wherever it was read to. */
async function hashOpen(file: FileHandle): Promise<string> {
  const hash = createHash('sha256');
  const piece = Buffer.allocUnsafe(256 * 1024); // small enough that hashing it holds up nobody else on the main thread
  for (let position = 0; ;) {
    const { bytesRead } = await file.read(piece, 0, piece.length, position);
    if (bytesRead === 0) return hash.digest('hex');
    hash.update(piece.subarray(0, bytesRead));
    position += bytesRead;
  }
}

/** {@link hashFile}; undefined where the file cannot be read. */
export async function hashIfReadable(path: string): Promise<string | undefined> {
  return hashFile(path).catch(() => undefined);
}
