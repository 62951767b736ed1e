import { checkArgument, checkOptions, optionTable } from '../arguments.js';
import { counted } from '../counted.js';
import { LgdError } from '../errors.js';
import { nextTurn } from '../turn.js';
import { encodeOptions, type TextEncoder } from './encoder.js';
import { checkSimilarity, nearestPairs } from './nearest-pairs.js';
import { embedNames } from './prompts.js';
import { normaliseName, tidyName } from './spelling.js';
import { fillTemplate, loadTemplates } from './templates.js';

/** How {@link CategoryList.check} looks for faults. */
export interface CheckOptions {
  /** Looks for near-duplicates and long prompts too. */
  encoder?: TextEncoder | undefined;
  /**
   * In the place of an encoder: a bank of these names (and maybe others), built before. Near-duplicates are then a
   * matter of seconds; the length of prompts is not looked at.
   */
  bank?:
    | {
        readonly names: readonly string[];
        readonly data: Float32Array;
        readonly embeddingSize: number;
        readonly encoderId: string;
        readonly templates: readonly string[];
      }
    | undefined;
  /** A set's id, a file, or the templates ({@link loadTemplates}); `default` by default. */
  templates?: string | readonly string[] | undefined;
  /** Cosine between bank rows from which two names count as near-duplicates, in (0, 1]; default 0.98. */
  similarity?: number | undefined;
  signal?: AbortSignal | undefined;
  /** Called with the number of names encoded and to encode; with a bank, of those compared and to compare. */
  onProgress?: ((done: number, total: number) => void) | undefined;
}

const knownOptions = optionTable<CheckOptions>()('encoder? bank? templates? similarity?', encodeOptions);

/** A name and its place in the list, from 0. */
export interface NameAt {
  index: number;
  name: string;
}

/** The doctor's findings: plain data, one array for each kind of fault. */
export interface NameReport {
  count: number;
  /** Names given more than once, with every place. */
  exactDuplicates: { name: string; indices: number[] }[];
  /** Different spellings that are one name but for case, and for underscores in the place of blanks. */
  spellingDuplicates: { names: string[]; indices: number[] }[];
  /** Pairs that are alike in text space, the most alike first, at most 1,000; a name given twice takes part once. */
  nearDuplicates: { a: NameAt; b: NameAt; similarity: number }[];
  /** How many pairs are alike, reported or not. */
  nearDuplicateCount: number;
  /**
   * Leading, trailing or doubled blanks, tabs and line breaks, and what is not seen: soft hyphens, blanks of no width.
   */
  blanks: NameAt[];
  underscores: NameAt[];
  parentheses: NameAt[];
  /** Names with a comma: several on one line are taken for one. */
  commas: NameAt[];
  /** Names with ` # `, which may have been meant for a comment: in a list only whole lines are. */
  comments: NameAt[];
  /** Names without a letter, digit or other sign. */
  empty: NameAt[];
  /** Names whose prompt loses tokens in the longest template. */
  truncated: (NameAt & { tokens: number })[];
  /**
   * What the text space was searched with; undefined where neither encoder nor bank was given. With a bank, the last
   * two are undefined: prompts were not measured.
   */
  textSpace:
    | {
        encoder: string;
        templates: string[];
        similarity: number;
        longestTemplate: string | undefined;
        maxTokens: number | undefined;
      }
    | undefined;
  /**
   * The list as it should be: underscores are blanks, blanks are single, parentheses with their content are gone unless
   * two names would become one, empty names and duplicates are dropped (the first stays). Near-duplicates, and names
   * with commas or ` # `, stay: what to do about them is for their owner to say.
   */
  mended: string[];
  /** Whether nothing was found. */
  clean: boolean;
}

