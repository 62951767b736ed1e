import { open, rename, rm, type FileHandle } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { NativeAddon } from '../../addon/native.js';
import { LgdError, writeError } from '../../errors.js';
import { placeOf, statIfThere } from '../../files/folders.js';
import { tryFolder } from '../../files/make-folder.js';
import { takeLock, tellHolder } from '../../files/process-lock.js';
import { checkReplaceable, fileInPlace } from '../../files/replaceable.js';
import { syncFile, syncFolder } from '../../files/sync.js';
import { endedBy } from '../../lifetime.js';
import { damagedPack, encodeEnd, encodeHeader, headerBytes, type PackEntry, type PackRecipe } from './format.js';
import { Journal, readJournal, type JournalState, type PackedOrRefused } from './journal.js';
import { PackFile } from './reader.js';
import type { PackedImage } from './transcode.js';

/** Bytes of images that a kill may make pack anew. */
const syncBytes = 64 * 2 ** 20;
/** Bytes gathered for one write, and pieces that it may have. */
const writeBytes = 4 * 2 ** 20;
const mostPieces = 1024;

export interface PackWriterOptions {
  /** Tells what is packed and how: only the same is gone on with. */
  task: string;
  overwrite: boolean;
  /** Packs that it is made from, which it must not replace. */
  inputs?: readonly string[] | undefined;
  /** Seconds between two moments from which a kill lets the next writer go on, at most. */
  syncSeconds: number;
  checksum: NativeAddon['checksum'];
}

/**
 * Writes a pack: `FILE.part` with its journal beside it, which becomes FILE in one step when all of it is on disk.
 * Whatever ends the process before, the next writer goes on from the journal.
 */
export class PackWriter {
  readonly #entries: PackEntry[];
  readonly #refused: { place: number; reason: string }[];
  #next: number;
  #end: number;
  /** Images that the journal does not tell of yet; bytes that are not written yet, and where those go. */
  #unrecorded: PackedOrRefused[] = [];
  #pieces: Uint8Array[] = [];
  #written: number;
  /** Why nothing may be recorded any more. */
  #failure: LgdError | undefined;
  #syncedAt = performance.now();
  #syncedEnd: number;

  private constructor(
    readonly path: string,
    readonly options: PackWriterOptions,
    readonly file: FileHandle,
    readonly journal: Journal,
    readonly unlock: () => Promise<void>,
    state: JournalState,
  ) {
    this.#entries = state.entries;
    this.#refused = state.refused;
    this.#next = state.next;
    this.#end = this.#written = this.#syncedEnd = state.end;
  }

  /**
   * Begins a pack, or goes on with one that was not finished.
   * @throws LgdError BAD_OPTION (the file is there, or another in its part's place), BAD_CONFIG (another task, another
   *   process), BAD_FILE, NOT_WRITABLE (also where another file has its lock's name)
   */
  static async open(path: string, recipe: PackRecipe, options: PackWriterOptions): Promise<PackWriter> {
    const { task, overwrite, inputs, checksum } = options;
    const unlock = await lockPack(path);
    try {
      const hasPart = (await statIfThere(partOf(path))) !== undefined;
      await checkReplaced(path, overwrite, inputs).catch(async (error: unknown) => {
        // of this very file, by a kill between its last two steps
        if (!hasPart && (await hasJournal(path).catch(() => false))) await rm(journalOf(path));
        throw error;
      });
      await checkLeft(path, inputs);
      const found = overwrite || !hasPart ? undefined : await readJournal(journalOf(path), task, checksum);
      const file = await openPart(path, found, recipe, checksum);
      const journal = await Journal.open(journalOf(path), task, found?.bytes ?? 0, checksum).catch(
        async (error: unknown) => {
          await file.close().catch(() => undefined);
          throw error;
        },
      );
      return new PackWriter(
        path,
        options,
        file,
        journal,
        unlock,
        found ?? { entries: [], refused: [], next: 0, end: headerBytes },
      );
    } catch (error) {
      await unlock().catch(() => undefined);
      throw error instanceof LgdError ? error : writeError(path, error);
    }
  }

