import { open, rename, rm, stat } from 'node:fs/promises';
import { types } from 'node:util';
import { LgdError, writeError } from '../errors.js';
import { placeOf } from './folders.js';
import { syncFile } from './sync.js';
import { removeLeft, temporaryPath } from './temporary-name.js';

const gatheredBytes = 2 ** 20;

/**
 * The same bytes in fewer pieces: small ones are copied together, large ones stay as they are. A write costs a turn
 * through another thread, a student has hundreds of small tensors.
 */
function* gathered(pieces: Iterable<Uint8Array | string>): Generator<Uint8Array, void, undefined> {
  let small: Uint8Array[] = [];
  let bytes = 0;
  for (const given of pieces) {
    const piece = typeof given === 'string' ? Buffer.from(given) : given;
    if (bytes + piece.byteLength > gatheredBytes && small.length > 0) {
      yield Buffer.concat(small);
      [small, bytes] = [[], 0];
    }
    if (piece.byteLength > gatheredBytes) yield piece;
    else {
      small.push(piece);
      bytes += piece.byteLength;
    }
  }
  if (small.length > 0) yield Buffer.concat(small);
}

/**
 * Writes a file beside its place, syncs it and renames it over the old one, so that a crash leaves the old file or the
 * new one, never a part. A link stays, and what it leads to is written. No device or pipe is replaced. What a crash left
 * beside it goes with a later write.
 * @param content whole, or in pieces that are written one after the other
 * @throws LgdError NOT_WRITABLE
 */
export async function writeFileAtomically(
  path: string,
  content: Uint8Array | string | Iterable<Uint8Array | string>,
): Promise<void> {
  const found = await stat(path).catch(() => undefined);
  // a rename would put a file in the place of a device or pipe
  if (found !== undefined && !found.isFile() && !found.isDirectory())
    throw new LgdError('NOT_WRITABLE', `cannot write ${path}: it is no regular file.`, {
      mend: 'Give another file to write',
    });
  const place = await placeOf(path);
  await removeLeft(place);
  const temporary = temporaryPath(place);
  try {
    const file = await open(temporary, 'w');
    try {
      const isWhole = typeof content === 'string' || types.isUint8Array(content);
      // goes on where the one before ended
      for (const piece of isWhole ? [content] : gathered(content)) await file.writeFile(piece);
      await syncFile(file);
    } finally {
      await file.close();
    }
    await rename(temporary, place);
  } catch (cause) {
    await rm(temporary, { force: true }).catch(() => undefined);
    throw writeError(path, cause);
  }
}
