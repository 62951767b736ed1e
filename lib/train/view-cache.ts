/**
 * Teacher embeddings of views that come back: `teacherCache.views` of each image, in a file that later epochs, and
 * later runs with other students, read instead of running the teacher.
 *
 * The file: 4096 bytes of JSON, padded with blanks, that say what the embeddings depend on; then a row for each view of
 * each image, view by view (native/semantic/row_file.h). View v of an image is the draw of (seed, epoch v, image): the
 * seeds of all views are those three numbers, so that a view is cut anew whenever it is needed, and embedding and
 * pixels always belong together.
 */
import { open, readdir, realpath, statfs, type FileHandle } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { createHash } from 'node:crypto';
import type { NativeAddon, RowFileHandle, TensorHandle } from '../addon/native.js';
import { checkArgument, checkOptions, optionTable } from '../arguments.js';
import type { Config } from '../config/config.js';
import type { Device } from '../device.js';
import { hasCode, LgdError, writeError } from '../errors.js';
import { isDiskFull } from '../files/disk-full.js';
import { statIfThere } from '../files/folders.js';
import { membersOf, parsed } from '../files/json.js';
import { closeRead } from '../files/open.js';
import { Lifetime } from '../lifetime.js';
import { writeFileAtomically } from '../files/write-file.js';
import type { AnyTeacher } from '../models/index.js';
import { fingerprintOf } from '../models/teachers/ask.js';
import { viewCacheFile } from '../runs/run-folder.js';
import type { Batch, Dataset } from './batch.js';
import { imagesOf } from './resume/image-list.js';

/** What a cache is opened for. */
export interface ViewCacheOptions {
  device: Device;
  teacher: AnyTeacher;
  config: Config;
  /** Storage of the teacher's activations. */
  precision: string;
  dataset: Dataset;
  /** The images of the run, in their order: how many, their places in the source, and a hash of places and names. */
  images: { length: number; sourceIndex: Int32Array; hash: string };
  signal?: AbortSignal | undefined;
}

const viewCacheOptions = optionTable<ViewCacheOptions>()('device teacher config precision dataset images signal?');

const headerBytes = 4096;

/** The file of a configuration's cache: `teacherCache.file`, or the one in its run folder. */
export function viewCachePath({ output, teacherCache }: Config): string {
  return teacherCache.file ?? join(output, viewCacheFile);
}

/**
 * Teacher embeddings of views that come back, in a memory-mapped file (docs/formats.md). Open it with
 * {@link TeacherViewCache.open}, hand it to `Distiller.useViewCache`; `Distiller.run` does both by
 * `teacherCache.views`.
 */
export class TeacherViewCache implements Disposable {
  /** Whose work reads and writes it. */
  readonly device: Device;
  readonly #life = new Lifetime('the cache of teacher views', 'Open it again with TeacherViewCache.open()');
  readonly #dataset: Dataset;
  readonly #owned: RowFileHandle;
  readonly #present: Uint8Array;
  /** Which image of the run each place of the source is; -1: none. */
  readonly #imageAt: Int32Array;

