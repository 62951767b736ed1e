import { createHash } from 'node:crypto';
import { dirname, resolve } from 'node:path';
import { loadAddon } from '../../addon.js';
import { checkOptions, checkText, type OptionTable } from '../../arguments.js';
import { LgdError, throwIfAborted } from '../../errors.js';
import { makeFolder } from '../../files/make-folder.js';
import { endedBy } from '../../lifetime.js';
import { nextTurn } from '../../turn.js';
import type { CacheProgress } from '../decode-all.js';
import type { BrokenImage } from '../decode.js';
import { decoderThreads, tuneForMany } from '../decoders.js';
import { plainId } from '../image-id.js';
import { inOrder } from '../in-order.js';
import { isNotOfTheImage, PatientReader } from '../read-patiently.js';
import { checkBackground, importSharp } from '../sharp.js';
import { checkSource, type ImageSource } from '../sources.js';
import type { PackKind, PackRecipe } from './format.js';
import { packImage, type PackedImage } from './transcode.js';
import { PackWriter } from './writer.js';

/** How {@link packImages} goes about it. */
export interface PackOptions {
  /** The file to write. */
  output: string;
  /** What is kept of each image (default original). */
  as?: PackKind | undefined;
  /**
   * Short side in pixels of jpeg (default 256) and raw (default 280, which is 1.25 times 224); smaller images keep
   * their size.
   */
  shortSide?: number | undefined;
  /** Of jpeg, 1 to 100 (default 90). */
  quality?: number | undefined;
  /** Replace the file if it is there, and begin anew what was not finished. */
  overwrite?: boolean | undefined;
  /** Share of images, 0 to 1, that may be refused (default 0.05). */
  maxBrokenShare?: number | undefined;
  /** Colour behind transparent pixels (default white). */
  background?: string | undefined;
  /** Seconds of work that a kill or a power cut may cost (default 5). */
  syncSeconds?: number | undefined;
  /**
   * Milliseconds between attempts to read an image where the system fails, and not the file (default 100, 300, 1000,
   * 3000).
   */
  readPauses?: readonly number[] | undefined;
  signal?: AbortSignal | undefined;
  /** Called about ten times a second, and at the end. */
  onProgress?: ((progress: CacheProgress) => void) | undefined;
}

const packOptions = {
  output: 'needed',
  as: 'optional',
  shortSide: 'optional',
  quality: 'optional',
  overwrite: 'optional',
  maxBrokenShare: 'optional',
  background: 'optional',
  syncSeconds: 'optional',
  readPauses: 'optional',
  signal: 'optional',
  onProgress: 'optional',
} satisfies OptionTable<PackOptions>;

/** What {@link packImages} wrote. */
export interface PackResult {
  file: string;
  images: number;
  bytes: number;
  /** Images that cannot be decoded, in the source's order; the pack tells of them too. */
  refused: BrokenImage[];
  /** Images that an earlier call had packed. */
  resumed: number;
}

const defaultShortSide: Readonly<Record<PackKind, number>> = { original: 0, jpeg: 256, raw: 280 };
const progressMilliseconds = 100;
const fewRefused = 50;
const idsAtOnce = 8192;

/**
 * Packs images into one file, which is read like a folder of them and faster. The same images and options give the same
 * file, bit for bit.
 *
 * Names of images are kept without `./` before them, as they are compared everywhere. It grows beside its place as
 * `FILE.part`; what ends the process before it is whole leaves FILE as it was, and the same call goes on where it
 * ended.
 * @throws LgdError BAD_OPTION, BAD_DATASET (none can be decoded), TOO_MANY_BROKEN_IMAGES, BAD_CONFIG (another pack was
 *   begun there, or is being written), NOT_WRITABLE, BAD_FILE (also where the system fails to read),
 *   DEPENDENCY_MISSING, ABORTED
 */
export async function packImages(source: ImageSource, options: PackOptions): Promise<PackResult> {
  checkOptions(options, 'packImages()', packOptions);
  checkText(options.output, 'output', 'the file to write');
  checkSource(source);
  const recipe = recipeOf(options);
  const { signal, overwrite = false, syncSeconds = 5 } = options;
  const path = resolve(options.output);
  await makeFolder(dirname(path));
  const { checksum } = loadAddon();
  const writer = await PackWriter.open(path, recipe, {
    task: await taskOf(source, recipe, options),
    overwrite,
    syncSeconds,
    checksum,
  });
  const resumed = writer.next;
  return endedBy(
    () => writer.close(),
    async () => {
      await packAll(source, writer, recipe, options);
      checkRefused(source, writer, options, true);
      throwIfAborted(signal, 'packing');
      const places = writer.entries.map(({ place }) => place);
      const refused = writer.refused.map(({ place, reason }) => ({ id: plainId(source.ids[place]!), reason }));
      const { labels, classNames } = source;
      await writer.finish({
        recipe,
        entries: writer.entries,
        ids: places.map((place) => plainId(source.ids[place]!)),
        labels: labels && Int32Array.from(places, (place) => labels[place]!),
        classNames: classNames && [...classNames],
        source: source.root,
        refused,
      });
      return { file: path, images: places.length, bytes: writer.bytes, refused, resumed };
    },
  );
}

