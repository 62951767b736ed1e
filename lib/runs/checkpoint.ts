/**
 * Checkpoints as transactions. `checkpoints/step-N/` is written beside its place, synced and renamed; `last` and `best`
 * are swapped by rename (checkpoint-folders.ts). A folder counts only with its manifest, which is written last and
 * holds the checksum of every file: whenever the process dies, either the old or the new checkpoint is whole.
 */
import { mkdir, readdir, realpath, rename, rm, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { TextualSemanticsBank } from '../banks/textual.js';
import { LgdError, writeError } from '../errors.js';
import { diskFullError, isDiskFull } from '../files/disk-full.js';
import { statIfThere } from '../files/folders.js';
import { hashFile } from '../files/hash-file.js';
import { writeJson } from '../files/json.js';
import { makeFolder } from '../files/make-folder.js';
import {
  badCheckpoint,
  checkFile,
  manifestFile,
  manifestFormat,
  readManifest,
  takeAnother,
  type Manifest,
} from '../files/manifest.js';
import { readFile } from '../files/open.js';
import { readSafetensors, writeSafetensors, type TensorRecord } from '../files/safetensors.js';
import { SafetensorsReader } from '../files/safetensors-reader.js';
import { syncFolder } from '../files/sync.js';
import { uniqueMark } from '../files/temporary-name.js';
import type { GraphSpec } from '../models/graph.js';
import { studentContent } from '../models/student-info.js';
import type { WeightRecord } from '../models/weights.js';
import type { SemanticState } from '../native.js';
import { version } from '../version.js';
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
import { studentFile, writeStudent, type StudentInfo } from './student-file.js';

/** Everything that the next step of an online probe's classifier depends on. */
export type OnlineState = Record<'weights' | 'bias' | 'weightsMomentum' | 'biasMomentum', Float32Array>;

/** What a checkpoint holds: all that the next step depends on. */
export interface CheckpointContent {
  info: StudentInfo;
  /** The student's parameters and buffers. */
  weights: WeightRecord;
  /** What moved its parameters. */
  optimizer: 'sgd' | 'adamw';
  /** Momentum of its parameters; AdamW's first moment. */
  momentum: WeightRecord;
  /** AdamW's alone. */
  secondMoment?: WeightRecord | undefined;
  /** undefined for methods seed and feature without names. */
  bank: TextualSemanticsBank | undefined;
  /** Visual anchors, seen flags and queue; the textual rows are the bank's. */
  semantic: SemanticState;
  /** Of the online probe, where there is one. */
  online?: OnlineState;
  /** Plain data of the loop: sampler position, best metric, recent losses. */
  progress: unknown;
}

export interface WriteOptions {
  best: Manifest['best'];
  /** Is this checkpoint the best so far? */
  isBest: boolean;
  /** How many of the latest are kept, besides the best one. */
  keep: number;
}

const stateFile = 'state.safetensors';
const bankFile = 'bank.safetensors';
const stateFormat = 'lgdistill-state';
const onlinePrefix = 'online.';
const momentPrefixes = { momentum: 'momentum.', secondMoment: 'second_moment.' } as const;
type Moment = keyof typeof momentPrefixes;

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
   * What {@link read} would find the text bank of, as it lies there: unchecked, and undefined where there is none or it
   * cannot be read. Makes and clears nothing.
   */
  static async bankOf(runFolder: string, which: string): Promise<TextualSemanticsBank | undefined> {
    try {
      return await TextualSemanticsBank.load(join(await new CheckpointStore(runFolder).#locate(which), bankFile));
    } catch {
      return undefined;
    }
  }

  /**
   * The same of the student's graph: undefined also where its name tells it, as a file's header says, and its weights
   * are read by {@link read} alone.
   */
  static async graphOf(runFolder: string, which: string): Promise<GraphSpec | undefined> {
    try {
      const file = join(await new CheckpointStore(runFolder).#locate(which), studentFile);
      await using reader = await SafetensorsReader.open([file]);
      return reader.metadata['graph'] === undefined ? undefined : (await readUnchecked(dirname(file))).info.graph;
    } catch {
      return undefined;
    }
  }

  /** Is there a checkpoint in a run folder? @throws LgdError BAD_FILE */
  static async isBegun(runFolder: string): Promise<boolean> {
    return (await listCheckpoints(runFolder)).length > 0;
  }

  /** The folder of the last or the best checkpoint, or undefined where there is none. @throws LgdError BAD_FILE */
  async target(link: 'last' | 'best'): Promise<string | undefined> {
    return findCheckpoint(this.runFolder, link);
  }

  /** Folders of whole checkpoints, oldest first. @throws LgdError BAD_FILE */
  async list(): Promise<string[]> {
    return listCheckpoints(this.runFolder);
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
      throw await diskFullError(this.folder, { run: dirname(this.folder), cause, neededBytes: bytesOf(content) });
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
    const last = await this.target('last');
    if (last === undefined) return false;
    const before = await this.list();
    await this.#forget(basename(last), Math.max(1, keep - 1));
    return (await this.list()).length < before.length;
  }

  /**
   * Reads a checkpoint after checking every file against the manifest.
   * @param which `last`; `previous`, the one before it; `best`; or a checkpoint's folder
   * @throws LgdError FILE_NOT_FOUND (none), BAD_CHECKPOINT naming the file at fault
   */
  async read(which: string): Promise<CheckpointContent & { folder: string; manifest: Manifest }> {
    const folder = await this.#locate(which);
    return readCheckpoint(folder);
  }

  async #locate(which: string): Promise<string> {
    const last = await this.target('last');
    if (which === 'last' || which === 'best') {
      const folder = which === 'last' ? last : await this.target('best');
      if (folder !== undefined) return folder;
    } else if (which === 'previous') {
      const earlier = (await this.list()).filter(
        (folder) => last === undefined || byAge(basename(folder), basename(last)) < 0,
      );
      if (earlier.length > 0) return earlier.at(-1)!;
    } else return followed(which);
    throw new LgdError('FILE_NOT_FOUND', `there is no ${which} checkpoint in ${this.folder}.`, {
      mend: which === 'last' ? 'Check the run folder, or start the run anew' : 'Resume from last',
    });
  }

  /**
   * The whole checkpoint of the same step and content, checked, if there is one: a process died before its links
   * pointed there.
   */
  async #sameAs(partial: string, step: number): Promise<string | undefined> {
    const wanted = await readFile(join(partial, manifestFile), 'utf8');
    for (const folder of await this.list()) {
      if (stepOf(folder) !== step) continue;
      const found = await readFile(join(folder, manifestFile), 'utf8').catch(() => undefined);
      if (
        found === wanted &&
        (await checkFiles(folder, await readManifest(folder)).then(
          () => true,
          () => false,
        ))
      )
        return basename(folder);
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
    const best = await this.target('best');
    const upToNow = (await this.list()).filter((folder) => byAge(basename(folder), latest) <= 0);
    const kept = new Set([...upToNow.slice(-keep), best]);
    for (const folder of await this.list()) {
      if (kept.has(folder)) continue;
      await rm(join(folder, manifestFile)); // from here on it no longer counts
      await rm(folder, { recursive: true });
    }
  }
}

/** About what a checkpoint takes on the disk. */
function bytesOf({
  weights,
  momentum,
  secondMoment = {},
  bank,
  semantic: { visual, seen, queue },
}: CheckpointContent): number {
  const arrays = [
    ...[weights, momentum, secondMoment].flatMap((record) => Object.values(record).map(({ data }) => data)),
    bank?.data,
    visual,
    seen,
    queue,
  ];
  return arrays.reduce((sum, array) => sum + (array?.byteLength ?? 0), 0);
}

async function writeContent(folder: string, content: CheckpointContent, best: Manifest['best']): Promise<void> {
  const { info, weights, optimizer, bank, semantic, online, progress } = content;
  await writeStudent(join(folder, studentFile), info, weights);
  await bank?.save(join(folder, bankFile));
  const rows = (data: Float32Array): TensorRecord => ({
    shape: [data.length / info.embeddingSize, info.embeddingSize],
    data,
  });
  const tensors: [string, TensorRecord][] = (Object.keys(momentPrefixes) as Moment[]).flatMap((moment) =>
    Object.entries(content[moment] ?? {}).map(([name, tensor]): [string, TensorRecord] => [
      `${momentPrefixes[moment]}${name}`,
      tensor,
    ]),
  );
  if (semantic.visual !== undefined) tensors.push(['visual_bank', rows(semantic.visual)]);
  if (semantic.seen !== undefined) tensors.push(['seen', { shape: [semantic.seen.length], data: semantic.seen }]);
  if (semantic.queue !== undefined) tensors.push(['queue', rows(semantic.queue)]);
  for (const [name, data] of Object.entries<Float32Array>({ ...online }))
    tensors.push([`${onlinePrefix}${name}`, { shape: [data.length], data }]);
  await writeSafetensors(join(folder, stateFile), tensors, {
    format: stateFormat,
    version,
    optimizer,
    queuePosition: String(semantic.queuePosition ?? 0),
    queueFilled: String(semantic.queueFilled ?? 0),
    progress: JSON.stringify(progress),
  });
  const files: Manifest['files'] = {};
  for (const name of [studentFile, stateFile, ...(bank === undefined ? [] : [bankFile])]) {
    const path = join(folder, name);
    files[name] = { bytes: (await stat(path)).size, sha256: await hashFile(path) };
  }
  const manifest: Manifest = { format: manifestFormat, version, step: info.step, epoch: info.epoch, best, files };
  await writeJson(join(folder, manifestFile), manifest);
  await syncFolder(folder);
}

/** The student in a checkpoint, as it lies there. @throws LgdError FILE_NOT_FOUND, BAD_FILE, BAD_MODEL */
async function readUnchecked(folder: string): Promise<ReturnType<typeof studentContent>> {
  const file = join(folder, studentFile);
  return studentContent(await readSafetensors(file), file);
}

/**
 * Reads a checkpoint folder after checking every file against the manifest.
 * @throws LgdError BAD_CHECKPOINT naming the file at fault
 */
export async function readCheckpoint(
  given: string,
): Promise<CheckpointContent & { folder: string; manifest: Manifest }> {
  const folder = await realpath(given).catch(() => given); // `last` moves while a run goes on
  const manifest = await readManifest(folder);
  for (const name of [studentFile, stateFile])
    if (manifest.files[name] === undefined) throw badCheckpoint(join(folder, manifestFile), `it does not list ${name}`);
  await checkFiles(folder, manifest);
  try {
    const { info, weights } = await readUnchecked(folder);
    const { tensors, metadata } = await readSafetensors(join(folder, stateFile));
    const below = (prefix: string): WeightRecord =>
      Object.fromEntries(
        [...tensors].flatMap(([name, { shape, data }]) =>
          name.startsWith(prefix) ? [[name.slice(prefix.length), { shape, data: data as Float32Array }] as const] : [],
        ),
      );
    const optimizer = metadata['optimizer'] ?? 'sgd'; // early checkpoints do not say, and SGD left them
    if (optimizer !== 'sgd' && optimizer !== 'adamw')
      throw new LgdError('BAD_CHECKPOINT', `its optimiser ${optimizer} is none of this version's.`, {
        mend: 'Resume with the version that wrote it',
      });
    const moments = {
      momentum: below(momentPrefixes.momentum),
      ...(optimizer === 'adamw' && { secondMoment: below(momentPrefixes.secondMoment) }),
    };
    const semantic: SemanticState = {
      visual: tensors.get('visual_bank')?.data as Float32Array | undefined,
      seen: tensors.get('seen')?.data as Uint8Array | undefined,
      queue: tensors.get('queue')?.data as Float32Array | undefined,
      queuePosition: Number(metadata['queuePosition']),
      queueFilled: Number(metadata['queueFilled']),
    };
    const probe = [...tensors].flatMap(([name, { data }]) =>
      name.startsWith(onlinePrefix) ? [[name.slice(onlinePrefix.length), data as Float32Array] as const] : [],
    );
    const online = probe.length === 0 ? undefined : (Object.fromEntries(probe) as OnlineState);
    const bank =
      manifest.files[bankFile] === undefined ? undefined : await TextualSemanticsBank.load(join(folder, bankFile));
    return {
      folder,
      manifest,
      info,
      weights,
      optimizer,
      ...moments,
      bank,
      semantic,
      online,
      progress: JSON.parse(metadata['progress'] ?? 'null') as unknown,
    };
  } catch (cause) {
    throw new LgdError('BAD_CHECKPOINT', `the checkpoint ${folder} cannot be used: ${(cause as Error).message}`, {
      mend: takeAnother,
      cause,
    });
  }
}

/** @throws LgdError BAD_CHECKPOINT */
async function checkFiles(folder: string, { files }: Manifest): Promise<void> {
  for (const [name, expected] of Object.entries(files)) await checkFile(join(folder, name), expected);
}
