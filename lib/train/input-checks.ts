/** Files of a run that are soon read, looked at before its images are listed and its teacher is opened. */
import { access, constants } from 'node:fs/promises';
import { dirname } from 'node:path';
import { BankSource, needsNames } from '../banks/bank-source.js';
import { requireNames, TextualSemanticsBank } from '../banks/textual.js';
import { worksWithoutNames, type Config } from '../config/config.js';
import { writeError } from '../errors.js';
import { readMapping } from '../evaluate/classes.js';
import { lookAtConfiguredTeacher } from '../runs/configured-teacher.js';
import type { TextEncoder } from '../text/encoder.js';
import { CategoryList } from '../text/names.js';
import { loadTemplates } from '../text/templates.js';
import { checkNamed, sideOf } from './checks.js';
import { anchorsOf, chooseMethod } from './method.js';
import { checkStartFile } from './start-weights.js';
import { checkQueueMemory } from './student-trainer.js';

/**
 * Names, templates, text banks, the mapping and the weights to start from, of a new run: of one that goes on they may be
 * gone. And the folder of the teacher's views, which are written when the first step is made. Then what headers tell of
 * the teacher and the text tower, as far as these need not be fetched: whether all of it fits together.
 * @param known students that the package builds
 * @returns the text tower, where it had to be loaded for that
 * @throws LgdError of what is missing, damaged or does not fit; NOT_WRITABLE
 */
export async function checkInputs(
  config: Config,
  teacher: string,
  known: readonly string[],
  signal: AbortSignal | undefined,
): Promise<TextEncoder | undefined> {
  const { names, bank, templates, method, allowDuplicates, evaluate, student, teacherCache } = config;
  if (names === undefined && bank === undefined && !worksWithoutNames(method)) throw needsNames(method);
  if (evaluate.data !== undefined)
    checkNamed(
      [names, bank, evaluate.names, evaluate.bank].some((given) => given !== undefined),
      config,
    );
  const [count] = [await countNames(names, allowDuplicates), await countNames(evaluate.names, allowDuplicates)];
  if (names !== undefined || evaluate.names !== undefined) await loadTemplates(templates);
  const banks = [];
  for (const [option, file] of [
    ['bank', bank],
    ['evaluate.bank', evaluate.bank],
  ] as const)
    if (file !== undefined) banks.push({ option, file, bank: await TextualSemanticsBank.load(file) });
  if (evaluate.mapping !== undefined) await readMapping(evaluate.mapping);
  if (student.weights !== undefined) await checkStartFile(student.weights);
  const { file } = teacherCache;
  if (file !== undefined)
    await access(dirname(file), constants.W_OK).catch((cause: unknown) => {
      throw writeError(file, cause);
    });
  const found = await lookAtConfiguredTeacher(teacher, config, signal);
  if (found?.resolution !== undefined) sideOf({ resolution: found.resolution }, config, known);
  if (found?.embeddingSize !== undefined) {
    const size = banks.find(({ option }) => option === 'bank')?.bank.size ?? count;
    const { queueSize } = anchorsOf(chooseMethod(method, size), config.loss);
    // of which a GPU takes less
    checkQueueMemory(queueSize, found.embeddingSize, { kind: config.device === 'cpu' ? 'cpu' : 'cuda' });
  }
  return new BankSource(config, found ?? { embeddingSize: undefined }, { signal }).look(banks);
}

/** How many there are; 0 where none are given. */
async function countNames(source: Config['names'], allowDuplicates: boolean): Promise<number> {
  if (source === undefined) return 0;
  const { names } = await CategoryList.load(source);
  requireNames(names, allowDuplicates);
  return names.length;
}
