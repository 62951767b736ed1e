/** What lies where in a tar file, by its headers. */
import type { FileHandle } from 'node:fs/promises';
import type { Header as TarHeader, Pax as PaxRecord } from 'tar';
import { LgdError, throwIfAborted } from '../errors.js';
import { plainId } from './image-id.js';

const block = 512;

/** A file or a link in a tar file. */
export interface TarMember {
  path: string;
  offset: number;
  bytes: number;
  /** Of another member or file; it has no bytes. */
  isLink: boolean;
}

/**
 * The files and links among a shard's members. One that ends with a whole member, without the end mark that some tools
 * do not write, is taken for whole.
 */
export async function* members(
  reader: AheadReader,
  signal: AbortSignal | undefined,
): AsyncGenerator<TarMember, void, undefined> {
  const { size, shard } = reader;
  const bad = (what: string, cause?: unknown) =>
    new LgdError('BAD_DATASET', `${shard} ${what}.`, { mend: 'Give whole .tar files that are not compressed', cause });
  const { Header, Pax } = await import('tar');
  let globals: PaxRecord | undefined;
  let extended: PaxRecord | { path: string } | undefined;
  const headerAt = async (at: number): Promise<TarHeader> => {
    const noHeader = (cause?: unknown) => bad(`is no tar file, or damaged: there is no header at byte ${at}`, cause);
    if (at + block > size) throw bad(`ends in the middle of a header, at byte ${size}`);
    const content = await reader.read(at, block);
    let header: TarHeader;
    try {
      header = new Header(content, 0, extended, globals);
    } catch (cause) {
      throw noHeader(cause);
    }
    if (!header.nullBlock && !(header.cksumValid && (header.size ?? 0) >= 0)) throw noHeader();
    return header;
  };
  for (let at = 0; at < size;) {
    throwIfAborted(signal, 'reading the tar files');
    const header = await headerAt(at);
    if (header.nullBlock) return;
    const bytes = header.size ?? 0;
    const offset = at + block;
    at = offset + Math.ceil(bytes / block) * block;
    if (at > size) throw bad(`ends in the middle of ${header.path}`);
    const content = async () => (await reader.read(offset, bytes)).toString('utf8');
    const { type } = header;
    if (type === 'ExtendedHeader') extended = Pax.parse(await content(), extended as PaxRecord | undefined, false);
    else if (type === 'GlobalExtendedHeader') globals = Pax.parse(await content(), globals, true);
    else if (type === 'NextFileHasLongPath' || type === 'OldGnuLongPath')
      extended = { ...extended, path: (await content()).replace(/\0.*/su, '') };
    else {
      const isLink = type === 'Link' || type === 'SymbolicLink';
      if (isLink || type === 'File' || type === 'OldFile' || type === 'ContiguousFile')
        yield { path: plainId(header.path ?? ''), offset, bytes, isLink };
      extended = undefined; // it was of this member alone
    }
  }
  if (extended !== undefined) throw bad('ends before the member that its last header is of');
}

const aheadBytes = 4096;

/**
 * Reads a little more than it is asked for: a label and the headers on both sides of it stand together, and are one
 * read of the file in the place of three.
 */
export class AheadReader {
  #bytes: Buffer = Buffer.alloc(0);
  #offset = 0;

  constructor(
    readonly file: FileHandle,
    readonly size: number,
    readonly shard: string,
  ) {}

  async read(offset: number, bytes: number): Promise<Buffer> {
    const from = offset - this.#offset;
    if (from >= 0 && from + bytes <= this.#bytes.length) return this.#bytes.subarray(from, from + bytes);
    this.#bytes = await readAt(
      this.file,
      offset,
      Math.max(bytes, Math.min(aheadBytes, this.size - offset)),
      this.shard,
    );
    this.#offset = offset;
    return this.#bytes.subarray(0, bytes);
  }
}

/** @throws LgdError BAD_DATASET where the file has become shorter */
export async function readAt(file: FileHandle, offset: number, bytes: number, path: string): Promise<Buffer> {
  const buffer = Buffer.alloc(bytes);
  const { bytesRead } = await file.read(buffer, 0, bytes, offset);
  if (bytesRead < bytes)
    throw new LgdError('BAD_DATASET', `${path} became shorter while it was read.`, { mend: 'Fetch it again' });
  return buffer;
}
