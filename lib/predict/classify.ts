/** Zero-shot classification of unlabelled images by a student. */
import { checkOptions, optionTable } from '../arguments.js';
import { parseConfig, type ConfigInput } from '../config/config.js';
import { openDevice, type DeviceName } from '../device.js';
import { LgdError } from '../errors.js';
import { findNearestNames } from '../evaluate/nearest-names.js';
import { bankOfNames } from '../evaluate/student.js';
import { precisionOf } from '../models/compiled.js';
import { reporting, type PhaseProgress } from '../runs/phase.js';
import type { StudentInfo } from '../runs/student-file.js';
import { lookAtAll, openGiven, readWithHead, studentEmbedder, type ImagesGiven, type Looked } from './looking.js';

/** What {@link classifyImages} looks at, and with what. */
export interface ClassifyOptions {
  /** A run folder, a checkpoint folder, or a student's file, exported or not. */
  student: string;
  images: ImagesGiven;
  /** How many names each image gets, 1 to K; default 5, or all of fewer. */
  top?: number | undefined;
  /**
   * `names` are the K names to choose among (default: the student's own). Their embeddings are those of `bank` or of
   * the student's own bank where they are in it, else `textEncoder` makes them. Of `data` what says how images are
   * decoded; `device`, `threads`, `train.precision`.
   */
  config?: ConfigInput | undefined;
  signal?: AbortSignal | undefined;
  /** Called while a phase goes on. */
  onProgress?: ((progress: PhaseProgress) => void) | undefined;
}

const classifyOptions = optionTable<ClassifyOptions>()('student images top? config? signal? onProgress?');

/** The nearest names of N images. */
export interface Classification extends Looked {
  /** The student's file. */
  file: string;
  info: StudentInfo;
  /** The K names that were chosen among, and the hash of their text bank. */
  names: readonly string[];
  bankHash: string;
  /** How many names each image got. */
  top: number;
  /** [N,top], into the names, the nearest first. */
  indices: Int32Array;
  /** [N,top], the cosine of image and name. */
  cosines: Float32Array;
}

const usualTop = 5;

/**
 * Finds for each image the names whose text embeddings the student's embedding of its centre crop is nearest to by
 * cosine: what {@link evaluateStudent} scores.
 * @throws LgdError BAD_OPTION, BAD_CONFIG (no names, or no text encoder for them), FILE_NOT_FOUND, BAD_MODEL,
 *   NON_FINITE, ABORTED, and those of images, banks and device
 */
export async function classifyImages(options: ClassifyOptions): Promise<Classification> {
  checkOptions(options, 'classifyImages()', classifyOptions);
  const { student: path, images: given, top: wanted, config: input = {}, signal, onProgress } = options;
  const config = parseConfig(input);
  const content = await readWithHead(path);
  const { file, info } = content;
  const source = await openGiven(given, signal);
  using device = await openDevice(config.device as DeviceName, { threads: config.threads });
  const bank = await bankOfNames(config, config.names, file, info, {
    signal,
    onProgress: reporting(onProgress, 'text bank'),
  });
  const top = topOf(wanted, bank.size);
  const count = source.ids.length;
  const [indices, cosines] = [new Int32Array(count * top), new Float32Array(count * top)];
  using embedder = studentEmbedder(content, device, { most: count, precision: precisionOf(config) });
  let found = 0;
  const looked = await lookAtAll(
    source,
    { device, resolution: info.resolution, config, signal, onDecoded: reporting(onProgress, 'images') },
    async (images, seen) =>
      findNearestNames(
        embedder,
        { device, images, mean: info.mean, std: info.std, what: 'the classification' },
        bank,
        top,
        (nearest, some) => {
          indices.set(nearest.indices, found * top);
          cosines.set(nearest.scores, found * top);
          found += some.length;
          seen(some);
        },
        { signal, onProgress: reporting(onProgress, 'student') },
      ),
  );
  return {
    file,
    info,
    names: bank.names,
    bankHash: bank.hash,
    top,
    indices: indices.subarray(0, found * top),
    cosines: cosines.subarray(0, found * top),
    ...looked,
  };
}

/** How many of so many names an image gets. @throws LgdError BAD_OPTION */
export function topOf(wanted: number | undefined, names: number): number {
  if (wanted === undefined) return Math.min(usualTop, names);
  if (Number.isInteger(wanted) && wanted >= 1 && wanted <= names) return wanted;
  throw new LgdError('BAD_OPTION', 'an image cannot get so many names.', {
    option: 'top',
    found: wanted,
    allowed: `1 to ${names}, the number of names`,
  });
}
