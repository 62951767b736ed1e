/** Category names in a table: which column has them, and whether they are names at all. */
import { parse as parseCsv } from 'csv-parse/sync';
import { LgdError } from '../errors.js';
import { normaliseName } from './spelling.js';

/** Headings of a column of names, the surest first. */
const nameHeadings = [
  'name',
  'names',
  'class name',
  'classname',
  'category name',
  'class',
  'classes',
  'category',
  'categories',
  'label',
  'labels',
];
/** Headings that tell a first row from names, wherever the names then are. */
const otherHeadings = new Set(['id', 'index']);

/**
 * The column headed name, class, category or label, in this order and wherever it stands; else the first. A first row
 * is a heading where it begins with one of these, id or index, or has one and no number.
 * @param delimiter default: a comma, or a semicolon where the first line has semicolons and no comma
 * @throws LgdError BAD_NAMES (not a table, or numbers in the place of names)
 */
export function namesInTable(text: string, path: string, delimiter: string | undefined): string[] {
  const firstLine = text.slice(0, Math.max(0, text.search(/[\r\n]|$/u)));
  let rows: string[][];
  try {
    rows = parseCsv(text, {
      delimiter: delimiter ?? (firstLine.includes(';') && !firstLine.includes(',') ? ';' : ','),
      bom: true,
      skip_empty_lines: true,
    });
  } catch (cause) {
    throw new LgdError('BAD_NAMES', `${path} is not a proper table: ${(cause as Error).message}.`, {
      option: 'names',
      mend: 'Put names that hold a comma in double quotes',
      cause,
    });
  }
  const heading = rows[0]?.map(normaliseName) ?? [];
  const headed = nameHeadings.find((name) => heading.includes(name));
  const [first = ''] = heading;
  const hasHeading =
    nameHeadings.includes(first) || otherHeadings.has(first) || (headed !== undefined && !heading.some(isNumber));
  const column = hasHeading && headed !== undefined ? heading.indexOf(headed) : 0;
  const names = rows.slice(hasHeading ? 1 : 0).map((row) => row[column] ?? '');
  if (names.length > 0 && names.every(isNumber)) {
    throw new LgdError(
      'BAD_NAMES',
      `the names in ${path} are all numbers: column ${column + 1} was taken${hasHeading ? `, which is headed ${rows[0]![column]!.trim()}` : ''}.`,
      {
        option: 'names',
        found: names.slice(0, 3).join(', '),
        allowed: 'names in a column headed name, class, category or label, or in the first',
        mend: 'Head the column of names with name; where numbers are meant, write them in a .txt file, one a line',
      },
    );
  }
  return names;
}

function isNumber(cell: string): boolean {
  return /^\s*[-+]?\d+(?:\.\d+)?\s*$/u.test(cell);
}
