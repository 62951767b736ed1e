/** What commander refuses, as this package's error: what was found, and what would be taken. */
import type { Command, CommanderError, Option } from 'commander';
import { configOptions } from '../config/config.js';
import { kebab } from '../config/options.js';
import { LgdError } from '../errors.js';
import { suggestion } from '../text/spelling.js';

/** @param args the command line as it was typed */
export function refusal({ code, message }: CommanderError, command: Command, args: readonly string[]): LgdError {
  const what = message.replace(/^error: /u, '').replace(/\.$/u, '');
  const see = `See lgdistill ${pathOf(command)}--help`;
  const [, found = ''] = /'([^']*)'/u.exec(message) ?? [];
  switch (code) {
    case 'commander.excessArguments':
      return tooMany(what, see, command, args);
    case 'commander.unknownCommand':
      return new LgdError('BAD_OPTION', `${what}.`, {
        mend:
          suggestion(
            found,
            command.commands.map((inner) => inner.name()),
          ) ?? see,
      });
    case 'commander.unknownOption':
      return (
        (command.name() === 'resume' ? kept(found, command) : undefined) ??
        new LgdError('BAD_OPTION', `${what}.`, { mend: suggestion(found, command.options.flatMap(flagsOf)) ?? see })
      );
    default:
      return new LgdError('BAD_OPTION', `${what}.`, { mend: see });
  }
}

/** Arguments that a command has no place for; one that follows a switch was meant for it. */
function tooMany(what: string, see: string, command: Command, args: readonly string[]): LgdError {
  const meant = command.args.find((word) => switchBefore(word, command, args) !== undefined);
  const surplus = meant === undefined ? command.args.slice(command.registeredArguments.length) : [meant];
  const found = switchBefore(meant, command, args);
  let mend = see;
  if (found !== undefined)
    mend = takesWords(found.option)
      ? `A switch takes true or false, or stands alone: ${found.word}, or ${found.word} false`
      : `${found.word} stands alone, without a value`;
  return new LgdError('BAD_OPTION', `${what}: ${surplus.join(', ')}.`, { mend });
}

/** The switch right before a word of the command line. */
function switchBefore(
  word: string | undefined,
  command: Command,
  args: readonly string[],
): { word: string; option: Option } | undefined {
  for (const [place, argument] of args.entries()) {
    const before = args[place - 1];
    if (argument !== word || before === undefined) continue;
    const spelled = kebab(before);
    const option = command.options.find((one) =>
      flagsOf(one).some((flag) => flag === spelled || flag === spelled.replace(/^--no-/u, '--')),
    );
    if (option !== undefined && (takesWords(option) || (!option.required && !option.optional)))
      return { word: before, option };
  }
  return undefined;
}

function takesWords({ flags }: Option): boolean {
  return flags.endsWith('<true|false>');
}

/** Of an option that a run keeps when it goes on; undefined for what is no option of a run. */
function kept(flag: string, command: Command): LgdError | undefined {
  const isOption = configOptions().some((row) => row.flag === flag || row.alias === flag);
  if (!isOption) return undefined;
  const free = configOptions()
    .filter((row) => command.options.some((option) => flagsOf(option).includes(row.flag)))
    .map((row) => row.alias ?? row.flag);
  return new LgdError(
    'BAD_OPTION',
    `resume does not take ${flag}: a run goes on with what it was begun with, and ends as if it had never stopped.`,
    {
      allowed: free.join(', '),
      mend: 'Leave it out, or begin another run with distill, from the weights of this one if you like (--weights RUN/checkpoints/last/model.safetensors)',
    },
  );
}

function flagsOf({ short, long }: Option): string[] {
  return [short, long].filter((flag): flag is string => typeof flag === 'string');
}

/** `bank build ` for a command, '' for the program itself. */
function pathOf(command: Command): string {
  return command.parent === null ? '' : `${pathOf(command.parent)}${command.name()} `;
}
