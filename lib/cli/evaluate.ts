import { Command } from 'commander';
import { evaluateStudent } from '../evaluate/student.js';
import type { Bind } from './command.js';
import { addConfigOptions, readConfig } from './options.js';
import { phaseReporter, scoreTable } from './run-report.js';

export function evaluateCommand(bind: Bind): Command {
  const command = new Command('evaluate')
    .description('zero-shot accuracy of a student (and its teacher) on a labelled folder')
    .requiredOption('--student <path>', 'a run folder, a checkpoint folder, or a student file, exported or not')
    .option('--data <folder>', 'folder of class folders (the same as --evaluate.data)');
  addConfigOptions(command, [
    'device', 'threads', 'offline', 'names', 'templates', 'allowDuplicates', 'textEncoder', 'bank', 'teacher',
    'data.cacheMemory', 'data.spillFolder', 'data.maxBrokenShare', 'train.precision', 'evaluate.data', 'evaluate.names', 'evaluate.bank', 'evaluate.mapping',
  ]);
  return command.action(bind(async ({ terminal, signal }) => {
    const { student, data } = command.opts<{ student: string; data?: string }>();
    const config = await readConfig(command, { 'evaluate.data': data });
    const phases = phaseReporter(terminal);
    const result = await evaluateStudent({ student, config, signal, onProgress: phases.onProgress }).finally(phases.stop);
    terminal.emit({ ...result, predictions: undefined }); // one number an image: for programs, through the API
    terminal.say(scoreTable([['teacher', result.teacher], ['student', result.student]]));
  }));
}
