/**
 * Checkpoints as transactions. `checkpoints/step-N/` is written beside its place, synced and renamed; `last` and `best`
 * are swapped by rename (checkpoint-folders.ts). A folder counts only with its manifest, which is written last and
 * holds the checksum of every file: whenever the process dies, either the old or the new checkpoint is whole.
 */
import { mkdir, readdir, rename, rm } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { LgdError, writeError } from '../errors.js';
import {
  byAge,
  checkpointsOf,
  findCheckpoint,
  followed,
  folderName,
  isWhole,
  listCheckpoints,
  pointTo,
  stepOf,
} from '../files/checkpoint-folders.js';
import { diskFullError, isDiskFull } from '../files/disk-full.js';
import { isFolder, statIfThere } from '../files/folders.js';
import { makeFolder } from '../files/make-folder.js';
import { manifestFile, type Manifest } from '../files/manifest.js';
import { readFile } from '../files/open.js';
import { syncFolder } from '../files/sync.js';
import { uniqueMark } from '../files/temporary-name.js';
import { suggestion } from '../text/spelling.js';
import { bytesOf, isSound, readCheckpoint, writeContent, type CheckpointContent } from './checkpoint.js';

interface WriteOptions {
  best: Manifest['best'];
  /** Is this checkpoint the best so far? */
  isBest: boolean;
  /** How many of the latest are kept, besides the best one. */
  keep: number;
}

/** The checkpoints of one run. */
export class CheckpointStore {
  readonly folder: string;

  private constructor(readonly runFolder: string) {
    this.folder = checkpointsOf(runFolder);
  }

  /**
   * Opens (and makes) `checkpoints/` of a run folder, and clears away what a process left half written.
   * @throws LgdError NOT_WRITABLE
   */
  static async open(runFolder: string): Promise<CheckpointStore> {
    const store = new CheckpointStore(runFolder);
    try {
      await makeFolder(store.folder);
      for (const name of await readdir(store.folder)) {
        const path = join(store.folder, name);
        const isStale = name.startsWith('.') || (folderName.test(name) && !(await isWhole(path)));
        if (isStale) await rm(path, { recursive: true, force: true });
      }
    } catch (cause) {
      throw writeError(store.folder, cause);
    }
    return store;
  }

  /**
   * Writes a checkpoint and points `last` (and `best`) at it; then removes those that are no longer kept. Where the
   * disk is full, those that would go anyway go first, but for the last and the best, and the checkpoint is tried once
   * more.
   * @returns its folder
   * @throws LgdError NOT_WRITABLE; the last and the best checkpoint are as they were
   */
  async write(content: CheckpointContent, options: WriteOptions): Promise<string> {
    try {
      return await this.#write(content, options).catch(async (error: unknown) => {
        if (!isDiskFull(error) || !(await this.#makeRoom(options.keep))) throw error;
        return this.#write(content, options);
      });
    } catch (cause) {
      if (!isDiskFull(cause)) throw writeError(this.folder, cause);
      throw await diskFullError(this.folder, { run: this.runFolder, cause, neededBytes: bytesOf(content) });
    }
  }

