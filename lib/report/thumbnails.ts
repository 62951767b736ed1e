/** Small pictures inside the page. */
import { decodeImage } from '../data/decode.js';
import { importSharp } from '../data/sharp.js';
import type { ImageSource } from '../data/sources.js';
import { hasCode } from '../errors.js';

const side = 96; // shown at half of that, so that they are sharp on a phone
const quality = 60;

/**
 * An image's middle as a WebP data URI of about 2 kB; undefined where it cannot be decoded any more.
 * @throws LgdError DEPENDENCY_MISSING
 */
export async function thumbnail(source: ImageSource, index: number): Promise<string | undefined> {
  const sharp = await importSharp();
  try {
    const { pixels, width, height } = await decodeImage(await source.read(index), { shortSide: side });
    const small = await sharp(pixels, { raw: { width, height, channels: 3 } })
      .resize(side, side, { fit: 'cover' })
      .webp({ quality })
      .toBuffer();
    return `data:image/webp;base64,${small.toString('base64')}`;
  } catch (error) {
    if (hasCode(error, 'DEPENDENCY_MISSING')) throw error;
    return undefined; // gone or broken since the run; the teacher's embedding was taken moments ago, so this is rare
  }
}
