/** Runs as TensorBoard event files. */
import { join, resolve } from 'node:path';
import { writeError } from '../errors.js';
import { makeFolder } from '../files/make-folder.js';
import { writeFileAtomically } from '../files/safetensors.js';
import { chooseRuns, readRuns } from './read-run.js';

export interface TensorBoardFile {
  run: string;
  file: string;
  /** Values written. */
  scalars: number;
}

/**
 * Writes each run's metrics to `folder/<run>/events.out.tfevents.*.lgdistill`; an earlier file of the same run is replaced.
 * @param runs run folders; of several paths others are passed over
 * @throws LgdError as readRuns; NOT_WRITABLE
 */
export async function writeTensorBoard(runs: readonly string[], folder: string): Promise<TensorBoardFile[]> {
  const { encodeEvents } = await import('./event-file.js');
  const written: TensorBoardFile[] = [];
  for (const run of await readRuns((await chooseRuns(runs)).folders)) {
    const place = join(resolve(folder), run.name);
    await makeFolder(place).catch((cause: unknown) => { throw writeError(place, cause); });
    const { bytes, scalars, start } = encodeEvents(run);
    const file = join(place, `events.out.tfevents.${Math.floor(start).toString().padStart(10, '0')}.lgdistill`);
    await writeFileAtomically(file, bytes);
    written.push({ run: run.name, file, scalars });
  }
  return written;
}
