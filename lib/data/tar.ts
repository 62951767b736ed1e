/**
 * WebDataset: images in tar files ("shards"), one after the other. Members with the same path up to the first dot of
 * their name are a sample: an image, and its label in `.cls` (a number) or `.json` (`cls`, `label` or `class_id`;
 * `class_name`). Names of classes may stand in `classnames.txt` or `classes.txt` beside the shards. Where no image has
 * such a label, the folders in the shards are the classes.
 *
 * Other images of a sample whose image has one dot in its name (`7.seg.png` beside `7.jpg`) belong to it and are left
 * out; where none has, as in `2024.01.00.jpg`, each is one of its own.
 *
 * Only headers are read on opening; images are read where they lie.
 */
import { basename, dirname, extname, join, sep } from 'node:path';
import { counted } from '../counted.js';
import { LgdError, systemErrorCode } from '../errors.js';
import { filesAt } from '../files/folders.js';
import { membersOf, parsed } from '../files/json.js';
import { closeRead, openToRead } from '../files/open.js';
import { inOrder } from './in-order.js';
import { readOfMany } from './read-patiently.js';
import {
  classesOf,
  imageExtensions,
  numberedClasses,
  otherPictures,
  readClassNames,
  type ImageSource,
} from './sources.js';
import { AheadReader, members, readAt } from './tar-members.js';

const shardsAtOnce = 8;
const classFiles = ['classnames.txt', 'classes.txt'];

interface Label {
  label?: number;
  className?: string;
}

interface Sample extends Label {
  shard: string;
  path: string;
  offset: number;
  bytes: number;
}

/** Why members of a shard that are pictures are left out. */
const reasons = {
  companion: 'it stands beside the image of its sample',
  replaced: 'a later member has the same path', // unpacking would write it over the earlier
  link: 'they are links, which have no bytes of their own (tar --dereference --hard-dereference writes files)',
  undecoded: 'they are of kinds that are not read; convert them if they are wanted',
} as const;
type Reason = keyof typeof reasons;

interface LeftOut {
  path: string;
  why: Reason;
}

/** What is found in a shard: its images, and pictures that are none of them. */
interface Scanned {
  samples: Sample[];
  leftOut: LeftOut[];
}

/**
 * The images of tar shards, in the shards' order. Ids are `shard.tar/path/in/it.jpg`, or
 * `folder/shard.tar/path/in/it.jpg` where shards of several folders have the same name.
 * @param path a .tar file, a folder of them, or a pattern such as `shard-{000..123}.tar`
 * @throws LgdError FILE_NOT_FOUND, BAD_DATASET (no images, damaged, compressed), ABORTED
 */
export async function openTarShards(
  path: string,
  { labelled, signal }: { labelled: boolean; signal?: AbortSignal | undefined },
): Promise<ImageSource> {
  const shards = await shardsOf(path);
  const names = distinctNames(shards);
  const [samples, ids]: [Sample[], string[]] = [[], []];
  const leftOut = new Map<Reason, { count: number; first: string }>();
  let place = 0;
  for await (const found of inOrder(shards, shardsAtOnce, (shard) => scan(shard, signal))) {
    const name = names[place++]!;
    for (const sample of found.samples) {
      samples.push(sample);
      ids.push(`${name}/${sample.path}`);
    }
    for (const { path: member, why } of found.leftOut) {
      const { count, first } = leftOut.get(why) ?? { count: 0, first: `${name}/${member}` };
      leftOut.set(why, { count: count + 1, first });
    }
  }
  const remarks = (Object.keys(reasons) as Reason[]).flatMap((why) => {
    const some = leftOut.get(why);
    if (some === undefined) return [];
    const are = `${counted(some.count, 'image')} in ${path} ${some.count === 1 ? 'is' : 'are'} left out`;
    return [`${are}, such as ${some.first}: ${reasons[why]}`];
  });
  if (samples.length === 0)
    throw new LgdError('BAD_DATASET', `${[`no images in the tar files of ${path}`, ...remarks].join('; ')}.`, {
      allowed: `members ending in ${[...imageExtensions].join(' ')}`,
      mend: 'Give shards that hold images',
    });
  return {
    root: path,
    ids,
    ...(remarks.length > 0 && { remarks }),
    ...(labelled && (await labelsOf(samples, path, dirname(shards[0]!)))),
    read: (index) => readSample(samples[index]!),
  };
}

