/** The folder of a run: config.json, metrics.jsonl, log.txt, checkpoints/ and, after a failure, replay/. */
import { readdir, rm } from 'node:fs/promises';
import { basename, join, sep } from 'node:path';
import type { BatchNumbers, RunConfig } from '../config/batch.js';
import { hasCode, LgdError, meansAbsent, readError, writeError } from '../errors.js';
import { isFile, isHidden, placeIn } from '../files/folders.js';
import { membersOf, parsed, writeJson } from '../files/json.js';
import { isPartOf, LineFile } from '../files/line-file.js';
import { fromOneLine, inOneLine, joinedLines } from '../files/lines.js';
import { isProbe, tryFolder } from '../files/make-folder.js';
import { readFile } from '../files/open.js';
import { besideLock, takeLock, tellHolder } from '../files/process-lock.js';
import { configFile, metricsFile } from '../files/run-record.js';
import { temporaryOf } from '../files/temporary-name.js';
import { writeFileAtomically } from '../files/write-file.js';
import { denseFile, denseFiles, taskOf, type DenseTask } from './network-file.js';

export { configFile, metricsFile };
/** Lines for people; {@link linePaths} finds the parts of these and of the metrics. */
export const logFile = 'log.txt';
/** See image-list.ts. */
export const imageListFile = 'images.tsv.gz';
/** See beginning.ts. */
const startFile = 'start.json';
/** See view-cache.ts. */
export const viewCacheFile = 'teacher-views.lgd';
const lockFile = 'run.lock';
const brokenFile = 'broken-images.txt';
/** What a run may leave behind, so that overwriting removes these and nothing else. */
const ownEntries = new Set([
  configFile,
  startFile,
  imageListFile,
  'checkpoints',
  'replay',
  brokenFile,
  'report.html',
  'summary.json',
  'evaluation',
  viewCacheFile,
]);
/** Names of what a process that is killed leaves: while it begins, and of files that were not whole. */
const besideLockNames = basename(besideLock(lockFile, ''));
const isOwn = (entry: string): boolean =>
  ownEntries.has(entry) || isPartOf(metricsFile, entry) || isPartOf(logFile, entry);
const isLeft = (entry: string): boolean =>
  isProbe(entry) || entry.startsWith(besideLockNames) || isOwn(temporaryOf(entry) ?? '');
/** All that can be seen of a run that was killed before it had a configuration: nothing that is missed. */
const ofNoRun = new Set([lockFile, startFile]);

/**
 * Makes sure, before anything takes long, that a run can be written, and looks for an earlier run in its folder.
 * @param options spillFolder: of decoded images; it may lie in the run folder
 * @returns what removes the folder again, and those above it, as far as they were made here and nothing is in them
 * @throws LgdError NOT_WRITABLE; BAD_FILE when it cannot be read; BAD_CONFIG when it is not empty and neither
 *   `overwrite` nor `resume` is asked for, or holds something else that overwriting would damage
 */
export async function checkRunFolder(
  path: string,
  { overwrite, resume, spillFolder }: { overwrite: boolean; resume: boolean; spillFolder?: string | undefined },
): Promise<() => Promise<void>> {
  const removeEmpty = await tryFolder(path);
  if (overwrite && !resume) await checkOverwritten(path);
  if (resume || overwrite) return removeEmpty;
  const all = await readdir(path).catch((cause: unknown) => {
    throw readError(path, cause, { option: 'output', kind: 'the run folder ' });
  });
  const inside = spillFolder === undefined ? undefined : await placeIn(path, spillFolder);
  const [spilled] = inside?.split(sep) ?? [];
  const entries = all.filter((name) => !isHidden(name) && (name !== spilled || isOwn(name)));
  if (entries.every((name) => ofNoRun.has(name))) return removeEmpty;
  throw new LgdError('BAD_CONFIG', 'the run folder is not empty.', {
    option: 'output',
    found: path,
    mend: entries.includes('checkpoints')
      ? 'Resume that run, choose another folder, or set overwrite'
      : 'Choose another folder, or set overwrite',
  });
}

/** A model's folder has a config.json, too, and with it the weights that a network would replace. */
async function checkOverwritten(path: string): Promise<void> {
  const text = await readFile(join(path, configFile), 'utf8').catch(() => undefined);
  const config = text === undefined ? undefined : parsed(text); // of a run that was killed it may be a part
  const isOther =
    config === undefined
      ? text === undefined && (await isFile(join(path, denseFile)))
      : !['student', 'method'].some((key) => Object.hasOwn(membersOf(config), key));
  if (isOther)
    throw new LgdError('BAD_CONFIG', 'this is the folder of a model, or of something else than a run.', {
      option: 'output',
      found: path,
      mend: 'Choose another folder',
    });
}

