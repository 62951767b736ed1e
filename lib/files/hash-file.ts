import { createHash } from 'node:crypto';
import { openToRead } from './open.js';

/** SHA-256 of a file, in hexadecimal. @throws the system's error where it cannot be read */
export async function hashFile(path: string): Promise<string> {
  const hash = createHash('sha256');
  const piece = Buffer.allocUnsafe(256 * 1024); // small enough that hashing it holds up nobody else on the main thread
  const file = await openToRead(path);
  try {
    for (;;) {
      const { bytesRead } = await file.read(piece, 0, piece.length);
      if (bytesRead === 0) return hash.digest('hex');
      hash.update(piece.subarray(0, bytesRead));
    }
  } finally {
    await file.close();
  }
}

/** The same; undefined where the file cannot be read. */
export async function hashIfReadable(path: string): Promise<string | undefined> {
  return hashFile(path).catch(() => undefined);
}
