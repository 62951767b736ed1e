import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { Command } from 'commander';
import { addConfigOptions, normaliseArguments, readConfig } from '../../lib/cli/options.js';
import { configOptions, isOfOwnCommand } from '../../lib/config/config.js';
import { version } from '../../lib/package.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { lgdistill } from './program.js';

const folder = temporaryFolder();

describe('wrong usage exits with 2 and says what to do', () => {
  test.each([
    ['an unknown command', ['distil'], "unknown command 'distil'", 'Did you mean distill?'],
    [
      'an unknown option',
      ['distill', '--lerning-rate', '3'],
      "unknown option '--lerning-rate'",
      'Did you mean --learning-rate?',
    ],
    [
      'an option of another command',
      ['doctor', '--batch-size', '3'],
      "unknown option '--batch-size'",
      'lgdistill doctor --help',
    ],
    ['an option without a value', ['bench', '--seconds'], 'argument missing', 'lgdistill bench --help'],
    [
      'a value out of range',
      ['distill', '--learning-rate', '0'],
      'train.learningRate: ',
      '-> Give auto, or a number from 1e-9 to 1e9',
    ],
    ['a value of another type', ['distill', '--epochs', 'ten'], 'Found: "ten"', '-> Give a whole number from 1'],
    ['a number that is none', ['bench', '--seconds', 'soon'], 'a number above 0', 'lgdistill bench --help'],
    [
      'a choice that is none',
      ['export', 'run', '--to', 'x', '--head', 'half'],
      'keep, drop',
      'lgdistill export --help',
    ],
    ['a missing argument', ['resume'], "missing required argument 'run'", 'lgdistill resume --help'],
    ['a missing option', ['export', 'run'], "required option '--to <what>'", 'lgdistill export --help'],
    ['too many arguments', ['names', 'a', 'b', 'c'], 'Expected 1 argument but got 3: b, c.', 'lgdistill names --help'],
    [
      'a word for a switch',
      ['distill', '--overwrite', 'yes'],
      'Expected 0 arguments but got 1: yes.',
      'A switch takes true or false, or stands alone: --overwrite, or --overwrite false',
    ],
    [
      'a word for a switch, before an argument',
      ['resume', '--offline', '1', 'runs/x'],
      'got 2: 1.',
      '--offline, or --offline false',
    ],
    ['a word for a flag', ['distill', '--dry-run', 'yes'], 'got 1: yes.', '--dry-run stands alone'],
    ['a known short form', ['distill', '--lr', '3'], "unknown option '--lr'", 'Did you mean --learning-rate?'],
    [
      'what a run keeps',
      ['resume', 'runs/x', '--epochs', '10'],
      'a run goes on with what it was begun with',
      'begin another run with distill, from the weights of this one if you like (--weights RUN/checkpoints/last/model.safetensors)',
    ],
    ['a command of a command', ['bank', 'bild'], "unknown command 'bild'", 'Did you mean build?'],
  ])('%s', async (_, args, message, mend) => {
    const { code, stdout, stderr } = await lgdistill(args);
    expect(code).toBe(2);
    expect(stdout).toBe('');
    const [first, ...rest] = stderr.trimEnd().split('\n');
    expect(first).toBe('error BAD_OPTION');
    expect(rest.slice(0, -1).join('\n')).toContain(message);
    expect(rest.at(-1)).toMatch(/^ {2}-> /u);
    expect(rest.at(-1)).toContain(mend);
  });

  test('resume lists what it takes', async () => {
    const { stderr } = await lgdistill(['resume', 'runs/x', '--train.epochs', '10']);
    expect(stderr).toContain('resume does not take --train.epochs: ');
    expect(stderr).toContain(
      'Allowed: --device, --threads, --offline, --names, --templates, --text-encoder, --bank, --teacher, --data, --cache-memory, --spill-folder, --max-steps, --evaluate, --evaluate.names, --evaluate.bank, --mapping, --evaluate.train, --evaluate.every-epochs, --evaluate.every-steps, --checkpoint.every-epochs',
    );
    expect((await lgdistill(['resume', 'runs/x', '--wings', '2'])).stderr).toContain("unknown option '--wings'");
  });

  test('no command prints the help to stderr', async () => {
    const { code, stdout, stderr } = await lgdistill([]);
    expect([code, stdout]).toEqual([2, '']);
    expect(stderr).toContain('Usage: lgdistill');
  });

  test('an unknown option in a file, with the nearest', async () => {
    const file = join(folder, 'typo.json');
    writeFileSync(file, JSON.stringify({ train: { batchSise: 3 } }));
    const { code, stderr } = await lgdistill(['distill', '--config', file]);
    expect(code).toBe(2);
    expect(stderr).toContain('error BAD_CONFIG');
    expect(stderr).toContain('Did you mean train.batchSize?');
  });

  test('with --json the error is a document on stdout', async () => {
    const { code, documents } = await lgdistill(['distill', '--epochs', '0', '--json']);
    expect(code).toBe(2);
    expect(documents()).toEqual([
      { error: expect.objectContaining({ code: 'BAD_OPTION', option: 'train.epochs', found: 0 }) as unknown },
    ]);
  });
});

