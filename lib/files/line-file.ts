/**
 * Files of lines that go on in a new part past a size. `metrics.jsonl` is where lines are appended; full parts are
 * beside it as `metrics-000001.jsonl`, `metrics-000002.jsonl` ..., the oldest first. Together, in that order, they are
 * what one file would have been.
 */
import type { Stats } from 'node:fs';
import { open, readdir, rename, rm, stat, truncate, type FileHandle } from 'node:fs/promises';
import { extname, join } from 'node:path';
import { LgdError, systemErrorCode, writeError } from '../errors.js';
import { diskFullError, isDiskFull } from './disk-full.js';
import { wholeChunks } from './lines.js';
import { closeRead, openToRead } from './open.js';
import { syncFile } from './sync.js';

const newline = 10;
const bytesAtOnce = 2 ** 18;

/** `metrics-000003.jsonl` of `metrics.jsonl`. */
function partName(name: string, number: number): string {
  const ending = extname(name);
  return `${name.slice(0, name.length - ending.length)}-${String(number).padStart(6, '0')}${ending}`;
}

/** The number of a full part, or undefined for any other file. */
function partNumber(name: string, entry: string): number | undefined {
  const ending = extname(name);
  const stem = `${name.slice(0, name.length - ending.length)}-`;
  const digits =
    entry.startsWith(stem) && entry.endsWith(ending) ? entry.slice(stem.length, entry.length - ending.length) : '';
  return /^\d{6,}$/u.test(digits) ? Number(digits) : undefined;
}

/** Paths of the full parts, the oldest first; the file that is appended to is not among them. */
async function fullParts(folder: string, name: string): Promise<string[]> {
  const numbers = (await readdir(folder)).flatMap((entry) => partNumber(name, entry) ?? []).sort((a, b) => a - b);
  return numbers.map((number) => join(folder, partName(name, number)));
}

/**
 * Paths of all parts that there may be, the oldest first; the last, which is appended to, may be missing.
 * @throws what fs.readdir does
 */
export async function linePaths(folder: string, name: string): Promise<string[]> {
  return [...(await fullParts(folder, name)), join(folder, name)];
}

/** Is this entry of a folder the file `name`, or a part of it? */
export function isPartOf(name: string, entry: string): boolean {
  return entry === name || partNumber(name, entry) !== undefined;
}

/** A file of lines, open for appending. */
export class LineFile {
  #handle: FileHandle | undefined;
  #opened: Stats | undefined;
  #bytes = 0;

  private constructor(
    readonly folder: string,
    readonly name: string,
    readonly mostBytes: number,
  ) {}

  /**
   * Opens (and makes) the file. A last line without its end, torn by a kill, is ended, so that the next one stands
   * alone.
   * @param mostBytes size past which lines go to a new part; 0: never
   * @throws LgdError NOT_WRITABLE
   */
  static async open(folder: string, name: string, mostBytes: number): Promise<LineFile> {
    const file = new LineFile(folder, name, mostBytes);
    try {
      await file.#open();
      await file.#endTornLine();
    } catch (cause) {
      await file.close().catch(() => undefined);
      throw writeError(file.path, cause);
    }
    return file;
  }

  get path(): string {
    return join(this.folder, this.name);
  }

