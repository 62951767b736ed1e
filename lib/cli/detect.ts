import { Command } from 'commander';
import { counted } from '../counted.js';
import type { DetectionScore } from '../dense/average-precision.js';
import { evaluateDetection, trainDetection } from '../dense/detection.js';
import type { Bind } from './command.js';
import { scoreBy, scoringOptions, shareOf, trainBy, trainingHelp, trainingOptions } from './dense-report.js';
import { addConfigOptions } from './options.js';
import { percent, stallHelp } from './run-report.js';
import { formatTable } from './table.js';
import type { Terminal } from './terminal.js';

const dataHelp = 'folder of the images (the same as --dense.data)';
const annotationsHelp = 'COCO JSON file of their boxes (the same as --dense.annotations)';
const ofBoxes = ['dense.annotations', 'dense.evaluationAnnotations'];

export function detectCommand(bind: Bind): Command {
  return new Command('detect')
    .description('train a detector on a student, and score one')
    .addCommand(trainCommand(bind))
    .addCommand(evaluateCommand(bind));
}

function trainCommand(bind: Bind): Command {
  const command = new Command('train')
    .description("train a detector on a student's backbone")
    .requiredOption('--student <path>', 'a run folder, a checkpoint folder, or a student file')
    .requiredOption('--to, --output <folder>', 'folder for the network and its metrics')
    .option('--data <folder>', dataHelp)
    .option('--annotations <file>', annotationsHelp);
  addConfigOptions(command, [...trainingOptions, ...ofBoxes], { help: trainingHelp });
  const short = ({ ap, ap50 }: DetectionScore) => `AP ${percent(ap ?? 0)}, AP50 ${percent(ap50 ?? 0)}`;
  return trainBy(command, bind, trainDetection, short, report);
}

function evaluateCommand(bind: Bind): Command {
  const command = new Command('evaluate')
    .description("COCO's average precision of a trained detector")
    .requiredOption('--model <path>', 'the folder that detect train wrote, or its model.safetensors')
    .option('--data <folder>', dataHelp)
    .option('--annotations <file>', annotationsHelp);
  addConfigOptions(command, [...scoringOptions, ...ofBoxes], {
    help: {
      ...stallHelp,
      'dense.annotations': 'COCO JSON file of the boxes to evaluate on, where dense.evaluationAnnotations names none',
    },
  });
  const modelOf = () => command.opts<{ model: string }>().model;
  return scoreBy(command, bind, (options) => evaluateDetection({ model: modelOf(), ...options }), report);
}

function report(
  terminal: Terminal,
  { ap, ap50, ap75, apSmall, apMedium, apLarge, classes, images }: DetectionScore,
): void {
  terminal.say(
    formatTable(
      ['class', 'AP', 'AP50'],
      classes.map((entry) => [entry.name, shareOf(entry.ap), shareOf(entry.ap50)]),
    ),
  );
  terminal.say(
    `\nAP ${shareOf(ap)}, AP50 ${shareOf(ap50)}, AP75 ${shareOf(ap75)}; small ${shareOf(apSmall)}, medium ${shareOf(apMedium)}, large ${shareOf(apLarge)} on ${counted(images, 'image')}`,
  );
}
