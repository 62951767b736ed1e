/** The student alone, as a file for other programs. */
import { rename, rm, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { TextualSemanticsBank } from '../banks/textual.js';
import { openDevice } from '../device.js';
import { LgdError, throwIfAborted, writeError } from '../errors.js';
import { Encoder } from '../models/encoder.js';
import { createStudent } from '../models/student.js';
import type { WeightRecord } from '../models/weights.js';
import { readCheckpoint } from '../train/checkpoint.js';
import { findStudentFile, readStudent, writeStudent, type StudentInfo } from '../train/student-file.js';

/** What {@link exportStudent} writes, and where. */
export interface ExportOptions {
  /** A run folder (its best checkpoint, or its last where there is no best), a checkpoint folder, or a student's file. */
  from: string;
  /** The file to write, by convention ending in .safetensors. */
  to: string;
  /** 'keep': with the projection head (`head.0`, `head.2`), for zero-shot use; 'drop': the backbone alone, for use as one. Default 'keep'. */
  head?: 'keep' | 'drop';
  /** Where to write the text bank, the zero-shot classifier, too; default: not written. */
  bank?: string;
  signal?: AbortSignal;
}

/** What {@link exportStudent} wrote. */
export interface ExportResult {
  file: string;
  bytes: number;
  head: 'keep' | 'drop';
  /** Numbers in the file, buffers included. */
  values: number;
  tensors: number;
  info: StudentInfo;
  /** The text bank's file, where one was asked for. */
  bank: string | undefined;
  /** The student's file that was exported. */
  from: string;
}

const checkBatch = 2;

/**
 * Writes a student as one safetensors file: tensors under torchvision's names, with architecture, width, embedding size, input, names, templates and the bank's hash in the metadata.
 * What was written is read back and compared before it takes its name: the same keys, the same bits, and the same outputs of a forward pass.
 * @throws LgdError FILE_NOT_FOUND, BAD_FILE, BAD_MODEL, BAD_CHECKPOINT, BAD_BANK, NOT_WRITABLE, ABORTED; EXPORT_FAILED when what was written differs (the file is then removed)
 */
export async function exportStudent({ from, to, head = 'keep', bank: bankFile, signal }: ExportOptions): Promise<ExportResult> {
  const source = await findStudentFile(from);
  const { info, weights, bank } = await readSource(source, bankFile !== undefined);
  const chosen = head === 'keep' ? weights : withoutHead(weights);
  const partial = join(dirname(to), `.${basename(to)}.${process.pid}.part`);
  try {
    await writeStudent(partial, info, chosen);
    throwIfAborted(signal, 'the export');
    await compare(partial, info, weights, chosen);
    throwIfAborted(signal, 'the export');
    await rename(partial, to).catch((cause: unknown) => { throw writeError(to, cause); });
  } catch (error) {
    await rm(partial, { force: true }).catch(() => undefined);
    throw error;
  }
  if (bankFile !== undefined) await bank!.save(bankFile);
  const values = Object.values(chosen).reduce((sum, { data }) => sum + data.length, 0);
  return { file: to, bytes: (await stat(to)).size, head, values, tensors: Object.keys(chosen).length, info, bank: bankFile, from: source };
}

/** A student's file with the text bank beside it; in a checkpoint, both are checked against its manifest. */
async function readSource(file: string, withBank: boolean): Promise<{ info: StudentInfo; weights: WeightRecord; bank: TextualSemanticsBank | undefined }> {
  const folder = dirname(file);
  const isCheckpoint = (await stat(join(folder, 'manifest.json')).catch(() => undefined))?.isFile() ?? false;
  const content = isCheckpoint ? await readCheckpoint(folder) : { ...(await readStudent(file)), bank: undefined };
  if (withBank && content.bank === undefined) {
    throw new LgdError('FILE_NOT_FOUND', `there is no text bank beside ${file}.`, {
      option: 'bank', allowed: 'a run folder or a checkpoint of a method with a text bank', mend: 'Export from the run folder, or leave the bank out',
    });
  }
  return content;
}

function withoutHead(weights: WeightRecord): WeightRecord {
  return Object.fromEntries(Object.entries(weights).filter(([name]) => !name.startsWith('head.')));
}

async function compare(file: string, info: StudentInfo, weights: WeightRecord, expected: WeightRecord): Promise<void> {
  const failed = (why: string) => new LgdError('EXPORT_FAILED', `what was written is not the student: ${why}. The file was removed.`, { mend: 'Check the disk, and export again' });
  const found = await readStudent(file).catch((cause: unknown) => { throw new LgdError('EXPORT_FAILED', 'what was written cannot be read. The file was removed.', { mend: 'Check the disk, and export again', cause }); });
  if (JSON.stringify(found.info) !== JSON.stringify(info)) throw failed('its metadata differ');
  const [wanted, given] = [Object.keys(expected).sort(), Object.keys(found.weights).sort()];
  if (wanted.join('\n') !== given.join('\n')) throw failed(`it has ${given.length} tensors instead of ${wanted.length}, or others`);
  for (const name of wanted) {
    const [a, b] = [expected[name]!, found.weights[name]!];
    if (a.shape.join() !== b.shape.join() || !sameBits(a.data, b.data)) throw failed(`${name} differs`);
  }
  const [before, after] = await forwardBoth(info, weights, { ...weights, ...found.weights });
  if (!sameBits(before, after)) throw failed('its outputs differ');
}

/** The outputs of two sets of weights on the same images. */
async function forwardBoth(info: StudentInfo, first: WeightRecord, second: WeightRecord): Promise<[Float32Array, Float32Array]> {
  using device = await openDevice('cpu');
  const student = createStudent(info.architecture, { device, embeddingSize: info.embeddingSize, widthMultiplier: info.widthMultiplier });
  const images = Float32Array.from({ length: checkBatch * 3 * info.resolution ** 2 }, (_, i) => Math.sin(i * 0.37) + Math.sin(i * 0.011)); // smooth and not symmetric, about the range of normalised pixels
  const run = async (weights: WeightRecord): Promise<Float32Array> => {
    student.load(weights);
    using encoder = new Encoder(student.compile({ batch: checkBatch, resolution: info.resolution, training: false }));
    return encoder.forward(images);
  };
  return [await run(first), await run(second)];
}

function sameBits(a: Float32Array, b: Float32Array): boolean {
  const bytes = ({ buffer, byteOffset, byteLength }: Float32Array) => Buffer.from(buffer, byteOffset, byteLength);
  return bytes(a).equals(bytes(b));
}
