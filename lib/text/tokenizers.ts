import type { AutoTokenizer } from '@xenova/transformers';
import { LgdError } from '../errors.js';

/** What is taken from @xenova/transformers. */
interface Tokenizers {
  AutoTokenizer: typeof AutoTokenizer;
}

// The tokenizers alone: the package's main entry imports a sharp of its own, whose binary a script has to fetch from elsewhere. The version is pinned.
const tokenizersFile = '@xenova/transformers/src/tokenizers.js';

/**
 * Loads the tokenizers of @xenova/transformers on first use, so that importing this package loads no inference engine.
 * @throws LgdError DEPENDENCY_MISSING with the commands to type
 */
export async function importTokenizers(load: () => Promise<unknown> = () => import(tokenizersFile)): Promise<Tokenizers> {
  try {
    return (await load()) as Tokenizers;
  } catch (cause) {
    throw new LgdError('DEPENDENCY_MISSING', `@xenova/transformers could not be loaded, so no text can be encoded: ${(cause as Error).message.split('\n')[0]}.`, {
      mend: "Type: npm install --ignore-scripts (where a script of its sharp fails, npm leaves it out; that sharp is not needed). Or give a bank built from embeddings: lgdistill bank build --embeddings",
      cause,
    });
  }
}
