import { Command } from 'commander';
import { changeableOptions } from '../train/resume/continued.js';
import { prepareRun, resumeConfig } from '../train/setup.js';
import type { Bind } from './command.js';
import { needlessInResumed, needlessInRun, tellNeedless } from './needless.js';
import { addConfigOptions, readFlags } from './options.js';
import { writeRunReport } from './report.js';
import { eventsHelp, phaseReporter, reportRun } from './run-report.js';

export function resumeCommand(bind: Bind): Command {
  const command = new Command('resume')
    .description('continue an interrupted run exactly where its checkpoint stands')
    .argument('<run>', 'the run folder')
    .option('--from <checkpoint>', 'last, previous, best, or a checkpoint folder', 'last')
    .option(
      '--no-report',
      'do not write report.html into the run folder at the end; one of a run that had nothing left to do is kept',
    );
  addConfigOptions(command, changeableOptions, { file: false });
  command.addHelpText('after', eventsHelp);
  return command.action(
    bind(async ({ terminal, signal }, folder) => {
      const { from } = command.opts<{ from: string }>();
      const config = await resumeConfig(folder as string, readFlags(command));
      tellNeedless(terminal, command, config, [...needlessInRun, needlessInResumed]);
      const phases = phaseReporter(terminal, config.log.stallMinutes);
      const run = await phases.during(prepareRun(config, { signal, resume: from, onProgress: phases.onProgress }));
      let outcome: Awaited<ReturnType<typeof reportRun>>;
      try {
        outcome = await reportRun(run.run({ signal }), terminal, run.config.output);
      } finally {
        await run.dispose();
      }
      if (command.opts<{ report: boolean }>().report) await writeRunReport(run.config.output, terminal, outcome);
      return outcome.code;
    }),
  );
}
