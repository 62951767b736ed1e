import { Command, CommanderError } from 'commander';
import { version } from '../package.js';
import { openAsk } from './ask.js';
import { bankCommand } from './bank.js';
import { benchCommand } from './bench.js';
import type { Bind } from './command.js';
import { classifyCommand } from './classify.js';
import { compareCommand } from './compare.js';
import { completionCommand } from './completion.js';
import { detectCommand } from './detect.js';
import { distillCommand } from './distill.js';
import { doctorCommand } from './doctor.js';
import { embedCommand } from './embed.js';
import { evaluateCommand } from './evaluate.js';
import { exportCommand } from './export.js';
import { exitCodes, reportFailure } from './failure.js';
import { initCommand } from './init.js';
import { namesCommand } from './names.js';
import { checkFlags, normaliseArguments } from './options.js';
import { packCommand } from './pack.js';
import { checkPathsAreReadable } from './readable-paths.js';
import { refusal } from './refusal.js';
import { reportCommand } from './report.js';
import { resumeCommand } from './resume.js';
import { segmentCommand } from './segment.js';
import { openTerminal, type Streams } from './terminal.js';
import { verifyCommand } from './verify.js';

const commands = [
  initCommand,
  doctorCommand,
  namesCommand,
  bankCommand,
  packCommand,
  distillCommand,
  resumeCommand,
  evaluateCommand,
  classifyCommand,
  embedCommand,
  segmentCommand,
  detectCommand,
  exportCommand,
  reportCommand,
  compareCommand,
  benchCommand,
  verifyCommand,
  completionCommand,
];

/**
 * Runs one command line.
 * @param args without the program's name
 * @returns what to exit with: 0 done, 1 failed, 2 wrong usage, 130 interrupted
 */
export async function runProgram(args: readonly string[], streams: Streams, signal: AbortSignal): Promise<number> {
  const debug = args.includes('--debug') || !['', '0'].includes(streams.env['LGDISTILL_DEBUG'] ?? '');
  const terminal = openTerminal(streams, { json: args.includes('--json'), debug });
  let code: number = exitCodes.done;
  const program = new Command('lgdistill')
    .description('Distils small vision encoders from a teacher, a list of category names and unlabelled images.')
    .version(version);
  const bind: Bind =
    (action) =>
    async (...given) => {
      checkPathsAreReadable(args);
      code = (await action({ terminal, signal, ask: openAsk(streams, signal) }, ...given)) ?? exitCodes.done;
    };
  for (const declare of commands) program.addCommand(declare(bind));
  adopt(program, streams, args);
  const normalised = normaliseArguments(args);
  program.hook('preAction', (_, command) => checkFlags(command, normalised));
  try {
    await program.parseAsync(normalised, { from: 'user' });
    return code;
  } catch (error) {
    // no command: its help stands on stderr
    if (error instanceof CommanderError && error.code === 'commander.help') return exitCodes.usage;
    return reportFailure(error, terminal);
  }
}

/**
 * Gives a command and those under it what all share: `--json`, `--debug`, and errors that come back as exceptions
 * instead of ending the process.
 */
function adopt(command: Command, streams: Streams, args: readonly string[]): void {
  command
    .exitOverride((error) => {
      throw error.exitCode === 0 || error.code === 'commander.help' ? error : refusal(error, command, args);
    })
    .showSuggestionAfterError(false)
    .helpCommand(false)
    .configureHelp({ sortSubcommands: false, helpWidth: 120 })
    .configureOutput({
      writeOut: (text) => void streams.stdout.write(text),
      // errors are printed by reportFailure
      writeErr: (text) => void (text.startsWith('error: ') || streams.stderr.write(text)),
    });
  if (command.commands.length === 0) {
    command
      .option('--json', 'print JSON on stdout, text for people on stderr')
      .option('--debug', 'print stacks of errors (LGDISTILL_DEBUG=1)');
  }
  for (const inner of command.commands) adopt(inner, streams, args);
}