/** A name for each shard: its file's, or where two have the same, its path from where they differ. */
function distinctNames(shards: readonly string[]): string[] {
  const names = shards.map((shard) => basename(shard));
  if (new Set(names).size === names.length) return names;
  const parts = shards.map((shard) => shard.split(sep));
  let same = 0;
  while (parts.every((part) => part[same] === parts[0]![same])) same++;
  return parts.map((part) => part.slice(same).join('/'));
}

/** The files that a path with `{first..last}` names, or those of a folder; sorted. */
async function shardsOf(path: string): Promise<string[]> {
  const range = /^(.*)\{(\d+)\.\.(\d+)\}(.*)$/u.exec(path);
  if (range !== null) {
    const [, before, first, last, after] = range as unknown as [string, string, string, string, string];
    return Array.from(
      { length: Math.max(0, Number(last) - Number(first) + 1) },
      (_, i) => `${before}${String(Number(first) + i).padStart(first.length, '0')}${after}`,
    );
  }
  return filesAt(path, '.tar');
}

async function scan(shard: string, signal: AbortSignal | undefined): Promise<Scanned> {
  const file = await openToRead(shard).catch((cause: unknown) => {
    if (cause instanceof LgdError) throw cause;
    const missing = systemErrorCode(cause) === 'ENOENT';
    throw new LgdError(
      missing ? 'FILE_NOT_FOUND' : 'BAD_DATASET',
      missing ? `there is no file ${shard}.` : `cannot read ${shard}.`,
      { mend: 'Check the path and its permissions', cause },
    );
  });
  try {
    const found = await file.stat();
    if (!found.isFile())
      throw new LgdError('BAD_DATASET', `${shard} is no regular file.`, {
        mend: 'Write what it gives into a file, and give that',
      });
    const images = new Map<string, Sample>();
    const labels = new SampleLabels();
    const leftOut: LeftOut[] = [];
    const reader = new AheadReader(file, found.size, shard);
    for await (const { path, offset, bytes, isLink } of members(reader, signal)) {
      const name = basename(path);
      if (name.indexOf('.', 1) === -1 || name.startsWith('.')) continue;
      const ending = extname(name).toLowerCase();
      if (isLink) {
        if (imageExtensions.has(ending)) leftOut.push({ path, why: 'link' });
      } else if (imageExtensions.has(ending)) {
        if (images.has(path)) leftOut.push({ path, why: 'replaced' });
        images.set(path, { shard, path, offset, bytes });
      } else if (otherPictures.has(ending)) {
        leftOut.push({ path, why: 'undecoded' });
      } else if (ending === '.cls' || ending === '.json') {
        labels.add(path, readLabel(await reader.read(offset, bytes), ending, `${shard}: ${path}`));
      }
    }
    const { samples, companions } = imagesOfSamples(images, labels);
    return { samples, leftOut: [...leftOut, ...companions.map((path) => ({ path, why: 'companion' }) as const)] };
  } catch (cause) {
    throw cause instanceof LgdError
      ? cause
      : new LgdError('BAD_DATASET', `cannot read ${shard}: ${(cause as Error).message}.`, {
          mend: 'Check that it is a file, and its disk',
          cause,
        });
  } finally {
    await closeRead(file);
  }
}

/** A member's path up to the first dot of its name: WebDataset's key of a sample. */
function keyOf(path: string): string {
  const start = path.lastIndexOf('/') + 1;
  return path.slice(0, path.indexOf('.', start + 1));
}

