/** A first configuration from four answers: names, images, teacher, student. `lgdistill init` asks them. */
import { access, constants, readdir, stat } from 'node:fs/promises';
import { dirname, extname, join } from 'node:path';
import { checkOptions, checkText, checkWord } from '../arguments.js';
import { counted } from '../counted.js';
import { openImages } from '../data/open-images.js';
import { LgdError, writeError } from '../errors.js';
import { followed } from '../files/checkpoint-folders.js';
import { withoutMark } from '../files/byte-order-mark.js';
import { firstWhere, isHidden } from '../files/folders.js';
import { membersOf, parsed, writeJson } from '../files/json.js';
import { makeFolder, removeMade } from '../files/make-folder.js';
import { readFile } from '../files/open.js';
import { checkReplaceable, fileInPlace } from '../files/replaceable.js';
import { countParameters, listStudents, studentGraph } from '../models/index.js';
import { shellWord } from '../shell.js';
import { builtinIds } from '../text/builtin.js';
import { CategoryList } from '../text/names.js';
import { chooseBatch } from './batch.js';
import { configOptions, parseConfig, studentNames, type ConfigInput } from './config.js';

/** What has to be known before anything can be trained. */
export interface InitAnswers {
  /** Category names: a file, a folder of class folders, a built-in list, or a JSON list of the names themselves. */
  names: string;
  /** Folder of training images. */
  images: string;
  /** A CLIP folder or hub id, an .onnx image tower, or a .safetensors file of embeddings. */
  teacher: string;
  /** One of {@link listStudents}, or several with commas. */
  student: string;
}

/** What {@link initialConfig} makes of the answers. */
export interface InitialConfig {
  config: ConfigInput;
  /** What was found behind each answer, in a few words: `80 names`. */
  remarks: Record<keyof InitAnswers, string>;
}

/** CLIP models in the layout that this package reads, the smallest first. */
export const knownTeachers: readonly string[] = [
  'Xenova/clip-vit-base-patch32',
  'Xenova/clip-vit-base-patch16',
  'Xenova/clip-vit-large-patch14',
];

const usualNames = ['names.txt', 'names.json', 'names.csv', 'classes.txt', 'categories.txt', 'labels.txt'];
const usualImages = ['images', 'photos', 'train', 'data', 'dataset', 'pictures'];

/**
 * What the answers may be, from what lies in a folder; '' where nothing there looks like one. Paths are relative to the
 * folder.
 */
export async function suggestAnswers(folder = '.'): Promise<InitAnswers> {
  const entries = await readdir(folder, { withFileTypes: true }).catch(() => []);
  const folders = entries
    .filter((entry) => entry.isDirectory() && !isHidden(entry.name) && entry.name !== 'node_modules')
    .map(({ name }) => name);
  const files = entries.filter((entry) => entry.isFile()).map(({ name }) => name);
  const images = [...usualImages.filter((name) => folders.includes(name)), ...folders];
  return {
    names: usualNames.find((name) => files.includes(name)) ?? '',
    images: (await firstWhere(images, (name) => hasImages(join(folder, name)))) ?? '',
    teacher: knownTeachers[0]!,
    student: String(configOptions().find(({ path }) => path === 'student.name')!.default),
  };
}

async function hasImages(path: string): Promise<boolean> {
  return openImages(path).then(
    () => true,
    () => false,
  );
}

/** Words that complete an answer; of paths only the fixed ones. @throws LgdError BAD_OPTION */
export function knownAnswers(question: keyof InitAnswers): readonly string[] {
  checkWord(question, 'question', Object.keys(optionOf));
  return { names: builtinIds, images: [], teacher: knownTeachers, student: listStudents() }[question];
}

/**
 * Looks at one answer.
 * @returns what is behind it, in a few words
 * @throws LgdError FILE_NOT_FOUND, BAD_NAMES, BAD_DATASET, BAD_OPTION, BAD_CONFIG (a student named twice)
 */
export async function checkAnswer(question: keyof InitAnswers, answer: string): Promise<string> {
  checkWord(question, 'question', Object.keys(optionOf));
  if (answer === '')
    throw new LgdError('BAD_OPTION', 'nothing is given.', { option: optionOf[question], mend: emptyMend[question] });
  switch (question) {
    case 'names': {
      const names = namesOf(answer);
      const list = await CategoryList.load(names);
      const { clean, mended } = await list.check();
      const how = typeof names === 'string' ? `: lgdistill names ${shellWord(names)}` : '';
      return `${counted(list.names.length, 'name')}${clean ? '' : `, ${mended.length} once mended${how}`}`;
    }
    case 'images': {
      const count = (await openImages(answer)).ids.length;
      const { batchSize } = chooseBatch(parseConfig({}).train, count); // the rate is the optimiser's, and so the student's
      return `${counted(count, 'image')}: batches of ${batchSize}`;
    }
    case 'teacher':
      return describeTeacher(answer);
    case 'student':
      return describeStudents(answer);
  }
}

const optionOf: Readonly<Record<keyof InitAnswers, string>> = {
  names: 'names',
  images: 'data.train',
  teacher: 'teacher',
  student: 'student.name',
};
const emptyMend: Readonly<Record<keyof InitAnswers, string>> = {
  names: `Give a file with one name a line, or a built-in list: ${builtinIds.join(', ')}`,
  images: 'Give a folder with images, at any depth',
  teacher: `Give a CLIP folder or hub id, such as ${knownTeachers[0]}`,
  student: 'Give an architecture, such as mobilenet_v2',
};

