import { readFile } from 'node:fs/promises';
import { LgdError, systemErrorCode } from '../errors.js';
import { normaliseName } from '../text/spelling.js';

const shown = 10;

/**
 * The name of each class folder, as its index in a bank's names. Folders and names match when they are spelled alike but for case, underscores and blanks,
 * or where `mapping` (folder -> name) says so. Every folder must have a name of its own and every name a folder: otherwise the accuracy would mean something else.
 * @returns [classNames.length] indices into names
 * @throws LgdError CLASS_MISMATCH with what is unmatched on both sides
 */
export function matchClasses(classNames: readonly string[], names: readonly string[], mapping: Readonly<Record<string, string>> = {}): Int32Array {
  const places = new Map<string, number>();
  const ambiguous = new Set<string>();
  names.forEach((name, index) => {
    const key = normaliseName(name);
    if (places.has(key)) ambiguous.add(name);
    else places.set(key, index);
  });
  const indices = classNames.map((folder) => places.get(normaliseName(Object.hasOwn(mapping, folder) ? mapping[folder]! : folder)) ?? -1);
  const taken = new Map<number, string>();
  const doubled: string[] = [];
  classNames.forEach((folder, i) => {
    const index = indices[i]!;
    if (index === -1) return;
    const other = taken.get(index);
    if (other === undefined) taken.set(index, folder);
    else doubled.push(`${other} and ${folder}`);
  });
  const folders = classNames.filter((_, i) => indices[i] === -1);
  const without = names.filter((name, index) => !taken.has(index) && !ambiguous.has(name));
  const strangers = Object.keys(mapping).filter((folder) => !classNames.includes(folder));
  const faults = [
    ...describe('class folders without a name', folders),
    ...describe('names without a class folder', without),
    ...describe('names spelled alike', [...ambiguous]),
    ...describe('class folders with the same name', doubled),
    ...describe('class folders in the mapping that are not there', strangers),
  ];
  if (faults.length === 0) return Int32Array.from(indices);
  throw new LgdError('CLASS_MISMATCH', `the class folders and the category names do not match; ${faults.join('; ')}.`, {
    option: 'evaluate.names',
    mend: 'Choose the names with evaluate.names (it may be the class folder itself), or map folders to names with evaluate.mapping',
  });
}

function describe(what: string, items: readonly string[]): string[] {
  if (items.length === 0) return [];
  const list = items.slice(0, shown).map((item) => JSON.stringify(item)).join(', ');
  return [`${what} (${items.length}): ${list}${items.length > shown ? ', ...' : ''}`];
}

/**
 * Reads a mapping: a JSON object from class folder to category name.
 * @throws LgdError FILE_NOT_FOUND, BAD_FILE
 */
export async function readMapping(path: string): Promise<Record<string, string>> {
  let value: unknown;
  try {
    value = JSON.parse(await readFile(path, 'utf8'));
  } catch (cause) {
    if (systemErrorCode(cause) === 'ENOENT') throw new LgdError('FILE_NOT_FOUND', 'there is no mapping of this name.', { option: 'evaluate.mapping', found: path, mend: 'Check the path', cause });
    throw new LgdError('BAD_FILE', `cannot read the mapping ${path}: ${(cause as Error).message}.`, { option: 'evaluate.mapping', mend: 'Check that it is there and is JSON', cause });
  }
  const isMapping = typeof value === 'object' && value !== null && !Array.isArray(value) && Object.values(value).every((name) => typeof name === 'string');
  if (!isMapping) throw new LgdError('BAD_FILE', `${path} is not a mapping.`, { option: 'evaluate.mapping', allowed: 'a JSON object from class folder to category name', mend: 'Write it as { "folder": "name" }' });
  return value as Record<string, string>;
}
