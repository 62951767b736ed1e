/**
 * The category lists that ship with the package: `lists/<id>.txt`, one name a line in the order of the data set's label
 * indices, and what is to be known of each.
 */
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { LgdError } from '../errors.js';
import { shippedFolder } from '../package.js';
import { suggestion } from './spelling.js';

/** Where a built-in list comes from, and how the spelling here differs from the original. */
export interface BuiltinList {
  /** What it lists. */
  readonly title: string;
  /** How many names. */
  readonly count: number;
  /** Paper or site that defines the categories. */
  readonly source: string;
  readonly year: number;
  /** What the place of a name means. */
  readonly order: string;
  /** How names are spelled where the original has it otherwise. */
  readonly spelling: string;
  /** Under what terms the names are published. */
  readonly licence: string;
  /** SHA-256 of the file, so that a changed list is noticed. */
  readonly sha256: string;
}

const asPublished = 'as published';
const plainWords = 'none is stated for the names, which are plain words; the images have terms of their own';

/** Category lists known by id. */
export const builtinLists: Readonly<Record<string, BuiltinList>> = {
  'imagenet-1k': {
    title: 'ImageNet-1k, the classes of ILSVRC 2012 to 2017',
    count: 1000,
    source: 'Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, IJCV 115, 2015; image-net.org',
    year: 2012,
    order: 'class indices 0 to 999, which is the order of the sorted WordNet ids (n01440764 ... n15075141)',
    spelling:
      "the first word of each WordNet synset, with its capitals; three that would be another's: crane bird (134, crane), Cardigan Welsh corgi (264, Cardigan), maillot tank suit (639, maillot)",
    licence: 'WordNet 3.0 licence (Princeton University): use, copying and distribution for any purpose',
    sha256: 'c532ab338da63a94dbd40d982faf49e5c3f9481d4985f68d773a627590f3eecc',
  },
  coco: {
    title: 'COCO, the object categories of detection since 2014',
    count: 80,
    source: 'Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014; cocodataset.org',
    year: 2014,
    order: 'annotation ids 1 to 90 without the ten that are not used',
    spelling: asPublished,
    licence: 'annotations: CC BY 4.0, the COCO Consortium',
    sha256: 'bd17f1ee35d5f3c862a4894605855abbb9dda4b0621fdb0ac4c2c8c7bb7e730a',
  },
  lvis: {
    title: 'LVIS v1, the categories of large-vocabulary instance segmentation',
    count: 1203,
    source:
      'Gupta, Dollar, Girshick, LVIS: A Dataset for Large Vocabulary Instance Segmentation, CVPR 2019; lvisdataset.org',
    year: 2020,
    order: 'category ids 1 to 1203',
    spelling:
      'underscores are blanks, what stood in parentheses is dropped; eight that would be alike: archery bow, ribbon bow, fish as food, octopus as food, salmon as food, cooking pan, metal pan, computer monitor',
    licence: 'annotations: CC BY 4.0, the LVIS authors',
    sha256: '5259e8f53362964ccbbc79807f59f04b03b9356d013c454841e16cacc9dd0f44',
  },
  cityscapes: {
    title: 'Cityscapes, the classes that its evaluation counts',
    count: 19,
    source:
      'Cordts et al., The Cityscapes Dataset for Semantic Urban Scene Understanding, CVPR 2016; cityscapes-dataset.com',
    year: 2016,
    order: 'training ids 0 to 18',
    spelling: asPublished,
    licence: plainWords,
    sha256: '48cab81b30ea4ee4f3b07ee136cb7e52c71de093d7bf834211ce29269ddfb196',
  },
  ade20k: {
    title: 'ADE20K, the classes of the scene parsing benchmark',
    count: 150,
    source:
      'Zhou et al., Scene Parsing through ADE20K Dataset, CVPR 2017; objectInfo150.txt of the benchmark, groups.csail.mit.edu/vision/datasets/ADE20K',
    year: 2016,
    order: 'class indices 1 to 150, by the share of pixels they cover',
    spelling:
      'the first of the synonyms of each class (90 is television; other lists of the same classes write television receiver)',
    licence: 'BSD 3-Clause, the benchmark',
    sha256: '2b141542ec72c37f788232322a1c81b43a7a037025de346490871eec75920e72',
  },
  voc: {
    title: 'PASCAL VOC 2007 to 2012, the object classes',
    count: 20,
    source:
      'Everingham et al., The PASCAL Visual Object Classes (VOC) Challenge, IJCV 88, 2010; host.robots.ox.ac.uk/pascal/VOC',
    year: 2007,
    order: 'alphabetical in the original spelling, indices 1 to 20',
    spelling: 'diningtable, pottedplant and tvmonitor in two words',
    licence: plainWords,
    sha256: 'f07adb9405c8e323aae0da200d69d679bc1321d94066e78a8bbf0058201a1609',
  },
  cifar10: {
    title: 'CIFAR-10, the classes',
    count: 10,
    source:
      'Krizhevsky, Learning Multiple Layers of Features from Tiny Images, University of Toronto, 2009; cs.toronto.edu/~kriz/cifar.html',
    year: 2009,
    order: 'labels 0 to 9 (batches.meta)',
    spelling: asPublished,
    licence: plainWords,
    sha256: '2ce042b1e0b48db4bb214408e6414ba18b2731c24af244f2d6c112fddf31af00',
  },
  cifar100: {
    title: 'CIFAR-100, the fine classes',
    count: 100,
    source:
      'Krizhevsky, Learning Multiple Layers of Features from Tiny Images, University of Toronto, 2009; cs.toronto.edu/~kriz/cifar.html',
    year: 2009,
    order: 'fine labels 0 to 99 (meta)',
    spelling: 'underscores are blanks',
    licence: plainWords,
    sha256: '3a5d9f36052f2b16cc94d6ed8dbbf45385019a3ddff5c6caf79b4d8541527118',
  },
};