/** An answer that is a JSON list gives the names themselves. */
function namesOf(answer: string): string | string[] {
  const list = /^\s*\[/u.test(answer) ? parsed(answer) : undefined;
  return Array.isArray(list) ? (list as string[]) : answer;
}

function describeStudents(answer: string): string {
  const { student, train } = parseConfig({ student: { name: answer } });
  const names = studentNames(student.name);
  const sizes = names.map((name) => `${(countParameters(studentGraph(name, { outputs: 1000 })) / 1e6).toFixed(1)} M`);
  return `${sizes.join(' and ')} parameters with a classifier of 1,000 classes${names.length > 1 ? ', trained side by side' : ''}${train.optimizer === 'adamw' ? ', by AdamW' : ''}`;
}

async function describeTeacher(answer: string): Promise<string> {
  const place = await followed(answer);
  const found = await stat(place).catch(() => undefined);
  if (found?.isDirectory()) return 'a folder on this machine';
  if (found?.isFile() && ['.onnx', '.safetensors'].includes(extname(place))) return 'a file on this machine';
  if (/^[\w-][\w.-]*\/[\w.-]+$/u.test(answer) && found === undefined && !/\.(?:onnx|safetensors)$/u.test(answer))
    return 'a hub id, fetched at the first use';
  throw new LgdError('FILE_NOT_FOUND', 'there is no such model.', {
    option: 'teacher',
    found: answer,
    allowed: "a folder, a hub id ('org/name'), an .onnx file or a .safetensors file",
    mend: `Check the path, or take ${knownTeachers[0]}`,
  });
}

/**
 * The configuration that four answers give: their options. Everything else keeps its default; batch size and learning
 * rate follow the images when a run begins.
 * @throws LgdError as {@link checkAnswer}
 */
export async function initialConfig(answers: InitAnswers): Promise<InitialConfig> {
  checkOptions(answers, 'initialConfig()', { names: 'needed', images: 'needed', teacher: 'needed', student: 'needed' });
  const remarks = {} as InitialConfig['remarks'];
  for (const question of Object.keys(optionOf) as (keyof InitAnswers)[])
    remarks[question] = await checkAnswer(question, answers[question]);
  const { images, teacher } = answers;
  const students = studentNames(answers.student);
  return {
    config: {
      names: namesOf(answers.names),
      teacher,
      data: { train: images },
      student: { name: students.join(',') },
      output: `runs/${students.join('-')}`,
    },
    remarks,
  };
}

/**
 * Writes a configuration file that `lgdistill distill --config` takes, and makes the folders on the way to it.
 * @throws LgdError BAD_CONFIG (the file exists and `force` is not set; options that do not fit), BAD_OPTION (it is no
 *   configuration, or one of the files that `config` names), NOT_WRITABLE
 */
export async function writeConfigFile(
  file: string,
  config: ConfigInput,
  options: { force?: boolean | undefined } = {},
): Promise<void> {
  checkOptions(options, 'writeConfigFile()', { force: 'optional' });
  const { names, templates, teacher, data, evaluate, dense } = parseConfig(config);
  const inputs = [
    ...[names, templates, teacher, data.train, evaluate.names, evaluate.mapping],
    ...[dense.annotations, dense.evaluationAnnotations],
  ].filter((input) => typeof input === 'string');
  await checkFree(file, options.force ?? false, inputs);
  await makeFolder(dirname(file));
  await writeJson(file, config);
}

/**
 * Can a configuration file of this name be written? Folders that are missing on the way are made to see that they can
 * be, and removed again.
 * @param inputs files that it names
 * @throws LgdError BAD_CONFIG, BAD_OPTION, NOT_WRITABLE
 */
export async function checkFree(file: string, force: boolean, inputs: readonly string[] = []): Promise<void> {
  checkText(file, 'to', 'a file to write');
  const found = await fileInPlace(file, 'to', { code: 'BAD_CONFIG' });
  if (found !== undefined && !force)
    throw new LgdError('BAD_CONFIG', 'the file is there already.', {
      option: 'to',
      found: file,
      mend: 'Give another name with --to, or replace it with --force',
    });
  await checkReplaceable(file, 'config', { option: 'to', inputs });
  if (found !== undefined && !(await looksLikeConfig(file)))
    throw new LgdError('BAD_OPTION', 'this is JSON, but no configuration of this package, as of a model.', {
      option: 'to',
      found: file,
      mend: 'Choose another place, or remove that file first',
    });
  const folder = dirname(file);
  const made: string[] = [];
  try {
    await makeFolder(folder, made);
    await access(folder, constants.W_OK);
  } catch (cause) {
    throw writeError(file, cause);
  } finally {
    await removeMade(made);
  }
}

/** Is JSON a configuration, whose keys are options, but for slips? Of text that is none its owner says so by `force`. */
async function looksLikeConfig(file: string): Promise<boolean> {
  const keys = Object.keys(membersOf(parsed(withoutMark(await readFile(file, 'utf8').catch(() => '')))));
  const known = new Set(configOptions().map(({ path }) => path.split('.')[0]!));
  return keys.filter((key) => known.has(key)).length >= keys.length / 2;
}
