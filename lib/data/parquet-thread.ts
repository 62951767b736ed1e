/**
 * Columns of parquet files, read in a thread of their own. hyparquet believes the counts in the pages of a file: one
 * that is damaged there could keep it at work, or have it take memory, without end, and nothing else would run
 * meanwhile.
 */
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';
import { Worker } from 'node:worker_threads';
import type { FileMetaData } from 'hyparquet';
import { LgdError, systemErrorCode } from '../errors.js';

const leastSeconds = 10;
const mostSeconds = 300;
const bytesASecond = 5e6; // a tenth of what is decompressed in a second
const bytesAValue = 16; // at least, once it is unpacked
const heapMegabytes = 2048; // images lie outside of it
const bytesToKeepFor = 2 ** 24; // what a thread has read lies in its memory until it reads again, or ends

// It reads by one handle, which is closed with the thread: one that is ended while it opens a file leaves that open.
const program = `
import('node:worker_threads').then(async ({ parentPort, workerData: packages }) => {
  const [{ open }, { parquetReadObjects }, { compressors }] = await Promise.all(packages.map((file) => import(file)));
  parentPort.on('message', async ({ path, metadata, column }) => {
    const handle = await open(path);
    try {
      const { size: byteLength } = await handle.stat();
      const slice = async (start, end = byteLength) => {
        const bytes = Buffer.allocUnsafeSlow(Math.min(end, byteLength) - start);
        for (let at = 0, found; at < bytes.length; at += found.bytesRead) {
          found = await handle.read(bytes, at, Math.min(bytes.length - at, ${2 ** 30}), start + at);
          if (found.bytesRead === 0) throw new Error('it became shorter meanwhile');
        }
        return bytes.buffer;
      };
      const rows = await parquetReadObjects({ file: { byteLength, slice }, metadata, columns: [column], compressors, utf8: false });
      parentPort.postMessage(rows.map((row) => row[column]));
    } finally {
      await handle.close();
    }
  });
});
`;

/** One that has read a column, and may read the next: where row groups are small, most of the time went into starts. */
let idle: Worker | undefined;

function startThread(): Worker {
  const require = createRequire(import.meta.url);
  const packages = ['hyparquet', 'hyparquet-compressors'].map((name) => pathToFileURL(require.resolve(name)).href);
  const thread = new Worker(program, {
    eval: true,
    name: 'parquet',
    workerData: ['node:fs/promises', ...packages],
    resourceLimits: { maxOldGenerationSizeMb: heapMegabytes },
  });
  thread.on('error', () => undefined); // whoever waits for it is told
  thread.on('exit', () => {
    if (idle === thread) idle = undefined;
  });
  return thread;
}

/** Of a column, decompressed, as the file tells; and of its values, of which a few bytes may tell by the million. */
export function bytesOf({ row_groups: groups }: Pick<FileMetaData, 'row_groups'>, column: string): number {
  const chunks = groups
    .flatMap(({ columns }) => columns)
    .flatMap(({ meta_data: chunk }) => (chunk?.path_in_schema[0] === column ? [chunk] : []));
  const rows = groups.reduce((sum, { num_rows: count }) => sum + Number(count), 0);
  return chunks.reduce((sum, { total_uncompressed_size: size }) => sum + Number(size), bytesAValue * rows);
}

/** How long a column of so many bytes may take: what a damaged file says of its size is no reason to wait for ever. */
export function secondsFor(bytes: number): number {
  return Math.max(leastSeconds, Math.min(mostSeconds, (bytes || 0) / bytesASecond));
}

/** Keeps it for the next column, without keeping the process; ends it where it holds much. */
async function putAway(thread: Worker, bytes: number): Promise<void> {
  if (!(bytes <= bytesToKeepFor)) {
    await thread.terminate();
    return;
  }
  idle = thread;
  thread.unref();
}

let last: Promise<unknown> = Promise.resolve();

/**
 * The values of a column, one a row. Calls wait for those before them: many at once would start a thread each.
 * @param metadata of all rows, or of some row groups alone
 * @param seconds of work, not of waiting for the disk, after which the file is taken to be damaged (default: by the
 *   size of the column, 10 to 300)
 * @throws LgdError BAD_DATASET
 */
export function readParquet(
  file: { path: string; metadata: FileMetaData },
  column: string,
  seconds?: number,
): Promise<unknown[]> {
  const rows = last.then(() => read(file, column, seconds));
  last = rows.catch(() => undefined);
  return rows;
}

async function read(
  { path, metadata }: { path: string; metadata: FileMetaData },
  column: string,
  given: number | undefined,
): Promise<unknown[]> {
  const bytes = bytesOf(metadata, column);
  const seconds = given ?? secondsFor(bytes);
  let timer: NodeJS.Timeout | undefined;
  let worker: Worker | undefined;
  try {
    const thread = idle ?? startThread();
    [worker, idle] = [thread, undefined];
    thread.ref();
    const before = thread.performance.eventLoopUtilization();
    const listeners: [event: string, listener: (value: unknown) => void][] = [];
    const rows = await new Promise<unknown[]>((done, failed) => {
      listeners.push(['message', (values) => done(values as unknown[])], ['error', failed]);
      listeners.push(['exit', () => failed(new Error('its thread ended'))]);
      for (const [event, listener] of listeners) thread.on(event, listener);
      timer = setInterval(() => {
        if (thread.performance.eventLoopUtilization(before).active > 1000 * seconds)
          failed(new Error(`it would take longer than ${seconds} seconds to decode`));
      }, 250);
      thread.postMessage({ path, metadata, column });
    });
    for (const [event, listener] of listeners) thread.off(event, listener);
    await putAway(thread, bytes);
    return rows;
  } catch (cause) {
    await worker?.terminate();
    throw new LgdError('BAD_DATASET', `cannot read column ${column} of ${path}: ${(cause as Error).message}.`, {
      mend:
        systemErrorCode(cause) === 'ERR_ACCESS_DENIED'
          ? 'Give Node --allow-worker: parquet files are read in a thread'
          : 'Fetch the file again',
      cause,
    });
  } finally {
    clearInterval(timer);
  }
}
