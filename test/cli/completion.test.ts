import { spawnSync } from 'node:child_process';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { configOptions, isOfOwnCommand } from '../../lib/config/config.js';
import { exportFormats } from '../../lib/export/student.js';
import { listStudents } from '../../lib/models/index.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { noteSkip } from '../shared.js';
import { lgdistill } from './program.js';

const folder = temporaryFolder();
const commands = [...(await lgdistill(['--help'])).stdout.split('Commands:')[1]!.matchAll(/^ {2}([a-z]+)\b/gmu)].map(
  ([, name]) => name!,
);
const isThere = (shell: string) => spawnSync(shell, ['--version']).status === 0;
const lines = (text: string) => text.split('\n').filter((line) => line !== '');

beforeAll(async () => {
  for (const shell of ['bash', 'zsh', 'fish']) {
    const { code, stdout } = await lgdistill(['completion', shell]);
    expect(code).toBe(0);
    writeFileSync(join(folder, `completion.${shell}`), stdout);
  }
  writeFileSync(
    join(folder, 'setup.zsh'),
    `
autoload -U compinit; compinit -u -D
source completion.zsh
_files() { compadd -- names.txt photos }
compadd() { local -a got; builtin compadd -O got "$@"; print -l -- $got >> got; builtin compadd "$@" }
zle-line-init() { touch ready } # it takes keys from here on
zle -N zle-line-init
complete-and-tell() { zle expand-or-complete; touch done }
zle -N complete-and-tell
bindkey '^I' complete-and-tell
`,
  );
  mkdirSync(join(folder, 'photos'));
  writeFileSync(join(folder, 'names.txt'), '');
});

/** What each shell completes the last word to; the words before it are typed already. */
const shells: Record<string, (words: readonly string[]) => string[]> = {
  bash(words) {
    const script = `source completion.bash; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _lgdistill; printf '%s\\n' "\${COMPREPLY[@]}"`;
    const { stdout, stderr, status } = spawnSync('bash', ['--norc', '-c', script, 'bash', ...words], {
      cwd: folder,
      encoding: 'utf8',
    });
    expect([status, stderr.replace(/.*compopt: not currently executing completion function\n/gu, '')]).toEqual([0, '']);
    return lines(stdout);
  },
  fish(words) {
    const { stdout, stderr } = spawnSync(
      'fish',
      ['--no-config', '-c', `source completion.fish; complete -C ${JSON.stringify(words.join(' '))}`],
      { cwd: folder, encoding: 'utf8', env: { ...process.env, HOME: folder } },
    );
    expect(stderr).toBe('');
    return lines(stdout).map((line) => line.split('\t')[0]!.replace(/^(--[^=]+=)/u, ''));
  },
  // zsh completes in a terminal only: one that zsh itself makes (zpty), with a compadd that writes down what it is
  // given.
  zsh(words) {
    for (const name of ['ready', 'got', 'done']) rmSync(join(folder, name), { force: true });
    const script = `
zmodload zsh/zpty
zpty inner zsh -f -i
zpty -w inner 'source setup.zsh'
until [[ -e ready ]]; do sleep 0.02; done
zpty -w -n inner ${JSON.stringify(words.join(' '))}$'\\t'
until [[ -e done ]]; do sleep 0.02; done
zpty -d inner
[[ ! -e got ]] || cat got`;
    const { stdout, status } = spawnSync('zsh', ['-f', '-c', script], {
      cwd: folder,
      encoding: 'utf8',
      timeout: 200_000,
    });
    expect(status, 'zsh completed in time').toBe(0);
    return lines(stdout);
  },
};

describe.each(Object.keys(shells))('%s', (shell) => {
  const complete = (...words: string[]): string[] | undefined => {
    if (isThere(shell)) return [...new Set(shells[shell]!(words))].sort();
    noteSkip(`completion in ${shell}`, `${shell} is not installed`);
    return undefined;
  };
  const expectCompletion = (words: string[], wanted: readonly string[]) => {
    const found = complete(...words);
    if (found !== undefined) expect(found, words.join(' ')).toEqual([...wanted].sort());
  };

  test('commands, and commands of commands', () => {
    expectCompletion(['lgdistill', ''], commands);
    expectCompletion(['lgdistill', 'b'], ['bank', 'bench']);
    expect(commands.length).toBeGreaterThanOrEqual(10);
    expectCompletion(['lgdistill', 'bank', ''], ['build', 'inspect']);
  });

  test('options of the command, all of the table for distill', () => {
    const found = complete('lgdistill', 'distill', '--');
    if (found === undefined) return;
    for (const { flag, alias } of configOptions().filter((row) => !isOfOwnCommand(row)))
      for (const name of [flag, alias]) if (name !== undefined) expect(found).toContain(name);
    expectCompletion(['lgdistill', 'doctor', '--'], ['--debug', '--help', '--json']);
    expectCompletion(['lgdistill', 'bank', 'build', '--te'], ['--teacher', '--templates', '--text-encoder']);
  });

  test('values: students, choices, switches', () => {
    expectCompletion(['lgdistill', 'distill', '--student', ''], listStudents());
    expectCompletion(
      ['lgdistill', 'distill', '--method', ''],
      ['auto', 'lgd', 'text', 'visual', 'seed', 'hybrid', 'combined', 'feature'],
    );
    expectCompletion(['lgdistill', 'distill', '--offline', 't'], ['true']);
    expectCompletion(['lgdistill', 'completion', ''], ['bash', 'zsh', 'fish']);
  });

  test('file names, also beside words; nothing for a number, or its few values', () => {
    const strip = (found: string[] | undefined) => found?.map((name) => name.replace(/\/$/u, ''));
    expect(strip(complete('lgdistill', 'distill', '--data', 'ph')) ?? ['photos']).toContain('photos');
    const names = strip(complete('lgdistill', 'names', '')) ?? ['coco', 'names.txt'];
    expect(names).toEqual(expect.arrayContaining(['coco', 'names.txt']));
    if (shell !== 'fish') expect(complete('lgdistill', 'distill', '--epochs', '') ?? []).toEqual([]);
    const beside = (...words: string[]) =>
      strip(complete('lgdistill', ...words, '')) ?? ['names.txt', ...exportFormats.slice(1), 'previous', 'data'];
    const targets = beside('export', '--to');
    expect(targets).toEqual(expect.arrayContaining(['names.txt', ...exportFormats.slice(1)]));
    expect(targets).not.toContain('lgdistill'); // a file says that
    expect(beside('resume', '--from')).toEqual(expect.arrayContaining(['previous', 'names.txt']));
    expect(beside('bench', 'data')).toEqual(expect.arrayContaining(['data', 'names.txt']));
    expectCompletion(['lgdistill', 'segment', 'train', '--dense.output-stride', ''], ['8', '16', '32']);
  });
});

test('bash takes --option=value apart; the value is completed all the same', () => {
  expect(shells['bash']!(['lgdistill', 'distill', '--student', '=', 'resnet'])).toEqual([
    'resnet18',
    'resnet34',
    'resnet50',
  ]);
  expect(shells['bash']!(['lgdistill', 'distill', '--method', '='])).toContain('hybrid');
});

test('with --json the script is in the document', async () => {
  const { documents } = await lgdistill(['completion', 'fish', '--json']);
  expect(documents()).toEqual([
    {
      shell: 'fish',
      script: expect.stringContaining('complete -c lgdistill') as string,
      install: expect.stringContaining('fish') as string,
    },
  ]);
});
