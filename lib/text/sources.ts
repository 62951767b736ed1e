import { constants } from 'node:buffer';
import type { Stats } from 'node:fs';
import { stat } from 'node:fs/promises';
import { extname, join } from 'node:path';
import { parseMembers } from '../data/json-members.js';
import { LgdError, meansAbsent, systemErrorCode } from '../errors.js';
import { foldersIn } from '../files/folders.js';
import { isObject } from '../files/json.js';
import { openToRead, readFile } from '../files/open.js';
import { mebibytes } from '../files/safetensors-header.js';
import { quoted } from '../shell.js';
import { builtinIds, builtinLists, readBuiltin } from './builtin.js';
import { suggestion } from './spelling.js';

const kinds = `a .txt, .json, .csv or .tsv file, a folder of class folders, or a built-in list (${builtinIds.join(', ')})`;
const mostText = constants.MAX_STRING_LENGTH;
/** Bytes of JSON that are parsed at once. */
const atOnce = 2 ** 26;
const splits = new Set(['train', 'training', 'val', 'valid', 'validation', 'test', 'testing']);

/**
 * Reads the names of a category list from a built-in id, a file or a folder, in their order and spelled as they stand.
 * A path that exists comes before a built-in id of the same name.
 * @throws LgdError FILE_NOT_FOUND, BAD_NAMES, BAD_FILE (a built-in list that was changed)
 */
export async function readNames(source: string): Promise<string[]> {
  let found: Stats;
  try {
    found = await stat(source);
  } catch (cause) {
    if (Object.hasOwn(builtinLists, source)) return readBuiltin(source);
    throw notFound(source, cause);
  }
  if (found.isDirectory()) return classFolders(source);
  switch (extname(source).toLowerCase()) {
    case '.json':
      return fromJson(source, found.size);
    case '.csv':
    case '.tsv':
      return fromTable(source, found.size);
    case '.txt':
    case '':
      return namesIn(await readText(source, found.size));
    case '.safetensors':
      throw new LgdError('BAD_NAMES', `${source} is a file of tensors, not of names.`, {
        option: 'names',
        allowed: kinds,
        mend: 'Give a text bank as bank (--bank); make one of embeddings with `lgdistill bank build --embeddings`',
      });
    default:
      throw new LgdError('BAD_NAMES', `${source} is not a kind of file that holds names.`, {
        option: 'names',
        allowed: kinds,
        mend: 'Save the names as .txt, one a line',
      });
  }
}

async function fromTable(source: string, size: number): Promise<string[]> {
  const { namesInTable } = await import('./table.js');
  return namesInTable(await readText(source, size), source, source.toLowerCase().endsWith('.tsv') ? '\t' : undefined);
}

function notFound(source: string, cause: unknown): LgdError {
  if (!meansAbsent(cause))
    return new LgdError('BAD_NAMES', `cannot read ${source}.`, {
      option: 'names',
      mend: 'Check the permissions of the path',
      cause,
    });
  return new LgdError('FILE_NOT_FOUND', 'there is no file, folder or built-in list of this name.', {
    option: 'names',
    found: source,
    allowed: kinds,
    mend: suggestion(source, builtinIds, 'the built-in list ') ?? mendOfMissing(source),
    cause,
  });
}

/**
 * A text with commas, or without anything of a path, may have been meant for names; also a JSON list that a shell took
 * the quotes of.
 */
