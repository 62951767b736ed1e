import { readFile } from 'node:fs/promises';
import { LgdError, systemErrorCode } from '../../errors.js';
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

type Size = number | { shortest_edge?: number; height?: number; width?: number };

interface PreprocessorConfig {
  size?: Size;
  crop_size?: Size;
  do_center_crop?: boolean;
  do_normalize?: boolean;
  do_rescale?: boolean;
  rescale_factor?: number;
  image_mean?: number[];
  image_std?: number[];
}

/**
 * Reads a Hugging Face preprocessor_config.json. The resolution is the crop's where a crop is made, else the size's; both may be a number, {shortest_edge} or {height, width}.
 * Mean and std are returned for pixels in 0..1, whatever rescaling the file asks for.
 * @returns undefined where there is no such file
 * @throws LgdError BAD_MODEL
 */
export async function readPreprocessor(file: string): Promise<Preprocessing | undefined> {
  const bad = (why: string, cause?: unknown) => new LgdError('BAD_MODEL', `${file}: ${why}.`, { mend: `Correct it to what the model was trained with; of CLIP it is ${clipPreprocessor}`, cause });
  let config: PreprocessorConfig;
  try {
    config = JSON.parse(await readFile(file, 'utf8')) as PreprocessorConfig;
  } catch (cause) {
    if (systemErrorCode(cause) === 'ENOENT') return undefined;
    throw bad(`it cannot be read (${(cause as Error).message})`, cause);
  }
  const resolution = (config.do_center_crop === false ? undefined : side(config.crop_size, bad)) ?? side(config.size, bad);
  if (resolution === undefined) throw bad('it gives no size');
  if (config.do_normalize === false) return { resolution, ...rescaled([0, 0, 0], [1, 1, 1], config) };
  return { resolution, ...rescaled(triple(config.image_mean, 'image_mean', bad), triple(config.image_std, 'image_std', bad), config) };
}

function side(size: Size | undefined, bad: (why: string) => LgdError): number | undefined {
  if (size === undefined || size === null) return undefined;
  if (typeof size === 'object' && size.height !== size.width) throw bad(`its input is ${size.height} x ${size.width}, and only square ones are supported`);
  const value = typeof size === 'number' ? size : (size.shortest_edge ?? size.height);
  if (value === undefined || !Number.isInteger(value) || value < 1) throw bad(`its size is ${JSON.stringify(size)}, not a number of pixels`);
  return value;
}

function triple(values: number[] | undefined, name: string, bad: (why: string) => LgdError): ChannelTriple {
  if (!Array.isArray(values) || values.length !== 3 || !values.every(Number.isFinite)) throw bad(`its ${name} is not three numbers`);
  if (name === 'image_std' && values.some((value) => value <= 0)) throw bad('its image_std is not positive');
  return [values[0]!, values[1]!, values[2]!];
}

/** (255 f x - m) / s with x in 0..1 and rescale factor f equals (x - m/255f) / (s/255f). */
function rescaled(mean: ChannelTriple, std: ChannelTriple, { do_rescale, rescale_factor }: PreprocessorConfig): { mean: ChannelTriple; std: ChannelTriple } {
  const scale = do_rescale === false ? 255 : rescale_factor === undefined ? 1 : 255 * rescale_factor;
  if (Math.abs(scale - 1) < 1e-6) return { mean, std };
  const divide = ([red, green, blue]: ChannelTriple): ChannelTriple => [red / scale, green / scale, blue / scale];
  return { mean: divide(mean), std: divide(std) };
}
