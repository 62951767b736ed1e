import type { ImageSource } from '../data/sources.js';
import { LgdError, systemErrorCode } from '../errors.js';
import { withoutMark } from '../files/byte-order-mark.js';
import { foldersIn } from '../files/folders.js';
import { isObject } from '../files/json.js';
import { readFile } from '../files/open.js';
import { readBuiltin } from '../text/builtin.js';
import { normaliseName } from '../text/spelling.js';

const shown = 10;

/**
 * Folders right below a folder of class folders that hold no image, so that they are no classes of it; none of a pack
 * or anything else.
 */
export async function emptyClassFolders({
  root,
  classNames = [],
}: Pick<ImageSource, 'root' | 'classNames'>): Promise<string[]> {
  const known = new Set(classNames);
  return (await foldersIn(root).catch(() => [])).filter((name) => !known.has(name));
}

/**
 * The name of each class folder, as its index in a bank's names. Folders and names match when they are spelled alike
 * but for case, and underscores for blanks (`Traffic_Light` is `traffic light`, `air_plane` is not `airplane`), or
 * where `mapping` (folder -> name) says so. Every folder must have a name of its own and every name a folder: otherwise
 * the accuracy would mean something else.
 * @param empty what {@link emptyClassFolders} finds, to tell a folder without images from one that is not there
 * @returns [classNames.length] indices into names
 * @throws LgdError CLASS_MISMATCH with what is unmatched on both sides
 */
export function matchClasses(
  classNames: readonly string[],
  names: readonly string[],
  mapping: Readonly<Record<string, string>> = {},
  empty: readonly string[] = [],
): Int32Array {
  const places = new Map<string, number>();
  const ambiguous = new Set<string>();
  names.forEach((name, index) => {
    const key = normaliseName(name);
    if (places.has(key)) ambiguous.add(name);
    else places.set(key, index);
  });
  const placeOf = (folder: string) =>
    places.get(normaliseName(Object.hasOwn(mapping, folder) ? mapping[folder]! : folder)) ?? -1;
  const indices = classNames.map(placeOf);
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
  const hollow = empty.filter((folder) => placeOf(folder) !== -1 && !taken.has(placeOf(folder)));
  const emptied = new Set(hollow.map(placeOf));
  const without = names.filter((name, index) => !taken.has(index) && !emptied.has(index) && !ambiguous.has(name));
  const strangers = Object.keys(mapping).filter((folder) => !classNames.includes(folder) && !hollow.includes(folder));
  const faults = [
    ...describe('class folders that are there and hold no image', hollow),
    ...describe('class folders without a name', folders),
    ...describe('names without a class folder', without),
    ...describe('names spelled alike', [...ambiguous]),
    ...describe('class folders with the same name', doubled),
    ...describe('class folders in the mapping that are not there', strangers),
  ];
  if (faults.length === 0) return Int32Array.from(indices);
  if (folders.length > classNames.length / 2) {
    throw new LgdError(
      'CLASS_MISMATCH',
      `the class folders are of another set than the category names, so their images need a text bank of their own; ${faults.join('; ')}.`,
      {
        option: 'evaluate.names',
        mend: `${ownBank}, or map folders to names with evaluate.mapping`,
      },
    );
  }
  throw new LgdError('CLASS_MISMATCH', `the class folders and the category names do not match; ${faults.join('; ')}.`, {
    option: 'evaluate.names',
    mend:
      hollow.length === 0
        ? 'Choose the names with evaluate.names (it may be the class folder itself), or map folders to names with evaluate.mapping'
        : fillOrLeaveOut(names.filter((_, index) => !emptied.has(index))),
  });
}

/** What to do about class folders without images, where the other names are these. */
function fillOrLeaveOut(others: readonly string[]): string {
  const list =
    others.length > 0 && others.length <= shown
      ? `, as '${JSON.stringify(others)}'`
      : ' (a file or a JSON list; the class folder names all its folders)';
  return `Put images into these folders, or choose the other names alone with evaluate.names${list}`;
}

/**
 * Labels of images to be judged on, as indices into the classes of those that are learnt from, whatever order either
 * has them in. Names that stand twice in a list tell nothing, unless the lists are the same.
 * @param where empty: what {@link emptyClassFolders} finds among the images to learn from
 * @throws LgdError CLASS_MISMATCH
 */