/**
 * The configuration a run was started with, unchecked.
 * @throws LgdError FILE_NOT_FOUND (also of a training of another kind), BAD_FILE
 */
export async function readRunConfig(path: string): Promise<unknown> {
  const file = join(path, configFile);
  let config: unknown;
  try {
    config = JSON.parse(await readFile(file, 'utf8'));
  } catch (cause) {
    if (meansAbsent(cause))
      throw new LgdError('FILE_NOT_FOUND', `${path} is not a run folder: it has no ${configFile}.`, {
        mend: 'Check the path',
        cause,
      });
    throw new LgdError('BAD_FILE', `cannot read ${file}: ${(cause as Error).message}.`, {
      mend: 'Check that it is whole, and that this user may read it',
      cause,
    });
  }
  const task = taskOf(config);
  if (task !== undefined) throw notDistilled(path, task);
  return config;
}

/**
 * The same of a folder that may have none: undefined then.
 * @throws LgdError BAD_FILE: not tried twice, as a pipe is waited for
 */
export async function readRunConfigIfThere(path: string): Promise<unknown> {
  return readRunConfig(path).catch((error: unknown) => {
    if (hasCode(error, 'FILE_NOT_FOUND')) return undefined;
    throw error;
  });
}

/** The error where the folder of a segmentation network or a detector is taken for a run's. */
function notDistilled(path: string, task: DenseTask): LgdError {
  const command = { segmentation: 'segment', detection: 'detect' }[task];
  return new LgdError(
    'FILE_NOT_FOUND',
    `${path} is not the run folder of a distillation: a network for ${task} was trained into it.`,
    { mend: `Score that with lgdistill ${command} evaluate` },
  );
}

/**
 * Batch size and learning rate that a run was begun with; nothing of a folder without a configuration.
 * @throws LgdError BAD_FILE
 */
export async function readBatchNumbers(path: string): Promise<Partial<BatchNumbers>> {
  const { batchSize, learningRate } = membersOf(membersOf(await readRunConfigIfThere(path))['train']);
  return {
    ...(typeof batchSize === 'number' && { batchSize }),
    ...(typeof learningRate === 'number' && { learningRate }),
  };
}

/** Writes config.json. @throws LgdError NOT_WRITABLE */
export async function writeRunConfig(path: string, config: RunConfig): Promise<void> {
  await writeJson(join(path, configFile), config);
}

/** What {@link RunFolder.recordStart} wrote; undefined where there is none. @throws LgdError BAD_FILE */
export async function readStart(path: string): Promise<string | undefined> {
  const file = join(path, startFile);
  try {
    const { student } = JSON.parse(await readFile(file, 'utf8')) as { student?: unknown };
    return typeof student === 'string' ? student : undefined;
  } catch (cause) {
    if (meansAbsent(cause)) return undefined;
    throw new LgdError('BAD_FILE', `cannot read ${file}: ${(cause as Error).message}.`, {
      mend: 'Begin a new run',
      cause,
    });
  }
}

/**
 * Locks a run folder against other processes; a lock left by a process that is gone is taken over. What one left that
 * was killed while it began is cleared away.
 * @returns what unlocks it
 * @throws LgdError NOT_WRITABLE; BAD_CONFIG when another process is writing to it
 */
export async function lockRunFolder(path: string): Promise<() => Promise<void>> {
  const file = join(path, lockFile);
  const lock = await takeLock(file);
  if ('release' in lock) {
    const left = (await readdir(path).catch(() => [])).filter(isLeft);
    for (const name of left) await rm(join(path, name), { force: true }).catch(() => undefined);
    return lock.release;
  }
  if (lock.holder !== 'another') {
    const { who, mend } = tellHolder(lock.holder, file, 'another folder');
    throw new LgdError('BAD_CONFIG', `${who} is writing to this run folder.`, { option: 'output', found: path, mend });
  }
  throw new LgdError('BAD_CONFIG', 'another process is starting in this run folder.', {
    option: 'output',
    found: path,
    mend: 'Choose another folder',
  });
}

/** Removes what a run left in a folder, and nothing else. A folder that is not there has nothing. */
export async function clearRunFolder(path: string): Promise<void> {
  const names = await readdir(path).catch(() => []);
  for (const file of await denseFiles(path)) await rm(file, { force: true });
  for (const name of names.filter(isOwn)) await rm(join(path, name), { recursive: true, force: true });
}

/** An open run folder, locked against other processes. */
export class RunFolder {
  #metrics: LineFile | undefined;
  #log: LineFile | undefined;

  private constructor(
    readonly path: string,
    readonly unlock: () => Promise<void>,
  ) {}

