/** What the commands share that look at unlabelled images once. */
import { counted } from '../counted.js';
import type { Looked } from '../predict/looking.js';
import { stallHelp } from './run-report.js';
import type { Terminal } from './terminal.js';

export const lookingOptions: readonly string[] = [
  'device',
  'threads',
  'offline',
  'data.cacheMemory',
  'data.spillFolder',
  'train.precision',
  'log.stallMinutes',
];

export const lookingHelp = {
  ...stallHelp,
  'data.cacheMemory':
    'MiB of memory for decoded images of what can be read in its order only (tar shards, parquet files); the rest goes to a file',
  'data.spillFolder': "Folder of that file (default: the system's for temporary files)",
};

const mostListed = 20;

/** Tells what was left out, on stderr: stdout may be a table. @param rest what `--json` prints besides */
export function tellLooked(terminal: Terminal, { ids, broken, remarks }: Looked, rest: object): void {
  terminal.emit({ ...rest, images: ids.length, broken, remarks });
  for (const remark of remarks) terminal.warn(remark);
  if (broken.length === 0) return;
  terminal.warn(`${counted(broken.length, 'image')} left out, which cannot be decoded:`);
  for (const { id, reason } of broken.slice(0, mostListed)) terminal.warn(`  ${id}: ${reason}`);
  if (broken.length > mostListed) terminal.warn(`  and ${broken.length - mostListed} more (--json lists all)`);
}
