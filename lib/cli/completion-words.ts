/** What there is to complete on a command line, from the program itself and the option table. */
import type { Argument, Command, Option } from 'commander';
import { configOptions } from '../config/config.js';
import { listStudents } from '../models/index.js';
import { builtinIds } from '../text/builtin.js';
import { templateSets } from '../text/templates.js';
import { programs } from './export.js';

/** The values of an option or argument: words, files or both; neither for a number. */
export interface Values {
  words: readonly string[];
  files: boolean;
}

export interface OptionWords {
  /** `-V`, `--version`; or the short and the long form of a configuration option. */
  flags: readonly string[];
  description: string;
  /** undefined: it takes none. */
  values: Values | undefined;
}

export interface CommandWords {
  /** From the program's name: `lgdistill bank build`. */
  path: string;
  commands: readonly { name: string; description: string }[];
  options: readonly OptionWords[];
  /** Of its arguments; undefined: it takes none. */
  arguments: Values | undefined;
}

/** Values that the table has no list of, by dotted path. */
const knownWords: Readonly<Record<string, () => readonly string[]>> = {
  device: () => ['auto', 'cpu', 'cuda'],
  'student.name': listStudents,
  names: () => builtinIds,
  'evaluate.names': () => builtinIds,
  templates: () => Object.keys(templateSets),
  'dense.split': () => ['train', 'val'],
  'dense.evaluationSplit': () => ['train', 'val'],
  'dense.outputStride': () => ['8', '16', '32'],
};
const onlyWords: ReadonlySet<string> = new Set(['device', 'student.name', 'dense.split', 'dense.evaluationSplit']);

/** Words beside which files fit, of options that are no rows of the table, by command and flag. */
const wordsOfCommands: Readonly<Record<string, readonly string[]>> = {
  'export --to': programs,
  'resume --from': ['last', 'previous', 'best'],
};

/** The program and every command below it. */
export function describeProgram(program: Command): CommandWords[] {
  const describe = (command: Command, path: string): CommandWords[] => [
    {
      path,
      commands: command.commands.map((inner) => ({ name: inner.name(), description: inner.description() })),
      options: [
        ...command.options.map((option) => describeOption(option, command)),
        { flags: ['-h', '--help'], description: 'display help for command', values: undefined },
      ],
      arguments: describeArguments(command.registeredArguments),
    },
    ...command.commands.flatMap((inner) => describe(inner, `${path} ${inner.name()}`)),
  ];
  return describe(program, program.name());
}

function describeOption(option: Option, command: Command): OptionWords {
  const flags = [option.short, option.long].filter((flag) => flag !== undefined && flag !== null);
  return {
    flags,
    description: option.description.split('[')[0]!.trim(),
    values: option.required || option.optional ? valuesOf(option, command) : undefined,
  };
}

function valuesOf(option: Option, command: Command): Values {
  if (option.argChoices !== undefined) return { words: option.argChoices, files: false };
  const path = option.attributeName();
  const row = configOptions().find((entry) => entry.path === path);
  if (row?.choices !== undefined) return { words: row.choices, files: false };
  const words =
    row === undefined
      ? (wordsOfCommands[`${command.name()} ${option.long}`] ?? [])
      : (knownWords[path]?.() ?? row.words ?? []);
  const isNumber =
    row === undefined ? /<n>|<cosine>/u.test(option.flags) : row.type === 'integer' || row.type === 'number';
  return { words, files: !isNumber && !onlyWords.has(path) };
}

/** Of all arguments together: scripts do not count which one is being typed. */
function describeArguments(all: readonly Argument[]): Values | undefined {
  if (all.length === 0) return undefined;
  return {
    words: all.flatMap((one) => one.argChoices ?? (one.name() === 'list' ? builtinIds : [])),
    files: all.some(({ argChoices }) => argChoices === undefined),
  };
}
