/** What an export starts from: a student, its text bank, and the run it comes from. */
import { realpath } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { TextualSemanticsBank } from '../banks/textual.js';
import { parseConfig, type Config, type ConfigInput } from '../config/config.js';
import { LgdError } from '../errors.js';
import { isFile } from '../files/folders.js';
import { manifestIn } from '../files/manifest.js';
import type { WeightRecord } from '../models/weights.js';
import { readCheckpoint } from '../runs/checkpoint.js';
import { readRunConfig } from '../runs/run-folder.js';
import { findStudentFile, readStudent, type StudentInfo } from '../runs/student-file.js';

export interface ExportSource {
  /** The student's file. */
  file: string;
  info: StudentInfo;
  /** Under the graph's names, with the head where the file has it. */
  weights: WeightRecord;
  /** The text bank in its checkpoint, or the bank.safetensors beside its file that it was trained with. */
  bank: TextualSemanticsBank | undefined;
  /** Of the run whose folder the file is in. */
  config: Config | undefined;
}

/**
 * @param from a run folder, a checkpoint folder, or a student's file; in a checkpoint, student and bank are checked
 *   against its manifest
 * @throws LgdError FILE_NOT_FOUND, BAD_FILE, BAD_MODEL, BAD_CHECKPOINT, BAD_BANK
 */
export async function readExportSource(from: string): Promise<ExportSource> {
  const file = await findStudentFile(from);
  const folder = dirname(file);
  const config = await configOf(file);
  if ((await manifestIn(folder)) !== undefined) {
    const { info, weights, bank } = await readCheckpoint(folder);
    return { file, info, weights, bank, config };
  }
  const { info, weights } = await readStudent(file);
  const beside = join(folder, 'bank.safetensors');
  const bank = (await isFile(beside)) ? await TextualSemanticsBank.load(beside) : undefined;
  return { file, info, weights, bank: bank?.hash === info.bankHash ? bank : undefined, config };
}

/** The student's bank. @throws LgdError FILE_NOT_FOUND */
export function requireBank({ bank, file, info }: ExportSource, option: string): TextualSemanticsBank {
  if (bank !== undefined) return bank;
  if (info.bankHash === '')
    throw new LgdError('FILE_NOT_FOUND', `${file} was trained without names, and has no text bank.`, {
      option,
      mend: `Build one of the names to tell apart with the text tower of its teacher (lgdistill bank build)${option === 'classifier' ? ', and give it: --classifier names.safetensors' : ''}`,
    });
  throw new LgdError('FILE_NOT_FOUND', `there is no text bank beside ${file}.`, {
    option,
    allowed: 'a run folder or a checkpoint of a method with a text bank',
    mend: 'Export from the run folder, or leave the bank out',
  });
}

/** A run's configuration, where the file is in a run folder of this version. */
async function configOf(file: string): Promise<Config | undefined> {
  // run/checkpoints/step-N/model.safetensors
  const run = dirname(dirname(dirname(await realpath(file).catch(() => file))));
  try {
    return parseConfig((await readRunConfig(run)) as ConfigInput);
  } catch {
    return undefined; // a student's file elsewhere: there need be no run around it
  }
}
