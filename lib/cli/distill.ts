import { Command } from 'commander';
import { prepareRun } from '../train/setup.js';
import type { Bind } from './command.js';
import { needlessInRun, tellNeedless } from './needless.js';
import { addConfigOptions, readConfig } from './options.js';
import { reportPreflight } from './preflight-report.js';
import { writeRunReport } from './report.js';
import { eventsHelp, phaseReporter, reportRun } from './run-report.js';

export function distillCommand(bind: Bind): Command {
  const command = new Command('distill')
    .description('train a student: names + unlabelled images -> a small encoder with a zero-shot head')
    .option('--dry-run', 'measure a few steps, say what the run would take, and stop')
    .option('--no-preflight', 'begin at once, without measuring')
    .option('--no-report', 'do not write report.html into the run folder at the end');
  addConfigOptions(command, 'all');
  command.addHelpText('after', eventsHelp);
  return command.action(
    bind(async ({ terminal, signal }) => {
      const {
        report,
        dryRun = false,
        preflight,
      } = command.opts<{ report: boolean; dryRun?: boolean; preflight: boolean }>();
      const config = await readConfig(command);
      tellNeedless(terminal, command, config, needlessInRun);
      const phases = phaseReporter(terminal, config.log.stallMinutes);
      const run = await phases.during(prepareRun(config, { signal, onProgress: phases.onProgress }));
      let code: number;
      try {
        if (preflight || dryRun) await reportPreflight(run, terminal, { isAll: dryRun, signal });
        if (dryRun) return;
        ({ code } = await reportRun(run.run({ signal }), terminal, run.config.output));
      } finally {
        await run.dispose();
      }
      if (report) await writeRunReport(run.config.output, terminal);
      return code;
    }),
  );
}
