/** The student for other programs: written as they expect it, loaded again and compared before it takes its name. */
import { rename, rm, stat } from 'node:fs/promises';
import { dirname, extname, join, resolve } from 'node:path';
import { checkOptions, checkText, checkWord, optionTable } from '../arguments.js';
import { TextualSemanticsBank } from '../banks/textual.js';
import { parseConfig } from '../config/config.js';
import { hasCode, LgdError, throwIfAborted, writeError } from '../errors.js';
import { placeIn, placeOf, statIfThere } from '../files/folders.js';
import { checkReplaceable } from '../files/replaceable.js';
import { makeFolder, removeMade } from '../files/make-folder.js';
import { removeLeft, temporaryPath } from '../files/temporary-name.js';
import { featureGraph } from '../models/features.js';
import type { StudentInfo } from '../models/student-info.js';
import { graphOf, hasHead } from '../models/student.js';
import { tools } from '../models/tools/naming.js';
import { suggestion } from '../text/spelling.js';
import { referenceEmbeddings, type Comparison } from './compare.js';
import { checkFolder, placeFlag, placeFolder, sizeOfFolder } from './folder.js';
import { compareOnnx, onnxModel, writeOnnx, type Classifier, type OnnxOptions } from './onnx.js';
import { compareOwn, writeOwn } from './own.js';
import { calibrationImages, checkQuantize, writeQuantized, type Quantization } from './quantize.js';
import { readExportSource, requireBank, type ExportSource } from './source.js';
import { compareTool, isFolderTool, prepareTool, writeTool } from './tools.js';
import { compareTransformers, quantizedFile, writeTransformers } from './transformers.js';
import type { Written } from './written.js';

/**
 * What an export is for: 'lgdistill' is this package's own file (torchvision's names, timm's of a student that
 * torchvision lacks, and the head as `head.0`, `head.2`); 'torchvision' has the head in the classifier's place and
 * PyTorch's counters too; 'timm', 'mmdet', 'mmseg' and 'detectron2' have the names of those.
 */
export const exportFormats = ['lgdistill', 'onnx', 'transformers', ...tools] as const;
export type ExportFormat = (typeof exportFormats)[number];

/** Where a format goes that is given no place: in the current folder. @throws LgdError BAD_OPTION */
export function defaultOutput(format: ExportFormat): string {
  checkFormat(format);
  if (format === 'onnx') return 'student.onnx';
  return format === 'lgdistill' || format === 'torchvision' ? `student-${format}.safetensors` : `student-${format}`;
}

/**
 * What is meant by one word: a format's name, or a .safetensors file for this package.
 * @param output where to write for a program; default: {@link defaultOutput}
 * @throws LgdError BAD_OPTION for a word that is neither, with the nearest format, or how to write a file of that
 *   ending; and for a file with an output beside it
 */
export function exportTarget(word: string, output?: string): { format: ExportFormat; to: string } {
  checkText(word, 'to', `${exportFormats.slice(1).join(', ')}, or a .safetensors file`);
  if (output !== undefined) checkText(output, 'output', 'a path to write to');
  const format = exportFormats.find((name) => name === word && name !== 'lgdistill');
  if (format !== undefined) return { format, to: output ?? defaultOutput(format) };
  if (word.endsWith('.safetensors')) {
    if (output === undefined) return { format: 'lgdistill', to: word };
    throw new LgdError('BAD_OPTION', 'the file is named already.', {
      option: 'output',
      found: output,
      mend: `Leave out --output, or name a program: --to torchvision --output ${output}`,
    });
  }
  const isPath = /[./\\]/u.test(word);
  throw new LgdError('BAD_OPTION', 'this is neither a program nor a .safetensors file.', {
    option: 'to',
    found: word,
    allowed: `${exportFormats.slice(1).join(', ')}, or a .safetensors file`,
    mend:
      (isPath ? mendOfPath(word) : suggestion(word, exportFormats.slice(1))) ??
      'Name a file with .safetensors at its end',
  });
}

/** @throws LgdError BAD_OPTION */
function checkFormat(format: ExportFormat): void {
  if (exportFormats.includes(format)) return;
  throw new LgdError('BAD_OPTION', 'there is no format of this name.', {
    option: 'format',
    found: format,
    allowed: exportFormats.join(', '),
  });
}

/** How a file of another ending is asked for. */
function mendOfPath(path: string): string | undefined {
  switch (extname(path).toLowerCase()) {
    case '.onnx':
      return `For ONNX: --to onnx --output ${path}`;
    case '.pt':
    case '.pth':
    case '.bin':
      return `For PyTorch: --to torchvision --output ${path.slice(0, -extname(path).length)}.safetensors`;
    default:
      return undefined;
  }
}