  /**
   * Opens the folder of a run that starts or continues.
   * @param start of one that starts, see {@link recordStart}
   * @throws LgdError NOT_WRITABLE, BAD_CONFIG as {@link checkRunFolder}, or when another process is writing to it
   */
  static async open(
    path: string,
    config: RunConfig,
    { resume, start }: { resume: boolean; start?: string | undefined },
  ): Promise<RunFolder> {
    const { spillFolder } = config.data;
    const removeEmpty = await checkRunFolder(path, { overwrite: config.overwrite, resume, spillFolder });
    const unlock = await lockRunFolder(path).catch(async (error: unknown) => {
      await removeEmpty();
      throw error;
    });
    const folder = new RunFolder(path, unlock);
    try {
      if (!resume) {
        await clearRunFolder(path);
        if (start !== undefined) await folder.recordStart(start); // before there is a configuration to go on with
        await folder.recordConfig(config);
      }
      const mostBytes = config.log.maxFileSize * 2 ** 20;
      folder.#metrics = await LineFile.open(path, metricsFile, mostBytes);
      folder.#log = await LineFile.open(path, logFile, mostBytes);
    } catch (cause) {
      await folder.close().catch(() => undefined);
      await removeEmpty();
      throw writeError(path, cause);
    }
    return folder;
  }

  /**
   * Writes down what the student is that the run begins with: SHA-256 of its graph and start weights.
   * @throws LgdError NOT_WRITABLE
   */
  async recordStart(student: string): Promise<void> {
    await writeFileAtomically(join(this.path, startFile), `${JSON.stringify({ student })}\n`);
  }

  /** Writes config.json. A run that continues does so once it is known to be able to. @throws LgdError NOT_WRITABLE */
  async recordConfig(config: RunConfig): Promise<void> {
    await writeRunConfig(this.path, config);
  }

  /**
   * Drops the lines of metrics that come after a checkpoint: they are written again. A line torn by a kill goes too.
   * @param step the checkpoint's
   * @param evaluated the step of the last evaluation it knows of
   */
  async rewind(step: number, evaluated: number): Promise<void> {
    await opened(this.#metrics).cut((text) => {
      const line = parseLine(text);
      return line !== undefined && line.step <= (line.type === 'evaluation' ? evaluated : step);
    });
  }

  /** Appends a line to metrics.jsonl, with the time in milliseconds since 1970. @throws LgdError NOT_WRITABLE */
  async metrics(line: object): Promise<void> {
    await opened(this.#metrics).append(JSON.stringify({ ...line, time: Date.now() }));
  }

  /** Appends a line with the time to log.txt. @throws LgdError NOT_WRITABLE */
  async log(text: string): Promise<void> {
    await opened(this.#log).append(`${new Date().toISOString()} ${text}`);
  }

  /**
   * Lists images that were left out, one a line with the reason; no file where there are none.
   * @throws LgdError NOT_WRITABLE
   */
  async listBroken(broken: readonly { id: string; reason: string }[]): Promise<void> {
    const file = join(this.path, brokenFile);
    if (broken.length === 0)
      await rm(file, { force: true }).catch((cause: unknown) => {
        throw writeError(file, cause);
      });
    else
      await writeFileAtomically(
        file,
        joinedLines(broken, ({ id, reason }) => `${inOneLine(id)}\t${reason.replace(/[\r\n]+/gu, ' ')}`),
      );
  }

  /** What {@link listBroken} listed last; none where the list is gone or was changed by hand. */
  async listedBroken(): Promise<{ id: string; reason: string }[]> {
    const text = await readFile(join(this.path, brokenFile), 'utf8').catch(() => '');
    return text.split('\n').flatMap((line) => {
      const tab = line.indexOf('\t');
      const id = tab < 0 ? undefined : fromOneLine(line.slice(0, tab));
      return id === undefined ? [] : [{ id, reason: line.slice(tab + 1) }];
    });
  }

  /** Makes everything appended last through a power cut. @throws LgdError NOT_WRITABLE */
  async sync(): Promise<void> {
    await this.#metrics?.sync();
    await this.#log?.sync();
  }

  /** Unlocks the folder. */
  async close(): Promise<void> {
    try {
      await Promise.all([this.#metrics?.close(), this.#log?.close()]);
    } finally {
      this.#metrics = this.#log = undefined;
      await this.unlock();
    }
  }
}

function opened(file: LineFile | undefined): LineFile {
  if (file === undefined) throw new LgdError('DISPOSED', 'this run folder was closed.');
  return file;
}

function parseLine(text: string): { type: string; step: number } | undefined {
  const { type, step } = membersOf(parsed(text));
  return typeof type === 'string' && typeof step === 'number' ? { type, step } : undefined;
}
