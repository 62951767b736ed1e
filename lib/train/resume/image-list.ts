/**
 * Which images a run was begun with: `images.tsv.gz` in the run folder, a line an image in order: place in the source,
 * bytes of its file (empty where the source does not tell), name as a JSON string. A run that continues is held to it:
 * what differs is named, and images that are gone have stand-ins.
 */
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { createGunzip, createGzip } from 'node:zlib';
import type { Config } from '../../config/config.js';
import type { BrokenImage } from '../../data/decode.js';
import { eachId, hashImages, IdPlaces, plainId } from '../../data/image-id.js';
import { LgdError } from '../../errors.js';
import { hasCheckpoint } from '../../files/checkpoint-folders.js';
import { joinedLines, wholeLines } from '../../files/lines.js';
import { openToRead } from '../../files/open.js';
import { writeFileAtomically } from '../../files/write-file.js';
import { imageListFile, readRunConfig } from '../../runs/run-folder.js';
import type { Dataset } from '../batch.js';

/** The images that a run's order and draws are made for; all of them are there, or have a stand-in. */
export interface RunImages {
  length: number;
  /** Places in the source, which name the draws. */
  sourceIndex: Int32Array;
  /** SHA-256 of places and names: tells a checkpoint that it continues with its own images. */
  hash: string;
  /** Index into the data set of each image; undefined where it is the image's own. */
  standIns: Int32Array | undefined;
  /** Images that were there when the run began and are not now. */
  gone: readonly BrokenImage[];
}

/** Why an image is left out that is not there any more. */
export const goneReason = 'it is gone since the run began';

/** The images of a run that begins. */
export async function imagesOf(
  { ids, sourceIndex, length }: Dataset,
  signal: AbortSignal | undefined,
): Promise<RunImages> {
  return { length, sourceIndex, hash: await hashImages(ids, sourceIndex, signal), standIns: undefined, gone: [] };
}

/** Writes the list into a run folder. @throws LgdError NOT_WRITABLE */
export async function writeImageList(runFolder: string, { ids, sourceIndex, fileBytes }: Dataset): Promise<void> {
  const lines = joinedLines(ids, (id, i) => `${sourceIndex[i]}\t${fileBytes?.[i] ?? ''}\t${JSON.stringify(id)}`);
  await writeFileAtomically(
    join(runFolder, imageListFile),
    await buffer(Readable.from(lines).pipe(createGzip({ level: 1 }))),
  );
}

interface Listed {
  ids: string[];
  /** Names as they were written, of which the run's hash is. */
  names: string[];
  places: number[];
  /** NaN where the source did not tell. */
  bytes: number[];
}

/** undefined: there is none (the run is of a version that wrote none). @throws LgdError BAD_FILE */
async function readImageList(runFolder: string): Promise<Listed | undefined> {
  const file = join(runFolder, imageListFile);
  if ((await stat(file).catch(() => undefined)) === undefined) return undefined;
  const list: Listed = { ids: [], names: [], places: [], bytes: [] };
  try {
    const unzipped = createGunzip();
    const zipped = (await openToRead(file)).createReadStream();
    try {
      zipped.on('error', (error) => unzipped.destroy(error)).pipe(unzipped);
      for await (const { lines } of wholeLines(unzipped)) for (const line of lines) addLine(list, line);
    } finally {
      zipped.destroy(); // closes the file, which a fault behind it does not
    }
  } catch (cause) {
    throw new LgdError('BAD_FILE', `cannot read ${file}: ${(cause as Error).message}.`, {
      mend: 'Remove it, to continue without looking for what changed among the images',
      cause,
    });
  }
  list.ids = list.names.map(plainId);
  return list;
}

/** @throws Error */
function addLine({ names, places, bytes }: Listed, line: string): void {
  const [, place, size, id] = /^(\d+)\t(\d*)\t(".*")$/u.exec(line) ?? [];
  if (id === undefined) throw new Error(`line ${names.length + 1} is of no image`);
  places.push(Number(place));
  bytes.push(size === '' ? NaN : Number(size));
  names.push(JSON.parse(id) as string);
}

/**
 * Share of a run's images that may be gone when it continues: none where their path is given anew, for a copy must be
 * whole.
 */
async function mostGone({ output, data }: Config): Promise<number> {
  const before = (await readRunConfig(output)) as { data?: { train?: unknown } } | null;
  return before?.data?.train === data.train ? data.maxBrokenShare : 0;
}

/**
 * Looks, before anything is decoded, for the images that a run was begun with. Whether they are the same is for
 * {@link imagesOfContinued} to say.
 * @throws LgdError BAD_CHECKPOINT, TOO_MANY_BROKEN_IMAGES, BAD_FILE, ABORTED
 */
export async function checkStillThere(config: Config, ids: readonly string[], signal?: AbortSignal): Promise<void> {
  const list = (await hasCheckpoint(config.output)) ? await readImageList(config.output) : undefined;
  if (list === undefined) return;
  const { places } = await findImages(list, ids, signal);
  checkGone(
    list,
    list.ids.filter((_, i) => places[i] === -1),
    ids.length,
    await mostGone(config),
  );
}

