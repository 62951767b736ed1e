import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { Command } from 'commander';
import type { DeviceName } from '../device.js';
import { LgdError } from '../errors.js';
import { reportDefaults, writeReport, type ReportResult } from '../report/report.js';
import { checkTensorBoardFolder, writeTensorBoard } from '../report/tensorboard.js';
import { shellWord } from '../shell.js';
import type { Bind } from './command.js';
import { refuseNeedless } from './needless.js';
import { addConfigOptions, readConfig } from './options.js';
import { phaseReporter } from './run-report.js';
import { formatBytes } from './table.js';
import type { Terminal } from './terminal.js';
import { parseCount } from './values.js';

interface ReportFlags {
  output?: string;
  models: boolean;
  images?: string;
  maxImages?: number;
  tensorboard?: string;
}

export function reportCommand(bind: Bind): Command {
  const command = new Command('report')
    .description('write an HTML report on runs: curves, map of the banks, anchor gallery, confusion')
    .argument('<runs...>', 'run folders')
    .option('--output <file>', "the file to write (default: report.html in the first run's folder)")
    .option('--no-models', 'only what the run folders tell: no gallery, no confusion')
    .option('--images <folder>', "training images for the gallery (default: the run's own)")
    .option(
      '--max-images <n>',
      `images that gallery and confusion look at, at most [default ${reportDefaults.mostImages}]`,
      parseCount('max-images'),
    )
    .option('--tensorboard <folder>', 'write TensorBoard event files too, a folder a run');
  addConfigOptions(command, ['device', 'threads', 'offline', 'teacher', 'evaluate.data', 'evaluate.names'], {
    file: false,
  });
  return command.action(
    bind(async ({ terminal, signal }, runs) => {
      const flags = command.opts<ReportFlags>();
      const { device, threads, offline, teacher, evaluate, log } = await readConfig(command);
      const { output, images, tensorboard } = flags;
      refuseNeedless(command, flags, [
        {
          options: ['device', 'threads'],
          when: ({ models }) => !models,
          where: 'no model computes',
          or: 'leave out --no-models',
        },
      ]);
      if (tensorboard !== undefined) await checkTensorBoardFolder(tensorboard, { runs: runs as string[], output }); // before it takes long
      const phases = phaseReporter(terminal, log.stallMinutes);
      const result = await phases.during(
        writeReport({
          runs: runs as string[],
          output,
          models: flags.models,
          images,
          teacher,
          evaluate: evaluate.data,
          evaluateNames: evaluate.names,
          mostImages: flags.maxImages,
          device: device as DeviceName,
          threads,
          localFilesOnly: offline,
          signal,
          onProgress: phases.onProgress,
        }),
      );
      const events = tensorboard === undefined ? undefined : await writeTensorBoard(runs as string[], tensorboard);
      terminal.emit({ ...result, tensorboard: events });
      terminal.say(describeReport(result));
      for (const { file, scalars } of events ?? []) terminal.say(`${file}: ${scalars} scalars`);
    }),
  );
}

/**
 * Writes the report of a run that has just ended into its folder: what takes no model. The run has done its work, so
 * that a report which cannot be written is a warning.
 * @param isChanged false: nothing was done since the last report, which may have been asked for more and is kept
 */
export async function writeRunReport(
  run: string,
  terminal: Terminal,
  { isChanged = true }: { isChanged?: boolean } = {},
): Promise<void> {
  const earlier = join(run, 'report.html');
  if (!isChanged && (await stat(earlier).catch(() => undefined)) !== undefined) {
    terminal.say(`report: ${earlier}, as it was`);
    return;
  }
  try {
    const { file, bytes } = await writeReport({ runs: [run], models: false });
    terminal.say(
      `report: ${file} (${formatBytes(bytes)}); with gallery and confusion: lgdistill report ${shellWord(run)}`,
    );
  } catch (error) {
    if (!(error instanceof LgdError)) throw error;
    terminal.warn(`no report: ${error.message}`);
  }
}

/** What was written, and what could not be shown. */
function describeReport({ file, bytes, imageBytes, remarks, missing }: ReportResult): string {
  const pictures = imageBytes > 0 ? `, ${formatBytes(imageBytes)} of it pictures` : '';
  return [
    `report: ${file} (${formatBytes(bytes)}${pictures})`,
    ...remarks,
    ...missing.map(({ run, section, reason }) => `  ${run}, no ${section}: ${reason}`),
  ].join('\n');
}
