/** Decodes many images, several at a time, in order and in bounded memory. */
import { counted } from '../counted.js';
import { LgdError, messageOf, throwIfAborted } from '../errors.js';
import { orAborted } from '../turn.js';
import { decoderThreads, tuneForMany } from './decoders.js';
import { decodeImage, type BrokenImage, type DecodedImage, type DecodeOptions } from './decode.js';
import { isNotOfTheImage, PatientReader } from './read-patiently.js';
import { checkBackground, importSharp } from './sharp.js';
import { checkImageBytes, type ImageBytes, type ImageSource } from './sources.js';

/** How far the decoding of a data set is. */
export interface CacheProgress {
  /** Images looked at so far, broken ones included. */
  done: number;
  /** All images; of a stream, whose length is not known, those looked at so far. */
  total: number;
  /** Those of them that could not be decoded. */
  broken: number;
}

/** An image on its way into the decoder. */
export interface Undecoded {
  id: string;
  label?: number;
  read(): Uint8Array | Promise<Uint8Array>;
}

/** Of the images that could be decoded: names, places among all, labels (undefined where they have none). */
export interface Decoded {
  ids: string[];
  places: number[];
  labels: number[] | undefined;
  /** Bytes of each before it was decoded. */
  fileBytes: number[];
  broken: BrokenImage[];
  /** What reading or decoding the first of them threw: where it was a caller's mistake, its stack says where. */
  fault?: unknown;
}

interface DecodeAllOptions {
  /** Where the images come from, for messages. */
  root: string;
  /** How many there are; undefined for a stream. */
  total: number | undefined;
  decode: DecodeOptions;
  /** Takes the pixels of each image that could be decoded, in order. */
  keep: (image: DecodedImage) => void;
  maxBrokenShare: number;
  readPauses?: readonly number[];
  signal?: AbortSignal | undefined;
  onProgress?: ((progress: CacheProgress) => void) | undefined;
}

/**
 * Below this many, broken images alone do not stop the decoding before one good image was seen (or, of a stream, before
 * its end).
 */
const fewBroken = 50;
const progressMilliseconds = 100;
const work = 'decoding the images';
/**
 * Images between the stream and the decoder, for each that is being decoded: one slow picture must not starve the
 * others.
 */
const imagesAhead = 4;

type Outcome = { image: DecodedImage; fileBytes: number } | { fault: unknown } | { failure: unknown };

/** The images of a source, in order. */
export async function* listed(source: ImageSource): AsyncGenerator<Undecoded, void, undefined> {
  const { ids, labels } = source;
  for (const [index, id] of ids.entries()) yield { id, label: labels?.[index], read: () => source.read(index) };
}

/** The images of a stream. What the stream throws, and labels that do not fit, come as BAD_DATASET. */
export async function* streamed(
  images: AsyncIterable<ImageBytes> | Iterable<ImageBytes>,
  classNames: readonly string[] | undefined,
  signal: AbortSignal | undefined,
): AsyncGenerator<Undecoded, void, undefined> {
  const iterator = Symbol.asyncIterator in images ? images[Symbol.asyncIterator]() : images[Symbol.iterator]();
  let seen = 0;
  let withLabels: boolean | undefined;
  try {
    for (;;) {
      const { done, value } = await orAborted(Promise.resolve(iterator.next()), 'reading the stream of images', signal);
      if (done) return;
      checkImageBytes(value);
      const { id, bytes, label } = value;
      withLabels ??= label !== undefined;
      if (withLabels !== (label !== undefined))
        throw badLabel(`image ${id} has ${withLabels ? 'no label' : 'a label'}, unlike those before it`);
      const classes = classNames?.length ?? 0;
      if (label !== undefined && !(Number.isInteger(label) && label >= 0 && label < classes))
        throw badLabel(`image ${id} has the label ${label}; there are ${classes} classes`);
      seen++;
      yield { id, label, read: () => bytes };
    }
  } catch (cause) {
    if (cause instanceof LgdError) throw cause;
    throw new LgdError(
      'BAD_DATASET',
      `the stream of images failed after ${counted(seen, 'image')}: ${messageOf(cause)}.`,
      {
        mend: 'See to what the stream reads from',
        cause,
      },
    );
  } finally {
    // not waited for: a stream that hangs would hang its end too
    void Promise.resolve(iterator.return?.()).catch(() => undefined);
  }
}

function badLabel(what: string): LgdError {
  return new LgdError('BAD_DATASET', `${what}.`, {
    mend: 'Give each image a label, an index into classNames, or none of them one',
  });
}