/** The images of a run among those that are here. */
interface FoundImages {
  /** The index of each, -1 where it is gone. */
  places: Int32Array;
  /** Ids that are here and not the run's. */
  added: string[];
}

/** Most often all are there, in their order: only otherwise is a table of what may be millions of names made. */
async function findImages(
  { ids: listed }: Listed,
  ids: readonly string[],
  signal: AbortSignal | undefined,
): Promise<FoundImages> {
  if (listed.length === ids.length && ids.every((id, i) => plainId(id) === listed[i]))
    return { places: Int32Array.from(ids.keys()), added: [] };
  const each = (names: readonly string[], take: (name: string, index: number) => void) =>
    eachId(names, take, signal, 'looking for the images of the run');
  const here = new IdPlaces();
  await each(ids, (id, i) => here.set(id, i));
  const places = new Int32Array(listed.length).fill(-1);
  const known = new Uint8Array(ids.length);
  await each(listed, (id, i) => {
    const place = here.get(id);
    if (place === undefined) return;
    places[i] = place;
    known[place] = 1;
  });
  const added: string[] = [];
  await each(ids, (id) => {
    if (known[here.get(id)!] === 0) added.push(id);
  });
  return { places, added };
}

function checkGone(list: Listed, gone: readonly string[], count: number, most: number): void {
  if (gone.length <= most * list.ids.length) return;
  if (most === 0) throw otherImages(list, count, [`${gone.length} are not there (${some(gone)})`]);
  throw new LgdError(
    'TOO_MANY_BROKEN_IMAGES',
    `${gone.length} of the ${list.ids.length} images that the run was begun with are gone: ${some(gone)}.`,
    {
      option: 'data.maxBrokenShare',
      found: gone.length / list.ids.length,
      allowed: `to ${most}`,
      mend: 'Bring them back, or allow a larger share',
    },
  );
}

/**
 * The images of a run that continues: those it was begun with. One that is gone is stood in for by the next that is
 * there (the first after the last), so that order and draws of all others stay, and the same images gone give the same
 * bits.
 * @throws LgdError BAD_CHECKPOINT (other images; the message names some), TOO_MANY_BROKEN_IMAGES, BAD_FILE, ABORTED
 */
export async function imagesOfContinued(
  config: Config,
  dataset: Dataset,
  signal: AbortSignal | undefined,
): Promise<RunImages> {
  const list = await readImageList(config.output);
  if (list === undefined) return imagesOf(dataset, signal);
  const reasons = new Map((dataset.broken ?? []).map(({ id, reason }) => [plainId(id), reason]));
  const found = await findImages(list, dataset.ids, signal);
  const gone = list.ids.filter((_, i) => found.places[i] === -1);
  const most = await mostGone(config);
  checkSame(list, dataset, found, most === 0 ? gone : []);
  checkGone(list, gone, dataset.length, most);
  const sourceIndex = Int32Array.from(list.places);
  return {
    length: list.ids.length,
    sourceIndex,
    hash: await hashImages(list.names, sourceIndex, signal),
    standIns: gone.length === 0 ? undefined : standInsOf(found.places),
    gone: gone.map((id) => ({ id, reason: reasons.get(id) ?? goneReason })),
  };
}

/** Refuses images that are not the run's: new ones, ones of another size, another order, and those of `gone`. */
function checkSame(
  list: Listed,
  { ids, fileBytes }: Dataset,
  { places, added }: FoundImages,
  gone: readonly string[],
): void {
  const resized = list.ids.filter(
    (_, i) =>
      places[i] !== -1 &&
      Number.isFinite(list.bytes[i]) &&
      fileBytes !== undefined &&
      fileBytes[places[i]!] !== list.bytes[i],
  );
  const present = places.filter((index) => index !== -1);
  const reordered = present.some((index, i) => i > 0 && index < present[i - 1]!);
  const faults = [
    ...(gone.length > 0 ? [`${gone.length} are not there (${some(gone)})`] : []),
    ...(added.length > 0 ? [`${added.length} are new (${some(added)})`] : []),
    ...(resized.length > 0 ? [`${resized.length} have another size (${some(resized)})`] : []),
    ...(reordered ? ['they come in another order'] : []),
  ];
  if (faults.length > 0) throw otherImages(list, ids.length, faults);
}

function otherImages(list: Listed, count: number, faults: readonly string[]): LgdError {
  return new LgdError(
    'BAD_CHECKPOINT',
    `the run was begun with other images: ${list.ids.length} then, ${count} here; ${faults.join(', ')}.`,
    {
      option: 'data.train',
      mend: 'Resume with the images of that run, none added, changed or removed since',
    },
  );
}

function some(ids: readonly string[]): string {
  return `${ids.slice(0, 3).join(', ')}${ids.length > 3 ? ', ...' : ''}`;
}

/** The index of the image itself, or of the next that is there. */
function standInsOf(found: Int32Array): Int32Array {
  const result = Int32Array.from(found);
  let next = found.find((index) => index !== -1)!; // after the last comes the first
  for (let i = found.length - 1; i >= 0; i--) {
    if (result[i] === -1) result[i] = next;
    else next = result[i]!;
  }
  return result;
}
