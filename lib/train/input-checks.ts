/** Files of a run that are soon read, looked at before its teacher, which may have to be fetched first. */
import { access, constants } from 'node:fs/promises';
import { dirname } from 'node:path';
import { needsNames } from '../banks/bank-source.js';
import { requireNames, TextualSemanticsBank } from '../banks/textual.js';
import { worksWithoutNames, type Config } from '../config/config.js';
import { writeError } from '../errors.js';
import { readMapping } from '../evaluate/classes.js';
import { CategoryList } from '../text/names.js';
import { loadTemplates } from '../text/templates.js';
import { checkNamed } from './checks.js';
import { checkStartFile } from './start-weights.js';

/**
 * Names, templates, text banks, the mapping and the weights to start from, of a new run: of one that goes on they may be
 * gone. And the folder of the teacher's views, which are written when the first step is made.
 * @throws LgdError of what is missing or damaged; NOT_WRITABLE
 */
export async function checkInputs(config: Config): Promise<void> {
  const { names, bank, templates, method, allowDuplicates, evaluate, student, teacherCache } = config;
  if (names === undefined && bank === undefined && !worksWithoutNames(method)) throw needsNames(method);
  if (evaluate.data !== undefined)
    checkNamed(
      [names, bank, evaluate.names, evaluate.bank].some((given) => given !== undefined),
      config,
    );
  for (const list of [names, evaluate.names])
    if (list !== undefined) requireNames((await CategoryList.load(list)).names, allowDuplicates);
  if (names !== undefined || evaluate.names !== undefined) await loadTemplates(templates);
  for (const file of [bank, evaluate.bank]) if (file !== undefined) await TextualSemanticsBank.load(file);
  if (evaluate.mapping !== undefined) await readMapping(evaluate.mapping);
  if (student.weights !== undefined) await checkStartFile(student.weights);
  const { file } = teacherCache;
  if (file !== undefined)
    await access(dirname(file), constants.W_OK).catch((cause: unknown) => {
      throw writeError(file, cause);
    });
}
