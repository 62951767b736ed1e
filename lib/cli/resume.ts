import { Command } from 'commander';
import { prepareRun, resumeConfig } from '../train/setup.js';
import type { Bind } from './command.js';
import { addConfigOptions, readFlags } from './options.js';
import { eventsHelp, phaseReporter, reportRun } from './run-report.js';

export function resumeCommand(bind: Bind): Command {
  const command = new Command('resume')
    .description('continue an interrupted run exactly where its checkpoint stands')
    .argument('<run>', 'the run folder')
    .option('--from <checkpoint>', 'last, previous, best, or a checkpoint folder', 'last');
  addConfigOptions(command, ['device', 'threads', 'offline', 'data.cacheMemory', 'data.spillFolder', 'train.maxSteps', 'evaluate.everyEpochs', 'checkpoint.*', 'log.everySteps'], { file: false });
  command.addHelpText('after', eventsHelp);
  return command.action(bind(async ({ terminal, signal }, folder) => {
    const { from } = command.opts<{ from: string }>();
    const config = await resumeConfig(folder as string, readFlags(command));
    const phases = phaseReporter(terminal);
    const run = await prepareRun(config, { signal, resume: from, onProgress: phases.onProgress }).finally(phases.stop);
    try {
      return await reportRun(run.run({ signal }), terminal);
    } finally {
      await run.dispose();
    }
  }));
}
