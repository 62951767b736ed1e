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

const secondsToWork = 300; // a group of 1 GB takes some 20 s to decompress
const heapMegabytes = 2048; // images lie outside of it

const program = `
import('node:worker_threads').then(async ({ parentPort, workerData: { packages, path, metadata, column } }) => {
  const [{ asyncBufferFromFile, parquetReadObjects }, { compressors }] = await Promise.all(packages.map((file) => import(file)));
  const rows = await parquetReadObjects({ file: await asyncBufferFromFile(path), metadata, columns: [column], compressors, utf8: false });
  parentPort.postMessage(rows.map((row) => row[column]));
});
`;

/**
 * The values of a column, one a row.
 * @param metadata of all rows, or of some row groups alone
 * @param seconds of work, not of waiting for the disk, after which the file is taken to be damaged
 * @throws LgdError BAD_DATASET
 */
export async function readParquet(
  { path, metadata }: { path: string; metadata: FileMetaData },
  column: string,
  seconds = secondsToWork,
): Promise<unknown[]> {
  const require = createRequire(import.meta.url);
  const packages = ['hyparquet', 'hyparquet-compressors'].map((name) => pathToFileURL(require.resolve(name)).href);
  let timer: NodeJS.Timeout | undefined;
  let worker: Worker | undefined;
  try {
    return await new Promise<unknown[]>((done, failed) => {
      const thread = new Worker(program, {
        eval: true,
        name: 'parquet',
        workerData: { packages, path, metadata, column },
        resourceLimits: { maxOldGenerationSizeMb: heapMegabytes },
      });
      worker = thread;
      thread.once('message', done);
      thread.once('error', failed);
      thread.once('exit', () => {
        failed(new Error('its thread ended'));
      });
      timer = setInterval(() => {
        if (thread.performance.eventLoopUtilization().active > 1000 * seconds)
          failed(new Error(`it would take longer than ${seconds} seconds to decode`));
      }, 250);
    });
  } catch (cause) {
    throw new LgdError('BAD_DATASET', `cannot read column ${column} of ${path}: ${(cause as Error).message}.`, {
      mend:
        systemErrorCode(cause) === 'ERR_ACCESS_DENIED'
          ? 'Give Node --allow-worker: parquet files are read in a thread'
          : 'Fetch the file again',
      cause,
    });
  } finally {
    clearInterval(timer);
    await worker?.terminate();
  }
}