/** How files end that programs tell by their ending; the other formats are folders. */
const endings: Readonly<Partial<Record<ExportFormat, string>>> = {
  lgdistill: '.safetensors',
  torchvision: '.safetensors',
  onnx: '.onnx',
};

/**
 * The place of a file: it ends as its format does, and what is there already is of the same kind.
 * @param inputs what it is made from, which it must not replace
 * @throws LgdError BAD_OPTION
 */
async function checkFile(path: string, format: ExportFormat, inputs: readonly string[]): Promise<void> {
  const ending = endings[format];
  if (ending === undefined) return;
  const flag = format === 'lgdistill' ? '' : ` ${placeFlag}`;
  if (!path.endsWith(ending))
    throw new LgdError('BAD_OPTION', `a file for ${format} ends in ${ending}.`, {
      option: 'to',
      found: path,
      allowed: `a ${ending} file`,
      mend: /(?:^|[/\\])[.\s]*$/u.test(path)
        ? `Name a file with ${ending} at its end${flag}`
        : `Write ${path.slice(0, path.length - extname(path).length)}${ending}${flag}`,
    });
  await checkReplaceable(path, format === 'onnx' ? 'onnx' : 'safetensors', { option: 'to', more: flag, inputs });
}

/** What {@link exportStudent} writes, and where. */
export interface ExportOptions {
  /**
   * A run folder (its best checkpoint, or its last where there is no best), a checkpoint folder, or a student's file.
   */
  from: string;
  /**
   * What to write, in folders that are made where they are not there: an .onnx file for 'onnx', a .safetensors file for
   * 'lgdistill' and 'torchvision', else a folder (a new one, an empty one, or an earlier export).
   */
  to: string;
  /** Default 'lgdistill'. */
  format?: ExportFormat | undefined;
  /**
   * 'keep': with the projection head, for zero-shot use; 'drop': the backbone alone, for use as one. Default 'keep';
   * 'drop' for timm and for those that have no place for it: mmdet, mmseg, detectron2, and MobileNetV3 in timm.
   */
  head?: 'keep' | 'drop' | undefined;
  /** Where to write the text bank, the zero-shot classifier, too, a .safetensors file; default: not written. */
  bank?: string | undefined;
  /**
   * ONNX: makes a text bank the last layer, output `logits`: true takes the student's own, a path that file. Default:
   * none.
   */
  classifier?: boolean | string | undefined;
  /**
   * ONNX with a classifier, and transformers' text_bank.json: logits are cosines divided by it; default: the student's
   * temperature in its run's configuration, else that option's default.
   */
  temperature?: number | undefined;
  /** ONNX and transformers: batch norms become part of the convolutions before them. Default true. */
  fold?: boolean | undefined;
  /**
   * ONNX and transformers: the network in 8-bit integers, at a quarter of the size. For ONNX it is what is written; for
   * transformers `onnx/vision_model_quantized.onnx`, beside the one in float32. Needs images, on which the ranges of
   * its values are measured. Default: float32 alone.
   */
  quantize?: 'int8' | undefined;
  /**
   * Images to compare on, and to measure ranges on (all that `openImages` takes); default: the run's training images
   * where they are there, else drawn ones.
   */
  images?: string | undefined;
  signal?: AbortSignal | undefined;
}

const exportOptions = optionTable<ExportOptions>()(
  'from to format? head? bank? classifier? temperature? fold? quantize? images? signal?',
);

/** What {@link exportStudent} wrote. */
export interface ExportResult {
  file: string;
  format: ExportFormat;
  bytes: number;
  head: 'keep' | 'drop';
  tensors: number;
  /** Numbers in the file, buffers included. */
  values: number;
  info: StudentInfo;
  /** How what was written, loaded again, agrees with the student; where it was quantised, before that. */
  comparison: Comparison;
  /** How the network in integers agrees with that in float32, where one was asked for. */
  quantization: Quantization | undefined;
  /** The text bank's file, where one was asked for. */
  bank: string | undefined;
  /** The student's file that was exported. */
  from: string;
}

/**
 * Writes a student for another program, loads what was written and compares it: the same embeddings on images (cosine
 * 0.9999 or more), no key missing, none too many. Only then does it take its name.
 * @throws LgdError FILE_NOT_FOUND, BAD_FILE, BAD_MODEL, BAD_CHECKPOINT, BAD_BANK, BAD_DATASET, BAD_OPTION,
 *   NOT_WRITABLE, DEPENDENCY_MISSING, ABORTED; EXPORT_FAILED when what was written differs (it is then removed)
 */
