/** Runs as TensorBoard event files. */
import { join, resolve } from 'node:path';
import { checkText } from '../arguments.js';
import { LgdError, writeError } from '../errors.js';
import { placeIn } from '../files/folders.js';
import { makeFolder, tryFolder } from '../files/make-folder.js';
import { writeFileAtomically } from '../files/write-file.js';
import { chooseRuns, readRuns, reportIn } from './read-run.js';

export interface TensorBoardFile {
  run: string;
  file: string;
  /** Values written. */
  scalars: number;
}

/**
 * Can files be written to that folder, beside a report?
 * @param report of which runs, and the file if one is named
 * @throws LgdError BAD_OPTION (the report's own file), FILE_NOT_FOUND (no run folder), NOT_WRITABLE
 */
export async function checkTensorBoardFolder(
  folder: string,
  report: { runs: readonly string[]; output?: string | undefined },
): Promise<void> {
  checkText(folder, 'tensorboard', 'a folder to write to');
  const file = report.output ?? reportIn((await chooseRuns(report.runs)).folders[0]!);
  if ((await placeIn(file, folder)) !== undefined)
    throw new LgdError('BAD_OPTION', 'is the file of the report, too.', {
      option: 'tensorboard',
      found: folder,
      mend: 'Give another folder',
    });
  const removeEmpty = await tryFolder(folder);
  await removeEmpty();
}

/**
 * Writes each run's metrics to `folder/<run>/events.out.tfevents.*.lgdistill`; an earlier file of the same run is
 * replaced.
 * @param runs run folders; of several paths others are passed over
 * @throws LgdError as readRuns; NOT_WRITABLE
 */
export async function writeTensorBoard(runs: readonly string[], folder: string): Promise<TensorBoardFile[]> {
  checkText(folder, 'folder', 'a folder to write to');
  const { encodeEvents, startOf } = await import('./event-file.js');
  const written: TensorBoardFile[] = [];
  for await (const run of readRuns((await chooseRuns(runs)).folders)) {
    const place = join(resolve(folder), run.name);
    await makeFolder(place).catch((cause: unknown) => {
      throw writeError(place, cause);
    });
    const file = join(place, `events.out.tfevents.${Math.floor(startOf(run)).toString().padStart(10, '0')}.lgdistill`);
    let scalars = 0;
    const records = function* () {
      for (const event of encodeEvents(run)) {
        scalars += event.scalars;
        yield event.bytes;
      }
    };
    await writeFileAtomically(file, records());
    written.push({ run: run.name, file, scalars });
  }
  return written;
}
