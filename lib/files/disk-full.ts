/** What a run says when its disk is full: how much is free there, how much is needed, and how to go on. */
import { statfs } from 'node:fs/promises';
import { constants } from 'node:os';
import { dirname } from 'node:path';
import { LgdError, systemErrorCode } from '../errors.js';
import { shellWord } from '../shell.js';

/** More than a checkpoint has. */
const fewFiles = 16;

/** Did a write fail for want of room (or quota), here or in an error underneath, be it Node's or the addon's? */
export function isDiskFull(error: unknown): boolean {
  for (let current: unknown = error; current instanceof Error; current = current.cause) {
    if (['ENOSPC', 'EDQUOT'].includes(systemErrorCode(current) ?? '')) return true;
    // an error of the addon has a code of its own
    if ([-constants.errno.ENOSPC, -constants.errno.EDQUOT].includes((current as NodeJS.ErrnoException).errno ?? 0))
      return true;
  }
  return false;
}

/**
 * The error that ends a run whose disk is full.
 * @param path what could not be written, in the run folder `run`
 * @param neededBytes how much it takes, where that is known
 */
export async function diskFullError(
  path: string,
  { run, cause, neededBytes }: { run: string; cause: unknown; neededBytes?: number },
): Promise<LgdError> {
  const room = await statfs(dirname(path)).catch(() => undefined);
  const missing = (neededBytes ?? 0) - (room === undefined ? 0 : room.bavail * room.bsize);
  // small files, such as those of a data set, may have taken all numbers of files; a full XFS has none left, either
  if (missing < -(2 ** 20) && room !== undefined && room.files > 0 && room.ffree < fewFiles)
    return new LgdError(
      'NOT_WRITABLE',
      `cannot write ${path}: the disk takes ${room.ffree} more files (of ${room.files}). What was written before is whole.`,
      { mend: `Remove files from that disk, then go on with \`lgdistill resume ${shellWord(run)}\``, cause },
    );
  const facts = [
    ...(room === undefined
      ? []
      : [`${mebibytes(room.bavail * room.bsize)} of its ${mebibytes(room.blocks * room.bsize)} MiB are free`]),
    ...(neededBytes === undefined ? [] : [`${mebibytes(neededBytes)} MiB are needed`]),
  ];
  const some = `${mebibytes(Math.max(missing, 0.1 * 2 ** 20))} MiB${room === undefined ? '' : ' more'}`;
  return new LgdError(
    'NOT_WRITABLE',
    `cannot write ${path}: the disk is full${facts.length === 0 ? '' : ` (${facts.join(', ')})`}. What was written before is whole.`,
    {
      mend:
        `Free ${missing <= 0 ? 'some room' : some} on that disk, such as checkpoints of earlier runs, ` +
        `then go on with \`lgdistill resume ${shellWord(run)}\``,
      cause,
    },
  );
}

function mebibytes(bytes: number): string {
  const value = bytes / 2 ** 20;
  return value < 10 ? value.toFixed(1) : String(Math.round(value));
}
