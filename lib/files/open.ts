/**
 * Files opened to be read as node:fs opens them, but for a named pipe that nothing writes to: node waits for its writer
 * for ever, in one of four threads that the end of the program waits for, too. And no device, which may have no end.
 */
import { closeSync, constants, openSync } from 'node:fs';
import { open, stat, type FileHandle } from 'node:fs/promises';
import { LgdError, systemErrorCode } from '../errors.js';

const secondsToWait = 5;
let earlier: Promise<unknown> = Promise.resolve();

/** @throws LgdError BAD_FILE (a device; a pipe that nothing has written to for five seconds), and what fs.open does */
export async function openToRead(path: string): Promise<FileHandle> {
  const found = await stat(path).catch(() => undefined);
  if (found?.isCharacterDevice() === true || found?.isBlockDevice() === true)
    throw new LgdError('BAD_FILE', `${path} is no regular file.`, {
      mend: 'Write what it gives into a file, and give that',
    });
  if (found?.isFIFO() !== true) return open(path, 'r');
  const opened = earlier.then(() => openPipe(path)); // one after the other: several would take all threads
  earlier = opened.catch(() => undefined);
  return opened;
}

/** The whole of a file. @throws as {@link openToRead}, and what fs.readFile does */
export async function readFile(path: string): Promise<Buffer>;
export async function readFile(path: string, encoding: 'utf8'): Promise<string>;
export async function readFile(path: string, encoding?: 'utf8'): Promise<Buffer | string> {
  const file = await openToRead(path);
  try {
    return await file.readFile(encoding);
  } finally {
    await closeRead(file);
  }
}

/**
 * Closes what was only read. Where that fails, as on a network mount that went away, it says nothing of what was read,
 * and must not stand in the place of what failed before.
 */
export async function closeRead(file: { close(): Promise<void> } | undefined): Promise<void> {
  await file?.close().catch(() => undefined);
}

async function openPipe(path: string): Promise<FileHandle> {
  const opening = open(path, 'r');
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<undefined>((resolve) => {
    timer = setTimeout(resolve, 1000 * secondsToWait, undefined);
  });
  const file = await Promise.race([opening, late]);
  clearTimeout(timer);
  if (file !== undefined) return file;
  await endWait(path, opening).catch(() => undefined);
  throw new LgdError('BAD_FILE', `${path} is a pipe that nothing writes to.`, {
    mend: 'Give a file, or start what writes to it first',
  });
}

/**
 * A writer of our own ends the wait of the thread; of a pipe that this user may not write to it goes on. While all
 * threads are busy none waits yet, and the pipe takes no writer: the thread that gets to it later would wait for good.
 */
async function endWait(path: string, opening: Promise<FileHandle>): Promise<void> {
  let isOpen = false;
  void opening.then(
    () => (isOpen = true),
    () => (isOpen = true),
  );
  while (!isOpen) {
    const writer = openWriter(path);
    if (writer === undefined) {
      await new Promise((resolve) => setTimeout(resolve, 100));
      continue;
    }
    await opening.finally(() => closeSync(writer));
  }
  await (await opening).close();
}

/** undefined: nobody reads. */
function openWriter(path: string): number | undefined {
  try {
    return openSync(path, constants.O_WRONLY | constants.O_NONBLOCK);
  } catch (error) {
    if (systemErrorCode(error) === 'ENXIO') return undefined;
    throw error;
  }
}
