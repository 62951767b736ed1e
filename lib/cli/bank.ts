import { dirname } from 'node:path';
import { Command } from 'commander';
import { noTowerBeside } from '../banks/bank-source.js';
import { bankFromFile } from '../banks/embeddings-file.js';
import { requireNames, TextualSemanticsBank } from '../banks/textual.js';
import { counted } from '../counted.js';
import { LgdError } from '../errors.js';
import { checkReplaceable } from '../files/replaceable.js';
import { tryFolder } from '../files/make-folder.js';
import { loadTextEncoder } from '../text/load-encoder.js';
import { CategoryList } from '../text/names.js';
import { loadTemplates } from '../text/templates.js';
import type { Bind, Context } from './command.js';
import { refuseNeedless } from './needless.js';
import { addConfigOptions, readConfig, readFlags } from './options.js';
import { withProgress } from './progress.js';
import { formatFacts } from './table.js';
import type { Terminal } from './terminal.js';

export function bankCommand(bind: Bind): Command {
  return new Command('bank')
    .description('build and inspect text banks')
    .addCommand(buildCommand(bind))
    .addCommand(inspectCommand(bind));
}

function buildCommand(bind: Bind): Command {
  const command = new Command('build')
    .description('embed category names into a text bank, or make one of embeddings computed elsewhere')
    .requiredOption('--to <file>', 'the bank, a .safetensors file')
    .option(
      '--embeddings <file>',
      'a .safetensors file with "embeddings" [K,D], a row for each name, in the place of a text tower; --text-encoder then only says where they come from',
    );
  addConfigOptions(command, ['names', 'templates', 'textEncoder', 'teacher', 'allowDuplicates', 'offline']);
  return command.action(
    bind(async (context) => {
      const { terminal } = context;
      const { to, embeddings } = command.opts<{ to: string; embeddings?: string }>();
      refuseNeedless(command, embeddings, [
        { options: ['teacher'], when: (file) => file !== undefined, where: 'embeddings are given' },
      ]);
      await checkReplaceable(to, 'safetensors', { option: 'to', inputs: embeddings === undefined ? [] : [embeddings] });
      const removeEmpty = await tryFolder(dirname(to));
      try {
        await (embeddings === undefined ? build(command, context, to) : convert(command, terminal, embeddings, to));
      } finally {
        await removeEmpty();
      }
    }),
  );
}

async function build(command: Command, { terminal, signal }: Context, to: string): Promise<void> {
  const config = await readConfig(command);
  refuseNeedless(command, config, [
    {
      options: ['teacher'],
      when: ({ textEncoder }) => textEncoder !== undefined,
      where: 'a text encoder is given, which embeds the names',
    },
  ]);
  const { names, templates, textEncoder, teacher, allowDuplicates, offline } = config;
  if (names === undefined)
    throw new LgdError('BAD_OPTION', 'a bank needs names.', { option: 'names', mend: 'Give --names' });
  const model = textEncoder ?? teacher;
  if (model === undefined)
    throw new LgdError('BAD_OPTION', 'a bank needs a text encoder.', {
      option: 'textEncoder',
      mend: 'Give --text-encoder, a folder or hub id of CLIP or SigLIP',
    });
  const list = await CategoryList.load(names);
  requireNames(list.names, allowDuplicates); // before a model is fetched
  await loadTemplates(templates);
  const loading = loadTextEncoder(model, { localFilesOnly: offline, signal });
  await using encoder = await (textEncoder === undefined ? loading.catch(noTowerBeside(model)) : loading);
  const bank = await withProgress(terminal, 'text bank', (progress) =>
    TextualSemanticsBank.build(list, {
      encoder,
      templates,
      allowDuplicates,
      signal,
      onProgress: (done, total) => progress.update(done, total),
    }),
  );
  await bank.save(to);
  terminal.emit({ file: to, ...summary(bank) });
  terminal.say(
    `${to}: ${counted(bank.size, 'name')}, ${counted(bank.templates.length, 'template')}, ${bank.embeddingSize} dimensions`,
  );
}

/** Makes a bank of a file of embeddings. Its names and templates are those of the flags, or else those in the file. */
async function convert(command: Command, terminal: Terminal, file: string, to: string): Promise<void> {
  const { names, templates, textEncoder, allowDuplicates } = await readConfig(command);
  const given = readFlags(command);
  const { bank, lengths } = await bankFromFile(file, {
    names: names === undefined ? undefined : await CategoryList.load(names),
    templates: given['templates'] === undefined ? undefined : await loadTemplates(templates),
    encoderId: textEncoder,
    allowDuplicates,
  });
  await bank.save(to);
  terminal.emit({ file: to, ...summary(bank), lengths });
  terminal.say(
    `${to}: ${counted(bank.size, 'name')}, ${bank.embeddingSize} dimensions, from ${bank.encoderId}; rows had lengths ${lengths.shortest.toPrecision(4)} to ${lengths.longest.toPrecision(4)}, now 1`,
  );
}

function inspectCommand(bind: Bind): Command {
  return new Command('inspect')
    .description('say what is in a text bank')
    .argument('<file>', 'a text bank')
    .action(
      bind(async ({ terminal, signal }, file) => {
        const bank = await TextualSemanticsBank.load(file as string);
        const nearest = await bank.nearestNames({ limit: 5, signal });
        terminal.emit({ file, ...summary(bank), names: bank.names, nearest });
        terminal.say(
          formatFacts([
            ['names', `${bank.size}: ${bank.names.slice(0, 5).join(', ')}${bank.size > 5 ? ', ...' : ''}`],
            ['templates', bank.templates.length === 0 ? 'not recorded' : bank.templates.join(' | ')],
            ['encoder', bank.encoderId],
            ['dimensions', String(bank.embeddingSize)],
            ['hash', bank.hash],
          ]),
        );
        if (nearest.length > 0)
          terminal.say(
            ['nearest names', ...nearest.map(({ a, b, similarity }) => `  ${a} ~ ${b}: ${similarity.toFixed(4)}`)].join(
              '\n',
            ),
          );
      }),
    );
}

function summary(bank: TextualSemanticsBank): Record<string, unknown> {
  return {
    size: bank.size,
    embeddingSize: bank.embeddingSize,
    templates: bank.templates,
    encoder: bank.encoderId,
    hash: bank.hash,
  };
}