function mendOfMissing(source: string): string {
  const words = source
    .replaceAll(/^\[|\]$/gu, '')
    .split(',')
    .map((word) => word.replaceAll(/^[\s"']+|[\s"']+$/gu, ''))
    .filter((word) => word !== '');
  if (words.length === 0 || (words.length === 1 && /[./\\]/u.test(source))) return 'Check the path';
  const list = JSON.stringify(words);
  return `Check the path; or give the names themselves, in a file, one a line, or as a JSON list: --names ${quoted(list)}`;
}

async function readText(path: string, bytes: number): Promise<string> {
  if (bytes > mostText) throw tooLong(path, bytes);
  // drops a byte order mark
  const text = await readFile(path)
    .then((read) => new TextDecoder('utf-8', { fatal: true }).decode(read))
    .catch((cause: unknown) => {
      throw cannotRead(path, cause);
    });
  if (text.includes('\0')) throw notText(path); // UTF-16 without a mark is UTF-8 by chance, too
  return text;
}

function cannotRead(path: string, cause: unknown): LgdError {
  if (systemErrorCode(cause) === 'ERR_ENCODING_INVALID_ENCODED_DATA') return notText(path, cause);
  const { message } = cause as Error;
  const why = cause instanceof LgdError ? message.split(` ${cause.mend}`)[0]! : message; // the advice is given below
  return new LgdError('BAD_NAMES', `cannot read names from ${path}: ${why}.`, {
    option: 'names',
    mend: cause instanceof LgdError ? cause.mend : 'Check the file and its permissions',
    cause,
  });
}

function notText(path: string, cause?: unknown): LgdError {
  return new LgdError('BAD_NAMES', `cannot read names from ${path}: it is not UTF-8 text.`, {
    option: 'names',
    mend: 'Save the file as UTF-8',
    cause,
  });
}

function tooLong(path: string, bytes: number): LgdError {
  return new LgdError('BAD_NAMES', `${path} has ${mebibytes(bytes)} MiB, more than a list of names may have.`, {
    option: 'names',
    allowed: `${mebibytes(mostText)} MiB, or JSON with "names" or "categories"`,
    mend: 'Give a file of the names alone, one a line',
  });
}

/**
 * One name a line; empty lines and lines that start with # are not names. Blanks around a name are kept for the doctor
 * to find.
 */
export function namesIn(text: string): string[] {
  return text.split(/\r\n|\n|\r/u).filter((line) => line.trim() !== '' && !line.trimStart().startsWith('#'));
}

/**
 * An array of strings or of {name}; or an object that holds one under `names` or `categories` (COCO and LVIS annotation
 * files); or an object from class index to name, bare or under `names` (YOLO) or `id2label` (Hugging Face).
 */
async function fromJson(path: string, bytes: number): Promise<string[]> {
  const bad = (message: string, more: { found?: unknown; cause?: unknown } = {}) =>
    new LgdError('BAD_NAMES', `${path}: ${message}.`, {
      option: 'names',
      ...more,
      allowed: 'an array of strings, or an object with "names" or "categories"',
      mend: 'Write the names as ["cat", "dog"]',
    });
  let value: unknown;
  try {
    value = bytes > atOnce ? await parseLarge(path) : JSON.parse(await readText(path, bytes));
  } catch (cause) {
    if (cause instanceof SyntaxError) throw bad(`it is not JSON (${cause.message})`, { cause });
    if (cause instanceof RangeError) throw tooLong(path, bytes);
    throw cause instanceof LgdError ? cause : cannotRead(path, cause);
  }
  if (isObject(value)) {
    const { names, categories, id2label } = value;
    value = names ?? categories ?? id2label ?? value;
  }
  if (isObject(value)) {
    const keys = Object.keys(value);
    if (keys.length === 0 || !keys.every((key) => /^\d+$/u.test(key)))
      throw bad('it has neither "names" nor "categories"');
    const byIndex = value;
    value = keys.sort((a, b) => Number(a) - Number(b)).map((key) => byIndex[key]);
  }
  if (!Array.isArray(value)) throw bad('its names are not an array');
  return value.map((entry: unknown, index) => {
    const name = isObject(entry) ? entry['name'] : entry;
    if (typeof name !== 'string') throw bad(`entry ${index} is not a name`, { found: entry ?? null });
    return name;
  });
}

/**
 * JSON whose boxes and outlines would take the memory of a string, or more than one holds: an object's lists member by
 * member, of which those of names are kept.
 */
async function parseLarge(path: string): Promise<unknown> {
  const lists = { names: [] as unknown[], categories: [] as unknown[] };
  const whole = await parseMembers(
    (await openToRead(path)).createReadStream({ highWaterMark: 2 ** 20 }),
    (key, member) => {
      if (key === 'names' || key === 'categories')
        lists[key].push(isObject(member) ? { name: member['name'] } : member);
    },
  );
  if (!isObject(whole)) return whole;
  for (const key of ['names', 'categories'] as const) if (Array.isArray(whole[key])) whole[key] = lists[key];
  return whole;
}

/** The class folders of an ImageFolder, sorted by code unit as torchvision sorts them; hidden folders are left out. */
async function classFolders(folder: string): Promise<string[]> {
  const names = await foldersIn(folder).catch((cause: unknown) => {
    throw notFound(folder, cause);
  });
  if (names.length === 0) {
    throw new LgdError('BAD_NAMES', `${folder} has no class folders.`, {
      option: 'names',
      mend: 'Name the folder whose subfolders are the classes, or a file of names',
    });
  }
  if (names.every((name) => splits.has(name.toLowerCase()))) {
    throw new LgdError('BAD_NAMES', `the subfolders of ${folder} are the splits of a data set, not its classes.`, {
      option: 'names',
      found: names.join(', '),
      mend: `Name one split, such as ${join(folder, names[0]!)}`,
    });
  }
  return names;
}
