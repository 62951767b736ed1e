/** The pages of the documentation, and what stands in them as code. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = fileURLToPath(new URL('../..', import.meta.url));

/** README and every page of docs/, as paths from the root. */
export const pages = [
  'README.md',
  'CONTRIBUTING.md',
  'SECURITY.md',
  ...readdirSync(join(root, 'docs'))
    .filter((name) => name.endsWith('.md'))
    .map((name) => `docs/${name}`),
];

export interface Block {
  page: string;
  /** What stands behind the fence, in words: `sh`, `run`. */
  words: string[];
  code: string;
  /** Line of the fence in the page, from 1. */
  line: number;
}

export function readPage(page: string): string {
  return readFileSync(join(root, page), 'utf8');
}

/** Fenced blocks of a page. */
export function blocksOf(page: string): Block[] {
  const text = readPage(page);
  return [...text.matchAll(/^```(.*)\n([\s\S]*?)^```$/gmu)].map(({ 1: info = '', 2: code = '', index }) => ({
    page,
    words: info.split(' '),
    code,
    line: text.slice(0, index).split('\n').length,
  }));
}

/** What stands between backticks in the text of a page, blocks left out. */
export function inlineCode(page: string): string[] {
  const text = readPage(page).replaceAll(/^```.*\n[\s\S]*?^```$/gmu, '');
  return [...text.matchAll(/`([^`\n]+)`/gu)].map(([, code = '']) => code.replaceAll('\\|', '|'));
}

/**
 * The commands of a shell text as words: comments gone, quotes resolved, lines continued, parted at `&&`, `|` and `;`.
 * What a page needs of a shell's grammar, and no more.
 */
export function shellCommands(code: string): string[][] {
  const commands: string[][] = [[]];
  let word: string | undefined;
  const endWord = () => {
    if (word !== undefined) commands.at(-1)!.push(word);
    word = undefined;
  };
  const endCommand = () => {
    endWord();
    if (commands.at(-1)!.length > 0) commands.push([]);
  };
  const token = /\\\n|'([^']*)'|"([^"]*)"|\\(.)|(#[^\n]*)|(&&|[|;\n])|([ \t]+)|(.)/gsu;
  for (const [all, single, double, escaped, comment, separator, blank, sign] of code.matchAll(token)) {
    if (all === '\\\n' || blank !== undefined) endWord();
    else if (separator !== undefined) endCommand();
    else if (comment !== undefined && word === undefined) continue;
    else word = (word ?? '') + (single ?? double ?? escaped ?? comment ?? sign ?? '');
  }
  endCommand();
  return commands.filter((command) => command.length > 0);
}

/** The arguments of `lgdistill` and `npx lgdistill` among commands. */
export function ownArguments(commands: readonly string[][]): string[][] {
  return commands.flatMap(([first, second, ...rest]) =>
    first === 'lgdistill'
      ? [[second, ...rest].filter((word) => word !== undefined)]
      : first === 'npx' && second === 'lgdistill'
        ? [rest]
        : [],
  );
}
