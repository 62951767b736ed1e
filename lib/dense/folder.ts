/** The folder of a dense run: config.json, metrics.jsonl, model.safetensors (the best network), last.safetensors. */
import { appendFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Config } from '../config.js';
import { writeError } from '../errors.js';
import type { WeightRecord } from '../models/weights.js';
import { writeFileAtomically } from '../safetensors.js';
import { checkRunFolder } from '../train/run-folder.js';
import { denseFile, writeDense, type DenseInfo } from './network-file.js';

/** Writes what a dense run leaves behind. */
export class DenseFolder {
  #best = -Infinity;

  private constructor(readonly path: string) {}

  /** @throws LgdError NOT_WRITABLE, BAD_CONFIG (the folder is not empty, and nothing says that it may be overwritten) */
  static async open(path: string, config: Config): Promise<DenseFolder> {
    const removeEmpty = await checkRunFolder(path, { overwrite: config.overwrite, resume: false, links: false });
    try {
      await writeFileAtomically(join(path, 'config.json'), `${JSON.stringify(config, undefined, 2)}\n`);
      await writeFileAtomically(join(path, 'metrics.jsonl'), '');
    } catch (error) {
      await removeEmpty();
      throw error;
    }
    return new DenseFolder(path);
  }

  /** Adds a line to metrics.jsonl. @throws LgdError NOT_WRITABLE */
  async log(line: object): Promise<void> {
    const file = join(this.path, 'metrics.jsonl');
    await appendFile(file, `${JSON.stringify(line)}\n`).catch((cause: unknown) => { throw writeError(file, cause); });
  }

  /** Keeps a network as the last one, and as the best where none was scored. @throws LgdError NOT_WRITABLE */
  async save(info: DenseInfo, weights: WeightRecord): Promise<void> {
    await writeDense(join(this.path, 'last.safetensors'), info, weights);
    if (this.#best === -Infinity) await writeDense(join(this.path, denseFile), info, weights);
  }

  /**
   * Keeps the network that was saved last as the best unless one before had a higher score. @returns whether it is the best so far
   * @throws LgdError NOT_WRITABLE
   */
  async rank(info: DenseInfo, weights: WeightRecord, score: number): Promise<boolean> {
    if (!(score >= this.#best)) return false;
    if (this.#best !== -Infinity) await writeDense(join(this.path, denseFile), info, weights);
    this.#best = score;
    return true;
  }
}
