/** Configurations, read and checked against the schema: from files, from command lines, from calls. */
import type { z } from 'zod';
import { checkGiven, checkText, isPromise } from '../arguments.js';
import { LgdError, readError, systemErrorCode } from '../errors.js';
import { withoutMark } from '../files/byte-order-mark.js';
import { isObject, parsed } from '../files/json.js';
import { readFile } from '../files/open.js';
import { mendOfKey, mendOfValue, nearestOption, seeHelp } from './mend.js';
import { settleOptimizer } from './optimizer.js';
import { configOptions, type ConfigOption } from './options.js';
import { schema, studentNames, type Config } from './schema.js';

export type { ConfigInput } from './input.js';
export { configOptions, isOfOwnCommand, type ConfigOption, type OptionType } from './options.js';
export {
  fewNames,
  studentNames,
  worksWithoutNames,
  type ChosenMethod,
  type Config,
  type Method,
  type SchemaInput,
} from './schema.js';

/**
 * Checks a configuration and fills in the defaults. Parsing a {@link Config} again changes nothing.
 * @throws LgdError BAD_CONFIG (not an object, unknown option, options that do not go together), BAD_OPTION (a value
 *   outside its type or range)
 */
export function parseConfig(raw: unknown): Config {
  checkGroups(raw);
  const result = schema.safeParse(raw);
  if (!result.success) throw configError(raw, result.error.issues);
  const config = result.data;
  const isGiven = (option: string) => isObject(raw) && isObject(raw['train']) && raw['train'][option] !== undefined;
  if (!isGiven('warmupEpochs'))
    config.train.warmupEpochs = Math.min(config.train.warmupEpochs, config.train.epochs / 10);
  settleOptimizer(config, isGiven);
  checkTogether(config);
  return config;
}

function configError(raw: unknown, issues: readonly z.core.$ZodIssue[]): LgdError {
  // Unknown names first: a slip in a name often causes the rest.
  const issue = issues.find(({ code }) => code === 'unrecognized_keys') ?? issues[0]!;
  const path = issue.path.join('.');
  if (issue.code === 'unrecognized_keys') {
    const key = issue.keys[0]!;
    if (path !== '') return unknownOption(`${path}.${key}`, 'BAD_CONFIG');
    const what = configOptions().some((option) => option.path === key)
      ? 'the dots of a name are nesting in a configuration.'
      : 'there is no such option.';
    return new LgdError('BAD_CONFIG', what, {
      option: key,
      mend: mendOfKey(key, (raw as Record<string, unknown>)[key], configOptions()),
    });
  }
  const others = [...new Set(issues.map((other) => other.path.join('.')))].filter((other) => other !== path);
  const also = others.length === 0 ? '' : ` (also wrong: ${others.join(', ')})`;
  let found: unknown = raw;
  for (const part of issue.path) found = (found as Record<PropertyKey, unknown>)[part];
  const option = configOptions().find((entry) => path === entry.path || path.startsWith(`${entry.path}.`));
  if (option !== undefined)
    return new LgdError('BAD_OPTION', `not a value this option takes${also}.`, {
      option: option.path,
      found: found ?? null,
      allowed: option.allowed,
      mend: mendOfValue(option, found),
    });
  return noGroup(path, found, also);
}

/** Objects whose content is not in members, such as a promise or a Map, would be as good as {}. */
function checkGroups(raw: unknown): void {
  if (!isObject(raw)) return;
  for (const [path, value] of [['', raw] as const, ...Object.entries(raw)]) {
    const isEmpty =
      isObject(value) &&
      Object.keys(value).length === 0 &&
      !/^\[object (?:Object|Module)\]$/u.test(Object.prototype.toString.call(value));
    if (!isEmpty || configOptions().some((option) => option.path === path)) continue;
    if (!isPromise(value)) throw noGroup(path, value);
    throw new LgdError('BAD_CONFIG', 'this is a promise.', {
      ...(path !== '' && { option: path }),
      mend: 'Put await before the call that gave it',
    });
  }
}

function noGroup(path: string, found: unknown, also = ''): LgdError {
  return new LgdError('BAD_CONFIG', `a group of options is expected here${also}.`, {
    ...(path !== '' && { option: path }),
    found: found ?? null,
    allowed: 'an object of options',
    mend: 'Write it as { "option": value }',
  });
}

/** Refuses an option that does not exist, with the nearest one that does. */
function unknownOption(path: string, code: 'BAD_CONFIG' | 'BAD_OPTION'): LgdError {
  const near = nearestOption(path, configOptions());
  return new LgdError(code, 'there is no such option.', {
    option: path,
    mend: near === undefined ? seeHelp : `Did you mean ${near}?`,
  });
}

