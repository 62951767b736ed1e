/**
 * Flags that would be for nothing. Commands that a script gives the same flags for several methods or protocols (those
 * that train and evaluate) name them and go on; others refuse them. A file of options may hold what other commands take.
 */
import type { Command } from 'commander';
import type { Config, Method } from '../config/config.js';
import { isAmong } from '../config/option-paths.js';
import { LgdError } from '../errors.js';
import type { Terminal } from './terminal.js';

/** Options that have no use, and where that is. */
export interface Needless<Given> {
  /** By their dotted paths, `evaluate.*` for a group; others by their names in camelCase. */
  options: readonly string[];
  when: (given: Given) => boolean;
  /** In words: `nothing is written`. */
  where: string;
  /** What gives them a use: `give --write`. */
  or?: string;
}

/**
 * Looks at the flags that were given, not at a file of options.
 * @param given what the conditions are about
 * @throws LgdError BAD_OPTION
 */
export function refuseNeedless<Given>(command: Command, given: Given, rules: readonly Needless<Given>[]): void {
  for (const { options, when, where, or } of rules)
    if (when(given)) refuseFlags(command, (option) => isAmong(option, options), { where, or });
}

/** Names them, by the first rule that each breaks, and lets the command go on. */
export function tellNeedless<Given>(
  terminal: Terminal,
  command: Command,
  given: Given,
  rules: readonly Needless<Given>[],
): void {
  for (const option of flagsGiven(command)) {
    const rule = rules.find(({ options, when }) => isAmong(option, options) && when(given));
    if (rule !== undefined) terminal.warn(`note: ${option} has no use where ${rule.where}`);
  }
}

/** @throws LgdError BAD_OPTION where one of the flags that were given is needless */
export function refuseFlags(
  command: Command,
  isNeedless: (option: string) => boolean,
  { where, or }: Pick<Needless<unknown>, 'where' | 'or'>,
): void {
  const option = flagsGiven(command).find(isNeedless);
  if (option === undefined) return;
  throw new LgdError('BAD_OPTION', `has no use where ${where}.`, {
    option,
    found: command.opts<Record<string, unknown>>()[option],
    mend: or === undefined ? 'Leave it out' : `Leave it out, or ${or}`,
  });
}

function flagsGiven(command: Command): string[] {
  return command.options
    .map((one) => one.attributeName())
    .filter((name) => !ofEvery.has(name) && command.getOptionValueSource(name) === 'cli');
}

/** Every command takes these. */
const ofEvery: ReadonlySet<string> = new Set(['json', 'debug']);

const notAmong =
  (...methods: Method[]) =>
  ({ method }: Config): boolean =>
    method !== 'auto' && !methods.includes(method); // what auto becomes, the names say

/** Of a loss, by its method. */
export const needlessInLoss: readonly Needless<Config>[] = [
  {
    options: ['loss.alpha'],
    when: notAmong('lgd', 'combined'),
    where: 'a method has one bank, or none',
    or: 'take method lgd or combined',
  },
  {
    options: ['loss.momentum'],
    when: notAmong('lgd', 'visual', 'hybrid', 'combined'),
    where: 'a method has no visual bank',
    or: 'take method lgd, visual, hybrid or combined',
  },
  {
    options: ['loss.queueSize'],
    when: notAmong('seed', 'hybrid', 'combined'),
    where: 'a method has no queue',
    or: 'take method seed, hybrid or combined',
  },
  {
    // exports take the student's for their logit scale
    options: ['loss.teacherTemperature'],
    when: ({ method }) => method === 'feature',
    where: 'the method is feature, which has no softmax',
  },
];

/** Of a teacher whose model may be left out. */
export const needlessWithoutTeacher: Needless<Config> = {
  options: ['teacherResolution'],
  when: ({ teacher }) => teacher === undefined,
  where: 'there is no teacher',
  or: 'give --teacher',
};

/** What names are embedded with, where a bank has them embedded. */
export const needlessWithBank: Needless<Config> = {
  options: ['templates', 'textEncoder', 'allowDuplicates'],
  when: ({ bank, evaluate }) => (bank ?? evaluate.bank) !== undefined && evaluate.names === undefined,
  where: 'a text bank is given, which has its names embedded',
};

/** What a student's own names were embedded with. */
export const needlessWithoutNames: Needless<Config> = {
  options: ['templates'],
  when: ({ names, evaluate }) => (names ?? evaluate.names) === undefined,
  where: 'no names are given and the student has its own, with their templates',
};

const neither = (protocol: 'knn' | 'linear') => (config: Config) => ![protocol, 'both'].includes(config.evaluate.also);

/** There a run's text encoder and templates embed names that the report is given. */
const butInReport = 'but for those given to its report';

const withoutEvaluation: Omit<Needless<Config>, 'options'> = {
  when: ({ evaluate }) => evaluate.data === undefined,
  where: 'there is nothing to evaluate on',
  or: 'give --evaluate',
};

/** Of a run that goes on; a new one refuses them. */
export const needlessInResumed: Needless<Config> = {
  options: ['names', 'bank', 'mapping'].map((name) => `evaluate.${name}`),
  ...withoutEvaluation,
};

/** Of a run. */
export const needlessInRun: readonly Needless<Config>[] = [
  {
    options: ['evaluate.labelShare', 'evaluate.finetuneEpochs', 'evaluate.finetuneRate', 'evaluate.finetuneBatch'],
    when: () => true,
    where: 'a student is distilled; they are of `lgdistill evaluate` with semi and finetune',
  },
  {
    options: ['evaluate.output'],
    when: () => true,
    where: 'a student is distilled, whose scores go into its run folder',
  },
  {
    options: ['train', 'everyEpochs', 'everySteps'].map((name) => `evaluate.${name}`),
    ...withoutEvaluation,
  },
  {
    options: ['evaluate.train'],
    when: ({ evaluate }) => evaluate.also === 'none',
    where: 'no protocol learns from labelled images',
    or: 'give --also',
  },
  {
    options: ['evaluate.neighbours', 'evaluate.neighbourTemperature'],
    when: neither('knn'),
    where: 'no neighbours vote',
    or: 'give --also knn',
  },
  {
    options: ['evaluate.heldOut', 'evaluate.solver', 'evaluate.probeEpochs'],
    when: neither('linear'),
    where: 'no linear classifier is fitted',
    or: 'give --also linear',
  },
  {
    ...needlessWithBank,
    when: ({ bank, evaluate }) => bank !== undefined && evaluate.names === undefined,
    where: `${needlessWithBank.where}, ${butInReport}`,
  },
  {
    options: needlessWithBank.options,
    when: ({ bank, names, evaluate }) => (bank ?? names ?? evaluate.names) === undefined,
    where: `there are no names, ${butInReport}`,
    or: 'give --names',
  },
  {
    options: ['brightness', 'contrast', 'saturation', 'hue'].map((name) => `augment.${name}`),
    when: ({ augment }) => augment.jitterProbability === 0,
    where: 'augment.jitterProbability is 0',
  },
  {
    options: ['augment.blurSigmaMin', 'augment.blurSigmaMax'],
    when: ({ augment }) => augment.blurProbability === 0,
    where: 'augment.blurProbability is 0',
  },
  ...needlessInLoss,
];
