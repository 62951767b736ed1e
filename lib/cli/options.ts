import { Command, Option } from 'commander';
import {
  configOptions,
  isOfOwnCommand,
  loadConfigFile,
  mergeConfig,
  type Config,
  type ConfigOption,
} from '../config/config.js';
import { isAmong } from '../config/option-paths.js';
import { kebab } from '../config/options.js';
import { LgdError } from '../errors.js';

/**
 * Which rows of the option table a command takes: their dotted paths, whole groups (`evaluate.*`), or all but those of
 * commands with a group of their own.
 */
export type OptionFilter = readonly string[] | 'all';

function chosen(filter: OptionFilter): ConfigOption[] {
  if (filter === 'all') return configOptions().filter((row) => !isOfOwnCommand(row));
  return configOptions().filter(({ path }) => isAmong(path, filter));
}

/**
 * Adds `--config` (unless `file` is false) and a flag for each chosen row of the option table to a command. An option's
 * value is kept as text under its dotted path, for {@link readConfig}.
 * @param more file: whether there is a `--config`; help: what options say in this command, by dotted path, where it is
 *   less than, or other than, in training
 */
export function addConfigOptions(
  command: Command,
  filter: OptionFilter,
  { file = true, help = {} }: { file?: boolean; help?: Readonly<Record<string, string>> } = {},
): void {
  if (file) command.option('--config <file>', 'JSON file of options; flags on the command line override it');
  for (const row of chosen(filter)) {
    const alias = row.alias === undefined || row.alias === row.flag ? '' : `${row.alias}, `;
    const value =
      row.type === 'boolean' ? 'true|false' : row.type === 'integer' || row.type === 'number' ? 'n' : 'value';
    command.addOption(
      new Option(`${alias}${row.flag} <${value}>`, describe({ ...row, help: help[row.path] ?? row.help })),
    );
  }
}

function describe({ help, allowed, type, default: value }: ConfigOption): string {
  const free = type === 'string' && allowed === 'text';
  const notes = [
    ...(type === 'list' ? [`a list is JSON: '["one","two"]'`] : []),
    ...(free || type === 'boolean' || type === 'list' || help.includes(allowed) ? [] : [allowed]),
    ...(value === undefined ? [] : [`default ${JSON.stringify(value)}`]),
  ];
  return notes.length === 0 ? help : `${help} [${notes.join('; ')}]`;
}

/**
 * The configuration of a command: the file of `--config`, with the flags on top, checked.
 * @param overrides by dotted path; they win over both
 * @throws LgdError FILE_NOT_FOUND, BAD_CONFIG, BAD_OPTION
 */
export async function readConfig(command: Command, overrides: Readonly<Record<string, unknown>> = {}): Promise<Config> {
  const file = command.opts<{ config?: string }>().config;
  const given = Object.entries(overrides).filter(([, value]) => value !== undefined);
  const flags = readFlags(command);
  for (const [option, value] of given) {
    if (flags[option] !== undefined && flags[option] !== value)
      throw new LgdError('BAD_OPTION', `is given by its short name, too, as ${JSON.stringify(value)}.`, {
        option,
        found: flags[option],
        mend: 'Give one of them',
      });
  }
  return mergeConfig(file === undefined ? undefined : await loadConfigFile(file), {
    ...flags,
    ...Object.fromEntries(given),
  });
}

/** The option flags that were given, by dotted path, as text. */
export function readFlags(command: Command): Record<string, unknown> {
  const given = command.opts<Record<string, unknown>>();
  return Object.fromEntries(
    configOptions().flatMap(({ path }) => (given[path] === undefined ? [] : [[path, given[path]]])),
  );
}

/**
 * Rewrites a command line into the forms that commander knows: `--batchSize` and `--train.batchSize` are spelled with
 * hyphens, a switch gets its value (`--offline` is `--offline=true`, `--no-offline` is `--offline=false`).
 */
export function normaliseArguments(args: readonly string[]): string[] {
  const known = new Map<string, ConfigOption>();
  for (const row of configOptions())
    for (const flag of [row.flag, row.alias]) if (flag !== undefined) known.set(flag, row);
  const result: string[] = [];
  for (let i = 0; i < args.length; i++) {
    const argument = args[i]!;
    if (argument === '--') return [...result, ...args.slice(i)];
    const [, flag = '', rest = ''] = /^(--[^=]+)(=.*)?$/su.exec(argument) ?? [];
    const spelled = kebab(flag);
    const row = known.get(spelled);
    const denied = spelled.replace(/^--no-/u, '--');
    if (row === undefined && known.get(denied)?.type === 'boolean' && rest === '') result.push(`${denied}=false`);
    else if (row === undefined) result.push(argument);
    else if (row.type !== 'boolean' || rest !== '') result.push(`${spelled}${rest}`);
    else if (args[i + 1] === 'true' || args[i + 1] === 'false') result.push(`${spelled}=${args[++i]}`);
    else result.push(`${spelled}=true`);
  }
  return result;
}

/**
 * Refuses an option that a command line gives by two of its names with two values, `--to a --output b`: commander takes
 * the last. By one name the last counts, so that a script's options can be followed by others.
 * @param args as {@link normaliseArguments} gives them
 * @throws LgdError BAD_OPTION
 */
export function checkFlags(command: Command, args: readonly string[]): void {
  const given = new Map<Option, { flag: string; value: string | undefined }>();
  for (let i = 0; i < args.length && args[i] !== '--'; i++) {
    const [, flag, inside] = /^(--[^=]+)(?:=(.*))?$/su.exec(args[i]!) ?? [];
    const option = command.options.find(({ short, long }) => flag !== undefined && (short === flag || long === flag));
    if (flag === undefined || option === undefined) continue;
    const value = inside ?? (option.required ? args[++i] : undefined);
    const before = given.get(option);
    if (before !== undefined && before.flag !== flag && !isSame(option, before.value, value))
      throw new LgdError('BAD_OPTION', `is given by two names: ${before.flag} ${before.value} and ${flag} ${value}.`, {
        option: option.attributeName(),
        mend: 'Give one of them',
      });
    given.set(option, { flag, value });
  }
}

/** Is it one value in two spellings, `.5` and `0.5`? */
function isSame(option: Option, one: string | undefined, other: string | undefined): boolean {
  const type = configOptions().find(({ path }) => path === option.attributeName())?.type;
  return one === other || ((type === 'number' || type === 'integer') && Number(one) === Number(other));
}
