/** A list of names as a file: one a line, as {@link CategoryList.load} reads it. */
import { realpath } from 'node:fs/promises';
import { dirname, extname, format, parse } from 'node:path';
import { checkOptions, checkText, optionTable } from '../arguments.js';
import { LgdError } from '../errors.js';
import { makeFolder, tryFolder } from '../files/make-folder.js';
import { readFile } from '../files/open.js';
import { fileInPlace } from '../files/replaceable.js';
import { writeFileAtomically } from '../files/write-file.js';
import { namesIn } from './sources.js';

/** Which file {@link writeNames} may replace. */
export interface WriteNamesOptions {
  /**
   * The file that the names were read from and are mended in: it is replaced, unless it has comments, which would be
   * lost.
   */
  list?: string | undefined;
  /** Replace any file. Default false. */
  overwrite?: boolean | undefined;
}

const writeNamesOptions = optionTable<WriteNamesOptions>()('list? overwrite?');

/**
 * Writes names, one a line. Folders that are missing on the way are made.
 * @param file ends in .txt or has no ending
 * @throws LgdError BAD_OPTION (another ending, or a file that may not be replaced), BAD_NAMES (one that would not be
 *   read back), NOT_WRITABLE
 */
export async function writeNames(
  file: string,
  names: readonly string[],
  options: WriteNamesOptions = {},
): Promise<void> {
  checkOptions(options, 'writeNames()', writeNamesOptions);
  if (!Array.isArray(names))
    throw new LgdError('BAD_NAMES', 'these are no names.', {
      option: 'names',
      found: names,
      allowed: 'an array of strings',
      mend: 'Give the names of a list: list.names',
    });
  await checkNamesFile(file, options);
  const unreadable = names.find(
    (name) => typeof name !== 'string' || JSON.stringify(namesIn(name)) !== JSON.stringify([name]),
  );
  if (unreadable !== undefined) {
    throw new LgdError(
      'BAD_NAMES',
      'a name that begins with #, is empty or has a line break is none in a file of one name a line.',
      { option: 'write', found: unreadable, mend: 'Word it in another way, or keep the list as JSON' },
    );
  }
  await makeFolder(dirname(file));
  await writeFileAtomically(file, `${names.join('\n')}\n`);
}

/** May names be written there? Said before a check that takes long. @throws LgdError as {@link writeNames} */
export async function checkNamesFile(file: string, { list, overwrite = false }: WriteNamesOptions): Promise<void> {
  checkText(file, 'write', 'a path to write to');
  if (!['.txt', ''].includes(extname(file).toLowerCase())) {
    const { dir, name } = parse(file);
    throw new LgdError('BAD_OPTION', 'names are written one a line, which is another kind of file.', {
      option: 'write',
      found: file,
      allowed: 'a .txt file',
      mend: `Write ${format({ dir, name, ext: '.txt' })}`,
    });
  }
  if ((await fileInPlace(file, 'write')) === undefined || overwrite) {
    const removeEmpty = await tryFolder(dirname(file));
    await removeEmpty();
    return;
  }
  const mend = 'Choose another file, or give --overwrite';
  if (list === undefined || (await realpath(list).catch(() => undefined)) !== (await realpath(file))) {
    throw new LgdError('BAD_OPTION', 'there is such a file already.', {
      option: 'write',
      found: file,
      allowed: 'a new file, or the list that is mended',
      mend,
    });
  }
  const comments = (await readFile(file, 'utf8'))
    .split(/\r\n|\n|\r/u)
    .filter((line) => line.trimStart().startsWith('#')).length;
  if (comments > 0)
    throw new LgdError('BAD_OPTION', `the list has ${comments} lines of comments, which would be lost.`, {
      option: 'write',
      found: file,
      mend,
    });
}
