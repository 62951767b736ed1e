/**
 * WebDataset: images in tar files ("shards"), one after the other. Members with the same path up to the first dot of their name are a sample: an image, and its label in
 * `.cls` (a number) or `.json` (`cls`, `label` or `class_id`; `class_name`). Names of classes may stand in `classnames.txt` or `classes.txt` beside the shards. Where no image has such a label,
 * the folders in the shards are the classes.
 *
 * Only headers are read on opening; images are read where they lie.
 */
import { open, readdir, readFile, stat, type FileHandle } from 'node:fs/promises';
import { basename, dirname, extname, join } from 'node:path';
import type { Pax as PaxRecord } from 'tar';
import { LgdError, systemErrorCode, throwIfAborted } from '../errors.js';
import { plainId } from './image-id.js';
import { inOrder } from './in-order.js';
import { readOfMany } from './read-patiently.js';
import { classesOf, imageExtensions, type ImageSource } from './sources.js';

const block = 512;
const shardsAtOnce = 8;
const classFiles = ['classnames.txt', 'classes.txt'];

interface Sample {
  id: string;
  shard: string;
  offset: number;
  bytes: number;
  label: number | undefined;
  className: string | undefined;
}

/**
 * The images of tar shards, in the shards' order. Ids are `shard.tar/path/in/it.jpg`.
 * @param path a .tar file, a folder of them, or a pattern such as `shard-{000..123}.tar`
 * @throws LgdError FILE_NOT_FOUND, BAD_DATASET (no images, damaged, compressed), ABORTED
 */
export async function openTarShards(path: string, { byFolder, signal }: { byFolder: boolean; signal?: AbortSignal | undefined }): Promise<ImageSource> {
  const shards = await shardsOf(path);
  const samples: Sample[] = [];
  for await (const found of inOrder(shards, shardsAtOnce, (shard) => scan(shard, signal))) for (const sample of found) samples.push(sample);
  if (samples.length === 0) throw new LgdError('BAD_DATASET', `no images in the tar files of ${path}.`, { allowed: `members ending in ${[...imageExtensions].join(' ')}`, mend: 'Give shards that hold images' });
  return { root: path, ids: samples.map(({ id }) => id), ...(await labelsOf(samples, path, dirname(shards[0]!), byFolder)), read: (index) => readSample(samples[index]!) };
}

/** The files that a path with `{first..last}` names, or those of a folder; sorted. */
async function shardsOf(path: string): Promise<string[]> {
  const range = /^(.*)\{(\d+)\.\.(\d+)\}(.*)$/u.exec(path);
  if (range !== null) {
    const [, before, first, last, after] = range as unknown as [string, string, string, string, string];
    return Array.from({ length: Math.max(0, Number(last) - Number(first) + 1) }, (_, i) => `${before}${String(Number(first) + i).padStart(first.length, '0')}${after}`);
  }
  const found = await stat(path).catch((cause: unknown) => {
    throw new LgdError('FILE_NOT_FOUND', `there is no ${path}.`, { mend: 'Check the path', cause });
  });
  if (found.isFile()) return [path];
  return (await readdir(path)).filter((name) => extname(name) === '.tar').sort().map((name) => join(path, name));
}

async function scan(shard: string, signal: AbortSignal | undefined): Promise<Sample[]> {
  const file = await open(shard, 'r').catch((cause: unknown) => {
    const missing = systemErrorCode(cause) === 'ENOENT';
    throw new LgdError(missing ? 'FILE_NOT_FOUND' : 'BAD_DATASET', missing ? `there is no file ${shard}.` : `cannot read ${shard}.`, { mend: 'Check the path and its permissions', cause });
  });
  try {
    const images = new Map<string, Sample>();
    const labels = new Map<string, { label?: number; className?: string }>();
    for await (const { path, offset, bytes } of members(file, shard, signal)) {
      const name = basename(path);
      const dot = name.indexOf('.', 1);
      if (dot === -1 || name.startsWith('.')) continue;
      const key = join(dirname(path), name.slice(0, dot));
      const ending = extname(name).toLowerCase();
      if (imageExtensions.has(ending)) {
        if (!images.has(key)) images.set(key, { id: `${basename(shard)}/${path}`, shard, offset, bytes, label: undefined, className: undefined });
      } else if (ending === '.cls' || ending === '.json') {
        labels.set(key, { ...labels.get(key), ...readLabel(await readAt(file, offset, bytes, shard), ending, `${shard}: ${path}`) });
      }
    }
    for (const [key, image] of images) Object.assign(image, labels.get(key));
    return [...images.values()];
  } finally {
    await file.close();
  }
}

interface Member {
  path: string;
  offset: number;
  bytes: number;
}

