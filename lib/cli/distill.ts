import { Command } from 'commander';
import { prepareRun } from '../train/setup.js';
import type { Bind } from './command.js';
import { addConfigOptions, readConfig } from './options.js';
import { writeRunReport } from './report.js';
import { eventsHelp, phaseReporter, reportRun } from './run-report.js';

export function distillCommand(bind: Bind): Command {
  const command = new Command('distill').description('train a student: names + unlabelled images -> a small encoder with a zero-shot head')
    .option('--no-report', 'do not write report.html into the run folder at the end');
  addConfigOptions(command, 'all');
  command.addHelpText('after', eventsHelp);
  return command.action(bind(async ({ terminal, signal }) => {
    const phases = phaseReporter(terminal);
    const run = await prepareRun(await readConfig(command), { signal, onProgress: phases.onProgress }).finally(phases.stop);
    let code: number;
    try {
      code = await reportRun(run.run({ signal }), terminal);
    } finally {
      await run.dispose();
    }
    if (command.opts<{ report: boolean }>().report) await writeRunReport(run.config.output, terminal);
    return code;
  }));
}
