import { Command } from 'commander';
import { openDevice, type DeviceName } from '../device.js';
import { benchmark, type BenchmarkRow } from '../evaluate/benchmark.js';
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

export function benchCommand(bind: Bind): Command {
  const command = new Command('bench')
    .description('measure training, inference and the semantic loss on a device')
    .option('--seconds <n>', 'how long each measurement takes', parsePositive('seconds'), 2)
    .option('--categories <n>', 'names in the banks', parseCount('categories'), 1000)
    .option('--dimension <n>', "size of the embeddings, where no teacher tells it", parseCount('dimension'), 512);
  addConfigOptions(command, ['device', 'threads', 'seed', 'offline', 'teacher', 'student.name', 'student.widthMultiplier', 'data.resolution', 'train.batchSize', 'train.precision']);
  return command.action(bind(async ({ terminal, signal }) => {
    const { seconds, categories, dimension } = command.opts<BenchFlags>();
    const config = await readConfig(command);
    using device = await openDevice(config.device as DeviceName, { threads: config.threads });
    const progress = startProgress(terminal, 'bench');
    const rows: BenchmarkRow[] = [];
    try {
      for await (const row of benchmark(config, { device, seconds, categories, dimension, signal })) {
        rows.push(row);
        progress.update(rows.length, rows.length + 1, `${row.op} | `);
      }
    } finally {
      progress.stop();
    }
    const { name, kind, threads } = device.info;
    terminal.emit({ device: device.info, build: device.addon.buildInfo(), student: config.student.name, widthMultiplier: config.student.widthMultiplier, categories, rows });
    terminal.say(`${name}${kind === 'cpu' ? `, ${threads} threads` : ''}; ${config.student.name} x ${config.student.widthMultiplier}; ${categories} names`);
    terminal.say(formatTable(
      ['', 'batch', 'side', 'ms p20', 'ms p50', 'ms p80', 'images/s'],
      rows.map(({ op, batch, resolution, p20, p50, p80, imagesPerSecond }) => [op, String(batch), String(resolution ?? '-'), ...[p20, p50, p80].map((value) => value.toFixed(2)), imagesPerSecond.toFixed(0)]),
    ));
  }));
}
