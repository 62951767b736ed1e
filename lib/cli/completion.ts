import { Argument, Command } from 'commander';
import type { Bind } from './command.js';
import { describeProgram } from './completion-words.js';
import { bashScript, fishScript, zshScript } from './completion-scripts.js';

const scripts = { bash: bashScript, zsh: zshScript, fish: fishScript } as const;
type Shell = keyof typeof scripts;

const places: Readonly<Record<Shell, string>> = {
  bash: 'lgdistill completion bash > ~/.local/share/bash-completion/completions/lgdistill',
  zsh: 'lgdistill completion zsh > "${fpath[1]}/_lgdistill"',
  fish: 'lgdistill completion fish > ~/.config/fish/completions/lgdistill.fish',
};

export function completionCommand(bind: Bind): Command {
  const command = new Command('completion')
    .description('print a script that completes commands, options and their values in a shell')
    .addArgument(new Argument('<shell>', 'which shell').choices(Object.keys(scripts)))
    .addHelpText(
      'after',
      `\nTo keep it:\n${Object.values(places)
        .map((place) => `  ${place}\n`)
        .join('')}`,
    );
  return command.action(
    bind(async ({ terminal }, shell) => {
      const script = scripts[shell as Shell](describeProgram(command.parent!));
      terminal.emit({ shell, script, install: places[shell as Shell] });
      terminal.say(script.trimEnd());
    }),
  );
}