  async #write(content: CheckpointContent, { best, isBest, keep }: WriteOptions): Promise<string> {
    const partial = join(this.folder, `.partial-${uniqueMark()}`);
    try {
      await mkdir(partial);
      await writeContent(partial, content, best);
      let name = await this.#sameAs(partial, content.info.step);
      if (name === undefined) {
        name = await this.#freeName(content.info.step);
        await rename(partial, join(this.folder, name));
        await syncFolder(this.folder);
      } else await rm(partial, { recursive: true });
      if (isBest) await pointTo(this.runFolder, 'best', name);
      await pointTo(this.runFolder, 'last', name);
      await this.#forget(name, keep);
      return join(this.folder, name);
    } catch (cause) {
      await rm(partial, { recursive: true, force: true }).catch(() => undefined);
      throw cause;
    }
  }

  /**
   * Removes the checkpoints that the next one will make superfluous; `last` stays until there is a newer one. Were
   * there any?
   */
  async #makeRoom(keep: number): Promise<boolean> {
    const last = await findCheckpoint(this.runFolder, 'last');
    if (last === undefined) return false;
    const before = await listCheckpoints(this.runFolder);
    await this.#forget(basename(last), Math.max(1, keep - 1));
    return (await listCheckpoints(this.runFolder)).length < before.length;
  }

  /**
   * Reads a checkpoint after checking every file against the manifest.
   * @param which `last`; `previous`, the one before it; `best`; or a checkpoint's folder
   * @throws LgdError FILE_NOT_FOUND (none), BAD_CHECKPOINT naming the file at fault
   */
  async read(which: string): Promise<CheckpointContent & { folder: string }> {
    return readCheckpoint(await locateCheckpoint(this.runFolder, which));
  }

  /**
   * The whole checkpoint of the same step and content, checked, if there is one: a process died before its links
   * pointed there.
   */
  async #sameAs(partial: string, step: number): Promise<string | undefined> {
    const wanted = await readFile(join(partial, manifestFile), 'utf8');
    for (const folder of await listCheckpoints(this.runFolder)) {
      if (stepOf(folder) !== step) continue;
      const found = await readFile(join(folder, manifestFile), 'utf8').catch(() => undefined);
      if (found === wanted && (await isSound(folder))) return basename(folder);
    }
    return undefined;
  }

  /**
   * A step reached twice (its state differs when an evaluation came between) gets a second folder: the pointed-to one
   * is never touched.
   */
  async #freeName(step: number): Promise<string> {
    const name = `step-${String(step).padStart(8, '0')}`;
    for (let copy = 0; ; copy++) {
      const candidate = copy === 0 ? name : `${name}.${copy}`;
      if ((await statIfThere(join(this.folder, candidate))) === undefined) return candidate;
    }
  }

  /**
   * Removes all but the `keep` latest up to `latest` and the best; later ones belong to a course that was given up by
   * resuming before it.
   */
  async #forget(latest: string, keep: number): Promise<void> {
    const best = await findCheckpoint(this.runFolder, 'best');
    const upToNow = (await listCheckpoints(this.runFolder)).filter((folder) => byAge(basename(folder), latest) <= 0);
    const kept = new Set([...upToNow.slice(-keep), best]);
    for (const folder of await listCheckpoints(this.runFolder)) {
      if (kept.has(folder)) continue;
      await rm(join(folder, manifestFile)); // from here on it no longer counts
      await rm(folder, { recursive: true });
    }
  }
}

/**
 * The folder of a checkpoint, which is not looked into.
 * @param which as in {@link CheckpointStore.read}
 * @throws LgdError FILE_NOT_FOUND, BAD_FILE
 */
export async function locateCheckpoint(runFolder: string, which: string): Promise<string> {
  const last = await findCheckpoint(runFolder, 'last');
  if (which === 'last' || which === 'best') {
    const folder = which === 'last' ? last : await findCheckpoint(runFolder, 'best');
    if (folder !== undefined) return folder;
  } else if (which === 'previous') {
    const earlier = (await listCheckpoints(runFolder)).filter(
      (folder) => last === undefined || byAge(basename(folder), basename(last)) < 0,
    );
    if (earlier.length > 0) return earlier.at(-1)!;
  } else {
    const folder = await followed(which);
    // of one that is not whole, reading it says so
    if ((await isWhole(folder)) || (folderName.test(basename(folder)) && (await isFolder(folder)))) return folder;
    const words = ['last', 'previous', 'best'];
    throw new LgdError('FILE_NOT_FOUND', 'there is no checkpoint of this name.', {
      found: which,
      allowed: `${words.join(', ')}, or a checkpoint's folder`,
      mend: suggestion(which, words) ?? 'Check the path; it is relative to the current folder',
    });
  }
  throw new LgdError('FILE_NOT_FOUND', `there is no ${which} checkpoint in ${checkpointsOf(runFolder)}.`, {
    mend: which === 'last' ? 'Check the run folder, or start the run anew' : 'Resume from last',
  });
}
