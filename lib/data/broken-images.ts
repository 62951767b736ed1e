/** What is said of images that cannot be decoded, where they are all, or too many. */
import { LgdError } from '../errors.js';
import type { BrokenImage } from './decode.js';

const mendOfFew = 'Mend or remove those files, or allow a larger share';

/** @param of how many there are, in words: 'the 100 images' */
export function tooManyBroken(
  broken: readonly BrokenImage[],
  of: string,
  { maxBrokenShare, mend = mendOfFew, cause }: { maxBrokenShare: number; mend?: string; cause?: unknown },
): LgdError {
  return new LgdError(
    'TOO_MANY_BROKEN_IMAGES',
    `${broken.length} of ${of} cannot be decoded, such as ${examples(broken)}.`,
    { option: 'data.maxBrokenShare', allowed: `a share of at most ${maxBrokenShare}`, mend, cause },
  );
}

/** @param root where the images come from */
export function noneDecoded(broken: readonly BrokenImage[], root: string, cause?: unknown): LgdError {
  return new LgdError(
    'BAD_DATASET',
    `none of the ${broken.length} images of ${root} can be decoded, such as ${examples(broken)}.`,
    { mend: 'Check that these files are images', cause },
  );
}

function examples(broken: readonly BrokenImage[]): string {
  return broken
    .slice(0, 3)
    .map(({ id, reason }) => `${id} (${reason.replace(/\.$/u, '')})`)
    .join(', ');
}