/** See {@link CategoryList.check}. */
export async function checkNames(names: readonly string[], options: CheckOptions = {}): Promise<NameReport> {
  checkOptions(options, 'check()', knownOptions);
  const { encoder, bank, similarity = 0.98 } = options;
  if (encoder !== undefined && bank !== undefined)
    throw new LgdError('BAD_OPTION', 'an encoder and a bank are given.', {
      option: 'encoder',
      mend: 'Give one of them',
    });
  checkSimilarity(similarity);
  const templates = await loadTemplates(options.templates ?? 'default');
  const where = (test: (name: string) => boolean): NameAt[] =>
    names.flatMap((name, index) => (test(name) ? [{ index, name }] : []));
  const report: NameReport = {
    count: names.length,
    ...findDuplicates(names),
    nearDuplicates: [],
    nearDuplicateCount: 0,
    blanks: where((name) => normaliseName(name) !== '' && /^\s|\s$|\s\s|[^\S ]|[\u00AD\u200B\u2060]/u.test(name)),
    underscores: where((name) => name.includes('_')),
    parentheses: where((name) => /[()]/u.test(name)),
    commas: where((name) => name.includes(',')),
    comments: where((name) => /\s#\s/u.test(name)),
    empty: where((name) => normaliseName(name) === ''),
    truncated: [],
    textSpace: undefined,
    mended: mendNames(names),
    clean: false,
  };
  const distinct = distinctNames(names);
  if (encoder !== undefined) await searchWith(encoder, templates, names, distinct, report, similarity, options);
  if (bank !== undefined) await searchBank(bank, distinct, report, similarity, options);
  report.clean = faults(report).every(({ found }) => found === 0);
  return report;
}

/** A kind of fault: what it is called, how many there are, and a line for each that is reported. */
interface FaultKind {
  title: string;
  found: number;
  lines: string[];
}

/** The kinds of faults in the order in which they are reported. */
function faults(report: NameReport): FaultKind[] {
  const quote = ({ index, name }: NameAt) => `${JSON.stringify(name)} (${index + 1})`;
  const places = (indices: number[]) => indices.map((index) => index + 1).join(', ');
  const kind = (title: string, lines: string[], found = lines.length): FaultKind => ({ title, found, lines });
  return [
    kind(
      'given more than once',
      report.exactDuplicates.map(({ name, indices }) => `${JSON.stringify(name)} (${places(indices)})`),
    ),
    kind(
      'the same but for case, or underscores for blanks',
      report.spellingDuplicates.map(
        ({ names, indices }) => `${names.map((name) => JSON.stringify(name)).join(' = ')} (${places(indices)})`,
      ),
    ),
    kind(
      'alike in text space',
      report.nearDuplicates.map(({ a, b, similarity }) => `${quote(a)} ~ ${quote(b)}: ${similarity.toFixed(4)}`),
      report.nearDuplicateCount,
    ),
    kind('stray blanks', report.blanks.map(quote)),
    kind('underscores', report.underscores.map(quote)),
    kind('parentheses', report.parentheses.map(quote)),
    kind('commas, of several names on a line', report.commas.map(quote)),
    kind('" # ", which begins no comment within a line', report.comments.map(quote)),
    kind('empty', report.empty.map(quote)),
    kind(
      'prompt too long',
      report.truncated.map((name) => `${quote(name)}: ${name.tokens} of ${report.textSpace?.maxTokens} tokens`),
    ),
  ];
}

function findDuplicates(names: readonly string[]): Pick<NameReport, 'exactDuplicates' | 'spellingDuplicates'> {
  const exact = groupBy(names, (name) => name);
  const spelled = groupBy(names, normaliseName);
  spelled.delete(''); // reported as empty
  exact.forEach((_, name) => normaliseName(name) === '' && exact.delete(name));
  return {
    exactDuplicates: [...exact]
      .filter(([, indices]) => indices.length > 1)
      .map(([name, indices]) => ({ name, indices })),
    spellingDuplicates: [...spelled.values()]
      .map((indices) => ({ names: [...new Set(indices.map((index) => names[index]!))], indices }))
      .filter((group) => group.names.length > 1),
  };
}

function groupBy(names: readonly string[], key: (name: string) => string): Map<string, number[]> {
  const groups = new Map<string, number[]>();
  names.forEach((name, index) => {
    const group = groups.get(key(name));
    if (group === undefined) groups.set(key(name), [index]);
    else group.push(index);
  });
  return groups;
}

/** One of each spelling: pairs that are already reported as duplicates would only be repeated. */
function distinctNames(names: readonly string[]): NameAt[] {
  return [...groupBy(names, normaliseName)]
    .filter(([key]) => key !== '')
    .map(([, indices]) => ({ index: indices[0]!, name: names[indices[0]!]! }));
}

async function searchWith(
  encoder: TextEncoder,
  templates: readonly string[],
  names: readonly string[],
  distinct: readonly NameAt[],
  report: NameReport,
  similarity: number,
  options: CheckOptions,
): Promise<void> {
  const { signal, onProgress } = options;
  const length = new Map(templates.map((template) => [template, encoder.countTokens(fillTemplate(template, ''))]));
  const longestTemplate = templates.reduce((longest, template) =>
    length.get(template)! > length.get(longest)! ? template : longest,
  );
  report.textSpace = {
    encoder: encoder.id,
    templates: [...templates],
    similarity,
    longestTemplate,
    maxTokens: encoder.maxTokens,
  };
  for (const [index, name] of names.entries()) {
    if (index % 256 === 0) await nextTurn(signal, 'the check of the names');
    const tokens = encoder.countTokens(fillTemplate(longestTemplate, name));
    if (tokens > encoder.maxTokens) report.truncated.push({ index, name, tokens });
  }
  const rows = await embedNames(
    distinct.map(({ name }) => name),
    encoder,
    templates,
    { signal, onProgress },
  );
  await search(rows, distinct, report, similarity, { signal }); // short beside the encoding
}

/**
 * Names and rows match when they are spelled alike but for case, and underscores for blanks.
 * @throws LgdError BAD_BANK where a name has no row
 */
async function searchBank(
  bank: NonNullable<CheckOptions['bank']>,
  distinct: readonly NameAt[],
  report: NameReport,
  similarity: number,
  { signal, onProgress }: CheckOptions,
): Promise<void> {
  const { data, embeddingSize, encoderId, templates } = bank;
  report.textSpace = {
    encoder: encoderId,
    templates: [...templates],
    similarity,
    longestTemplate: undefined,
    maxTokens: undefined,
  };
  const places = new Map(bank.names.map((name, index) => [normaliseName(name), index]));
  const missing = distinct.filter(({ name }) => !places.has(normaliseName(name)));
  if (missing.length > 0) {
    throw new LgdError('BAD_BANK', `${missing.length} of ${distinct.length} names are not in the bank.`, {
      option: 'bank',
      found: missing.slice(0, 5).map(({ name }) => name),
      mend: 'Build it of this list: lgdistill bank build',
    });
  }
  const rows = new Float32Array(distinct.length * embeddingSize);
  distinct.forEach(({ name }, i) => {
    const from = places.get(normaliseName(name))! * embeddingSize;
    rows.set(data.subarray(from, from + embeddingSize), i * embeddingSize);
  });
  await search(rows, distinct, report, similarity, { signal, onProgress });
}

async function search(
  rows: Float32Array,
  distinct: readonly NameAt[],
  report: NameReport,
  similarity: number,
  options: Pick<CheckOptions, 'signal' | 'onProgress'>,
): Promise<void> {
  const { pairs, total } = await nearestPairs(rows, distinct.length, similarity, options);
  report.nearDuplicates = pairs.map(({ a, b, similarity: cosine }) => ({
    a: distinct[a]!,
    b: distinct[b]!,
    similarity: cosine,
  }));
  report.nearDuplicateCount = total;
}

/** The mended list of {@link NameReport.mended}; mending it again changes nothing. */
export function mendNames(names: readonly string[]): string[] {
  const tidied = new Map<string, string>();
  for (const name of names) {
    const key = normaliseName(name);
    if (key !== '' && !tidied.has(key)) tidied.set(key, tidyName(name));
  }
  const bare = [...tidied.values()].map(withoutParentheses);
  const uses = groupBy(bare, normaliseName);
  return [...tidied.values()].map((name, i) =>
    bare[i] !== '' && uses.get(normaliseName(bare[i]!))!.length === 1 ? bare[i]! : name,
  );
}

function withoutParentheses(name: string): string {
  let [before, after] = ['', name];
  while (before !== after) [before, after] = [after, after.replace(/\([^()]*\)/gu, ' ')]; // innermost first
  return tidyName(after);
}

/**
 * A report for a terminal: each kind of fault with its first few names, then what to do.
 * @throws LgdError BAD_OPTION
 */
export function formatReport(report: NameReport, options: { show?: number | undefined } = {}): string {
  checkArgument('report', report);
  checkOptions(options, 'formatReport()', { show: 'optional' });
  const { show = 8 } = options;
  const lines = [`${counted(report.count, 'name')}, counted from 1`];
  for (const { title, found, lines: all } of faults(report)) {
    if (found === 0) continue;
    lines.push(`${title}: ${found}`, ...all.slice(0, show).map((line) => `  ${line}`));
    if (found > show) lines.push(`  and ${found - show} more`);
  }
  if (report.textSpace === undefined)
    lines.push('near-duplicates and long prompts: not looked for, no text encoder was given');
  else if (report.textSpace.maxTokens === undefined)
    lines.push('long prompts: not looked for, a bank was given in the place of a text encoder');
  if (report.clean) lines.push('nothing to mend');
  else lines.push(`mended list: ${counted(report.mended.length, 'name')}`);
  if (report.nearDuplicateCount > 0)
    lines.push(
      'names alike in text space stay in it: which of them to drop, or to tell apart by other words, is yours to decide',
    );
  const [first] = report.truncated;
  if (first !== undefined)
    lines.push(
      `prompts of ${counted(report.truncated.length, 'name')}, the first number ${first.index + 1}, are cut off after ${report.textSpace?.maxTokens} tokens: names that mending leaves so long are yours to shorten`,
    );
  if (report.commas.length > 0)
    lines.push('names with commas stay in it as they are: where one is several, write those one a line');
  if (report.comments.length > 0)
    lines.push('so do names with " # ": where that was to be a comment, put it on a line of its own');
  return lines.join('\n');
}
