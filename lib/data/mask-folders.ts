/** Images with a label mask each: where the known data sets keep them, and what their numbers mean. */
import { readdir, stat } from 'node:fs/promises';
import { extname, join } from 'node:path';
import { LgdError, unlessAbsent } from '../errors.js';
import { foldersIn, isFolder } from '../files/folders.js';
import { readFile } from '../files/open.js';
import { readBuiltin } from '../text/builtin.js';
import { CategoryList } from '../text/names.js';
import { suggestion } from '../text/spelling.js';
import { openImageFolder } from './image-folder.js';

/** How images and masks lie in folders; auto looks which it is. */
export type MaskLayout = 'pairs' | 'cityscapes' | 'ade20k' | 'voc';

/** Images with masks, undecoded. */
export interface MaskedImages {
  readonly root: string;
  readonly layout: MaskLayout;
  /** K names; label i of {@link table} is names[i]. */
  readonly names: readonly string[];
  /** Paths below the root, an image and its mask each. */
  readonly pairs: readonly { image: string; mask: string }[];
  /** What a number in a mask means: a class, or -1 to be ignored. Numbers past its end are an error. */
  readonly table: Int16Array;
  /** Do the pairs belong to the split asked for, or is the folder not divided? */
  readonly divided: boolean;
}

export interface MaskFolderOptions {
  layout?: MaskLayout | 'auto';
  /** `train` or `val`; the spellings of the layouts (training, validation) are known. */
  split: string;
  /** Names of a `pairs` folder: a file or a list. Default: classes.txt in the folder. */
  names?: string | readonly string[];
  /** Names where neither `names` nor classes.txt says any: those of a network to be evaluated. */
  fallbackNames?: readonly string[];
  /** What errors call the folder. */
  option: string;
  /** What errors call the split. */
  splitOption: string;
  signal?: AbortSignal | undefined;
}

const ignored = 255;
/**
 * labelIds of the 19 classes that Cityscapes evaluates, in the order of their trainIds (cityscapesScripts, labels.py).
 */
const cityscapesIds = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33];
const longSplits: Readonly<Record<string, string>> = { train: 'training', val: 'validation' };
/** What the options say where nobody gave them: folders that are not divided do without. */
const defaultSplits: readonly string[] = ['train', 'val'];
const likeSplit =
  /^(?:train(?:ing|val)?|(?:mini)?val(?:id|idation)?|test(?:ing)?|dev|eval(?:uation)?)[-_]?(?:dev|\d*)$/iu;
const mostParts = 10;

type Opened = Pick<MaskedImages, 'names' | 'pairs' | 'table' | 'divided'>;

/**
 * Opens a folder of images and masks.
 * @throws LgdError FILE_NOT_FOUND (which may be the split), BAD_DATASET (an unknown layout, images without masks),
 *   BAD_NAMES, ABORTED
 */
export async function openMaskFolder(
  root: string,
  { layout = 'auto', ...options }: MaskFolderOptions,
): Promise<MaskedImages> {
  const { option } = options;
  if (!(await isFolder(root)))
    throw new LgdError('FILE_NOT_FOUND', `there is no folder ${root}.`, {
      option,
      mend: 'Check the path; it is relative to the current folder',
    });
  const known = layout === 'auto' ? await detect(root, option) : layout;
  const opened = await { pairs: openPairs, cityscapes: openCityscapes, ade20k: openAde20k, voc: openVoc }[known](
    root,
    options,
  );
  if (opened.pairs.length === 0)
    throw new LgdError('BAD_DATASET', `${root} has no images with masks in the split ${options.split}.`, {
      option,
      mend: 'Check the folder and the split',
    });
  return { root, layout: known, ...opened };
}

async function detect(root: string, option: string): Promise<MaskLayout> {
  const has = (name: string) => isFolder(join(root, name));
  if (await has('gtFine')) return 'cityscapes';
  if ((await has('annotations')) && (await has('images'))) return 'ade20k'; // COCO's boxes lie in annotations, too
  if (await has('SegmentationClass')) return 'voc';
  if (await has('masks')) return 'pairs';
  throw new LgdError('BAD_DATASET', `${root} has not the folders by which a layout is known.`, {
    option,
    allowed:
      'images and masks; leftImg8bit and gtFine (Cityscapes); images and annotations (ADE20K); JPEGImages and SegmentationClass (VOC)',
    mend: 'Give the folder that holds them',
  });
}

