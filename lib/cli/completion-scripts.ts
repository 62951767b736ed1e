/** Completion scripts for shells. They hold all words, so that completing starts no program. */
import { quoted } from '../shell.js';
import type { CommandWords, OptionWords, Values } from './completion-words.js';

/** `case` lines that follow the command line's words from command to command. */
function pathCases(commands: readonly CommandWords[]): string {
  return commands
    .filter(({ path }) => path.includes(' '))
    .map(({ path }) => `      ${quoted(path)}) at=$at' '$word ;;`)
    .join('\n');
}

/** Options with values, those of a command that complete alike together. */
function optionsByValues({ options }: CommandWords): [OptionWords[], Values][] {
  const groups = new Map<string, [OptionWords[], Values]>();
  for (const option of options) {
    if (option.values === undefined) continue;
    const key = JSON.stringify(option.values);
    if (!groups.has(key)) groups.set(key, [[], option.values]);
    groups.get(key)![0].push(option);
  }
  return [...groups.values()];
}

/** `case` lines of all options with values. @param values what the shell does to complete such */
function optionCases(commands: readonly CommandWords[], values: (of: Values) => string): string {
  return commands
    .flatMap((command) =>
      optionsByValues(command).map(([options, of]) => {
        const patterns = options.flatMap(({ flags }) => flags.map((flag) => quoted(`${command.path}:${flag}`)));
        return `    ${patterns.join('|')}) ${values(of)} ;;`;
      }),
    )
    .join('\n');
}

/** Completion for bash: source it, or put it where bash-completion looks. */
export function bashScript(commands: readonly CommandWords[]): string {
  const values = ({ words, files }: Values) =>
    `_lgdistill_values ${quoted(words.join(' '))} ${files ? 'files' : ''}; return`;
  const perCommand = commands.map(({ path, commands: inner, options, arguments: given }) =>
    [
      `    ${quoted(path)})`,
      `      if [[ $cur == -* ]]; then _lgdistill_values ${quoted(options.flatMap(({ flags }) => flags).join(' '))}`,
      `      else _lgdistill_values ${quoted([...inner.map(({ name }) => name), ...(given?.words ?? [])].join(' '))} ${given?.files ? 'files' : ''}; fi ;;`,
    ].join('\n'),
  );
  return `# bash completion for lgdistill
_lgdistill_values() { # words, and whether file names fit too
  COMPREPLY=($(compgen -W "$1" -- "$cur"))
  if [[ $2 == files ]]; then
    compopt -o filenames 2>/dev/null
    local IFS=$'\\n'
    COMPREPLY+=($(compgen -f -- "$cur"))
  fi
}
_lgdistill() {
  local cur=\${COMP_WORDS[COMP_CWORD]} prev=\${COMP_WORDS[COMP_CWORD-1]} at=lgdistill word
  # bash takes --option=value apart at the sign
  if [[ $cur == = ]]; then cur=''
  elif [[ $prev == = ]]; then prev=\${COMP_WORDS[COMP_CWORD-2]}; fi
  for word in "\${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case "$at $word" in
${pathCases(commands)}
    esac
  done
  case "$at:$prev" in
${optionCases(commands, values)}
  esac
  case "$at" in
${perCommand.join('\n')}
  esac
}
complete -F _lgdistill lgdistill
`;
}

/** Completion for zsh: a file _lgdistill on the fpath. */
export function zshScript(commands: readonly CommandWords[]): string {
  const described = (entries: readonly (readonly [string, string])[]) => {
    const width = Math.max(...entries.map(([word]) => word.length));
    return `found=(${entries.map(([word]) => quoted(word)).join(' ')}); shown=(${entries.map(([word, text]) => quoted(`${word.padEnd(width)}  ${text}`)).join(' ')}); compadd -l -d shown -a found`;
  };
  const values = ({ words, files }: Values) =>
    [
      ...(words.length > 0 ? [`compadd -- ${words.map(quoted).join(' ')}`] : []),
      ...(files ? ['_files'] : []),
      'return',
    ].join('; ');
  const perCommand = commands.map(({ path, commands: inner, options, arguments: given }) =>
    [
      `    ${quoted(path)})`,
      `      if [[ $PREFIX == -* ]]; then ${described(options.flatMap(({ flags, description }) => flags.map((flag) => [flag, description] as const)))}`,
      `      else ${inner.length > 0 ? described(inner.map(({ name, description }) => [name, description] as const)) : given === undefined ? ':' : values(given)}; fi ;;`,
    ].join('\n'),
  );
  return `#compdef lgdistill
_lgdistill() {
  local at=lgdistill prev=\${words[CURRENT-1]} word
  local -a found shown
  for word in "\${(@)words[2,CURRENT-1]}"; do
    case "$at $word" in
${pathCases(commands)}
    esac
  done
  if compset -P 1 '*='; then prev=\${IPREFIX%=}; fi
  case "$at:$prev" in
${optionCases(commands, values)}
  esac
  case "$at" in
${perCommand.join('\n')}
  esac
}
if [ "$funcstack[1]" = "_lgdistill" ]; then _lgdistill "$@"; else compdef _lgdistill lgdistill; fi
`;
}

/** Completion for fish: a file lgdistill.fish in ~/.config/fish/completions. */
export function fishScript(commands: readonly CommandWords[]): string {
  const lines = commands.flatMap(({ path, commands: inner, options, arguments: given }) => {
    const [, ...names] = path.split(' ');
    const condition = `-n ${quoted(`__lgdistill_at ${names.join(' ')}`.trim())}`;
    const long = (flag: string) =>
      flag.startsWith('--') ? `-l ${quoted(flag.slice(2))}` : `-s ${quoted(flag.slice(1))}`;
    const takes = (values: Values | undefined) =>
      values === undefined
        ? ''
        : ` -r${values.files ? ' -F' : ' -f'}${values.words.length > 0 ? ` -a ${quoted(values.words.join(' '))}` : ''}`;
    return [
      ...inner.map(
        ({ name, description }) => `complete -c lgdistill -f ${condition} -a ${quoted(name)} -d ${quoted(description)}`,
      ),
      ...(given === undefined
        ? []
        : [
            `complete -c lgdistill ${condition} ${given.files ? '-F' : '-f'}${given.words.length > 0 ? ` -a ${quoted(given.words.join(' '))}` : ''}`,
          ]),
      ...options.map(
        ({ flags, description, values }) =>
          `complete -c lgdistill ${condition} ${flags.map(long).join(' ')}${takes(values)} -d ${quoted(description)}`,
      ),
    ];
  });
  const known = commands.map(({ path }) => path.split(' ').slice(1).join(' ')).filter((path) => path !== '');
  return `# fish completion for lgdistill
function __lgdistill_at # is the command that is being typed this one?
  set -l at
  for word in (commandline -opc)[2..]
    contains -- (string join -- ' ' $at $word) ${known.map(quoted).join(' ')}; and set -a at $word
  end
  test "$at" = "$argv"
end
complete -c lgdistill -f
${lines.join('\n')}
`;
}
