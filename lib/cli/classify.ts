import { dirname } from 'node:path';
import { Command } from 'commander';
import { counted } from '../counted.js';
import { tryFolder } from '../files/make-folder.js';
import { checkReplaceable } from '../files/replaceable.js';
import { classesAsCsv, classesFormat, classifiedImages, writeClassification } from '../predict/classes-file.js';
import { classifyImages, type Classification } from '../predict/classify.js';
import type { Bind } from './command.js';
import { needlessWithBank, needlessWithoutNames, tellNeedless } from './needless.js';
import { addConfigOptions, readConfig } from './options.js';
import { tellLooked, lookingHelp, lookingOptions } from './looked.js';
import { phaseReporter } from './run-report.js';
import { formatTable } from './table.js';
import { parseCount } from './values.js';

const mostNames = 20;

export function classifyCommand(bind: Bind): Command {
  const command = new Command('classify')
    .description('say for each image which names a student takes it for')
    .argument('<images...>', 'a folder, a pack, tar shards, CIFAR or parquet files; or image files')
    .requiredOption('--student <path>', 'a run folder, a checkpoint folder, or a student file, exported or not')
    .option('--top <n>', 'names for each image [default 5, or all of fewer]', parseCount('top'))
    .option('--out, --output <file>', 'a .csv or .jsonl file to write [default: the table on stdout]');
  addConfigOptions(command, [...lookingOptions, 'names', 'templates', 'allowDuplicates', 'textEncoder', 'bank'], {
    help: {
      ...lookingHelp,
      names: "Names to choose among (default: the student's own)",
      bank: "Text bank to choose from (default: the student's own)",
    },
  });
  return command.action(
    bind(async ({ terminal, signal }, images) => {
      const { student, top, output } = command.opts<{ student: string; top?: number; output?: string }>();
      const config = await readConfig(command);
      tellNeedless(terminal, command, config, [
        { ...needlessWithBank, when: ({ bank, names }) => bank !== undefined && names === undefined },
        needlessWithoutNames,
      ]);
      if (output !== undefined) {
        classesFormat(output);
        await checkReplaceable(output, 'names of images', { option: 'output' });
      }
      const removeEmpty = output === undefined ? undefined : await tryFolder(dirname(output));
      try {
        const phases = phaseReporter(terminal, config.log.stallMinutes);
        const found = await phases.during(
          classifyImages({ student, images: images as string[], top, config, signal, onProgress: phases.onProgress }),
        );
        const { file, bankHash, names, ids } = found;
        if (output !== undefined) await writeClassification(output, found);
        else if (terminal.json) for (const image of classifiedImages(found)) terminal.emit(image);
        else for (const line of classesAsCsv(found)) terminal.say(line.trimEnd());
        tellLooked(terminal, found, { file: output, student: file, names: names.length, bankHash });
        if (output !== undefined) terminal.say(`${output}: ${counted(ids.length, 'image')}\n\n${countTable(found)}`);
      } finally {
        await removeEmpty?.();
      }
    }),
  );
}

/** How many images each name is the nearest of: the commonest. */
function countTable({ ids, names, top, indices }: Classification): string {
  const counts = new Int32Array(names.length);
  for (const image of ids.keys()) counts[indices[image * top]!]!++;
  const taken = [...counts.keys()].filter((k) => counts[k]! > 0).sort((a, b) => counts[b]! - counts[a]! || a - b);
  const rest = taken.length - mostNames;
  const table = formatTable(
    ['name', 'images'],
    taken.slice(0, mostNames).map((k) => [names[k]!, String(counts[k]!)]),
  );
  return rest > 0 ? `${table}\nand ${counted(rest, 'more name')}` : table;
}
