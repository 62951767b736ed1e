import { Command, Option } from 'commander';
import { counted } from '../counted.js';
import { defaultOutput, exportFormats, exportStudent, exportTarget, type ExportResult } from '../export/student.js';
import { nameWithWidth } from '../models/students/definition.js';
import type { Bind } from './command.js';
import { formatBytes } from './table.js';
import { parsePositive } from './values.js';

interface ExportFlags {
  to: string;
  output?: string;
  head?: 'keep' | 'drop';
  bank?: string;
  classifier?: string | true;
  temperature?: number;
  fold: boolean;
  quantize?: 'int8';
  images?: string;
}

/** What `--to` takes beside a file. */
export const programs = exportFormats.filter((format) => format !== 'lgdistill');

export function exportCommand(bind: Bind): Command {
  const command = new Command('export')
    .description('write the student for another program, and check that what was written gives the same embeddings')
    .argument('<run>', 'a run folder (its best checkpoint), a checkpoint folder or a model.safetensors')
    .requiredOption(
      '--to <what>',
      `${programs.join(', ')}; or a file to write, .safetensors, which this package's other commands read`,
    )
    .option(
      '--out, --output <path>',
      `where to write for a program [default ${programs.map(defaultOutput).join(', ')}]`,
    )
    .addOption(
      new Option(
        '--head <what>',
        'the projection head: keep it for zero-shot use, drop it for use as a backbone [default keep; drop for timm, mmdet, mmseg and detectron2]',
      ).choices(['keep', 'drop']),
    )
    .option('--bank <file>', 'write the text bank, the zero-shot classifier, too')
    .option(
      '--classifier [bank]',
      "onnx: a text bank as the last layer, with the output logits; the student's own, or this file",
    )
    .addOption(
      new Option(
        '--temperature <n>',
        "onnx, transformers: what cosines are divided by in logits [default: the student's]",
      ).argParser(parsePositive('--temperature')),
    )
    .option(
      '--no-fold',
      'onnx, transformers: leave batch norms as they are instead of folding them into the convolutions',
    )
    .addOption(
      new Option(
        '--quantize <what>',
        'onnx, transformers: compute in 8-bit integers, at a quarter of the size; needs images',
      ).choices(['int8']),
    )
    .option(
      '--images <path>',
      "images to compare on, and to quantise by [default: the run's own, or, to compare, drawn ones]",
    );
  return command.action(
    bind(async ({ terminal, signal }, run) => {
      // beside which are --json and --debug
      const { to, output, head, bank, classifier, temperature, fold, quantize, images } = command.opts<ExportFlags>();
      const result = await exportStudent({
        head,
        bank,
        classifier,
        temperature,
        fold,
        quantize,
        images,
        ...exportTarget(to, output),
        from: run as string,
        signal,
      });
      terminal.emit(result);
      terminal.say(summaryOf(result));
      if (result.bank !== undefined) terminal.say(`${result.bank}: ${counted(result.info.names.length, 'name')}`);
    }),
  );
}

function summaryOf({ file, tensors, bytes, head, comparison, quantization, info, format }: ExportResult): string {
  const { architecture, widthMultiplier, embeddingSize, step } = info;
  const what = `${file}: ${nameWithWidth(architecture, widthMultiplier)}, ${tensors} tensors, ${formatBytes(bytes)}, ${head === 'keep' ? `embedding of ${embeddingSize}` : 'without its head'}, step ${step}`;
  if (format === 'lgdistill') return what;
  const compared = `compared on ${counted(comparison.images, 'image')} (${comparison.folder ?? 'drawn ones'}): cosine ${comparison.cosine.toFixed(6)} or more`;
  return [
    what,
    quantization === undefined ? compared : `in float32 ${compared}`,
    ...quantizationLines(quantization),
  ].join('\n');
}

function quantizationLines(quantization: ExportResult['quantization']): string[] {
  if (quantization === undefined) return [];
  const { calibrationImages, comparison } = quantization;
  const { images, meanCosine, cosine, sameAnswers } = comparison;
  return [
    `in int8, by ${counted(calibrationImages, 'image')}, compared with float32 on ${images} (${comparison.folder}): mean cosine ${meanCosine.toFixed(4)}, ${cosine.toFixed(4)} or more${sameAnswers === undefined ? '' : `; the same answer for ${sameAnswers} of ${images}`}`,
  ];
}