type SplitOptions = Pick<MaskFolderOptions, 'split' | 'splitOption'>;

function noSplit(place: string, parts: readonly string[], { split, splitOption }: SplitOptions): LgdError {
  const more = parts.length > mostParts ? ` and ${parts.length - mostParts} more` : '';
  return new LgdError('FILE_NOT_FOUND', `${place} has no part of this name.`, {
    option: splitOption,
    found: split,
    ...(parts.length > 0 && { allowed: `${parts.slice(0, mostParts).join(', ')}${more}` }),
    mend:
      suggestion(split, parts) ??
      (parts.length > 0 ? 'Give one of these, or another folder' : 'Leave it out: the folder is not divided'),
  });
}

/** @throws LgdError FILE_NOT_FOUND, unless the part of a divided folder is there */
async function checkSplit(
  place: string,
  folder: string,
  options: SplitOptions & Pick<MaskFolderOptions, 'option'>,
): Promise<void> {
  if (await isFolder(join(place, folder))) return;
  const parts = await foldersIn(place).catch(() => []);
  if (parts.length > 0) throw noSplit(place, parts, options);
  throw new LgdError('FILE_NOT_FOUND', `there is no folder ${join(place, folder)}.`, {
    option: options.option,
    mend: 'Give the folder that holds it, or another layout',
  });
}

/**
 * Is a folder of images divided?
 * @throws LgdError FILE_NOT_FOUND where it is, or is meant to be, and has not this part: all of it would be another's
 */
async function isDivided(images: string, options: SplitOptions): Promise<boolean> {
  if (await isFolder(join(images, options.split))) return true;
  const folders = await foldersIn(images).catch(() => []);
  const parts = folders.filter((name) => likeSplit.test(name));
  if (parts.length === 0 && (defaultSplits.includes(options.split) || !(await isFolder(images)))) return false;
  throw noSplit(images, parts.length > 0 ? parts : folders, options);
}

/** Images below `images`, each with a .png of the same path below `masks`. */
async function pairUp(
  root: string,
  images: string,
  maskOf: (id: string) => string,
  { option, signal }: Pick<MaskFolderOptions, 'option' | 'signal'>,
): Promise<MaskedImages['pairs']> {
  const { ids } = await openImageFolder(join(root, images), { signal });
  const base = maskOf('').replace(/\/?[^/]*$/u, '');
  const there = new Set(await filesBelow(join(root, base)));
  const pairs = ids.map((id) => ({ image: `${images}/${id}`, mask: maskOf(id) }));
  const without = pairs.filter(({ mask }) => !there.has(mask.slice(base.length + 1)));
  if (without.length > 0) {
    throw new LgdError(
      'BAD_DATASET',
      `${without.length} of ${pairs.length} images in ${join(root, images)} have no mask, the first ${without[0]!.image}.`,
      { option, allowed: `a mask ${without[0]!.mask}`, mend: 'Add the masks, or take the images out' },
    );
  }
  return pairs;
}

/** Paths below a folder, none where there is no such folder. @throws LgdError BAD_FILE (it may not be read) */
async function filesBelow(folder: string): Promise<string[]> {
  const paths = await readdir(folder, { recursive: true }).catch(unlessAbsent<string[]>(folder, []));
  return paths.map((path) => path.replaceAll('\\', '/'));
}

const withoutEnding = (id: string) => id.slice(0, id.length - extname(id).length);

async function openPairs(root: string, options: MaskFolderOptions): Promise<Opened> {
  const { split, names, fallbackNames } = options;
  const beside = join(root, 'classes.txt');
  const source = names ?? ((await stat(beside).catch(() => undefined)) === undefined ? fallbackNames : beside);
  if (source === undefined) {
    throw new LgdError('BAD_DATASET', `the numbers in the masks of ${root} have no names.`, {
      option: 'names',
      mend: 'Write them to classes.txt in the folder, one a line from number 0, or give --names',
    });
  }
  const classes = (await CategoryList.load(source)).names;
  if (classes.length > ignored) {
    throw new LgdError(
      'BAD_NAMES',
      `masks can number ${ignored} classes: ${ignored} in a mask is a pixel to be ignored.`,
      {
        option: 'names',
        found: classes.length,
        allowed: `1 to ${ignored} names`,
        mend: 'Give the masks fewer classes, and name those',
      },
    );
  }
  const divided = await isDivided(join(root, 'images'), options);
  const inside = divided ? `/${split}` : '';
  const pairs = await pairUp(root, `images${inside}`, (id) => `masks${inside}/${withoutEnding(id)}.png`, options);
  return { names: classes, pairs, table: tableOf(classes.map((_, i) => i)), divided };
}