/**
 * Decodes images in order; those that cannot be decoded are listed. What is still being read when the signal fires is
 * let go.
 * @throws LgdError BAD_DATASET (none could be decoded), TOO_MANY_BROKEN_IMAGES, BAD_FILE (the system fails to read),
 *   DEPENDENCY_MISSING, ABORTED, and what `keep` throws
 */
export async function decodeAll(images: AsyncIterable<Undecoded>, options: DecodeAllOptions): Promise<Decoded> {
  const parallel = decoderThreads();
  const sharp = await importSharp();
  checkBackground(sharp, options.decode.background);
  const restoreSharp = tuneForMany(sharp);
  const running: Promise<Outcome>[] = [];
  const result: Decoded = { ids: [], places: [], labels: undefined, fileBytes: [], broken: [] };
  const reader = new PatientReader(options);
  const waiting: Undecoded[] = [];
  const iterator = images[Symbol.asyncIterator]();
  let reported = 0;
  let ended = false;
  const report = (done: number) => {
    reported = performance.now();
    options.onProgress?.({ done, total: options.total ?? done, broken: result.broken.length });
  };
  try {
    for (let place = 0; ; place++) {
      throwIfAborted(options.signal, work);
      while (!ended && running.length < imagesAhead * parallel) {
        const next = await iterator.next();
        ended = next.done === true;
        if (next.done) break;
        waiting.push(next.value);
        running.push(decodeOne(next.value, reader, options.decode));
      }
      const image = waiting.shift();
      if (image === undefined) {
        checkEnd(result, place, options);
        report(place);
        return result;
      }
      take(result, image, place, await orAborted(running.shift()!, work, options.signal), options);
      if (performance.now() - reported >= progressMilliseconds) report(place + 1);
    }
  } finally {
    await iterator.return?.(undefined);
    // they never reject, but may hang in a caller's read
    await orAborted(Promise.all(running), work, options.signal).catch(() => undefined);
    restoreSharp();
  }
}

async function decodeOne(image: Undecoded, reader: PatientReader, options: DecodeOptions): Promise<Outcome> {
  try {
    const bytes = await reader.read(image.id, () => image.read());
    return { image: await decodeImage(bytes, options), fileBytes: bytes.byteLength };
  } catch (error) {
    if (isNotOfTheImage(error)) return { failure: error };
    return { fault: error };
  }
}

/** Adds one outcome to the result; stops where too many are broken already, and where the system does not read. */
function take(
  result: Decoded,
  { id, label }: Undecoded,
  place: number,
  outcome: Outcome,
  options: DecodeAllOptions,
): void {
  const { ids, places, broken } = result;
  if ('image' in outcome) {
    options.keep(outcome.image);
    ids.push(id);
    places.push(place);
    result.fileBytes.push(outcome.fileBytes);
    if (label !== undefined) (result.labels ??= []).push(label);
    return;
  }
  if ('failure' in outcome) throw outcome.failure;
  const { fault } = outcome;
  if (broken.length === 0) result.fault = fault;
  broken.push({ id, reason: messageOf(fault) });
  const seen = place + 1;
  const enough = broken.length >= fewBroken || (options.total !== undefined && ids.length > 0);
  if (enough && broken.length > options.maxBrokenShare * (options.total ?? seen))
    throw tooManyBroken(result, seen, options);
}

function checkEnd(result: Decoded, total: number, options: DecodeAllOptions): void {
  if (result.ids.length === 0) throw noneDecoded(result, total, options.root);
  if (result.broken.length > options.maxBrokenShare * total) throw tooManyBroken(result, total, options);
}

function examples(broken: readonly BrokenImage[]): string {
  return broken
    .slice(0, 3)
    .map(({ id, reason }) => `${id} (${reason.replace(/\.$/, '')})`)
    .join(', ');
}

function tooManyBroken(
  { broken, fault }: Decoded,
  seen: number,
  { total, maxBrokenShare }: DecodeAllOptions,
): LgdError {
  const all = total === undefined ? '' : ` (${total} in all)`;
  return new LgdError(
    'TOO_MANY_BROKEN_IMAGES',
    `${broken.length} of the first ${seen} images${all} cannot be decoded, such as ${examples(broken)}.`,
    {
      option: 'data.maxBrokenShare',
      allowed: `a share of at most ${maxBrokenShare}`,
      mend: 'Mend or remove those files, or allow a larger share',
      cause: fault,
    },
  );
}

function noneDecoded({ broken, fault }: Decoded, total: number, root: string): LgdError {
  if (total === 0) return new LgdError('BAD_DATASET', `there are no images in ${root}.`, { mend: 'Give some images' });
  return new LgdError(
    'BAD_DATASET',
    `none of the ${total} images of ${root} can be decoded, such as ${examples(broken)}.`,
    { mend: 'Check that these files are images', cause: fault },
  );
}
