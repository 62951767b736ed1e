import { Command } from 'commander';
import { writeFileAtomically } from '../safetensors.js';
import { formatReport } from '../text/doctor.js';
import { loadTextEncoder } from '../text/load-encoder.js';
import { CategoryList } from '../text/names.js';
import type { Bind } from './command.js';
import { addConfigOptions, readConfig } from './options.js';
import { parsePositive } from './values.js';

interface NamesOptions {
  write?: string;
  encoder?: string;
  similarity?: number;
}

export function namesCommand(bind: Bind): Command {
  const command = new Command('names')
    .description('check a list of category names, and mend it')
    .argument('<list>', 'a .txt, .json, .csv or .tsv file, a folder of class folders, or a built-in list')
    .option('--write <file>', 'write the mended list, one name a line')
    .option('--encoder <model>', 'CLIP text tower, a folder or a hub id: find near-duplicates and prompts that are too long')
    .option('--similarity <cosine>', 'cosine from which two names count as near-duplicates [default 0.98]', parsePositive('similarity'));
  addConfigOptions(command, ['templates', 'offline']);
  return command.action(bind(async ({ terminal, signal }, list) => {
    const { write, encoder: model, similarity } = command.opts<NamesOptions>();
    const config = await readConfig(command);
    const names = await CategoryList.load(list as string);
    const encoder = model === undefined ? undefined : await loadTextEncoder(model, { localFilesOnly: config.offline, signal });
    try {
      const report = await names.check({ encoder, templates: config.templates, similarity, signal });
      if (write !== undefined) await writeFileAtomically(write, `${report.mended.join('\n')}\n`);
      terminal.emit(report);
      terminal.say(formatReport(report));
      if (write !== undefined) terminal.say(`written: ${write}`);
    } finally {
      await encoder?.dispose();
    }
  }));
}
