import { Argument, Command } from 'commander';
import type { Config } from '../config/config.js';
import { isAmong } from '../config/option-paths.js';
import { checkKnownStudents } from '../config/students.js';
import { counted } from '../counted.js';
import { measureData, type DataRow } from '../data/measure.js';
import { openDevice, type DeviceName } from '../device.js';
import { LgdError } from '../errors.js';
import { benchmark, type BenchmarkRow } from '../evaluate/benchmark.js';
import { nameWithWidth } from '../models/students/definition.js';
import type { Bind, Context } from './command.js';
import { needlessWithoutTeacher, refuseFlags, refuseNeedless, type Needless } from './needless.js';
import { addConfigOptions, readConfig } from './options.js';
import { withProgress } from './progress.js';
import { formatTable } from './table.js';
import type { Terminal } from './terminal.js';
import { parseCount, parsePositive } from './values.js';

const mostSeconds = 86_400;
/** What decides how images are decoded and augmented, and in which order. */
const ofImages = ['data.*', 'augment.*', 'seed', 'seconds', 'config'];
/** What steps on made-up images do without. */
const onlyOfImages = ['data.margin', 'data.maxBrokenShare', 'augment.*'];

const needlessInSteps: readonly Needless<Config>[] = [
  needlessWithoutTeacher,
  {
    options: ['dimension'],
    when: ({ teacher }) => teacher !== undefined,
    where: 'a teacher tells the size of its embeddings',
  },
];

interface BenchFlags {
  seconds: number;
  categories: number;
  dimension: number;
}

export function benchCommand(bind: Bind): Command {
  const command = new Command('bench')
    .description(
      'measure training, inference and the semantic loss on a device; or how fast sources of images give views',
    )
    .addArgument(
      new Argument(
        '[what]',
        'device: the steps of a student; data: sources x cores -> images/s, decoded and augmented on the CPU',
      )
        .choices(['device', 'data'])
        .default('device'),
    )
    .argument('[sources...]', 'for data: folders, packs or tar shards')
    .option('--seconds <n>', 'how long each measurement takes', parsePositive('seconds', mostSeconds), 2);
  addStepOptions(command, ['data.margin', 'data.maxBrokenShare'], 'Images a batch; auto: as many as published');
  return command.action(
    bind(async (context, what, given) => {
      const sources = given as string[];
      if (what === 'data') return benchData(command, context, sources);
      if (sources.length > 0)
        throw new LgdError('BAD_OPTION', 'the steps of a student are measured without images.', {
          option: 'sources',
          found: sources[0],
          mend: 'Leave it out, or measure sources: bench data',
        });
      return benchDevice(command, context);
    }),
  );
}

/**
 * Options of a command that takes training steps on made-up images.
 * @param more rows of the option table that it takes besides
 * @param batchHelp what it says of the batch size
 */
export function addStepOptions(command: Command, more: readonly string[], batchHelp: string): void {
  command
    .option('--categories <n>', 'names in the banks', parseCount('categories'), 1000)
    .option('--dimension <n>', 'size of the embeddings, where no teacher tells it', parseCount('dimension'), 512);
  addConfigOptions(
    command,
    [
      'device',
      'threads',
      'seed',
      'offline',
      'teacher',
      'teacherResolution',
      'student.name',
      'student.widthMultiplier',
      'data.resolution',
      'train.batchSize',
      'train.optimizer',
      'train.precision',
      'augment.*',
      ...more,
    ],
    {
      help: {
        'student.name': 'Architecture of the student, by its name in torchvision, else in timm',
        'train.batchSize': batchHelp,
      },
    },
  );
}

/** The configuration of such a command, refused where its student is none. @throws LgdError BAD_CONFIG, BAD_OPTION */
export async function readStepConfig(command: Command): Promise<Config> {
  const config = await readConfig(command);
  refuseNeedless(command, config, needlessInSteps);
  checkKnownStudents(config, [config.student.name]);
  return config;
}

async function benchDevice(command: Command, { terminal, signal }: Context): Promise<void> {
  const { seconds, categories, dimension } = command.opts<BenchFlags>();
  refuseFlags(command, (option) => isAmong(option, onlyOfImages), { where: 'no images are read' });
  const config = await readStepConfig(command);
  using device = await openDevice(config.device as DeviceName, { threads: config.threads });
  const rows: BenchmarkRow[] = [];
  await withProgress(terminal, 'bench', async (progress) => {
    for await (const row of benchmark(config, { device, seconds, categories, dimension, signal })) {
      rows.push(row);
      progress.update(rows.length, rows.length + 1, `${row.op} | `);
    }
  });
  const { name, kind, threads } = device.info;
  terminal.emit({
    device: device.info,
    build: device.addon.buildInfo(),
    student: config.student.name,
    widthMultiplier: config.student.widthMultiplier,
    categories,
    rows,
  });
  terminal.say(
    `${name}${kind === 'cpu' ? `, ${counted(threads, 'thread')}` : ''}; ${nameWithWidth(config.student.name, config.student.widthMultiplier)}; ${counted(categories, 'name')}`,
  );
  terminal.say(
    formatTable(
      ['', 'batch', 'side', 'ms p20', 'ms p50', 'ms p80', 'images/s'],
      rows.map(({ op, batch, resolution, p20, p50, p80, imagesPerSecond }) => [
        op,
        String(batch),
        String(resolution ?? '-'),
        ...[p20, p50, p80].map((value) => value.toFixed(2)),
        imagesPerSecond.toFixed(0),
      ]),
    ),
  );
}

async function benchData(command: Command, { terminal, signal }: Context, sources: readonly string[]): Promise<void> {
  if (sources.length === 0)
    throw new LgdError('BAD_OPTION', 'there is nothing to measure.', {
      option: 'sources',
      mend: 'Give folders, packs or tar shards after `bench data`',
    });
  refuseFlags(command, (option) => !isAmong(option, ofImages), { where: 'sources are measured' });
  const config = await readConfig(command);
  const { seconds } = command.opts<BenchFlags>();
  const rows: DataRow[] = [];
  try {
    for await (const row of measureData(sources, config, { seconds, signal })) rows.push(row);
  } finally {
    if (rows.length > 0) printDataRows(terminal, rows); // also where a source after them cannot be measured
  }
}

function printDataRows(terminal: Terminal, rows: readonly DataRow[]): void {
  terminal.emit({ rows });
  for (const remark of new Set(rows.flatMap(({ remarks }) => remarks))) terminal.say(remark);
  terminal.say(
    formatTable(
      ['source', 'cores', 'images/s', 'images/s/core', 'core ms decode', 'core ms augment', 'loop delay p99 ms'],
      rows.map((row) => [
        row.source,
        String(row.cores),
        row.imagesPerSecond.toFixed(0),
        row.imagesPerCoreSecond.toFixed(0),
        row.decodeMilliseconds.toFixed(3),
        row.augmentMilliseconds.toFixed(3),
        row.delayP99.toFixed(1),
      ]),
    ),
  );
}
