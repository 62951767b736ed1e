/**
 * The folder of a dense run: config.json, metrics.jsonl, model.safetensors (the best network), last.safetensors;
 * run.lock while a process writes there.
 */
import { existsSync } from 'node:fs';
import { appendFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import type { Config } from '../config/config.js';
import { LgdError, writeError } from '../errors.js';
import { placeIn } from '../files/folders.js';
import { parsed, writeJson } from '../files/json.js';
import { readFile } from '../files/open.js';
import { writeFileAtomically } from '../files/write-file.js';
import type { WeightRecord } from '../models/weights.js';
import { version } from '../package.js';
import { clearMembers } from '../runs/group-folder.js';
import { denseFile, lastDenseFile, taskOf, writeDense, type DenseInfo, type DenseTask } from '../runs/network-file.js';
import { checkRunFolder, clearRunFolder, configFile, lockRunFolder, metricsFile } from '../runs/run-folder.js';
import { checkTrained } from './checks.js';
import type { StartStudent } from './start.js';
import type { DenseConfig } from './trainer.js';

/** Writes what a dense run leaves behind. */
export class DenseFolder implements AsyncDisposable {
  #best = -Infinity;
  #savedStep = 0;

  private constructor(
    readonly path: string,
    readonly unlock: () => Promise<void>,
    readonly removeEmpty: () => Promise<void>,
  ) {}

  /**
   * Locks the folder, and leaves what is in it for {@link begin}.
   * @param student its file, without links, which must not be emptied away with the folder
   * @throws LgdError NOT_WRITABLE, BAD_CONFIG (the folder is not empty, and nothing says that it may be overwritten;
   *   the student lies in it; another process writes to it)
   */
  static async open(
    path: string,
    { overwrite, student }: { overwrite: boolean; student: string },
  ): Promise<DenseFolder> {
    const removeEmpty = await checkRunFolder(path, { overwrite, resume: false });
    if ((await placeIn(path, student)) !== undefined) {
      throw new LgdError('BAD_CONFIG', 'the student to train on lies in the folder that is to be emptied.', {
        option: 'output',
        found: path,
        mend: 'Choose another folder',
      });
    }
    const unlock = await lockRunFolder(path).catch(async (error: unknown) => {
      await removeEmpty();
      throw error;
    });
    return new DenseFolder(path, unlock, removeEmpty);
  }

  /**
   * Empties the folder of an earlier run, and writes config.json.
   * @throws LgdError NOT_WRITABLE, BAD_CONFIG (another process writes to a folder of the earlier run: then nothing is
   *   removed)
   */
  async begin(task: DenseTask, student: StartStudent, config: Config): Promise<void> {
    const record = describeTraining(task, student, { ...config, output: this.path });
    await clearMembers(this.path);
    await clearRunFolder(this.path);
    await writeJson(join(this.path, configFile), record);
    await writeFileAtomically(join(this.path, metricsFile), '');
  }

  /** Adds a line to metrics.jsonl. @throws LgdError NOT_WRITABLE */
  async log(line: object): Promise<void> {
    const file = join(this.path, metricsFile);
    await appendFile(file, `${JSON.stringify(line)}\n`).catch((cause: unknown) => {
      throw writeError(file, cause);
    });
  }

  /** Of the network that was saved last; 0: none was. */
  get savedStep(): number {
    return this.#savedStep;
  }

  /**
   * Keeps a network as the last one, and as the best where none was scored.
   * @throws LgdError NON_FINITE (then the one before stays), NOT_WRITABLE
   */
  async save(info: DenseInfo, weights: WeightRecord): Promise<void> {
    checkTrained(weights, info.step);
    await writeDense(join(this.path, lastDenseFile), info, weights);
    if (this.#best === -Infinity) await writeDense(join(this.path, denseFile), info, weights);
    this.#savedStep = info.step;
  }

  /**
   * Keeps the network that was saved last as the best where none before had as high a score.
   * @returns whether it is the best so far
   * @throws LgdError NOT_WRITABLE
   */
  async rank(info: DenseInfo, weights: WeightRecord, score: number): Promise<boolean> {
    if (!(score > this.#best)) return false;
    if (this.#best !== -Infinity) await writeDense(join(this.path, denseFile), info, weights);
    this.#best = score;
    return true;
  }

  /** Unlocks the folder, and removes it if nothing came into one that was made here. */
  async [Symbol.asyncDispose](): Promise<void> {
    // where a disk is gone that must not hide the error of the training
    await this.unlock().catch(() => undefined);
    await this.removeEmpty();
  }
}

/** Was a dense network trained into this folder? */
export async function isDenseFolder(path: string): Promise<boolean> {
  const text = await readFile(join(path, configFile), 'utf8').catch(() => '');
  return taskOf(parsed(text)) !== undefined; // of what is no JSON, the run's reader says what is wrong
}

/** Options of the group `dense` that a task does without. */
const unused: Readonly<Record<DenseTask, readonly (keyof DenseConfig)[]>> = {
  segmentation: ['annotations', 'evaluationAnnotations'],
  detection: ['layout', 'split', 'evaluationSplit', 'head', 'outputStride', 'inference'],
};

/** What config.json says: the task, the student, and the options that count, with absolute paths. */
function describeTraining(
  task: DenseTask,
  { file, sha256, info }: StartStudent,
  { output, device, threads, seed, names, dense, train: { precision }, log: { everySteps } }: Config,
): object {
  const { architecture, widthMultiplier, step } = info;
  const options = Object.entries(dense).filter(([name]) => !unused[task].includes(name as keyof DenseConfig));
  const places = new Set(['data', 'evaluationData', 'annotations', 'evaluationAnnotations']);
  return {
    task,
    version,
    student: { path: file, sha256, architecture, widthMultiplier, step },
    output: resolve(output),
    device,
    threads,
    seed,
    ...(task === 'segmentation' && { names: typeof names === 'string' && existsSync(names) ? resolve(names) : names }),
    dense: Object.fromEntries(
      options.map(([name, value]) => [name, places.has(name) && typeof value === 'string' ? resolve(value) : value]),
    ),
    train: { precision },
    log: { everySteps },
  };
}