  private constructor(
    readonly path: string,
    readonly images: number,
    readonly views: number,
    readonly embeddingSize: number,
    /** Rows that were not what their checksums say, and will be filled again. */
    readonly damaged: number,
    {
      device,
      dataset,
      sourceIndex,
      file,
      present,
    }: { device: Device; dataset: Dataset; sourceIndex: Int32Array; file: RowFileHandle; present: Uint8Array },
  ) {
    [this.device, this.#dataset, this.#owned, this.#present] = [device, dataset, file, present];
    this.#imageAt = new Int32Array(1 + sourceIndex.reduce((most, place) => Math.max(most, place), -1)).fill(-1);
    sourceIndex.forEach((place, image) => (this.#imageAt[place] = image));
  }

  /**
   * Opens the cache of a configuration, or begins it. A cache with fewer views grows; one with more is read as far as
   * it is needed.
   * @throws LgdError BAD_CONFIG naming what differs, where it was made with another teacher, resolution, recipe, seed
   *   or image list, and for a teacher of embeddings; BAD_FILE, NOT_WRITABLE (also where the disk has no room for it),
   *   ABORTED
   */
  static async open(options: ViewCacheOptions): Promise<TeacherViewCache> {
    checkOptions(options, 'TeacherViewCache.open()', viewCacheOptions);
    const { device, teacher, config, dataset, images } = options;
    checkArgument('device', device);
    checkArgument('teacher', teacher);
    checkArgument('dataset', dataset);
    const path = viewCachePath(config);
    const { views } = config.teacherCache;
    const { embeddingSize } = teacher;
    await begin(path, await keyOf(options));
    const found = await openRows(device, { path, rows: images.length * views, dimension: embeddingSize });
    return new TeacherViewCache(path, images.length, views, embeddingSize, found.damaged, {
      device,
      dataset,
      sourceIndex: images.sourceIndex,
      file: found.file,
      present: found.present,
    });
  }

  get #file(): RowFileHandle {
    this.checkAlive();
    return this.#owned;
  }

  /** Embeddings that are known to be there. */
  get filled(): number {
    return this.#present.reduce((sum, one) => sum + one, 0);
  }

  /** Bytes of the file. */
  get bytes(): number {
    return fileBytes(this.#present.length, this.embeddingSize);
  }

  /**
   * Rows of a batch whose `epoch` is the number of its view; -1 for an image that stands in for another, which has no
   * row.
   */
  rowsOf({ images, shown = images, drawIds, epoch }: Batch): Float64Array {
    const { sourceIndex } = this.#dataset;
    return Float64Array.from(drawIds, (place, i) =>
      sourceIndex[shown[i]!] === place ? epoch * this.images + this.#imageAt[place]! : -1,
    );
  }

  /** Are all of these embeddings there? */
  has(rows: Float64Array): boolean {
    return rows.every((row) => row >= 0 && this.#present[row] === 1);
  }

  /** Queues reading embeddings that are there into a tensor [B,D]. */
  load(rows: Float64Array, tensor: TensorHandle): void {
    this.device.addon.loadRows(this.#file, { rows }, tensor);
  }

  /**
   * Queues keeping a batch's embeddings; the tensor [B,D] then holds them as {@link load} will give them: at length 1,
   * in half precision.
   */
  keep(rows: Float64Array, tensor: TensorHandle): void {
    this.device.addon.keepRows(this.#file, { rows }, tensor);
    for (const row of rows) if (row >= 0) this.#present[row] = 1;
  }

  /**
   * Takes it that no embedding is there, after a fault that may have kept some from being written. Those that are there
   * are found when they are to be written again.
   */
  forget(): void {
    this.#present.fill(0);
  }

  /** @throws LgdError DISPOSED */
  checkAlive(): void {
    this.#life.check();
  }

  /** Unmaps the file once queued work is done; later calls throw DISPOSED. */
  dispose(): void {
    if (this.#life.end()) this.device.addon.release(this.#owned);
  }

  /** For `using`: {@link dispose}. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/**
 * Looks at the file that `teacherCache.file` names before there is a folder of the run, which {@link
 * TeacherViewCache.open} needs. A file that is not there, or that overwriting the folder removes, is left to that.
 * @throws LgdError as {@link TeacherViewCache.open} does of a file that holds other views
 */
export async function checkViewCache(
  options: Pick<ViewCacheOptions, 'teacher' | 'config' | 'precision' | 'dataset' | 'signal'>,
): Promise<void> {
  const { config, dataset, signal } = options;
  const { views, file } = config.teacherCache;
  if (views === 0 || file === undefined || (await statIfThere(file)) === undefined) return;
  if (config.overwrite) {
    const place = async (path: string) => realpath(path).catch(() => path);
    if ((await place(file)) === (await place(join(config.output, viewCacheFile)))) return;
  }
  await compare(file, await keyOf({ ...options, images: await imagesOf(dataset, signal) }));
}

/** @throws LgdError BAD_CONFIG: a teacher of embeddings has no views to keep */
export function checkTeacherOfViews(teacher: AnyTeacher, config: Config): void {
  if (config.teacherCache.views > 0 && teacher.kind === 'precomputed') throw noViews(config);
}

function noViews({ teacherCache: { views } }: Config): LgdError {
  return new LgdError('BAD_CONFIG', 'this teacher is a file of embeddings already.', {
    option: 'teacherCache.views',
    found: views,
    allowed: '0',
    mend: 'Leave it out',
  });
}

function fileBytes(rows: number, embeddingSize: number): number {
  return headerBytes + rows * (4 + 4 * Math.ceil(embeddingSize / 2));
}

/**
 * Looks, before images are decoded, whether the disk has room for the rows of a run that a file lacks. Where nobody can
 * tell, it is left to the run.
 * @param images of the run, of which broken ones may still be left out
 * @throws LgdError NOT_WRITABLE
 */
export async function checkViewRoom(teacher: AnyTeacher, config: Config, images: number): Promise<void> {
  const { views } = config.teacherCache;
  if (views === 0 || teacher.kind === 'precomputed') return;
  const named = viewCachePath(config);
  const path = await realpath(named).catch(() => named); // a link may lead to another disk
  const disk = await statfs(dirname(path)).catch(() => undefined);
  if (disk === undefined || disk.blocks === 0) return; // 0: a tmpfs without a limit, a mount that does not tell
  const free = disk.bsize * (process.geteuid?.() === 0 ? disk.bfree : disk.bavail);
  // a file of which a part is a hole, or packed by the file system, may need more than this
  const held = await bytesOf(new Set([path, ...(config.overwrite ? await entriesOf(config.output) : [])]));
  const whole = Math.floor(images * (1 - config.data.maxBrokenShare));
  if (fileBytes(whole * views, teacher.embeddingSize) <= held + free) return;
  throw noRoom(images * views, teacher.embeddingSize, `${Math.floor(free / 2 ** 20)} MiB are free at ${path}.`);
}

async function entriesOf(folder: string): Promise<string[]> {
  const place = await realpath(folder).catch(() => folder);
  return (await readdir(place, { recursive: true }).catch(() => [])).map((name) => join(place, name));
}

async function bytesOf(paths: Iterable<string>): Promise<number> {
  let sum = 0;
  for (const path of paths) sum += (await statIfThere(path))?.size ?? 0;
  return sum;
}

async function openRows(
  { addon, handle }: Device,
  { path, rows, dimension }: { path: string; rows: number; dimension: number },
): ReturnType<NativeAddon['openRows']> {
  try {
    return await addon.openRows(handle, { path, offset: headerBytes, rows, dimension });
  } catch (cause) {
    if (!hasCode(cause, 'NOT_WRITABLE')) throw cause;
    if (isDiskFull(cause)) throw noRoom(rows, dimension, cause.message, cause);
    throw new LgdError('NOT_WRITABLE', `there can be no file of teacher embeddings: ${cause.message}`, {
      option: 'teacherCache.views',
      mend: 'Give teacherCache.file a place on a local disk (a mounted bucket needs a cache of writes)',
      cause,
    });
  }
}

function noRoom(rows: number, dimension: number, why: string, cause?: LgdError): LgdError {
  return new LgdError('NOT_WRITABLE', `there is no room for ${rows} teacher embeddings: ${why}`, {
    option: 'teacherCache.views',
    allowed: `what fits: ${Math.ceil(fileBytes(rows, dimension) / 2 ** 20)} MiB are needed for this many`,
    mend: 'Free that much on that disk, lower it, or give teacherCache.file a place elsewhere',
    cause,
  });
}

/** What embeddings depend on. */
interface CacheKey {
  format: string;
  version: number;
  teacher: string;
  teacherName: string;
  embeddingSize: number;
  resolution: number;
  precision: string;
  recipe: Record<string, unknown>;
  seed: number;
  images: { count: number; hash: string };
  fileBytes: string | null;
}

async function keyOf({
  teacher,
  config,
  precision,
  dataset,
  images,
  signal,
}: Omit<ViewCacheOptions, 'device'>): Promise<CacheKey> {
  if (teacher.kind === 'precomputed') throw noViews(config);
  const { embeddingSize, resolution, mean, std } = teacher;
  return {
    format: 'lgdistill-teacher-views',
    version: 1,
    teacher: await fingerprintOf(teacher, signal),
    teacherName: teacher.id,
    embeddingSize,
    resolution,
    precision: teacher.kind === 'native' ? precision : 'float32',
    recipe: {
      ...config.augment,
      mean,
      std,
      margin: config.data.margin,
      inputs: Math.max(config.data.resolution ?? resolution, resolution),
    },
    seed: config.seed,
    images: { count: images.length, hash: images.hash },
    fileBytes: hashBytes(dataset),
  };
}

/** Of the files' sizes, where the source tells them. */
function hashBytes({ fileBytes }: Dataset): string | null {
  return fileBytes === undefined ? null : createHash('sha256').update(fileBytes).digest('hex');
}

/** Writes the header of a cache that is not there; of one that is, looks whether it is this one. */
async function begin(path: string, key: CacheKey): Promise<void> {
  const text = JSON.stringify(key);
  if (text.length > headerBytes)
    throw new LgdError('BAD_CONFIG', 'the name of the teacher is too long.', {
      option: 'teacher',
      found: key.teacherName,
      mend: 'Rename its folder',
    });
  if ((await statIfThere(path)) === undefined) {
    await writeFileAtomically(path, text.padEnd(headerBytes));
    return;
  }
  await compare(path, key);
}

/** @throws LgdError BAD_CONFIG naming the first thing in which the file's views are others, BAD_FILE */
async function compare(path: string, key: CacheKey): Promise<void> {
  const before = await readKey(path);
  for (const [field, what, option] of [
    ['teacher', 'another teacher', 'teacher'],
    ['embeddingSize', 'another teacher', 'teacher'],
    ['resolution', 'another resolution of the teacher', 'teacher'],
    ['precision', 'another precision of the teacher', 'train.precision'],
    ['recipe', 'another recipe of views', 'augment'],
    ['seed', 'another seed', 'seed'],
    ['images', 'other images', 'data.train'],
    ['fileBytes', 'images of other sizes', 'data.train'],
  ] as const) {
    const [found, allowed] = [key[field], before[field]].map((value) => JSON.stringify(value));
    if (found === allowed || (field === 'fileBytes' && (key.fileBytes === null || before.fileBytes === null))) continue;
    throw new LgdError('BAD_CONFIG', `${path} holds views of ${what} (${option}).`, {
      option: 'teacherCache.file',
      found: differing(key[field], before[field]),
      allowed: differing(before[field], key[field]),
      mend: 'Give another file, or the configuration it was made with',
    });
  }
}

/** A value, or of an object the parts in which it differs from another. */
function differing(value: unknown, other: unknown): string {
  if (typeof value !== 'object' || value === null) return String(value);
  const parts = Object.entries(value).filter(
    ([name, part]) => JSON.stringify(part) !== JSON.stringify((other as Record<string, unknown> | undefined)?.[name]),
  );
  return JSON.stringify(Object.fromEntries(parts));
}

async function readKey(path: string): Promise<CacheKey> {
  let file: FileHandle | undefined;
  let text: string;
  try {
    file = await open(path, 'r+');
    const { buffer, bytesRead } = await file.read(Buffer.alloc(headerBytes), 0, headerBytes, 0);
    text = buffer.toString('utf8', 0, bytesRead);
  } catch (cause) {
    throw writeError(path, cause);
  } finally {
    await closeRead(file);
  }
  const key = membersOf(parsed(text));
  if (key['format'] === 'lgdistill-teacher-views' && key['version'] === 1) return key as unknown as CacheKey;
  throw new LgdError('BAD_FILE', `${path} is no file of teacher views of this version.`, {
    option: 'teacherCache.file',
    mend: 'Give another file',
  });
}