async function* members(file: FileHandle, shard: string, signal: AbortSignal | undefined): AsyncGenerator<Member, void, undefined> {
  const { size } = await file.stat();
  const bad = (what: string) => new LgdError('BAD_DATASET', `${shard} ${what}.`, { mend: 'Give whole .tar files that are not compressed' });
  const { Header, Pax } = await import('tar');
  let globals: PaxRecord | undefined;
  let extended: PaxRecord | { path: string } | undefined;
  for (let at = 0; at + block <= size;) {
    throwIfAborted(signal, 'reading the tar files');
    const header = new Header(await readAt(file, at, block, shard), 0, extended, globals);
    if (header.nullBlock) return;
    if (!header.cksumValid) throw bad(`is no tar file, or damaged: there is no header at byte ${at}`);
    const bytes = header.size ?? 0;
    const offset = at + block;
    if (offset + bytes > size) throw bad(`ends in the middle of ${header.path}`);
    at = offset + Math.ceil(bytes / block) * block;
    const content = async () => (await readAt(file, offset, bytes, shard)).toString('utf8');
    const { type } = header;
    if (type === 'ExtendedHeader') extended = Pax.parse(await content(), extended as PaxRecord | undefined, false);
    else if (type === 'GlobalExtendedHeader') globals = Pax.parse(await content(), globals, true);
    else if (type === 'NextFileHasLongPath' || type === 'OldGnuLongPath') extended = { ...extended, path: (await content()).replace(/\0.*/su, '') };
    else {
      if (type === 'File' || type === 'OldFile' || type === 'ContiguousFile') yield { path: plainId(header.path ?? ''), offset, bytes };
      extended = undefined; // it was of this member alone
    }
  }
}

async function readAt(file: FileHandle, offset: number, bytes: number, path: string): Promise<Buffer> {
  const buffer = Buffer.alloc(bytes);
  const { bytesRead } = await file.read(buffer, 0, bytes, offset);
  if (bytesRead < bytes) throw new LgdError('BAD_DATASET', `${path} became shorter while it was read.`, { mend: 'Fetch it again' });
  return buffer;
}

function readLabel(content: Buffer, ending: string, where: string): { label?: number; className?: string } {
  const text = content.toString('utf8').trim();
  if (ending === '.cls') {
    if (!/^\d+$/u.test(text)) throw new LgdError('BAD_DATASET', `${where} is no label: ${JSON.stringify(text.slice(0, 40))}.`, { allowed: 'a whole number from 0', mend: 'Mend that member' });
    return { label: Number(text) };
  }
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    return {}; // of the image's maker, not of ours
  }
  const fields = (typeof json === 'object' && json !== null ? json : {}) as Record<string, unknown>;
  const label = [fields['cls'], fields['label'], fields['class_id']].find((value) => Number.isInteger(value) && (value as number) >= 0) as number | undefined;
  const name = fields['class_name'];
  return { ...(label !== undefined && { label }), ...(typeof name === 'string' && { className: name }) };
}

/** Labels, where every sample has one; where none has, by their folders, if they are wanted. */
async function labelsOf(samples: readonly Sample[], root: string, folder: string, byFolder: boolean): Promise<{ labels?: Int32Array; classNames?: string[] }> {
  if (byFolder && samples.every(({ label }) => label === undefined)) return labelsByFolder(samples, root);
  if (samples.some(({ label }) => label === undefined)) return {};
  const labels = Int32Array.from(samples, ({ label }) => label!);
  const classes = labels.reduce((most, label) => Math.max(most, label + 1), 0);
  for (const name of classFiles) {
    const text = await readFile(join(folder, name), 'utf8').catch(() => undefined);
    const lines = text?.split(/\r?\n/u).map((line) => line.trim()).filter((line) => line !== '');
    if (lines !== undefined && lines.length >= classes) return { labels, classNames: lines };
  }
  const classNames = Array.from({ length: classes }, (_, label) => String(label));
  for (const { label, className } of samples) if (className !== undefined) classNames[label!] = className;
  return { labels, classNames };
}

/** Labels by the folders in the shards, below those that all images lie in: `tar c photos` writes `photos/` before every name. */
function labelsByFolder(samples: readonly Sample[], root: string): { labels?: Int32Array; classNames?: string[] } {
  let paths = samples.map(({ id }) => id.slice(id.indexOf('/') + 1));
  for (;;) {
    const common = paths[0]!.slice(0, paths[0]!.indexOf('/') + 1);
    if (common === '' || !paths.every((path) => path.startsWith(common) && path.includes('/', common.length))) break;
    paths = paths.map((path) => path.slice(common.length));
  }
  return paths.every((path) => path.includes('/')) && !areNumbersOfShards(samples, paths) ? classesOf(root, paths) : {};
}

/** Has each shard a folder of its own, whose name is a number? That counts shards, and is no class. */
function areNumbersOfShards(samples: readonly Sample[], paths: readonly string[]): boolean {
  const folders = new Map<string, string>();
  for (const [i, { shard }] of samples.entries()) {
    const folder = paths[i]!.slice(0, paths[i]!.indexOf('/'));
    if (!/^\d+$/u.test(folder) || (folders.get(shard) ?? folder) !== folder) return false;
    folders.set(shard, folder);
  }
  return folders.size > 1 && new Set(folders.values()).size === folders.size;
}

async function readSample({ shard, offset, bytes }: Sample): Promise<Buffer> {
  return readOfMany(shard, (file) => readAt(file, offset, bytes, shard));
}
