/**
 * Every command line and option that the pages name is one the program takes. Nothing is executed here: an option that
 * no command has ends each line.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { normaliseArguments } from '../../lib/cli/options.js';
import { configOptions, mergeConfig } from '../../lib/config/config.js';
import { lgdistill } from '../cli/program.js';
import { blocksOf, inlineCode, ownArguments, pages, root, shellCommands } from './pages.js';

const stop = '--no-command-has-this-option';
const refused = new RegExp(`^error BAD_OPTION\\n  unknown option '${stop}'`, 'u');
/**
 * Parses a command line and executes nothing: of two options that there are not, a flag without its value takes one,
 * and the other is refused.
 */
const parse = (args: readonly string[]) => lgdistill([...args, stop, stop]);

/** What a command line's flags of the option table say, by dotted path. */
function settings(args: readonly string[]): Record<string, string> {
  const found: Record<string, string> = {};
  const words = normaliseArguments(args);
  words.forEach((word, i) => {
    const [, flag = word, value = words[i + 1] ?? ''] = /^(--[^=]+)=(.*)$/su.exec(word) ?? [];
    const option = configOptions().find((row) => row.flag === flag || row.alias === flag);
    if (option !== undefined) found[option.path] = value;
  });
  return found;
}

/** Positional arguments that a command's usage line asks for: at least, and at most. */
async function positionals(command: readonly string[]): Promise<[number, number]> {
  const { stdout } = await lgdistill([...command, '--help']);
  const usage = /^Usage: (.*)$/mu.exec(stdout)![1]!;
  const wanted = usage.match(/<[^>]+>/gu) ?? [];
  const allowed = [...wanted, ...(usage.match(/\[(?!options\]|command\])[^\]]+\]/gu) ?? [])];
  return [wanted.length, allowed.some((argument) => argument.includes('...')) ? Infinity : allowed.length];
}

/**
 * The command's own words at the start of its arguments: `bank build` is two, and so are `segment train` and
 * `detect train`.
 */
const commandOf = (args: readonly string[]) => args.slice(0, ['bank', 'segment', 'detect'].includes(args[0]!) ? 2 : 1);

/** How many arguments are neither flags nor their values; NaN where the last flag has no value. */
async function countPositionals(args: readonly string[]): Promise<number> {
  const { stdout } = await lgdistill([...commandOf(args), '--help']);
  const takesValue = (flag: string) => new RegExp(`${flag}(?:, --\\S+)? <`, 'u').test(stdout);
  let count = 0;
  const words = normaliseArguments(args.slice(commandOf(args).length));
  for (let i = 0; i < words.length; i++) {
    if (!words[i]!.startsWith('-')) count++;
    else if (!words[i]!.includes('=') && takesValue(words[i]!) && ++i === words.length) return NaN;
  }
  return count;
}

const lines = pages.flatMap((page) =>
  blocksOf(page)
    .filter(({ words: [language] }) => language === 'sh')
    .flatMap(({ code, line }) => ownArguments(shellCommands(code)).map((args) => ({ where: `${page}:${line}`, args }))),
);

test('a block is read as a shell reads it', () => {
  const text = `lgdistill a --x '["b c","d"]' \\\n  --y "e # f" # a remark\n# lgdistill z\nnpm ci && npx lgdistill g; X=1 other | lgdistill h`;
  expect(ownArguments(shellCommands(text))).toEqual([['a', '--x', '["b c","d"]', '--y', 'e # f'], ['g'], ['h']]);
});

test('there are command lines to check', () => {
  expect(lines.length).toBeGreaterThan(20);
});

describe('command lines in blocks', () => {
  test.each(lines)('$where $args', async ({ args }) => {
    expect((await parse(args)).stderr).toMatch(refused);
    const [least, most] = await positionals(commandOf(args));
    const count = await countPositionals(args);
    expect(count >= least && count <= most, `${count} positional arguments`).toBe(true);
    mergeConfig(undefined, settings(args)); // refuses a value that its option does not take
  });
});

test('command lines in the text have no option that the program lacks', async () => {
  for (const page of pages) {
    for (const code of inlineCode(page).filter((text) => /^(npx )?lgdistill [a-z]/u.test(text))) {
      const [args] = ownArguments(shellCommands(code));
      if (args!.includes('--help')) {
        expect((await lgdistill(args!)).code, `${page}: ${code}`).toBe(0);
        continue;
      }
      const { stderr } = await parse(args!);
      // An excerpt may leave out what a whole line needs; commander says so before it looks for unknown options.
      if (!/required option|missing required argument/u.test(stderr))
        expect(stderr, `${page}: ${code}`).toMatch(refused);
    }
  }
});

/** The checkout's other programs, whose flags pages speak of too. */
const programs = ['scripts', 'bench']
  .flatMap((folder) =>
    readdirSync(join(root, folder), { withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map(({ name }) => readFileSync(join(root, folder, name), 'utf8')),
  )
  .join('\n');
const isForeign = (flag: string) =>
  programs.includes(flag) || new RegExp(`\\b${flag.slice(2)}'?: \\{ type: '`, 'u').test(programs);

test('flags in the text exist', async () => {
  const { stdout } = await lgdistill(['--help']);
  const commands = [...stdout.matchAll(/^ {2}([a-z]+) /gmu)]
    .map(([, name = '']) => name)
    .filter((name) => !['bank', 'segment', 'detect'].includes(name))
    .map((name) => [name]);
  const known = new Set<string>();
  for (const command of [
    ...commands,
    ['bank', 'build'],
    ['bank', 'inspect'],
    ['segment', 'train'],
    ['segment', 'evaluate'],
    ['segment', 'zero-shot'],
    ['detect', 'train'],
    ['detect', 'evaluate'],
  ]) {
    const help = await lgdistill([...command, '--help']);
    for (const [flag] of help.stdout.matchAll(/--[\w.-]+/gu)) known.add(flag);
  }
  for (const page of pages) {
    for (const code of inlineCode(page)) {
      const [flag] = /^--[a-z][\w.-]*/u.exec(code) ?? [];
      if (flag === undefined || flag === '--no-') continue;
      if (!isForeign(flag))
        expect(known, `${page}: ${code}`).toContain(normaliseArguments([flag])[0]!.replace(/=.*/u, ''));
    }
  }
});

test('dotted names in the text are options, and what stands in JSON is a configuration', () => {
  const paths = new Set(configOptions().map(({ path }) => path));
  const groups = [...new Set([...paths].filter((path) => path.includes('.')).map((path) => path.split('.')[0]!))].join(
    '|',
  );
  for (const page of pages) {
    for (const code of inlineCode(page)) {
      if (!new RegExp(`^(?:${groups})\\.[a-zA-Z]+$`, 'u').test(code) || /\.(?:ts|txt|json)$/u.test(code)) continue;
      expect(paths, `${page}: ${code}`).toContain(code);
    }
    for (const {
      words: [language, use],
      code,
      line,
    } of blocksOf(page)) {
      if (language === 'json' && use?.startsWith('config=') === true)
        expect(() => mergeConfig(JSON.parse(code), {}), `${page}:${line}`).not.toThrow();
    }
  }
});
