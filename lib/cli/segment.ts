import { Command } from 'commander';
import { counted } from '../counted.js';
import type { SegmentationScore } from '../dense/intersection.js';
import { evaluateSegmentation, trainSegmentation } from '../dense/segmentation.js';
import { evaluateZeroShotSegmentation } from '../dense/zero-shot.js';
import type { Bind } from './command.js';
import { scoreBy, scoringOptions, shareOf, trainBy, trainingHelp, trainingOptions } from './dense-report.js';
import { addConfigOptions } from './options.js';
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
    .requiredOption('--to, --output <folder>', 'folder for the network and its metrics')
    .option('--data <folder>', dataHelp);
  addConfigOptions(command, [...trainingOptions, ...ofMasks, 'dense.split', 'dense.head', 'dense.outputStride'], {
    help: trainingHelp,
  });
  return trainBy(command, bind, trainSegmentation, ({ meanIou }) => `mIoU ${shareOf(meanIou)}`, report);
}

function evaluateCommand(bind: Bind): Command {
  const command = new Command('evaluate')
    .description('mean intersection over union of a trained network')
    .requiredOption('--model <path>', 'the folder that segment train wrote, or its model.safetensors')
    .option('--data <folder>', dataHelp);
  addConfigOptions(command, evaluated, { help: stallHelp });
  const modelOf = () => command.opts<{ model: string }>().model;
  return scoreBy(command, bind, (options) => evaluateSegmentation({ model: modelOf(), ...options }), report);
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
  const studentOf = () => command.opts<{ student: string }>().student;
  return scoreBy(
    command,
    bind,
    (options) => evaluateZeroShotSegmentation({ student: studentOf(), ...options }),
    report,
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
