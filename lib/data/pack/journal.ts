/**
 * How far a pack is, beside its unfinished file: a line of JSON that says what is being packed, then a line for each
 * image in order, with its own checksum. A line is written once the bytes it tells of are on disk, so what the journal
 * says holds after a kill and after a power cut.
 */
import { open, rm, type FileHandle } from 'node:fs/promises';
import type { NativeAddon } from '../../addon/native.js';
import { LgdError, readError, systemErrorCode } from '../../errors.js';
import { wholeLines } from '../../files/lines.js';
import { openToRead } from '../../files/open.js';
import { syncFile } from '../../files/sync.js';
import { headerBytes, type PackEntry } from './format.js';

/** An image of the source: in the pack, or refused for a reason. */
export type PackedOrRefused = PackEntry | { place: number; reason: string };

/** What was packed so far. */
export interface JournalState {
  entries: PackEntry[];
  refused: { place: number; reason: string }[];
  /** The next image of the source. */
  next: number;
  /** Where it goes, in bytes from the start of the file. */
  end: number;
}

type Checksum = NativeAddon['checksum'];

export class Journal {
  private constructor(
    readonly path: string,
    readonly handle: FileHandle,
    readonly checksum: Checksum,
  ) {}

  /** Begins a journal, or goes on with what {@link readJournal} found: `keep` bytes of it. */
  static async open(path: string, task: string, keep: number, checksum: Checksum): Promise<Journal> {
    if (keep === 0) await rm(path, { force: true }); // a pipe in its place would wait for a reader
    const before = await open(path, keep === 0 ? 'w' : 'r+');
    await before.truncate(keep).finally(() => before.close());
    const journal = new Journal(path, await open(path, 'a'), checksum);
    if (keep === 0) {
      await journal.#append(`${task}\n`).catch(async (error: unknown) => {
        await journal.close().catch(() => undefined);
        throw error;
      });
    }
    return journal;
  }

  /** Adds images whose bytes are on disk. */
  async append(images: readonly PackedOrRefused[]): Promise<void> {
    await this.#append(images.map((image) => `${lineOf(image, this.checksum)}\n`).join(''));
  }

  async close(): Promise<void> {
    await this.handle.close();
  }

  async #append(lines: string): Promise<void> {
    await this.handle.writeFile(lines);
    await syncFile(this.handle);
  }
}

function lineOf(image: PackedOrRefused, checksum: Checksum): string {
  const text = JSON.stringify(
    'reason' in image
      ? [image.place, image.reason]
      : [image.place, image.offset, image.bytes, image.checksum, image.width, image.height, image.fileBytes],
  );
  return `${text} ${checksum(Buffer.from(text))}`;
}

/**
 * Reads a journal. A last line that a kill has torn is left out.
 * @param bytesAtOnce of the file, which of millions of images has more than a string or a buffer holds
 * @returns what it tells and how many of its bytes do; undefined where there is none, or it tells of no image yet
 * @throws LgdError BAD_CONFIG (another task), BAD_FILE
 */
export async function readJournal(
  path: string,
  task: string,
  checksum: Checksum,
  bytesAtOnce = 2 ** 20,
): Promise<(JournalState & { bytes: number }) | undefined> {
  const state = {
    entries: [] as PackEntry[],
    refused: [] as { place: number; reason: string }[],
    next: 0,
    end: headerBytes,
    bytes: 0,
  };
  try {
    for await (const { lines, bytes } of wholeLines(
      (await openToRead(path)).createReadStream({ highWaterMark: bytesAtOnce }),
    )) {
      if (state.bytes === 0) checkTask(path, lines.shift()!, task);
      for (const line of lines) take(state, line, path, checksum);
      state.bytes += bytes;
    }
  } catch (cause) {
    if (systemErrorCode(cause) === 'ENOENT') return undefined;
    throw readError(path, cause);
  }
  return state.next === 0 ? undefined : state;
}

function checkTask(path: string, found: string, task: string): void {
  if (found === task) return;
  throw new LgdError(
    'BAD_CONFIG',
    `${path} tells of a pack that was begun with other images or options, and not finished.`,
    {
      option: 'output',
      mend: 'Give the same images and options to go on with it, --overwrite to begin anew, or another file',
    },
  );
}

function take(state: JournalState, line: string, path: string, checksum: Checksum): void {
  const end = line.lastIndexOf(' ');
  const text = line.slice(0, end);
  const isWhole = end > 0 && line.slice(end + 1) === String(checksum(Buffer.from(text)));
  const [place, second, ...rest] = isWhole ? (JSON.parse(text) as [number, number | string, ...number[]]) : [];
  if (place !== state.next)
    throw new LgdError('BAD_FILE', `${path} is damaged: line ${state.next + 2} does not tell of image ${state.next}.`, {
      mend: 'Give --overwrite to begin anew',
    });
  if (typeof second === 'string') state.refused.push({ place, reason: second });
  else {
    const [bytes, sum, width, height, fileBytes] = rest as [number, number, number, number, number];
    state.entries.push({ place, offset: second!, bytes, checksum: sum, width, height, fileBytes });
    state.end = second! + bytes;
  }
  state.next++;
}
