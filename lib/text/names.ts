import { LgdError } from '../errors.js';
import { readBuiltin } from './builtin.js';
import { checkNames } from './doctor.js';
import type { CheckOptions, NameReport } from './doctor.js';
import { readNames } from './sources.js';

/** An ordered list of category names: entry k of every bank belongs to name k. */
export class CategoryList {
  readonly names: readonly string[];

  private constructor(names: readonly string[]) {
    this.names = names;
  }

  /**
   * Loads a list. Names are kept as they stand; {@link CategoryList.check} finds what is wrong with them.
   * @param source the names themselves; a .txt (one a line; lines that begin with # are comments), .json (an array; or
   *   `names`, `categories` or `id2label`, as in COCO's annotation files and others), .csv or .tsv file (the column
   *   headed name, class, category or label, or the first); a folder of class folders; or a built-in list's id
   *   ({@link builtinLists})
   * @throws LgdError FILE_NOT_FOUND, BAD_NAMES (unreadable, or no names in it), BAD_FILE (a built-in list that was
   *   changed after it was installed)
   */
  static async load(source: string | readonly string[]): Promise<CategoryList> {
    if (typeof source !== 'string' && !isIterable(source)) {
      throw new LgdError('BAD_NAMES', 'these are no names.', {
        option: 'names',
        found: source,
        allowed: 'the names in an array, or a file, a folder or a built-in list by its name',
        mend: 'Give an array of strings',
      });
    }
    const names = typeof source === 'string' ? await readNames(source) : [...source];
    const where = typeof source === 'string' ? source : 'the array';
    if (names.length === 0)
      throw new LgdError('BAD_NAMES', `${where} has no names.`, { option: 'names', mend: 'Give at least one name' });
    names.forEach((name: unknown, index) => {
      if (typeof name !== 'string')
        throw new LgdError('BAD_NAMES', `entry ${index} of ${where} is not a string.`, {
          option: 'names',
          found: name,
          mend: 'Put every name in quotes',
        });
    });
    return new CategoryList(Object.freeze(names));
  }

  /**
   * A list that ships with the package, whatever files lie about; {@link builtinLists} says where each comes from.
   * @throws LgdError BAD_OPTION (no such list), BAD_FILE (it was changed after it was installed)
   */
  static async builtin(id: string): Promise<CategoryList> {
    return new CategoryList(Object.freeze(await readBuiltin(id)));
  }

  /** How many names, K. */
  get size(): number {
    return this.names.length;
  }

  /**
   * The list doctor: finds duplicates, near-duplicates in text space, stray blanks, underscores, parentheses, commas,
   * comments, empty names and prompts that are too long, and proposes a mended list. Near-duplicates are looked for
   * only where an encoder or a bank is given, long prompts only where an encoder is.
   * @throws LgdError ABORTED, BAD_OPTION, FILE_NOT_FOUND (templates), BAD_BANK (it lacks a name), and whatever the
   *   encoder throws
   */
  async check(options: CheckOptions = {}): Promise<NameReport> {
    return checkNames(this.names, options);
  }
}

function isIterable(value: unknown): boolean {
  return typeof value === 'object' && value !== null && Symbol.iterator in value;
}
