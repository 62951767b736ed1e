/**
 * What is refused before or after a dense network has looked at an image. NaN loses every comparison: a network that
 * diverged would be scored as if it had answered.
 */
import { types } from 'node:util';
import { LgdError } from '../errors.js';
import { allFinite, notFinite, type WeightRecord } from '../models/weights.js';

/** Looks at a network in training, before it is kept. @throws LgdError NON_FINITE */
export function checkTrained(weights: Readonly<WeightRecord>, step: number): void {
  const name = notFinite(weights);
  if (name !== undefined)
    throw new LgdError('NON_FINITE', `the weights after step ${step} are not finite (${name}).`, {
      mend: 'Lower dense.learningRate',
    });
}

/** Looks at what a network says of an image. @throws LgdError NON_FINITE */
export function checkOutput(output: Float32Array, path: string): Float32Array {
  if (allFinite(output)) return output;
  throw new LgdError('NON_FINITE', `what the network says of ${path} is not finite.`, {
    mend: 'Train it again with a lower learning rate; if it is right about other images, look at this one',
  });
}

/** A path would be opened without a word, by sharp. @throws LgdError BAD_OPTION */
export function checkBytes(bytes: unknown): void {
  if (types.isUint8Array(bytes)) return;
  throw new LgdError('BAD_OPTION', 'not the bytes of an image.', {
    option: 'bytes',
    found: bytes,
    allowed: 'a Uint8Array',
    mend: 'Read the file first: await readFile(path)',
  });
}
