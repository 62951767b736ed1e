import { Command } from 'commander';
import { openDevice, type Device, type DeviceName } from '../device.js';
import type { Config } from '../config.js';
import { measureInference, measureSemantic, measureTraining, type MeasureOptions, type Timing } from '../evaluate/throughput.js';
import type { Precision } from '../models/compiled.js';
import { createStudent } from '../models/student.js';
import { loadTeacher } from '../models/index.js';
import type { Bind } from './command.js';
import { addConfigOptions, readConfig } from './options.js';
import { startProgress } from './progress.js';
import { formatTable } from './table.js';
import { parseCount, parsePositive } from './values.js';

interface BenchFlags {
  seconds: number;
  categories: number;
  dimension: number;
}

interface Row extends Timing {
  op: string;
  resolution: number | undefined;
}

const resolutionWithoutTeacher = 224;

export function benchCommand(bind: Bind): Command {
  const command = new Command('bench')
    .description('measure training, inference and the semantic loss on a device')
    .option('--seconds <n>', 'how long each measurement takes', parsePositive('seconds'), 2)
    .option('--categories <n>', 'names in the banks', parseCount('categories'), 1000)
    .option('--dimension <n>', "size of the embeddings, where no teacher tells it", parseCount('dimension'), 512);
  addConfigOptions(command, ['device', 'threads', 'seed', 'offline', 'teacher', 'student.name', 'student.widthMultiplier', 'data.resolution', 'train.batchSize', 'train.precision']);
  return command.action(bind(async ({ terminal, signal }) => {
    const flags = command.opts<BenchFlags>();
    const config = await readConfig(command);
    using device = await openDevice(config.device as DeviceName, { threads: config.threads });
    const progress = startProgress(terminal, 'bench');
    const rows: Row[] = [];
    try {
      for await (const row of benchRows(device, config, flags, { seconds: flags.seconds, signal })) {
        rows.push(row);
        progress.update(rows.length, rows.length + 1, `${row.op} | `);
      }
    } finally {
      progress.stop();
    }
    const { name, kind, threads } = device.info;
    terminal.emit({ device: device.info, build: device.addon.buildInfo(), student: config.student.name, widthMultiplier: config.student.widthMultiplier, categories: flags.categories, rows });
    terminal.say(`${name}${kind === 'cpu' ? `, ${threads} threads` : ''}; ${config.student.name} x ${config.student.widthMultiplier}; ${flags.categories} names`);
    terminal.say(formatTable(
      ['', 'batch', 'side', 'ms p20', 'ms p50', 'ms p80', 'images/s'],
      rows.map(({ op, batch, resolution, p20, p50, p80, imagesPerSecond }) => [op, String(batch), String(resolution ?? '-'), ...[p20, p50, p80].map((value) => value.toFixed(2)), imagesPerSecond.toFixed(0)]),
    ));
  }));
}

async function* benchRows(device: Device, config: Config, { categories, dimension }: BenchFlags, options: MeasureOptions): AsyncGenerator<Row> {
  const { batchSize: batch } = config.train;
  const precision: Precision | undefined = config.train.precision === 'auto' ? undefined : config.train.precision;
  const teacher = config.teacher === undefined ? undefined : await loadTeacher(config.teacher, { device, localFilesOnly: config.offline, signal: options.signal });
  const embeddingSize = teacher?.embeddingSize ?? dimension;
  const resolution = config.data.resolution ?? teacher?.resolution ?? resolutionWithoutTeacher;
  const student = createStudent(config.student.name, { device, embeddingSize, seed: config.seed, widthMultiplier: config.student.widthMultiplier });
  {
    using encoder = student.compile({ batch, resolution, precision, training: true });
    yield { op: 'student, training step', resolution, ...(await measureTraining(encoder, options)) };
  }
  {
    using encoder = student.compile({ batch, resolution, precision, training: false });
    yield { op: 'student, inference', resolution, ...(await measureInference(encoder, options)) };
  }
  if (teacher?.kind === 'native') {
    using encoder = teacher.compile({ batch, precision });
    yield { op: 'teacher, inference', resolution: teacher.resolution, ...(await measureInference(encoder, options)) };
  }
  await teacher?.dispose();
  const bfloat16 = device.kind !== 'cpu' && precision !== 'float32';
  yield { op: 'semantic loss and bank update', resolution: undefined, ...(await measureSemantic(device, { batch, categories, dimension: embeddingSize, bfloat16 }, options)) };
}