type Outcome = { packed: PackedImage; fileBytes: number } | { reason: string };

async function packAll(
  source: ImageSource,
  writer: PackWriter,
  recipe: PackRecipe,
  options: PackOptions,
): Promise<void> {
  const { signal, onProgress, background, readPauses } = options;
  const reader = new PatientReader({ root: source.root, readPauses, signal });
  const total = source.ids.length;
  const parallel = decoderThreads();
  const sharp = await importSharp();
  checkBackground(sharp, background);
  const restoreSharp = tuneForMany(sharp);
  let reported = 0;
  const report = () => {
    reported = performance.now();
    onProgress?.({ done: writer.next, total, broken: writer.refused.length });
  };
  const pack = async (place: number): Promise<Outcome> => {
    try {
      const file = await reader.read(source.ids[place]!, () => source.read(place));
      return { packed: await packImage(file, recipe, background), fileBytes: file.byteLength };
    } catch (error) {
      if (isNotOfTheImage(error)) throw error; // the pack would lack the image for good
      return { reason: (error as Error).message };
    }
  };
  function* places(): Generator<number> {
    for (let place = writer.next; place < total; place++) yield place;
  }
  report();
  try {
    for await (const outcome of inOrder(places(), 4 * parallel, pack)) {
      if ('packed' in outcome) await writer.add(outcome.packed, outcome.fileBytes);
      else {
        await writer.refuse(outcome.reason);
        checkRefused(source, writer, options, false);
      }
      if (performance.now() - reported >= progressMilliseconds) report();
      throwIfAborted(signal, 'packing');
    }
    report();
  } catch (error) {
    await writer.sync().catch(() => undefined); // what is packed need not be packed again; the error is the first one
    throw error;
  } finally {
    restoreSharp();
  }
}

function recipeOf({
  as = 'original',
  shortSide = defaultShortSide[as],
  quality = 90,
  maxBrokenShare = 0,
}: PackOptions): PackRecipe {
  const check = (good: boolean, option: string, found: unknown, allowed: string): void => {
    if (!good) throw new LgdError('BAD_OPTION', 'out of range.', { option, found, allowed });
  };
  check(as in defaultShortSide, 'as', as, Object.keys(defaultShortSide).join(', '));
  check(
    Number.isInteger(quality) && quality >= 1 && quality <= 100,
    'quality',
    quality,
    'a whole number from 1 to 100',
  );
  check(maxBrokenShare >= 0 && maxBrokenShare <= 1, 'maxBrokenShare', maxBrokenShare, '0 to 1');
  if (as === 'original') {
    check(shortSide === 0, 'shortSide', shortSide, 'none for original, whose images stay as they are');
    return { kind: as, shortSide: 0, quality: 0 };
  }
  check(
    Number.isInteger(shortSide) && shortSide >= 16 && shortSide <= 4096,
    'shortSide',
    shortSide,
    'a whole number from 16 to 4096',
  );
  return { kind: as, shortSide, quality: as === 'jpeg' ? quality : 0 };
}

/** What is packed and how, as one line: a pack that was not finished is gone on with by the same task only. */
async function taskOf(
  { ids, labels, classNames }: ImageSource,
  recipe: PackRecipe,
  { background = '#ffffff', signal }: PackOptions,
): Promise<string> {
  const hash = createHash('sha256');
  for (let from = 0; from < ids.length; from += idsAtOnce) {
    if (from > 0) await nextTurn(signal, 'packing');
    hash.update(
      ids
        .slice(from, from + idsAtOnce)
        .map((id, i) => `${id}\0${labels?.[from + i] ?? ''}\0`)
        .join(''),
    );
  }
  hash.update(JSON.stringify(classNames ?? null));
  return JSON.stringify({
    format: 'lgdistill-pack-journal',
    ...recipe,
    background,
    images: ids.length,
    hash: hash.digest('hex'),
  });
}

function checkRefused(
  { ids, root }: ImageSource,
  { refused, next }: PackWriter,
  { maxBrokenShare = 0.05 }: PackOptions,
  atEnd: boolean,
): void {
  const some = refused
    .slice(0, 3)
    .map(({ place, reason }) => `${ids[place]!} (${reason.replace(/\.$/u, '')})`)
    .join(', ');
  if (atEnd && refused.length === ids.length)
    throw new LgdError('BAD_DATASET', `none of the ${ids.length} images of ${root} can be decoded, such as ${some}.`, {
      mend: 'Check that these files are images',
    });
  if (!atEnd && refused.length < fewRefused) return;
  if (refused.length <= maxBrokenShare * ids.length) return;
  throw new LgdError(
    'TOO_MANY_BROKEN_IMAGES',
    `${refused.length} of the first ${next} images (${ids.length} in all) cannot be decoded, such as ${some}.`,
    {
      option: 'data.maxBrokenShare',
      allowed: `a share of at most ${maxBrokenShare}`,
      mend: 'Allow a larger share to go on, or mend or remove those files and begin anew with --overwrite',
    },
  );
}
