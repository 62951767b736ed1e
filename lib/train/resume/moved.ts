/** Files that a run was begun with, and that are not where they were when it goes on. */
import { existsSync } from 'node:fs';
import { isAbsolute } from 'node:path';
import { configOptions, type Config } from '../../config/config.js';
import { hasCode, LgdError } from '../../errors.js';

const [images, names, bank] = [
  ['images', 'are', 'them', 'they are'],
  ['category names', 'are', 'them', 'they are'],
  ['text bank', 'is', 'it', 'it is'],
] as const;

const described: Readonly<Record<string, readonly [what: string, are: string, them: string, they: string]>> = {
  'data.train': images,
  'evaluate.data': images,
  'evaluate.train': images,
  names,
  'evaluate.names': names,
  bank,
  'evaluate.bank': bank,
  teacher: ['teacher', 'is', 'it', 'it is'],
  textEncoder: ['text encoder', 'is', 'it', 'it is'],
  templates: ['templates', 'are', 'them', 'they are'],
  'evaluate.mapping': ['mapping', 'is', 'it', 'it is'],
};

/** Is it a path, rather than an id or the name of a built-in list, and nothing there? */
function isGone(source: unknown): source is string {
  return typeof source === 'string' && isAbsolute(source) && !existsSync(source);
}

/**
 * Of a run that goes on: what is not where it was may have been moved, and its new place can be given. Says so of the
 * first of these options whose path is not there.
 */
export function movedIf(
  mayBe: boolean,
  sources: Readonly<Partial<Record<string, unknown>>>,
): (error: unknown) => never {
  return (error) => {
    const [option, path] = Object.entries(sources).find(([, source]) => isGone(source)) ?? [];
    if (!mayBe || option === undefined || !hasCode(error, 'FILE_NOT_FOUND')) throw error;
    const { alias, flag } = configOptions().find((row) => row.path === option)!;
    const [what, are, them, they] = described[option]!;
    throw new LgdError('FILE_NOT_FOUND', `the ${what} of the run ${are} not there.`, {
      option,
      found: path,
      mend: `Bring ${them} back, or say where ${they} now: ${alias ?? flag} NEW`,
      cause: error,
    });
  };
}

/**
 * The configuration of a run that goes on, its evaluation names moved with their images: where they were a folder of
 * images that is gone, and whose new place was given.
 * @param begun the configuration in the run folder
 */
export function withNamesMoved(
  config: Config,
  begun: Partial<Config> | null | undefined,
): { config: Config; remarks: string[] } {
  const { evaluate, data } = config;
  const old = evaluate.names;
  if (!isGone(old) || begun?.evaluate?.names !== old) return { config, remarks: [] };
  const moves = [
    [begun.evaluate.data, evaluate.data],
    [begun.evaluate.train, evaluate.train],
    [begun.data?.train, data.train],
  ] as const;
  const place = moves.find(([was, is]) => was === old && is !== old)?.[1];
  if (place === undefined) return { config, remarks: [] };
  return {
    config: { ...config, evaluate: { ...evaluate, names: place } },
    remarks: [
      `evaluate.names is ${place} from here on and was ${old}, which is gone: the names of the images' folder at its new place`,
    ],
  };
}