export async function exportStudent(options: ExportOptions): Promise<ExportResult> {
  checkOptions(options, 'exportStudent()', exportOptions);
  checkText(options.to, 'to', 'a path to write to');
  if (typeof options.classifier === 'string') checkText(options.classifier, 'classifier', 'a text bank');
  if (options.bank !== undefined) checkText(options.bank, 'bank', 'a path to write to');
  checkFormat(options.format ?? 'lgdistill');
  const { from, format = 'lgdistill', head = defaultHead(format), signal } = options;
  checkWord(head, 'head', ['keep', 'drop']);
  // links stay, and while a folder is replaced no path leads through it
  const to = await placeOf(options.to);
  await checkFile(options.to, format, []);
  if (options.bank !== undefined) await checkReplaceable(options.bank, 'safetensors', { option: 'bank' });
  const bankInside = options.bank === undefined ? undefined : await placeIn(to, options.bank);
  if (bankInside === '') throw oneFile(options.bank!);
  const source = await readExportSource(from);
  const inputs = [source.file, ...(typeof options.classifier === 'string' ? [options.classifier] : [])];
  await checkFile(options.to, format, inputs);
  if (options.bank !== undefined) await checkReplaceable(options.bank, 'safetensors', { option: 'bank', inputs });
  const bank = options.bank === undefined ? undefined : requireBank(source, 'bank');
  const target = await targetOf(format, source, { ...options, head }, to);
  const partial = temporaryPath(to);
  const made: string[] = [];
  let written: Written;
  let comparison: Comparison;
  let quantized: { written: Written; quantization: Quantization } | undefined;
  try {
    await makeFolder(dirname(to), made);
    if (bank !== undefined && bankInside === undefined) await makeFolder(dirname(options.bank!), made);
    written = await target.write(partial);
    throwIfAborted(signal, 'the export');
    comparison = await target.compare(partial);
    throwIfAborted(signal, 'the export');
    quantized = await target.quantize?.(partial);
    if (bankInside !== undefined && (await statIfThere(join(partial, bankInside))) !== undefined)
      throw oneFile(options.bank!);
    await target.place(partial, to);
    await removeLeft(to); // the earlier export may be there that a kill kept from its place
  } catch (error) {
    await rm(partial, { force: true, recursive: true }).catch(() => undefined);
    await removeMade(made);
    // by the name that was given
    throw hasCode(error, 'NOT_WRITABLE') && error.message.includes(partial) ? writeError(to, error.cause) : error;
  }
  if (bank !== undefined) {
    await makeFolder(dirname(options.bank!)); // it may be one in the export's
    await bank.save(options.bank!);
  }
  return {
    file: options.to,
    format,
    bytes: await target.size(to),
    head,
    ...(format === 'onnx' ? (quantized?.written ?? written) : written),
    info: source.info,
    comparison,
    quantization: quantized?.quantization,
    bank: options.bank,
    from: source.file,
  };
}

/** None where it was removed. */
function currentFolder(): string[] {
  try {
    return [process.cwd()];
  } catch {
    return [];
  }
}

function oneFile(bank: string): LgdError {
  return new LgdError('BAD_OPTION', 'this would be a file of the student, too.', {
    option: 'bank',
    found: bank,
    mend: 'Give the text bank a file of its own',
  });
}

/** How one format is written, proved and put in its place. */
interface Target {
  write(path: string): Promise<Written>;
  compare(path: string): Promise<Comparison>;
  /** What was written and compared, in integers. */
  quantize?(path: string): Promise<{ written: Written; quantization: Quantization }>;
  place(from: string, to: string): Promise<void>;
  size(path: string): Promise<number>;
}

const asFile: Pick<Target, 'place' | 'size'> = {
  place: (from, to) =>
    rename(from, to).catch((cause: unknown) => {
      throw writeError(to, cause);
    }),
  size: async (path) => (await stat(path)).size,
};

const asFolder: Pick<Target, 'place' | 'size'> = { place: placeFolder, size: sizeOfFolder };

function defaultHead(format: ExportFormat): 'keep' | 'drop' {
  return format === 'timm' || format === 'mmdet' || format === 'mmseg' || format === 'detectron2' ? 'drop' : 'keep';
}

