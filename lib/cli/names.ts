import { Command, Option } from 'commander';
import { TextualSemanticsBank } from '../banks/textual.js';
import { LgdError } from '../errors.js';
import { formatReport } from '../text/doctor.js';
import { builtinIds, builtinLists, describeBuiltin } from '../text/builtin.js';
import { loadTextEncoder } from '../text/load-encoder.js';
import { CategoryList } from '../text/names.js';
import { checkNamesFile, writeNames } from '../text/names-file.js';
import type { Bind } from './command.js';
import { refuseFlags, refuseNeedless, type Needless } from './needless.js';
import { addConfigOptions, readConfig } from './options.js';
import { withProgress } from './progress.js';
import type { Terminal } from './terminal.js';
import { parsePositive } from './values.js';

interface NamesOptions {
  write?: string;
  overwrite?: string;
  encoder?: string;
  bank?: string;
  similarity?: number;
  builtin?: string;
  listBuiltin?: boolean;
}

const needless: readonly Needless<{ write?: string; model?: string; file?: string }>[] = [
  { options: ['overwrite'], when: ({ write }) => write === undefined, where: 'nothing is written', or: 'give --write' },
  {
    options: ['templates'],
    when: ({ model }) => model === undefined,
    where: 'no encoder embeds the names in them',
    or: 'give --encoder',
  },
];

export function namesCommand(bind: Bind): Command {
  const command = new Command('names')
    .description('check a list of category names, and mend it; or print a built-in list')
    .argument('[list]', 'a .txt, .json, .csv or .tsv file, a folder of class folders, or a built-in list')
    .addOption(
      new Option(
        '--builtin <id>',
        'print a built-in list, one name a line, below comments that say where it comes from',
      ).choices(builtinIds),
    )
    .option('--list-builtin', 'say which lists are built in, and where each comes from')
    .option('--write <file>', 'write the mended list, one name a line, into a .txt file: a new one, or the list itself')
    .option('--overwrite <true|false>', 'let --write replace any file')
    .option(
      '--encoder <model>',
      'text tower of CLIP or SigLIP, a folder or a hub id: find near-duplicates and prompts that are too long',
    )
    .option('--bank <file>', 'a text bank of these names, in the place of --encoder: find near-duplicates in seconds')
    .option(
      '--similarity <cosine>',
      'cosine from which two names count as near-duplicates [default 0.98]',
      parsePositive('similarity'),
    );
  addConfigOptions(command, ['templates', 'offline']);
  return command.action(
    bind(async ({ terminal, signal }, list) => {
      const {
        write,
        overwrite,
        encoder: model,
        bank: file,
        similarity,
        builtin,
        listBuiltin,
      } = command.opts<NamesOptions>();
      const other = (list as string | undefined) ?? (listBuiltin && builtin);
      if ((listBuiltin === true || builtin !== undefined) && other !== undefined)
        throw new LgdError('BAD_OPTION', 'a built-in list is printed, and nothing else is looked at.', {
          option: listBuiltin === true ? 'listBuiltin' : 'builtin',
          found: other,
          mend: 'Leave that out; to check a built-in list, give its name in the place of a file',
        });
      if (listBuiltin === true || builtin !== undefined)
        refuseFlags(command, (option) => option !== 'builtin' && option !== 'listBuiltin', {
          where: 'a built-in list is printed, and nothing else is looked at',
        });
      if (listBuiltin === true) return showLists(terminal);
      if (builtin !== undefined) return printList(terminal, builtin);
      if (list === undefined)
        throw new LgdError('BAD_OPTION', 'there is no list to check.', {
          option: 'names',
          mend: 'Give a file, a folder of class folders or a built-in list; --list-builtin says which there are',
        });
      if (similarity !== undefined && model === undefined && file === undefined)
        throw new LgdError('BAD_OPTION', 'nothing tells how near names are.', {
          option: 'similarity',
          found: similarity,
          mend: 'Give --encoder or --bank, or leave it out',
        });
      if (model === '')
        throw new LgdError('BAD_OPTION', 'nothing is given.', {
          option: 'encoder',
          mend: 'Give a folder, or a hub id such as Xenova/clip-vit-base-patch32',
        });
      refuseNeedless(command, { write, model, file }, needless);
      const config = await readConfig(command);
      const names = await CategoryList.load(list as string);
      const place = { list: list as string, overwrite: overwrite === 'true' };
      if (write !== undefined) await checkNamesFile(write, place);
      const bank = file === undefined ? undefined : await TextualSemanticsBank.load(file);
      await using encoder =
        model === undefined ? undefined : await loadTextEncoder(model, { localFilesOnly: config.offline, signal });
      const report = await withProgress(terminal, 'names', (progress) =>
        names.check({
          encoder,
          bank,
          templates: config.templates,
          similarity,
          signal,
          onProgress: (done, total) => progress.update(done, total),
        }),
      );
      if (write !== undefined) await writeNames(write, report.mended, place);
      terminal.emit(report);
      terminal.say(formatReport(report));
      if (write !== undefined) terminal.say(`written: ${write}`);
    }),
  );
}

function showLists(terminal: Terminal): void {
  for (const [id, list] of Object.entries(builtinLists)) {
    const [heading, ...facts] = describeBuiltin(id);
    terminal.emit({ id, ...list });
    terminal.say([terminal.bold(heading!), ...facts.map((fact) => `  ${fact}`)].join('\n'));
  }
}

/** In the form of a names file, so that it can be sent into one and changed there. */
async function printList(terminal: Terminal, id: string): Promise<void> {
  const { names } = await CategoryList.builtin(id);
  terminal.emit({ id, ...builtinLists[id], names });
  terminal.say([...describeBuiltin(id).map((fact) => `# ${fact}`), ...names].join('\n'));
}