export function labelsAmong(
  { labels, classNames }: Pick<ImageSource, 'labels' | 'classNames'>,
  classes: readonly string[],
  { option, mend, empty = [] }: { option: string; mend: string; empty?: readonly string[] },
): Int32Array {
  const names = classNames!;
  if (names.length === classes.length && names.every((name, label) => name === classes[label])) return labels!;
  const places = new Map(classes.map((name, label) => [name, label]));
  const twice = (list: readonly string[]) => {
    const seen = new Set<string>();
    return list.filter((name) => seen.has(name) || !seen.add(name));
  };
  const missing = names.filter((name) => !places.has(name));
  const faults = [
    ...describe(
      'classes whose folder of images to learn from is there and holds none',
      missing.filter((name) => empty.includes(name)),
    ),
    ...describe(
      'classes that the images to learn from do not have',
      missing.filter((name) => !empty.includes(name)),
    ),
    ...describe('classes of the same name', [...new Set([...twice(names), ...twice(classes)])]),
  ];
  if (faults.length > 0)
    throw new LgdError(
      'CLASS_MISMATCH',
      `the classes of the images to learn from and to be judged on do not match; ${faults.join('; ')}.`,
      { option, mend },
    );
  return labels!.map((label) => places.get(names[label]!)!);
}

const ownBank =
  'Name the classes with evaluate.names (the class folder itself will do), which builds one; or take `lgdistill bank build --names classes.txt --text-encoder model --to own.safetensors`' +
  ' and `lgdistill evaluate --bank own.safetensors` (a run: evaluate.bank)';

/**
 * Places of some of ImageNet-1k's WordNet ids among the sorted thousand: no other thousand synsets have all of them
 * there.
 */
const imagenetLandmarks: readonly (readonly [number, string])[] = [
  [0, 'n01440764'],
  [1, 'n01443537'],
  [2, 'n01484850'],
  [151, 'n02085620'],
  [207, 'n02099601'],
  [281, 'n02123045'],
  [340, 'n02391049'],
  [386, 'n02504458'],
  [388, 'n02510455'],
  [404, 'n02690373'],
  [517, 'n03126707'],
  [779, 'n04146614'],
  [954, 'n07753592'],
  [980, 'n09472597'],
  [999, 'n15075141'],
];

/**
 * The mapping of class folders that is known without being given: ImageNet-1k's thousand, named by WordNet ids, whose
 * sorted order is that of the built-in list.
 * @returns class folder -> name; empty for any other set
 */
export async function knownMapping(classNames: readonly string[]): Promise<Record<string, string>> {
  const sorted = [...classNames].sort();
  if (
    sorted.length !== 1000 ||
    !imagenetLandmarks.every(([place, id]) => sorted[place] === id) ||
    !sorted.every((id) => /^n\d{8}$/u.test(id))
  )
    return {};
  const names = await readBuiltin('imagenet-1k');
  return Object.fromEntries(sorted.map((id, index) => [id, names[index]!]));
}

function describe(what: string, items: readonly string[]): string[] {
  if (items.length === 0) return [];
  const list = items
    .slice(0, shown)
    .map((item) => JSON.stringify(item))
    .join(', ');
  return [`${what} (${items.length}): ${list}${items.length > shown ? ', ...' : ''}`];
}

/**
 * Reads a mapping: a JSON object from class folder to category name.
 * @throws LgdError FILE_NOT_FOUND, BAD_FILE
 */
export async function readMapping(path: string): Promise<Record<string, string>> {
  let value: unknown;
  try {
    value = JSON.parse(withoutMark(await readFile(path, 'utf8')));
  } catch (cause) {
    if (systemErrorCode(cause) === 'ENOENT')
      throw new LgdError('FILE_NOT_FOUND', 'there is no mapping of this name.', {
        option: 'evaluate.mapping',
        found: path,
        mend: 'Check the path',
        cause,
      });
    throw new LgdError('BAD_FILE', `cannot read the mapping ${path}: ${(cause as Error).message}.`, {
      option: 'evaluate.mapping',
      mend: 'Check that it is there and is JSON',
      cause,
    });
  }
  const isMapping = isObject(value) && Object.values(value).every((name) => typeof name === 'string');
  if (!isMapping)
    throw new LgdError('BAD_FILE', `${path} is not a mapping.`, {
      option: 'evaluate.mapping',
      allowed: 'a JSON object from class folder to category name',
      mend: 'Write it as { "folder": "name" }',
    });
  return value as Record<string, string>;
}
