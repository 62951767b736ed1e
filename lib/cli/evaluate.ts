import { Argument, Command } from 'commander';
import type { Config } from '../config/config.js';
import { protocols, type Protocol, type ProtocolEvaluation, type ProtocolResult } from '../evaluate/protocol-result.js';
import { evaluateProtocol } from '../evaluate/protocols.js';
import type { Bind } from './command.js';
import {
  needlessWithBank,
  needlessWithoutNames,
  needlessWithoutTeacher,
  tellNeedless,
  type Needless,
} from './needless.js';
import { addConfigOptions, readConfig } from './options.js';
import { percent, phaseReporter, scoreTable, stallHelp } from './run-report.js';
import { formatTable } from './table.js';

const descriptions: Readonly<Record<Protocol, string>> = {
  zeroshot: 'the nearest name of the text bank',
  knn: 'weighted nearest neighbours',
  linear: 'linear probes on frozen features',
  semi: 'fine-tuning with 1 % and 10 % of the labels',
  finetune: 'fine-tuning with all of them',
};

/** Options that only some protocols take. */
const ofProtocols: readonly (readonly [options: string[], of: readonly Protocol[]])[] = [
  [
    ['train', 'evaluate.train'],
    ['knn', 'linear', 'semi', 'finetune'],
  ],
  [['evaluate.neighbours', 'evaluate.neighbourTemperature'], ['knn']],
  [['evaluate.heldOut', 'evaluate.solver', 'evaluate.probeEpochs'], ['linear']],
  [['evaluate.labelShare'], ['semi']],
  [
    ['evaluate.finetuneEpochs', 'evaluate.finetuneRate', 'evaluate.finetuneBatch', 'data.margin'],
    ['semi', 'finetune'],
  ],
  [['seed'], ['linear', 'semi', 'finetune']],
  [
    ['teacher', 'teacherResolution'],
    ['zeroshot', 'knn'],
  ],
  [
    [
      ...['names', 'templates', 'allowDuplicates', 'textEncoder', 'bank'],
      ...['evaluate.names', 'evaluate.bank', 'evaluate.mapping'],
    ],
    ['zeroshot'],
  ],
];

const needless: readonly Needless<Config & { protocol: Protocol }>[] = [
  ...ofProtocols.map(([options, of]) => ({
    options,
    when: ({ protocol }: { protocol: Protocol }) => !of.includes(protocol),
    where: `the protocol is not ${new Intl.ListFormat('en-GB', { type: 'disjunction' }).format(of)}`,
  })),
  {
    options: ['names', 'bank'],
    when: ({ evaluate }) => evaluate.bank !== undefined,
    where: 'evaluate.bank has the names to choose among',
  },
  needlessWithBank,
  needlessWithoutNames,
  needlessWithoutTeacher,
];

export function evaluateCommand(bind: Bind): Command {
  const command = new Command('evaluate')
    .description(
      `accuracy of a student on a labelled folder: ${protocols.map((name) => `${name} (${descriptions[name]})`).join(', ')}`,
    )
    .addArgument(new Argument('[protocol]', 'how the student is judged').choices(protocols).default('zeroshot'))
    .requiredOption('--student <path>', 'a run folder, a checkpoint folder, or a student file, exported or not')
    .option('--data <folder>', 'folder of class folders to judge on (the same as --evaluate.data)')
    .option(
      '--train <folder>',
      'folder of class folders to learn from, all but zeroshot (the same as --evaluate.train)',
    )
    .option('--out, --output <folder>', 'folder for results, predictions and lists (the same as --evaluate.output)');
  addConfigOptions(
    command,
    [
      'device',
      'threads',
      'seed',
      'offline',
      'names',
      'templates',
      'allowDuplicates',
      'textEncoder',
      'bank',
      'teacher',
      'teacherResolution',
      'data.margin',
      'data.cache',
      'data.cacheMemory',
      'data.spillFolder',
      'data.maxBrokenShare',
      'train.precision',
      'log.stallMinutes',
      ...[
        'data',
        'names',
        'bank',
        'mapping',
        'train',
        'output',
        'neighbours',
        'neighbourTemperature',
        'heldOut',
        'solver',
        'probeEpochs',
        'labelShare',
        'finetuneEpochs',
        'finetuneRate',
        'finetuneBatch',
      ].map((name) => `evaluate.${name}`),
    ],
    {
      help: {
        seed: 'Seed of what protocols draw: held-out images, shares of labels, their order, views (linear, semi, finetune)',
        teacher:
          'Teacher to judge beside the student (zeroshot, knn): the folder or hub id of a model, or an .onnx image tower',
        'data.margin':
          'Images to fine-tune on are kept with their short side at margin times the input, so that crops stay sharp (semi, finetune)',
        'data.cache':
          'When images are decoded: all at the start, each when a batch needs it, or (auto) all if they fit cacheMemory and half of the free disk',
        ...stallHelp,
        'data.maxBrokenShare': 'Share of images that may fail to decode before it stops',
        'data.spillFolder':
          "Folder of the file of decoded images that cacheMemory does not hold (default: the system's for temporary files)",
      },
    },
  );
  return command.action(
    bind(async ({ terminal, signal }, protocol) => {
      const { student, data, train, output } = command.opts<{
        student: string;
        data?: string;
        train?: string;
        output?: string;
      }>();
      const config = await readConfig(command, {
        'evaluate.data': data,
        'evaluate.train': train,
        'evaluate.output': output,
      });
      tellNeedless(terminal, command, { ...config, protocol: protocol as Protocol }, needless);
      const phases = phaseReporter(terminal, config.log.stallMinutes);
      const result = await phases.during(
        evaluateProtocol({ student, protocol: protocol as Protocol, config, signal, onProgress: phases.onProgress }),
      );
      terminal.emit(jsonOf(result));
      terminal.say(describe(result));
    }),
  );
}

/** Everything but what each image was taken for, which is in the tables; zero-shot scores under their old names too. */
function jsonOf({ results, images, ...rest }: ProtocolEvaluation): object {
  const scores =
    rest.protocol === 'zeroshot' ? Object.fromEntries(results.map(({ setting, score }) => [setting, score])) : {};
  return {
    ...rest,
    ...scores,
    results: results.map(({ answers, ...result }) => ({ ...result, images: answers.targets.length })),
    images: images.length,
  };
}

function describe({ results, remarks, files }: ProtocolEvaluation): string {
  const table = scoreTable(results.map(({ setting, score }) => [setting, score] as const));
  return [table, '', classTable(results[0]!), '', ...remarks, ...files].join('\n');
}

const mostClasses = 20;

/** Classes in their order; of many the worst. */
function classTable({ setting, score, classes }: ProtocolResult): string {
  const shown =
    classes.length <= mostClasses ? classes : [...classes].sort((a, b) => a.top1 - b.top1).slice(0, mostClasses);
  const head = `${setting}${classes.length > mostClasses ? `: the ${mostClasses} worst of ${classes.length} classes` : ''}`;
  return `${head}\n${formatTable(
    ['class', 'images', 'top-1', '95 % interval', `top-${score.topK}`, 'most often taken for'],
    shown.map(({ name, images, top1, top5, interval1: [low, high], mistakenFor }) => [
      name,
      String(images),
      percent(top1),
      `${(100 * low).toFixed(1)} to ${percent(high)}`,
      percent(top5),
      mistakenFor === undefined ? '-' : `${mistakenFor.name} (${mistakenFor.images})`,
    ]),
  )}`;
}
