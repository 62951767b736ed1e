/** What teachers that compute look at before and after: the pixels they are given, the embeddings they made of them. */
import { LgdError } from '../../errors.js';

/** @returns values of one image @throws LgdError BAD_SHAPE unless these are so many images */
export function checkPixels(pixels: Float32Array, count: number, resolution: number): number {
  if (!ArrayBuffer.isView(pixels))
    throw new LgdError('BAD_SHAPE', 'these are no pixels.', {
      option: 'pixels',
      found: pixels,
      allowed: `a Float32Array [B,3,${resolution},${resolution}]`,
    });
  const image = 3 * resolution * resolution;
  if (Number.isInteger(count) && count >= 1 && pixels.length === count * image) return image;
  throw new LgdError(
    'BAD_SHAPE',
    `${pixels.length} values are not ${count} images of [3,${resolution},${resolution}].`,
    { option: 'pixels' },
  );
}

/**
 * Some of the images that {@link checkPixels} has looked at.
 * @param image values of one
 * @throws LgdError BAD_SHAPE where they are no longer there: the array was transferred to another thread (of which its
 *   `length` may not tell, see semantic/check.ts), or made smaller
 */
export function imagesOf(pixels: Float32Array, image: number, from: number, to: number): Float32Array {
  if (pixels.byteLength >= 4 * to * image) return pixels.subarray(from * image, to * image);
  throw new LgdError('BAD_SHAPE', 'these pixels were transferred or made smaller while they were read.', {
    option: 'pixels',
    found: pixels,
    mend: 'Wait for the promise first',
  });
}

/** @throws LgdError NON_FINITE */
export function checkEmbedded(embeddings: Float32Array, embeddingSize: number): void {
  const wrong = embeddings.findIndex((value) => !Number.isFinite(value));
  if (wrong !== -1)
    throw new LgdError(
      'NON_FINITE',
      `the teacher's embedding of image ${Math.floor(wrong / embeddingSize)} of the batch is not finite.`,
      { mend: 'Check the image and the model' },
    );
}
