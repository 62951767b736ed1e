import { join } from 'node:path';
import { describe, LgdError, systemErrorCode } from '../../errors.js';
import { readFile } from '../../files/open.js';
import { checkWhole, mostSide } from '../../number-limits.js';
import type { ChannelTriple } from './types.js';

/** How images become a teacher's input. */
export interface Preprocessing {
  /** Side of the square input, in pixels. */
  resolution: number;
  mean: ChannelTriple;
  std: ChannelTriple;
}

/** CLIP's channel statistics, pixels in 0..1 (Radford et al. 2021, published preprocessing). */
export const clipMean: ChannelTriple = [0.48145466, 0.4578275, 0.40821073];
export const clipStd: ChannelTriple = [0.26862954, 0.26130258, 0.27577711];

/** What a preprocessor_config.json holds at least, for messages. */
export const clipPreprocessor = JSON.stringify({ size: 224, image_mean: clipMean, image_std: clipStd });

type Size = number | [height: number, width: number] | { shortest_edge?: number; height?: number; width?: number };

interface PreprocessorConfig {
  size?: Size;
  crop_size?: Size;
  do_center_crop?: boolean;
  do_normalize?: boolean;
  do_rescale?: boolean;
  rescale_factor?: number | null;
  image_mean?: number[];
  image_std?: number[];
}

/** The files that {@link readPreprocessor} looks for. */
export const preprocessorFiles = ['preprocessor_config.json', 'processor_config.json'] as const;

/**
 * Reads a folder's preprocessor_config.json, or the same under `image_processor` in processor_config.json, where
 * transformers 5 keeps it. The resolution is the crop's where a crop is made, else the size's; both may be a number,
 * {shortest_edge}, {height, width} or [height, width]. Mean and std are returned for pixels in 0..1, whatever rescaling
 * the file asks for.
 * @returns undefined where there is neither
 * @throws LgdError BAD_MODEL
 */
export async function readPreprocessor(folder: string): Promise<Preprocessing | undefined> {
  for (const name of preprocessorFiles) {
    const file = join(folder, name);
    const bad = (why: string, cause?: unknown) =>
      new LgdError('BAD_MODEL', `${file}: ${why}.`, {
        mend: `Correct it to what the model was trained with; of CLIP it is ${clipPreprocessor}`,
        cause,
      });
    const content = await readJson(file, bad);
    const config = name === 'processor_config.json' ? content?.image_processor : content;
    if (config !== undefined && config !== null) return preprocessing(config, bad);
  }
  return undefined;
}

export function isSide(resolution: unknown): resolution is number {
  return Number.isInteger(resolution) && (resolution as number) >= 1 && (resolution as number) <= mostSide;
}

/** What is wrong with a mean or a std, by which pixels are divided; undefined: nothing. */
export function faultOf(name: 'mean' | 'std', value: unknown): string | undefined {
  if (!Array.isArray(value) || value.length !== 3 || !value.every(Number.isFinite)) return 'not three numbers';
  return name === 'std' && value.some((part: number) => part <= 0) ? 'not above 0 in each channel' : undefined;
}

/** Looks at what a caller gives in the place of a model's own. @throws LgdError BAD_OPTION */
export function checkPreprocessing({ resolution, mean = clipMean, std = clipStd }: Partial<Preprocessing>): void {
  if (resolution !== undefined) checkWhole('resolution', resolution, mostSide);
  checkNormalisation({ mean, std });
}

/** @param group what stands before the names of the options @throws LgdError BAD_OPTION */
export function checkNormalisation(triples: { mean: unknown; std: unknown }, group = ''): void {
  for (const name of ['mean', 'std'] as const) {
    const wrong = faultOf(name, triples[name]);
    if (wrong !== undefined)
      throw new LgdError('BAD_OPTION', `this is ${wrong}.`, {
        option: `${group}${name}`,
        found: triples[name],
        allowed: `an array of three numbers${name === 'std' ? ' above 0' : ''}, such as a CLIP model's`,
      });
  }
}

/** @returns undefined where there is no such file */
async function readJson(
  file: string,
  bad: (why: string, cause: unknown) => LgdError,
): Promise<(PreprocessorConfig & { image_processor?: PreprocessorConfig | null }) | undefined> {
  try {
    return (JSON.parse(await readFile(file, 'utf8')) ?? {}) as PreprocessorConfig;
  } catch (cause) {
    if (systemErrorCode(cause) === 'ENOENT') return undefined;
    throw bad(`it cannot be read (${(cause as Error).message})`, cause);
  }
}

/** What a configuration says. @throws what `bad` makes */
export function preprocessing(config: PreprocessorConfig, bad: (why: string) => LgdError): Preprocessing {
  const resolution =
    (config.do_center_crop === false ? undefined : side(config.crop_size, bad)) ?? side(config.size, bad);
  if (resolution === undefined) throw bad('it gives no size');
  const { rescale_factor: factor } = config;
  if (factor !== undefined && factor !== null && !(Number.isFinite(factor) && factor > 0))
    throw bad(`its rescale_factor is ${describe(factor)}, not a number above 0`);
  if (config.do_normalize === false) return { resolution, ...rescaled([0, 0, 0], [1, 1, 1], config) };
  return { resolution, ...rescaled(triple('mean', config, bad), triple('std', config, bad), config) };
}

function side(given: Size | undefined, bad: (why: string) => LgdError): number | undefined {
  if (given === undefined || given === null) return undefined;
  const size = Array.isArray(given) ? { height: given[0], width: given[1] } : given;
  if (typeof size === 'object' && size.height !== size.width)
    throw bad(`its input is ${describe(size)}, and only square ones are supported`);
  const value = typeof size === 'number' ? size : (size.shortest_edge ?? size.height);
  if (!isSide(value)) throw bad(`its size is ${describe(size)}, not a number of pixels from 1 to ${mostSide}`);
  return value;
}

function triple(name: 'mean' | 'std', config: PreprocessorConfig, bad: (why: string) => LgdError): ChannelTriple {
  const values = config[`image_${name}`];
  const wrong = faultOf(name, values);
  if (wrong !== undefined) throw bad(`its image_${name} is ${wrong}`);
  return values as unknown as ChannelTriple;
}

/** (255 f x - m) / s with x in 0..1 and rescale factor f equals (x - m/255f) / (s/255f). */
function rescaled(
  mean: ChannelTriple,
  std: ChannelTriple,
  { do_rescale, rescale_factor }: PreprocessorConfig,
): { mean: ChannelTriple; std: ChannelTriple } {
  const scale =
    do_rescale === false ? 255 : rescale_factor === undefined || rescale_factor === null ? 1 : 255 * rescale_factor;
  if (Math.abs(scale - 1) < 1e-6) return { mean, std };
  const divide = ([red, green, blue]: ChannelTriple): ChannelTriple => [red / scale, green / scale, blue / scale];
  return { mean: divide(mean), std: divide(std) };
}