  /**
   * Appends a line; where that fails nothing of it stays.
   * @throws LgdError NOT_WRITABLE, DISPOSED
   */
  async append(line: string): Promise<void> {
    if (this.#handle === undefined) throw new LgdError('DISPOSED', `${this.path} was closed.`);
    const bytes = Buffer.from(`${line}\n`);
    try {
      await this.#follow();
      if (this.mostBytes > 0 && this.#bytes > 0 && this.#bytes + bytes.length > this.mostBytes) await this.#startPart();
      await this.#handle.appendFile(bytes);
      this.#bytes += bytes.length;
    } catch (cause) {
      // what a full disk took of the line; a device such as /dev/full has no length
      await this.#handle.truncate(this.#bytes).catch(() => undefined);
      throw await this.#failure(cause);
    }
  }

  /**
   * Drops the first line that `keep` refuses, and all after it, in whatever part it stands.
   * @throws LgdError NOT_WRITABLE
   */
  async cut(keep: (line: string) => boolean): Promise<void> {
    try {
      const parts = await linePaths(this.folder, this.name);
      for (let part = parts.pop(); part !== undefined; part = parts.pop()) {
        const { end, size } = await keptLength(part, keep);
        if (end === 0 && parts.length > 0) {
          // from the newest on, so that a kill in between leaves a beginning of the whole
          await rm(part, { force: true });
          continue;
        }
        if (end < size) await truncate(part, end);
        if (part !== this.path) await rename(part, this.path);
        break;
      }
      await this.#handle?.close();
      this.#handle = undefined;
      await this.#open();
    } catch (cause) {
      throw writeError(this.path, cause);
    }
  }

  /**
   * Makes everything appended last through a power cut.
   * @throws LgdError NOT_WRITABLE: a disk may say that it is full no sooner than now
   */
  async sync(): Promise<void> {
    if (this.#handle)
      await syncFile(this.#handle).catch(async (cause: unknown) => {
        throw await this.#failure(cause);
      });
  }

  /** @throws LgdError NOT_WRITABLE: some file systems write no sooner than now */
  async close(): Promise<void> {
    const handle = this.#handle;
    this.#handle = undefined;
    await handle?.close().catch(async (cause: unknown) => {
      throw await this.#failure(cause);
    });
  }

  async #failure(cause: unknown): Promise<LgdError> {
    return isDiskFull(cause)
      ? await diskFullError(this.path, { run: this.folder, cause })
      : writeError(this.path, cause);
  }

  async #open(): Promise<void> {
    this.#handle = await open(this.path, 'a+');
    this.#opened = await this.#handle.stat();
    if (this.#opened.isFIFO())
      throw new LgdError(
        'NOT_WRITABLE',
        `${this.path} is a pipe, which would take lines only while another program reads them.`,
        { mend: 'Remove it' },
      );
    this.#bytes = this.#opened.size;
  }

  /**
   * Opens the file anew where another has its name, or none: lines would go to one that was removed, or that an editor
   * or logrotate has put a new one in the place of.
   */
  async #follow(): Promise<void> {
    const there = await stat(this.path).catch(() => undefined);
    if (there?.ino === this.#opened?.ino && there?.dev === this.#opened?.dev) return;
    const before = this.#handle;
    // the folder was moved: lines go on to where it is now
    if (
      !(await this.#open().then(
        () => true,
        () => false,
      ))
    )
      return;
    await before?.close();
    await this.#endTornLine();
  }

  async #endTornLine(): Promise<void> {
    if (this.#bytes === 0) return;
    const { buffer } = await this.#handle!.read(Buffer.alloc(1), 0, 1, this.#bytes - 1);
    if (buffer[0] === newline) return;
    await this.#handle!.appendFile('\n');
    this.#bytes += 1;
  }

  async #startPart(): Promise<void> {
    const numbers = (await readdir(this.folder)).flatMap((entry) => partNumber(this.name, entry) ?? 0);
    await this.sync();
    await rename(this.path, join(this.folder, partName(this.name, Math.max(0, ...numbers) + 1)));
    const full = this.#handle;
    await this.#open();
    await full?.close();
  }
}

/** How many bytes of a part its lines take until the first that is not kept. A file that is missing has none. */
async function keptLength(path: string, keep: (line: string) => boolean): Promise<{ end: number; size: number }> {
  const file = await openToRead(path).catch((cause: unknown) => {
    if (systemErrorCode(cause) === 'ENOENT') return undefined;
    throw cause;
  });
  if (file === undefined) return { end: 0, size: 0 };
  try {
    const { size } = await file.stat();
    let end = 0;
    for await (const bytes of wholeChunks(file.createReadStream({ autoClose: false, highWaterMark: bytesAtOnce }))) {
      for (let from = 0; from < bytes.length;) {
        const next = bytes.indexOf(newline, from);
        if (!keep(bytes.toString('utf8', from, next))) return { end: end + from, size };
        from = next + 1;
      }
      end += bytes.length;
    }
    return { end, size };
  } finally {
    await closeRead(file);
  }
}
