import { Command } from 'commander';
import {
  checkAnswer,
  checkFree,
  initialConfig,
  knownAnswers,
  suggestAnswers,
  writeConfigFile,
  type InitAnswers,
} from '../config/init.js';
import { LgdError } from '../errors.js';
import { shellWord } from '../shell.js';
import type { Bind } from './command.js';
import { addConfigOptions, readFlags } from './options.js';
import { formatFacts } from './table.js';

interface InitFlags {
  to: string;
  yes?: boolean;
  force?: boolean;
}

/** Each question, and the option that answers it. */
const questions = [
  ['names', 'names', 'Category names (a file, a folder of class folders, or a built-in list)'],
  ['images', 'data.train', 'Folder of images'],
  ['teacher', 'teacher', 'Teacher (a CLIP folder or hub id)'],
  ['student', 'student.name', 'Student (several with commas)'],
] as const satisfies readonly (readonly [keyof InitAnswers, string, string])[];

export function initCommand(bind: Bind): Command {
  const command = new Command('init')
    .description('ask four questions and write a configuration file')
    .option('--to <file>', 'the file to write', 'lgdistill.json')
    .option('--yes', 'ask nothing: take the options, and suggestions for the rest')
    .option('--force', 'replace the configuration if it is there');
  addConfigOptions(
    command,
    questions.map(([, option]) => option),
    { file: false },
  );
  return command.action(
    bind(async ({ terminal, ask }) => {
      const { to, yes = false, force = false } = command.opts<InitFlags>();
      await checkFree(to, force);
      const given = readFlags(command) as Record<string, string | undefined>;
      const answers = await suggestAnswers();
      for (const [question, option, text] of questions) {
        const answer = given[option];
        if (answer !== undefined) answers[question] = answer;
        else if (!yes) {
          if (ask === undefined)
            throw new LgdError('BAD_OPTION', 'nobody is at a terminal to be asked.', {
              option,
              mend: 'Give --names, --data, --teacher and --student, or --yes to take suggestions',
            });
          answers[question] = await ask({
            text,
            suggestion: answers[question],
            words: knownAnswers(question),
            check: (typed) => checkAnswer(question, typed),
          });
        }
      }
      const { config, remarks } = await initialConfig(answers);
      await writeConfigFile(to, config, { force });
      const next = `npx lgdistill distill --config ${shellWord(to)}`;
      terminal.emit({ file: to, config, remarks, next });
      terminal.say(
        formatFacts(questions.map(([question]) => [question, `${answers[question]} (${remarks[question]})`])),
      );
      terminal.say(`written: ${to}\nnext: ${terminal.bold(next)}`);
    }),
  );
}