  /** The next image of the source: what is before it has been packed or refused. */
  get next(): number {
    return this.#next;
  }

  get refused(): readonly { place: number; reason: string }[] {
    return this.#refused;
  }

  get entries(): readonly PackEntry[] {
    return this.#entries;
  }

  /** Written so far; of a pack that is finished all that it has. */
  get bytes(): number {
    return this.#written;
  }

  /** Adds the next image. @throws LgdError NOT_WRITABLE */
  async add({ bytes, width, height }: PackedImage, fileBytes: number): Promise<void> {
    const entry = {
      place: this.#next++,
      offset: this.#end,
      bytes: bytes.byteLength,
      checksum: this.options.checksum(bytes),
      width,
      height,
      fileBytes,
    };
    this.#end += bytes.byteLength;
    this.#entries.push(entry);
    this.#unrecorded.push(entry);
    this.#pieces.push(bytes);
    await this.#writeWhenDue();
  }

  /** Leaves the next image out. @throws LgdError NOT_WRITABLE */
  async refuse(reason: string): Promise<void> {
    const refused = { place: this.#next++, reason };
    this.#refused.push(refused);
    this.#unrecorded.push(refused);
    await this.#writeWhenDue();
  }

  /**
   * Makes all that was added last through a power cut. Where bytes cannot be written nothing is recorded, and the next
   * call tries them again.
   * @throws LgdError NOT_WRITABLE
   */
  async sync(): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    await this.#write();
    try {
      await syncFile(this.file);
      await this.journal.append(this.#unrecorded);
    } catch (cause) {
      // What the system could not write after all it forgets, and the next sync would succeed without it; and half a
      // line in the journal has to stay its last.
      throw (this.#failure = writeError(this.path, cause));
    }
    this.#unrecorded = [];
    this.#syncedAt = performance.now();
    this.#syncedEnd = this.#end;
  }

  /** Writes index and footer and gives the file its name. @throws LgdError NOT_WRITABLE */
  async finish(index: Parameters<typeof encodeEnd>[0]): Promise<void> {
    await this.sync();
    this.#pieces = encodeEnd(index, this.#end, this.options.checksum);
    try {
      await this.#write();
      await syncFile(this.file);
      await rename(partOf(this.path), this.path);
      await syncFolder(dirname(this.path));
      await rm(journalOf(this.path));
    } catch (cause) {
      // all images are recorded: before the rename the next writer writes this end anew, behind it the pack is whole
      throw (this.#failure = writeError(this.path, cause));
    }
  }

  /** @throws LgdError NOT_WRITABLE */
  async close(): Promise<void> {
    const closed = () =>
      endedBy(
        () => this.journal.close(),
        () => this.file.close(),
      ).catch((cause: unknown) => {
        throw writeError(this.path, cause);
      });
    await endedBy(this.unlock, closed);
  }

  async #writeWhenDue(): Promise<void> {
    if (
      this.#end - this.#syncedEnd >= syncBytes ||
      performance.now() - this.#syncedAt >= 1000 * this.options.syncSeconds
    )
      await this.sync();
    else if (this.#end - this.#written >= writeBytes) await this.#write();
  }

  /**
   * Writes the pieces, and drops each as the disk has taken it: a disk that is nearly full takes a part, and the call
   * after that says why.
   */
  async #write(): Promise<void> {
    try {
      while (this.#pieces.length > 0) {
        const { bytesWritten } = await this.file.writev(this.#pieces.slice(0, mostPieces), this.#written);
        this.#written += bytesWritten;
        dropBytes(this.#pieces, bytesWritten);
      }
    } catch (cause) {
      throw writeError(this.path, cause);
    }
  }
}

/**
 * May a pack be written there? Said before images are looked for.
 * @throws LgdError BAD_OPTION (a folder; a pack that is not to be overwritten; another file, also beside it),
 *   NOT_WRITABLE
 */
export async function checkPackPlace(path: string, overwrite: boolean): Promise<void> {
  await checkReplaced(path, overwrite);
  const place = await placeOf(path);
  await checkLeft(place);
  const removeEmpty = await tryFolder(dirname(place));
  await removeEmpty();
}

async function checkReplaced(path: string, overwrite: boolean, inputs?: readonly string[]): Promise<void> {
  if (overwrite) await checkReplaceable(path, 'pack', { option: 'output', inputs });
  else if ((await fileInPlace(path, 'output')) !== undefined)
    throw new LgdError('BAD_OPTION', 'there is such a file already.', {
      option: 'output',
      found: path,
      mend: 'Choose another file, or give --overwrite',
    });
}

/**
 * Beside the pack stands what an earlier writer left, or nothing: other files of these names are not replaced. The part
 * beside a journal is the writer's own, also where it is damaged.
 * @throws LgdError BAD_OPTION, NOT_WRITABLE
 */
async function checkLeft(path: string, inputs?: readonly string[]): Promise<void> {
  if (await hasJournal(path)) return;
  await checkReplaceable(partOf(path), 'pack', { option: 'output', inputs });
  const whole = await PackFile.open(partOf(path)).catch(() => undefined); // finished, and named so
  if (whole !== undefined)
    throw new LgdError('BAD_OPTION', 'there is a whole pack where this one would be written before it is finished.', {
      option: 'output',
      found: whole.path,
      mend: 'Choose another file, or move that one',
    });
}

/** @throws LgdError BAD_OPTION for another file in its place, NOT_WRITABLE */
async function hasJournal(path: string): Promise<boolean> {
  await checkReplaceable(journalOf(path), 'journal', { option: 'output' });
  return ((await statIfThere(journalOf(path)))?.size ?? 0) > 0;
}

const partOf = (path: string) => `${path}.part`;
const journalOf = (path: string) => `${path}.journal`;
const lockOf = (path: string) => `${path}.lock`;

/** @returns what unlocks it */
async function lockPack(path: string): Promise<() => Promise<void>> {
  const lock = await takeLock(lockOf(path));
  if ('release' in lock) return lock.release;
  const { holder } = lock;
  const { who, mend } =
    holder === 'another'
      ? { who: 'another process', mend: 'Choose another file' }
      : tellHolder(holder, lockOf(path), 'another file');
  throw new LgdError('BAD_CONFIG', `${who} is writing this pack.`, { option: 'output', found: path, mend });
}

/** The unfinished file, cut to what its journal tells of. */
async function openPart(
  path: string,
  found: JournalState | undefined,
  recipe: PackRecipe,
  checksum: NativeAddon['checksum'],
): Promise<FileHandle> {
  const file = await open(partOf(path), found === undefined ? 'w+' : 'r+');
  try {
    if (found === undefined) {
      await file.writeFile(encodeHeader(recipe, checksum));
      return file;
    }
    const last = found.entries.at(-1);
    const isRight =
      (await readAt(file, 0, headerBytes)).equals(encodeHeader(recipe, checksum)) &&
      (last === undefined || checksum(await readAt(file, last.offset, last.bytes)) === last.checksum);
    if (!isRight) {
      const { message } = damagedPack(partOf(path), 'it is not what its journal says');
      throw new LgdError('BAD_FILE', message, { mend: 'Give --overwrite to begin anew' });
    }
    await file.truncate(found.end);
    return file;
  } catch (error) {
    await file.close().catch(() => undefined);
    throw error;
  }
}

/** Bytes of a file, as many of them as it has. */
async function readAt(file: FileHandle, offset: number, length: number): Promise<Buffer> {
  const bytes = Buffer.alloc(length);
  return bytes.subarray(0, (await file.read(bytes, 0, length, offset)).bytesRead);
}

/** Takes the first `bytes` bytes of the pieces away, and empty pieces behind them. */
function dropBytes(pieces: Uint8Array[], bytes: number): void {
  let whole = 0;
  for (; whole < pieces.length && pieces[whole]!.byteLength <= bytes; whole++) bytes -= pieces[whole]!.byteLength;
  pieces.splice(0, whole);
  if (bytes > 0) pieces[0] = pieces[0]!.subarray(bytes);
}
