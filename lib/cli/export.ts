import { Command, Option } from 'commander';
import { exportStudent } from '../export/student.js';
import type { Bind } from './command.js';
import { formatBytes } from './table.js';

interface ExportFlags {
  to: string;
  head: 'keep' | 'drop';
  bank?: string;
}

export function exportCommand(bind: Bind): Command {
  const command = new Command('export')
    .description("write the student alone, with torchvision's names")
    .argument('<run>', 'a run folder (its best checkpoint), a checkpoint folder or a model.safetensors')
    .requiredOption('--to <file>', 'the file to write, .safetensors')
    .addOption(new Option('--head <what>', 'the projection head: keep it for zero-shot use, drop it for use as a backbone').choices(['keep', 'drop']).default('keep'))
    .option('--bank <file>', 'write the text bank, the zero-shot classifier, too');
  return command.action(bind(async ({ terminal, signal }, run) => {
    const { to, head, bank } = command.opts<ExportFlags>();
    const result = await exportStudent({ from: run as string, to, head, bank, signal });
    const { architecture, widthMultiplier, embeddingSize, names, step } = result.info;
    terminal.emit(result);
    terminal.say(`${result.file}: ${architecture} x ${widthMultiplier}, ${result.tensors} tensors, ${formatBytes(result.bytes)}, ${head === 'keep' ? `embedding of ${embeddingSize}` : 'without its head'}, step ${step}`);
    if (result.bank !== undefined) terminal.say(`${result.bank}: ${names.length} names`);
  }));
}