/** A member's path without its last ending. */
function stemOf(path: string): string {
  return path.slice(0, path.lastIndexOf('.'));
}

/** Labels of a shard's samples. */
class SampleLabels {
  readonly #ofKey = new Map<string, Label>();
  /** By the whole name but its ending: a key with several images may have a label for each. */
  readonly #ofStem = new Map<string, Label>();

  add(path: string, label: Label): void {
    const [key, stem] = [keyOf(path), stemOf(path)];
    this.#ofKey.set(key, { ...this.#ofKey.get(key), ...label });
    this.#ofStem.set(stem, { ...this.#ofStem.get(stem), ...label });
  }

  /** @param alone whether it is its sample's only image: any label of the sample is then its own */
  of(path: string, alone: boolean): Label | undefined {
    const key = keyOf(path);
    return alone ? this.#ofKey.get(key) : { ...this.#ofStem.get(key), ...this.#ofStem.get(stemOf(path)) };
  }
}

function imagesOfSamples(
  images: ReadonlyMap<string, Sample>,
  labels: SampleLabels,
): { samples: Sample[]; companions: string[] } {
  const plain = new Map<string, string>();
  const counts = new Map<string, number>();
  for (const path of images.keys()) {
    const key = keyOf(path);
    counts.set(key, (counts.get(key) ?? 0) + 1);
    if (stemOf(path) === key && !plain.has(key)) plain.set(key, path);
  }
  const found: ReturnType<typeof imagesOfSamples> = { samples: [], companions: [] };
  for (const [path, image] of images) {
    const key = keyOf(path);
    const own = plain.get(key);
    if (own !== undefined && own !== path) found.companions.push(path);
    else found.samples.push(Object.assign(image, labels.of(path, own === path || counts.get(key) === 1)));
  }
  return found;
}

function readLabel(content: Buffer, ending: string, where: string): Label {
  const text = content.toString('utf8').trim();
  if (ending === '.cls') {
    if (!/^\d+$/u.test(text))
      throw new LgdError('BAD_DATASET', `${where} is no label: ${JSON.stringify(text.slice(0, 40))}.`, {
        allowed: 'a whole number from 0',
        mend: 'Mend that member',
      });
    return { label: Number(text) };
  }
  const fields = membersOf(parsed(text)); // of what is no JSON, none: it is of the image's maker, not of ours
  const label = [fields['cls'], fields['label'], fields['class_id']].find(
    (value) => Number.isInteger(value) && (value as number) >= 0,
  ) as number | undefined;
  const name = fields['class_name'];
  return { ...(label !== undefined && { label }), ...(typeof name === 'string' && { className: name }) };
}

/** Labels, where every sample has one; where none has, by their folders. */
async function labelsOf(
  samples: readonly Sample[],
  root: string,
  folder: string,
): Promise<{ labels?: Int32Array; classNames?: string[] }> {
  if (samples.every(({ label }) => label === undefined)) return labelsByFolder(samples, root);
  if (samples.some(({ label }) => label === undefined)) return {};
  const labels = Int32Array.from(samples, ({ label }) => label!);
  const classes = samples.reduce((most, { label }) => Math.max(most, label! + 1), 0);
  for (const name of classFiles) {
    const classNames = await readClassNames(join(folder, name), classes);
    if (classNames !== undefined) return { labels, classNames };
  }
  const classNames = numberedClasses(classes - 1, root);
  for (const { label, className } of samples) if (className !== undefined) classNames[label!] = className;
  return { labels, classNames };
}

/**
 * Labels by the folders in the shards, below those that all images lie in: `tar c photos` writes `photos/` before every
 * name.
 */
function labelsByFolder(samples: readonly Sample[], root: string): { labels?: Int32Array; classNames?: string[] } {
  let paths: readonly string[] = samples.map(({ path }) => path);
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
