import { createHash } from 'node:crypto';
import { dirname, resolve } from 'node:path';
import { loadAddon } from '../../addon/addon.js';
import { checkOptions, checkText, checkWord, optionTable } from '../../arguments.js';
import { LgdError, messageOf, throwIfAborted } from '../../errors.js';
import { journalFormat } from '../../files/file-kind.js';
import { placeOf } from '../../files/folders.js';
import { makeFolder } from '../../files/make-folder.js';
import { endedBy } from '../../lifetime.js';
import { checkNumber, checkWhole } from '../../number-limits.js';
import { noneDecoded, tooManyBroken } from '../broken-images.js';
import type { CacheProgress } from '../decode-all.js';
import type { BrokenImage } from '../decode.js';
import { eachId, plainId } from '../image-id.js';
import { inOrder } from '../in-order.js';
import { isNotOfTheImage, PatientReader } from '../read-patiently.js';
import { decoderThreads, tuneForMany } from '../sharp.js';
import { checkSource, type ImageSource } from '../sources.js';
import { packKinds, type PackKind, type PackRecipe } from './format.js';
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
  /** Replace a pack that is there, but for the one that is packed, and begin anew what was not finished. */
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

const packOptions = optionTable<PackOptions>()(
  'output as? shortSide? quality? overwrite? maxBrokenShare? background? syncSeconds? readPauses? signal? onProgress?',
);

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
  const place = await placeOf(path);
  await makeFolder(dirname(place));
  const { checksum } = loadAddon();
  const writer = await PackWriter.open(place, recipe, {
    task: await taskOf(source, recipe, options),
    overwrite,
    inputs: source.pack === undefined ? undefined : [source.pack.path],
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
      const refused = refusedOf(source, writer);
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
  const restoreSharp = await tuneForMany(background);
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
      return { reason: messageOf(error) };
    }
  };
  function* places(): Generator<number> {
    for (let place = writer.next; place < total; place++) yield place;
  }
  report();
  try {
    for await (const outcome of inOrder(places(), 4 * parallel, pack, { signal, what: 'packing' })) {
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
  quality: wanted,
  maxBrokenShare = 0,
}: PackOptions): PackRecipe {
  checkWord(as, 'as', packKinds);
  const quality = wanted ?? 90;
  checkWhole('quality', quality, 100);
  if (wanted !== undefined && as !== 'jpeg')
    throw new LgdError('BAD_OPTION', 'only what is kept as JPEG has a quality.', {
      option: 'quality',
      found: wanted,
      allowed: `none for ${as}`,
      mend: 'Leave it out, or keep the images as jpeg (as)',
    });
  checkNumber('maxBrokenShare', maxBrokenShare, { least: 0, most: 1 });
  if (as !== 'original') {
    checkNumber('shortSide', shortSide, { whole: true, least: 16, most: 4096 });
    return { kind: as, shortSide, quality: as === 'jpeg' ? quality : 0 };
  }
  if (shortSide !== 0)
    throw new LgdError('BAD_OPTION', 'images that stay as they are have no other size.', {
      option: 'shortSide',
      found: shortSide,
      allowed: 'none for original',
      mend: 'Leave it out, or keep the images as jpeg or raw (as)',
    });
  return { kind: as, shortSide: 0, quality: 0 };
}

/** What is packed and how, as one line: a pack that was not finished is gone on with by the same task only. */
async function taskOf(
  { ids, labels, classNames }: ImageSource,
  recipe: PackRecipe,
  { background = '#ffffff', signal }: PackOptions,
): Promise<string> {
  const hash = createHash('sha256');
  await eachId(ids, (id, i) => hash.update(`${id}\0${labels?.[i] ?? ''}\0`), signal, 'packing');
  hash.update(JSON.stringify(classNames ?? null));
  return JSON.stringify({
    format: journalFormat, // is to come first
    ...recipe,
    background,
    images: ids.length,
    hash: hash.digest('hex'),
  });
}

function checkRefused(
  source: ImageSource,
  writer: PackWriter,
  { maxBrokenShare = 0.05 }: PackOptions,
  atEnd: boolean,
): void {
  const total = source.ids.length;
  if (atEnd && writer.refused.length === total) throw noneDecoded(refusedOf(source, writer), source.root);
  if (!atEnd && writer.refused.length < fewRefused) return;
  if (writer.refused.length > maxBrokenShare * total)
    throw tooManyBroken(refusedOf(source, writer), `the first ${writer.next} images (${total} in all)`, {
      maxBrokenShare,
      mend: 'Allow a larger share to go on, or mend or remove those files and begin anew with --overwrite',
    });
}

function refusedOf({ ids }: ImageSource, { refused }: PackWriter): BrokenImage[] {
  return refused.map(({ place, reason }) => ({ id: plainId(ids[place]!), reason }));
}
