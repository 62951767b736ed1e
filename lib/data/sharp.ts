import { createRequire } from 'node:module';
import { LgdError, mendOfMissing } from '../errors.js';

const require = createRequire(import.meta.url);

/** sharp's own export; its type alone, the module is loaded on first use. */
export type Sharp = typeof import('sharp').default;

/**
 * Loads sharp on first use, so that importing this package, and training on pixels that are there already, needs no decoder. Its CommonJS
 * half: the other imports JSON, which Node 20.9 cannot do, and which Node 20.10 and 22.11 warn of.
 * @throws LgdError DEPENDENCY_MISSING with the command to type
 */
export async function importSharp(load: () => unknown = () => require('sharp')): Promise<Sharp> {
  try {
    return (await load()) as Sharp;
  } catch (cause) {
    const why = (cause as Error).message.split('\nPossible solutions')[0]!.replaceAll('\n', ': ');
    throw new LgdError('DEPENDENCY_MISSING', `sharp could not be loaded, so no image can be decoded: ${why}.`, {
      mend: mendOfMissing(cause, 'npm install --include=optional sharp@0.35.5'), cause,
    });
  }
}

/** A background that is no colour would make every image a broken one. @throws LgdError BAD_OPTION */
export function checkBackground(sharp: Sharp, background: string | undefined): void {
  if (background === undefined) return;
  try {
    if (typeof background !== 'string') throw new TypeError('it is no string');
    sharp().flatten({ background });
  } catch (cause) {
    throw new LgdError('BAD_OPTION', 'not a colour.', { option: 'background', found: background, allowed: "a colour as CSS writes it, such as '#ffffff'", cause });
  }
}
