import { readdir, readFile, stat } from 'node:fs/promises';
import { extname, join } from 'node:path';
import { LgdError, systemErrorCode } from '../errors.js';
import { builtinIds, builtinLists, readBuiltin } from './builtin.js';
import { suggestion } from './spelling.js';
import { namesInTable } from './table.js';

const kinds = `a .txt, .json, .csv or .tsv file, a folder of class folders, or a built-in list (${builtinIds.join(', ')})`;
const splits = new Set(['train', 'training', 'val', 'valid', 'validation', 'test', 'testing']);

/**
 * Reads the names of a category list from a built-in id, a file or a folder, in their order and spelled as they stand.
 * A path that exists comes before a built-in id of the same name.
 * @throws LgdError FILE_NOT_FOUND, BAD_NAMES, BAD_FILE (a built-in list that was changed)
 */
export async function readNames(source: string): Promise<string[]> {
  let isFolder: boolean;
  try {
    isFolder = (await stat(source)).isDirectory();
  } catch (cause) {
    if (Object.hasOwn(builtinLists, source)) return readBuiltin(source);
    throw notFound(source, cause);
  }
  if (isFolder) return classFolders(source);
  const text = await readText(source);
  switch (extname(source).toLowerCase()) {
    case '.json': return fromJson(text, source);
    case '.csv': return namesInTable(text, source, undefined);
    case '.tsv': return namesInTable(text, source, '\t');
    case '.txt':
    case '': return fromText(text);
    default: throw new LgdError('BAD_NAMES', `${source} is not a kind of file that holds names.`, { option: 'names', allowed: kinds, mend: 'Save the names as .txt, one a line' });
  }
}

function notFound(source: string, cause: unknown): LgdError {
  const code = systemErrorCode(cause);
  if (code !== 'ENOENT' && code !== 'ENOTDIR') return new LgdError('BAD_NAMES', `cannot read ${source}.`, { option: 'names', mend: 'Check the permissions of the path', cause });
  return new LgdError('FILE_NOT_FOUND', 'there is no file, folder or built-in list of this name.', {
    option: 'names',
    found: source,
    allowed: kinds,
    mend: suggestion(source, builtinIds, 'the built-in list ') ?? mendOfMissing(source),
    cause,
  });
}

/** A text with commas, or without anything of a path, may have been meant for names; also a JSON list that a shell took the quotes of. */
function mendOfMissing(source: string): string {
  const words = source.replaceAll(/^\[|\]$/gu, '').split(',').map((word) => word.replaceAll(/^[\s"']+|[\s"']+$/gu, '')).filter((word) => word !== '');
  if (words.length === 0 || (words.length === 1 && /[./\\]/u.test(source))) return 'Check the path';
  const list = JSON.stringify(words);
  return `Check the path; or give the names themselves, in a file, one a line, or as a JSON list: --names '${list.replaceAll("'", "'\\''")}'`;
}

async function readText(path: string): Promise<string> {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(await readFile(path)); // drops a byte order mark
  } catch (cause) {
    const why = systemErrorCode(cause) === 'ERR_ENCODING_INVALID_ENCODED_DATA' ? 'it is not UTF-8 text' : (cause as Error).message;
    throw new LgdError('BAD_NAMES', `cannot read names from ${path}: ${why}.`, { option: 'names', mend: 'Save the file as UTF-8', cause });
  }
}

/** One name a line; empty lines and lines that start with # are not names. Blanks around a name are kept for the doctor to find. */
function fromText(text: string): string[] {
  return text.split(/\r\n|\n|\r/u).filter((line) => line.trim() !== '' && !line.trimStart().startsWith('#'));
}

/**
 * An array of strings or of {name}; or an object that holds one under `names` or `categories` (COCO and LVIS annotation files);
 * or an object from class index to name, bare or under `names` (YOLO) or `id2label` (Hugging Face).
 */
function fromJson(text: string, path: string): string[] {
  const bad = (message: string, cause?: unknown) =>
    new LgdError('BAD_NAMES', `${path}: ${message}.`, {
      option: 'names', allowed: 'an array of strings, or an object with "names" or "categories"', mend: 'Write the names as ["cat", "dog"]', cause,
    });
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw bad(`it is not JSON (${(cause as Error).message})`, cause);
  }
  if (isRecord(value)) {
    const { names, categories, id2label } = value;
    value = names ?? categories ?? id2label ?? value;
  }
  if (isRecord(value)) {
    const keys = Object.keys(value);
    if (keys.length === 0 || !keys.every((key) => /^\d+$/u.test(key))) throw bad('it has neither "names" nor "categories"');
    const byIndex = value;
    value = keys.sort((a, b) => Number(a) - Number(b)).map((key) => byIndex[key]);
  }
  if (!Array.isArray(value)) throw bad('its names are not an array');
  return value.map((entry: unknown, index) => {
    const name = isRecord(entry) ? entry['name'] : entry;
    if (typeof name !== 'string') throw bad(`entry ${index} is not a name but ${JSON.stringify(entry)?.slice(0, 80)}`);
    return name;
  });
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** The class folders of an ImageFolder, sorted by code unit as torchvision sorts them; hidden folders are left out. */
async function classFolders(folder: string): Promise<string[]> {
  const names: string[] = [];
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    if (entry.name.startsWith('.')) continue;
    const isFolder = entry.isDirectory() || (entry.isSymbolicLink() && (await stat(join(folder, entry.name)).catch(() => undefined))?.isDirectory());
    if (isFolder) names.push(entry.name);
  }
  if (names.length === 0) {
    throw new LgdError('BAD_NAMES', `${folder} has no class folders.`, { option: 'names', mend: 'Name the folder whose subfolders are the classes, or a file of names' });
  }
  if (names.every((name) => splits.has(name.toLowerCase()))) {
    throw new LgdError('BAD_NAMES', `the subfolders of ${folder} are the splits of a data set, not its classes.`, { option: 'names', found: names.join(', '), mend: `Name one split, such as ${join(folder, names[0]!)}` });
  }
  return names.sort();
}