test('help and version exit with 0', async () => {
  expect(await lgdistill(['--version'])).toMatchObject({ code: 0, stdout: `${version}\n`, stderr: '' });
  const { code, stdout } = await lgdistill(['--help']);
  expect(code).toBe(0);
  for (const command of ['doctor', 'names', 'bank', 'distill', 'resume', 'evaluate', 'export', 'bench'])
    expect(stdout).toMatch(new RegExp(`^ {2}${command} `, 'mu'));
});

test('distill takes every option of the table, in its long and its short form, and says its default', async () => {
  const { stdout } = await lgdistill(['distill', '--help']);
  const words = stdout.replaceAll(/\s+/gu, ' ');
  for (const { flag, alias, help, default: value } of configOptions().filter((row) => !isOfOwnCommand(row))) {
    expect(words).toContain(alias === undefined ? `${flag} <` : `${alias}, ${flag} <`);
    expect(words).toContain(help.slice(0, 30));
    if (value !== undefined) expect(words).toContain(`default ${JSON.stringify(value)}`);
  }
});

test('a command whose option does less, or another thing, than in training says what', async () => {
  const words = async (...command: string[]) =>
    (await lgdistill([...command, '--help'])).stdout.replaceAll(/\s+/gu, ' ');
  const [bench, evaluate, detect] = [await words('bench'), await words('evaluate'), await words('detect', 'train')];
  expect(bench).not.toMatch(/side by side|16 steps an epoch/u); // it takes one student, and has no images
  expect(bench).toContain('auto: as many as published');
  expect(evaluate).not.toContain('default: the run folder)');
  expect(evaluate).toContain('--data.cache <value>');
  expect(detect).not.toContain('Empty the run folder');
  expect(await words('completion')).toContain('choices: "bash", "zsh", "fish"');
});

test('an option of a group with commands of its own is taken by one of them, and not by distill', async () => {
  const helps = await Promise.all(
    [
      ['segment', 'train'],
      ['segment', 'evaluate'],
      ['segment', 'zero-shot'],
      ['detect', 'train'],
      ['detect', 'evaluate'],
    ].map(async (words) => (await lgdistill([...words, '--help'])).stdout),
  );
  const own = configOptions().filter(isOfOwnCommand);
  expect(own.length).toBeGreaterThan(15);
  const { stdout } = await lgdistill(['distill', '--help']);
  for (const { flag, alias } of own) {
    expect(alias).toBeUndefined();
    expect(stdout).not.toContain(`${flag} <`);
    expect(
      helps.some((help) => help.includes(`${flag} <`)),
      flag,
    ).toBe(true);
  }
});

test('what a run cannot find exits with 1, and --debug adds the stack', async () => {
  const args = ['names', join(folder, 'none.txt')];
  const plain = await lgdistill(args);
  expect(plain.code).toBe(1);
  expect(plain.stderr).toMatch(/^error FILE_NOT_FOUND\n/u);
  expect(plain.stderr).not.toContain(' at ');
  for (const shown of [
    await lgdistill([...args, '--debug']),
    await lgdistill(args, { env: { LGDISTILL_DEBUG: '1' } }),
  ]) {
    expect(shown.stderr).toContain('sources.ts');
  }
});

describe('a command line becomes a configuration', () => {
  const read = async (...args: string[]) => {
    const command = new Command('distill').exitOverride();
    addConfigOptions(command, 'all');
    await command.parseAsync(normaliseArguments(args), { from: 'user' });
    return readConfig(command);
  };

  test('short, long, camelCase and = forms mean the same', async () => {
    for (const args of [
      ['--batch-size', '7'],
      ['--train.batch-size', '7'],
      ['--batchSize', '7'],
      ['--train.batchSize=7'],
    ]) {
      expect((await read(...args)).train.batchSize).toBe(7);
    }
  });

  test('a switch is true, true or false, or denied', async () => {
    expect((await read()).overwrite).toBe(false);
    expect((await read('--overwrite')).overwrite).toBe(true);
    expect(await read('--overwrite', '--seed', '3')).toMatchObject({ overwrite: true, seed: 3 });
    expect((await read('--overwrite', 'false')).overwrite).toBe(false);
    expect((await read('--decay-norm-and-bias', 'false')).train.decayNormAndBias).toBe(false);
    expect((await read('--no-decayNormAndBias')).train.decayNormAndBias).toBe(false);
  });

  test('flags override the file, what neither says takes its default', async () => {
    const file = join(folder, 'run.json');
    writeFileSync(file, JSON.stringify({ names: ['a', 'b'], train: { epochs: 3, batchSize: 5 } }));
    const config = await read('--config', file, '--epochs', '9');
    expect(config).toMatchObject({ names: ['a', 'b'], train: { epochs: 9, batchSize: 5, learningRate: 'auto' } });
    expect((await read('--names', '["x","y"]')).names).toEqual(['x', 'y']);
  });
});