async function openCityscapes(root: string, options: MaskFolderOptions): Promise<Opened> {
  const { split } = options;
  await checkSplit(join(root, 'leftImg8bit'), split, options);
  const names = await readBuiltin('cityscapes');
  const converted = (await filesBelow(join(root, 'gtFine', split))).some((name) => name.endsWith('_labelTrainIds.png'));
  const ending = converted ? 'gtFine_labelTrainIds.png' : 'gtFine_labelIds.png';
  const pairs = await pairUp(
    root,
    `leftImg8bit/${split}`,
    (id) => `gtFine/${split}/${id.replace(/leftImg8bit\.\w+$/u, ending)}`,
    options,
  );
  return {
    names,
    pairs,
    table: tableOf(converted ? names.map((_, i) => i) : cityscapesIds, !converted),
    divided: true,
  };
}

/** 0 is "other" and ignored; class i is i + 1. Numbers past the last are of another set of classes. */
async function openAde20k(root: string, options: MaskFolderOptions): Promise<Opened> {
  const { split } = options;
  const names = await readBuiltin('ade20k');
  const folder = longSplits[split] ?? split;
  await checkSplit(join(root, 'images'), folder, options);
  const pairs = await pairUp(
    root,
    `images/${folder}`,
    (id) => `annotations/${folder}/${withoutEnding(id)}.png`,
    options,
  );
  const table = tableOf(names.map((_, i) => i + 1));
  table[0] = -1;
  return { names, pairs, table, divided: true };
}

async function openVoc(root: string, options: MaskFolderOptions): Promise<Opened> {
  const { split, option } = options;
  const names = ['background', ...(await readBuiltin('voc'))];
  const lists = join(root, 'ImageSets', 'Segmentation');
  const list = join(lists, `${split}.txt`);
  const text = await readFile(list, 'utf8').catch(unlessAbsent(list, undefined));
  if (text === undefined) {
    const parts = (await readdir(lists).catch(() => []))
      .filter((name) => name.endsWith('.txt'))
      .map(withoutEnding)
      .sort();
    if (parts.length > 0 && !parts.includes(split)) throw noSplit(lists, parts, options);
    throw new LgdError('FILE_NOT_FOUND', `there is no list ${list}.`, {
      option,
      mend: 'Give a VOC folder with ImageSets/Segmentation, or another split',
    });
  }
  const pairs = text
    .split(/\s+/u)
    .filter((id) => id !== '')
    .map((id) => ({ image: `JPEGImages/${id}.jpg`, mask: `SegmentationClass/${id}.png` }));
  return { names, pairs, table: tableOf(names.map((_, i) => i)), divided: true };
}

/**
 * @param numbers what stands in a mask for each class
 * @param othersIgnored numbers in between and after mean nothing instead of being an error
 */
function tableOf(numbers: readonly number[], othersIgnored = false): Int16Array {
  const table = new Int16Array(256).fill(othersIgnored ? -1 : -2);
  numbers.forEach((number, index) => {
    table[number] = index;
  });
  table[ignored] = -1;
  return table;
}

/**
 * The class of each pixel of a mask, -1 for those to be ignored.
 * @throws LgdError BAD_DATASET for a number that is no class
 */
export function classesOf(
  { table }: Pick<MaskedImages, 'table'>,
  labels: Uint8Array | Uint16Array,
  path: string,
): Int16Array {
  const classes = new Int16Array(labels.length);
  for (let i = 0; i < labels.length; i++) {
    const index = labels[i]! < table.length ? table[labels[i]!]! : -2;
    if (index === -2)
      throw new LgdError('BAD_DATASET', `${path} holds a label without a class.`, {
        found: labels[i],
        allowed: table.includes(-2)
          ? `0 to ${table.indexOf(-2) - 1}, and ${ignored} for pixels to be ignored`
          : `0 to ${table.length - 1}`,
        mend: 'Correct the mask, or the list of names',
      });
    classes[i] = index;
  }
  return classes;
}