/** The ids of the built-in lists, for messages and help. */
export const builtinIds: readonly string[] = Object.keys(builtinLists);

/**
 * The names of a built-in list.
 * @param folder where the files lie
 * @throws LgdError BAD_OPTION (no such list), BAD_FILE (the installed file is missing, or is not the one that was
 *   shipped)
 */
export async function readBuiltin(id: string, folder = shippedFolder('text/lists')): Promise<string[]> {
  const list = builtinList(id);
  const file = join(folder, `${id}.txt`);
  const mend = 'Install lgdistill again';
  let content: Buffer;
  try {
    content = await readFile(file);
  } catch (cause) {
    throw new LgdError('BAD_FILE', `cannot read the built-in list ${file}: ${(cause as Error).message}.`, {
      option: 'names',
      mend,
      cause,
    });
  }
  if (createHash('sha256').update(content).digest('hex') !== list.sha256)
    throw new LgdError('BAD_FILE', `the built-in list ${file} is not the one that was shipped.`, {
      option: 'names',
      mend,
    });
  return content.toString('utf8').trimEnd().split('\n');
}

/** @throws LgdError BAD_OPTION (no such list) */
function builtinList(id: string): BuiltinList {
  const list = typeof id === 'string' && Object.hasOwn(builtinLists, id) ? builtinLists[id] : undefined;
  if (list !== undefined) return list;
  throw new LgdError('BAD_OPTION', 'there is no built-in list of this name.', {
    option: 'names',
    found: id,
    allowed: builtinIds.join(', '),
    mend: (typeof id === 'string' ? suggestion(id, builtinIds) : undefined) ?? 'Take one of those',
  });
}

/**
 * What is to be known of a built-in list, one fact a line: `coco: 80 names`, `source: ...`.
 * @throws LgdError BAD_OPTION (no such list)
 */
export function describeBuiltin(id: string): string[] {
  const { title, count, source, year, order, spelling, licence } = builtinList(id);
  return [
    `${id}: ${count} names. ${title}`,
    `source: ${source} (${year})`,
    `order: ${order}`,
    `spelling: ${spelling}`,
    `licence: ${licence}`,
  ];
}