/** @param place of a folder, where `to` leads */
async function targetOf(
  format: ExportFormat,
  source: ExportSource,
  options: ExportOptions & { head: 'keep' | 'drop' },
  place: string,
): Promise<Target> {
  const {
    to,
    head,
    fold = true,
    classifier,
    temperature = (source.config ?? parseConfig({})).loss.studentTemperature,
  } = options;
  if (classifier !== undefined && classifier !== false && format !== 'onnx')
    throw new LgdError('BAD_OPTION', `a file for ${format} has no classifier in it.`, {
      option: 'classifier',
      mend: 'Leave it out; bank writes the text bank beside the student',
    });
  checkTaken(format, options);
  const { quantize, images, signal } = options;
  if (quantize !== undefined) checkQuantize(quantize, format, fold, graphOf(source.info));
  if (head === 'drop') featureGraph(graphOf(source.info)); // or there is no backbone to be told apart
  if (format === 'lgdistill')
    return {
      ...asFile,
      write: (path) => writeOwn(path, source, head),
      compare: (path) => compareOwn(path, source, head),
    };
  requireHead(source);
  const spared = [source.file, ...(images === undefined ? [] : [images]), ...currentFolder()];
  const reference = () => referenceEmbeddings(source, images, signal);
  const quantizing = async (onnx: OnnxOptions, fileIn: (path: string) => string) => {
    if (quantize === undefined) return undefined;
    const calibration = await calibrationImages(source, images, signal);
    return { quantize: (path: string) => writeQuantized(fileIn(path), source, onnx, calibration, signal) };
  };
  if (format === 'transformers') {
    if (head === 'drop')
      throw new LgdError('BAD_OPTION', 'the folder is for zero-shot use, which needs the projection head.', {
        option: 'head',
        found: head,
        allowed: 'keep',
      });
    await checkFolder(place, spared);
    const kept = { head, fold, classifier: undefined };
    return {
      ...asFolder,
      ...(await quantizing(kept, (path) => join(path, quantizedFile))),
      write: (path) => writeTransformers(path, source, { fold, temperature }),
      compare: async (path) => compareTransformers(path, source, fold, await reference()),
    };
  }
  if (format !== 'onnx') {
    const prepared = prepareTool(format, head, source);
    if (isFolderTool(format)) await checkFolder(place, spared);
    return {
      ...(isFolderTool(format) ? asFolder : asFile),
      write: (path) => writeTool(path, prepared, source, to),
      compare: async (path) => compareTool(path, prepared, source, await reference()),
    };
  }
  const onnx = { head, fold, classifier: await classifierOf(source, options, temperature) };
  return {
    ...asFile,
    ...(await quantizing(onnx, (path) => path)),
    write: (path) => writeOnnx(path, onnxModel(source, onnx)),
    compare: async (path) => compareOnnx(path, source, onnx, await reference()),
  };
}

/** What a format has no use for, nobody would miss. @throws LgdError BAD_OPTION */
function checkTaken(format: ExportFormat, { temperature, fold, images, classifier = false }: ExportOptions): void {
  const needless = (option: string, found: unknown, allowed: string) =>
    new LgdError('BAD_OPTION', `has no use in an export for ${format}.`, {
      option,
      found,
      allowed,
      mend: 'Leave it out, or export for one of those',
    });
  if (temperature !== undefined && format !== 'transformers' && classifier === false)
    throw needless('temperature', temperature, 'for transformers, or onnx with a classifier');
  if (fold === false && format !== 'onnx' && format !== 'transformers')
    throw needless('fold', fold, 'for onnx and transformers');
  if (images !== undefined && format === 'lgdistill')
    throw needless('images', images, 'for other programs, whose embeddings are compared');
}

/** Without its head a student has no embeddings to compare. */
function requireHead({ info, weights, file }: ExportSource): void {
  if (hasHead(info, weights)) return;
  throw new LgdError('BAD_MODEL', `${file} has no projection head.`, {
    mend: 'Export from the run folder, or from a file that was exported with its head',
  });
}

async function classifierOf(
  source: ExportSource,
  { head, classifier = false }: ExportOptions,
  temperature: number,
): Promise<Classifier | undefined> {
  if (classifier === false) return undefined;
  if (head === 'drop')
    throw new LgdError('BAD_OPTION', 'a classifier needs the projection head.', {
      option: 'classifier',
      mend: 'Keep the head, or leave the classifier out',
    });
  const bank =
    classifier === true ? requireBank(source, 'classifier') : await TextualSemanticsBank.load(resolve(classifier));
  return { bank, temperature };
}
