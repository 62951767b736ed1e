/** Decodes many images, several at a time, in order and in bounded memory. */
import { counted } from '../counted.js';
import { LgdError, messageOf, throwIfAborted } from '../errors.js';
import { orAborted } from '../turn.js';
import { noneDecoded, tooManyBroken } from './broken-images.js';
import { decodeImage, type BrokenImage, type DecodedImage, type DecodeOptions } from './decode.js';
import { inOrder } from './in-order.js';
import { isNotOfTheImage, PatientReader } from './read-patiently.js';
import { decoderThreads, tuneForMany } from './sharp.js';
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

type Outcome = Pick<Undecoded, 'id' | 'label'> & ({ image: DecodedImage; fileBytes: number } | { fault: unknown });

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
    void (async () => iterator.return?.())().catch(() => undefined);
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
  const { decode, signal } = options;
  const restoreSharp = await tuneForMany(decode.background);
  const result: Decoded = { ids: [], places: [], labels: undefined, fileBytes: [], broken: [] };
  const reader = new PatientReader(options);
  let done = 0;
  let reported = 0;
  const report = () => {
    reported = performance.now();
    options.onProgress?.({ done, total: options.total ?? done, broken: result.broken.length });
  };
  try {
    const decodeNext = (image: Undecoded) => decodeOne(image, reader, decode);
    for await (const outcome of inOrder(images, imagesAhead * decoderThreads(), decodeNext, { signal, what: work })) {
      take(result, outcome, done++, options);
      if (performance.now() - reported >= progressMilliseconds) report();
    }
    throwIfAborted(signal, work);
    checkEnd(result, done, options);
    report();
    return result;
  } finally {
    restoreSharp();
  }
}

/** @throws what says nothing of the image */
async function decodeOne(image: Undecoded, reader: PatientReader, options: DecodeOptions): Promise<Outcome> {
  const { id, label } = image;
  try {
    const bytes = await reader.read(id, () => image.read());
    return { id, label, image: await decodeImage(bytes, options), fileBytes: bytes.byteLength };
  } catch (error) {
    if (isNotOfTheImage(error)) throw error;
    return { id, label, fault: error };
  }
}

/** Adds one outcome to the result; stops where too many are broken already. */
function take(result: Decoded, outcome: Outcome, place: number, options: DecodeAllOptions): void {
  const { ids, places, broken } = result;
  const { id, label } = outcome;
  if ('image' in outcome) {
    options.keep(outcome.image);
    ids.push(id);
    places.push(place);
    result.fileBytes.push(outcome.fileBytes);
    if (label !== undefined) (result.labels ??= []).push(label);
    return;
  }
  const { fault } = outcome;
  if (broken.length === 0) result.fault = fault;
  broken.push({ id, reason: messageOf(fault) });
  const seen = place + 1;
  const enough = broken.length >= fewBroken || (options.total !== undefined && ids.length > 0);
  if (enough && broken.length > options.maxBrokenShare * (options.total ?? seen))
    throw tooManyOf(result, seen, options);
}

function checkEnd(result: Decoded, total: number, options: DecodeAllOptions): void {
  const { ids, broken, fault } = result;
  const { root } = options;
  if (total === 0) throw new LgdError('BAD_DATASET', `there are no images in ${root}.`, { mend: 'Give some images' });
  if (ids.length === 0) throw noneDecoded(broken, root, fault);
  if (broken.length > options.maxBrokenShare * total) throw tooManyOf(result, total, options);
}

function tooManyOf({ broken, fault }: Decoded, seen: number, { total, maxBrokenShare }: DecodeAllOptions): LgdError {
  const of = `the first ${seen} images${total === undefined ? '' : ` (${total} in all)`}`;
  return tooManyBroken(broken, of, { maxBrokenShare, cause: fault });
}