function checkTogether({ augment, train, names, bank, evaluate, student }: Config): void {
  const ordered: [string, number, string, number][] = [
    ['augment.scaleMin', augment.scaleMin, 'augment.scaleMax', augment.scaleMax],
    ['augment.ratioMin', augment.ratioMin, 'augment.ratioMax', augment.ratioMax],
    ['augment.blurSigmaMin', augment.blurSigmaMin, 'augment.blurSigmaMax', augment.blurSigmaMax],
    ['train.warmupEpochs', train.warmupEpochs, 'train.epochs', train.epochs],
  ];
  for (const [option, low, other, high] of ordered) {
    if (low > high)
      throw new LgdError('BAD_CONFIG', `is greater than ${other}.`, {
        option,
        found: low,
        allowed: `a number to ${high}`,
        mend: `Lower ${option} or raise ${other}`,
      });
  }
  const students = studentNames(student.name);
  if (students.length === 0 || new Set(students).size < students.length) {
    throw new LgdError('BAD_CONFIG', 'each student is named once.', {
      option: 'student.name',
      found: student.name,
      mend: 'Give one name, or several different ones with commas',
    });
  }
  if (students.length > 1 && student.weights !== undefined) {
    throw new LgdError('BAD_CONFIG', 'a file of weights starts one student.', {
      option: 'student.weights',
      found: student.weights,
      mend: 'Train that student by itself, or leave the weights out',
    });
  }
  if (bank !== undefined && names !== undefined) {
    throw new LgdError('BAD_CONFIG', 'a text bank has its own names.', {
      option: 'names',
      found: names,
      mend: 'Give either names or bank',
    });
  }
  const { metric, also } = evaluate;
  if (evaluate.data === undefined && metric !== 'auto' && metric !== 'loss') {
    throw new LgdError('BAD_CONFIG', 'needs a folder to evaluate on.', {
      option: 'evaluate.metric',
      found: metric,
      mend: 'Give evaluate.data, or choose loss',
    });
  }
  if ((metric === 'knn' || metric === 'linear') && also !== metric && also !== 'both') {
    throw new LgdError('BAD_CONFIG', 'is not among the protocols that run while training.', {
      option: 'evaluate.metric',
      found: metric,
      mend: `Set evaluate.also to ${metric} or both`,
    });
  }
  if (metric === 'online' && !evaluate.online)
    throw new LgdError('BAD_CONFIG', 'there is no online probe.', {
      option: 'evaluate.metric',
      found: metric,
      mend: 'Set evaluate.online',
    });
  if (evaluate.online && evaluate.data === undefined)
    throw new LgdError('BAD_CONFIG', 'needs a folder to evaluate on.', {
      option: 'evaluate.online',
      found: true,
      mend: 'Give evaluate.data',
    });
  if (also !== 'none' && (evaluate.data === undefined || evaluate.train === undefined)) {
    throw new LgdError('BAD_CONFIG', 'needs labelled images to learn from and to evaluate on.', {
      option: 'evaluate.also',
      found: also,
      mend: 'Give evaluate.train and evaluate.data',
    });
  }
}

/**
 * Reads a configuration file in JSON, unchecked ({@link parseConfig} and {@link mergeConfig} check it).
 * @throws LgdError FILE_NOT_FOUND, BAD_CONFIG
 */
export async function loadConfigFile(path: string): Promise<unknown> {
  checkText(path, 'config', 'a JSON file');
  let content: string;
  try {
    content = await readFile(path, 'utf8');
  } catch (cause) {
    if (systemErrorCode(cause) === 'ENOENT')
      throw new LgdError('FILE_NOT_FOUND', 'there is no configuration file of this name.', {
        option: 'config',
        found: path,
        mend: 'Check the path',
        cause,
      });
    throw readError(path, cause, { code: 'BAD_CONFIG', option: 'config' });
  }
  try {
    return JSON.parse(withoutMark(content)) as unknown;
  } catch (cause) {
    throw new LgdError('BAD_CONFIG', `${path} is not JSON: ${(cause as Error).message}.`, {
      option: 'config',
      mend: 'Correct the file',
      cause,
    });
  }
}

/**
 * A configuration file's content with overrides on top, checked.
 * @param file what {@link loadConfigFile} gave, or undefined
 * @param overrides by dotted path (`train.batchSize`); a string stands for a number, a boolean or a JSON list where the
 *   option is one, as on a command line; undefined overrides nothing
 * @throws LgdError BAD_CONFIG, BAD_OPTION
 */
export function mergeConfig(file: unknown, overrides: Readonly<Record<string, unknown>>): Config {
  checkGiven(overrides, 'mergeConfig(file, ...)', 'options by their paths');
  checkGroups(file);
  const merged: unknown = file === undefined ? {} : structuredClone(file);
  if (!isObject(merged)) return parseConfig(merged); // says what is wrong with it
  for (const [path, value] of Object.entries(overrides)) {
    if (value === undefined) continue;
    const option = configOptions().find((entry) => entry.path === path);
    if (option === undefined) throw unknownOption(path, 'BAD_OPTION');
    const [first, second] = path.split('.') as [string, string?];
    const converted = typeof value === 'string' ? fromText(option, value) : value;
    if (second === undefined) merged[first] = converted;
    else {
      merged[first] ??= {};
      const inner = merged[first];
      if (!isObject(inner)) return parseConfig(merged);
      inner[second] = converted;
    }
  }
  return parseConfig(merged);
}

/** A command-line text as the option's type; a text that does not fit stays, for {@link parseConfig} to refuse. */
function fromText({ type }: ConfigOption, value: string): unknown {
  switch (type) {
    case 'number':
    case 'integer':
      return value.trim() === '' || Number.isNaN(Number(value)) ? value : Number(value);
    case 'boolean':
      return value === 'true' ? true : value === 'false' ? false : value;
    case 'list':
      if (!value.startsWith('[')) return value;
      return parsed(value) ?? value;
    case 'string':
      return value;
  }
}
