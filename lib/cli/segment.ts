import { Command } from 'commander';
import { counted } from '../counted.js';
import type { SegmentationScore } from '../dense/intersection.js';
import { evaluateSegmentation, trainSegmentation } from '../dense/segmentation.js';
import { evaluateZeroShotSegmentation } from '../dense/zero-shot.js';
import type { Bind } from './command.js';
import { scoringOptions, shareOf, showScore, showTraining, trainingHelp, trainingOptions } from './dense-report.js';
import { addConfigOptions, readConfig } from './options.js';
import { stallHelp } from './run-report.js';
import { formatTable } from './table.js';
import type { Terminal } from './terminal.js';

const dataHelp = 'images and masks: pairs, Cityscapes, ADE20K or VOC layout (the same as --dense.data)';
const ofMasks = ['names', 'dense.layout', 'dense.evaluationSplit', 'dense.inference'];
const evaluated = [...scoringOptions, ...ofMasks, 'offline'];

export function segmentCommand(bind: Bind): Command {
  return new Command('segment')
    .description('train a segmentation head on a student, and score one')
    .addCommand(trainCommand(bind))
    .addCommand(evaluateCommand(bind))
    .addCommand(zeroShotCommand(bind));
}

function trainCommand(bind: Bind): Command {
  const command = new Command('train')
    .description("train a segmentation network on a student's backbone")
    .requiredOption('--student <path>', 'a run folder, a checkpoint folder, or a student file')
    .requiredOption('--to <folder>', 'folder for the network and its metrics')
    .option('--data <folder>', dataHelp);
  addConfigOptions(command, [...trainingOptions, ...ofMasks, 'dense.split', 'dense.head', 'dense.outputStride'], {
    help: trainingHelp,
  });
  return command.action(
    bind(async ({ terminal, signal }) => {
      const { student, to, data } = command.opts<{ student: string; to: string; data?: string }>();
      const config = await readConfig(command, { 'dense.data': data });
      await showTraining(terminal, trainSegmentation({ student, output: to, config, signal }), {
        stallMinutes: config.log.stallMinutes,
        short: ({ meanIou }) => `mIoU ${shareOf(meanIou)}`,
        report: (score) => report(terminal, score),
      });
    }),
  );
}

function evaluateCommand(bind: Bind): Command {
  const command = new Command('evaluate')
    .description('mean intersection over union of a trained network')
    .requiredOption('--model <path>', 'the folder that segment train wrote, or its model.safetensors')
    .option('--data <folder>', dataHelp);
  addConfigOptions(command, evaluated, { help: stallHelp });
  return command.action(
    bind(async ({ terminal, signal }) => {
      const { model, data } = command.opts<{ model: string; data?: string }>();
      const config = await readConfig(command, { 'dense.data': data });
      await showScore(
        terminal,
        config.log.stallMinutes,
        (onProgress) => evaluateSegmentation({ model, config, signal, onProgress }),
        report,
      );
    }),
  );
}

function zeroShotCommand(bind: Bind): Command {
  const command = new Command('zero-shot')
    .description(
      'the same without training: the projection head at every position, and the nearest name of the text bank',
    )
    .requiredOption('--student <path>', 'a run folder, a checkpoint folder, or a student file')
    .option('--data <folder>', dataHelp);
  addConfigOptions(
    command,
    [
      ...evaluated,
      'bank',
      'textEncoder',
      'teacher',
      'templates',
      'evaluate.bank',
      'dense.outputStride',
      'dense.resolution',
    ],
    { help: stallHelp },
  );
  return command.action(
    bind(async ({ terminal, signal }) => {
      const { student, data } = command.opts<{ student: string; data?: string }>();
      const config = await readConfig(command, { 'dense.data': data });
      await showScore(
        terminal,
        config.log.stallMinutes,
        (onProgress) => evaluateZeroShotSegmentation({ student, config, signal, onProgress }),
        report,
      );
    }),
  );
}

function report(
  terminal: Terminal,
  { meanIou, pixelAccuracy, meanAccuracy, classes, images }: SegmentationScore,
): void {
  terminal.say(
    formatTable(
      ['class', 'IoU', 'accuracy', 'pixels'],
      classes.map(({ name, iou, accuracy, pixels }) => [name, shareOf(iou), shareOf(accuracy), String(pixels)]),
    ),
  );
  terminal.say(
    `\nmIoU ${shareOf(meanIou)}, pixel accuracy ${shareOf(pixelAccuracy)}, mean accuracy ${shareOf(meanAccuracy)} on ${counted(images, 'image')}`,
  );
}
