import { spawnSync } from 'node:child_process';
import { closeSync, openSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Writable } from 'node:stream';
import { describe, expect, test, vi } from 'vitest';
import { runProgram } from '../../lib/cli/program.js';
import { phaseReporter, reportRun } from '../../lib/cli/run-report.js';
import { openTerminal } from '../../lib/cli/terminal.js';
import { LgdError } from '../../lib/errors.js';
import type { RunEvent } from '../../lib/train/events.js';
import { root } from '../fixtures/child.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { ensureBuilt } from './built.js';
import { lgdistill } from './program.js';

const folder = temporaryFolder();

function stream(isTTY: boolean): Writable & { isTTY: boolean; text: string } {
  const made = new Writable({
    write(chunk: Buffer, _encoding, done) {
      made.text += chunk.toString();
      done();
    },
  }) as Writable & { isTTY: boolean; text: string };
  return Object.assign(made, { isTTY, text: '' });
}

describe('colours', () => {
  test.each<[string, NodeJS.ProcessEnv, boolean, boolean]>([
    ['go to a terminal', {}, true, true],
    ['go to nothing else', {}, false, false],
    ['are left out by NO_COLOR', { NO_COLOR: '1' }, true, false],
    ['are not left out by an empty NO_COLOR', { NO_COLOR: '' }, true, true],
    ['are left out on a dumb terminal', { TERM: 'dumb' }, true, false],
    ['are forced into a pipe', { FORCE_COLOR: '1' }, false, true],
    ['are forced with NO_COLOR set', { FORCE_COLOR: '1', NO_COLOR: '1' }, false, true],
    ['are turned off by FORCE_COLOR=0', { FORCE_COLOR: '0' }, true, false],
  ])('%s', (_, env, isTTY, coloured) => {
    const terminal = openTerminal({ stdout: stream(isTTY), stderr: stream(isTTY), env }, { json: false, debug: false });
    for (const mark of [terminal.bold, terminal.red, terminal.warnRed])
      expect(mark('x').includes('\u001b[')).toBe(coloured);
  });

  test('each stream has its own', async () => {
    const [stdout, stderr] = [stream(true), stream(false)];
    expect(
      await runProgram(['names', join(folder, 'none.txt')], { stdout, stderr, env: {} }, new AbortController().signal),
    ).toBe(1);
    expect(stderr.text).toMatch(/^error FILE_NOT_FOUND\n/u); // no escape in a log that stderr is sent to
  });
});

test('control characters of names are written out; colours, line ends and tabs stay', () => {
  const [stdout, stderr] = [stream(true), stream(true)];
  const terminal = openTerminal({ stdout, stderr, env: {} }, { json: false, debug: false });
  const text = `${terminal.bold('a')}\tb\n`;
  terminal.say(`${text}\u001b[2J\u001b]0;title\u0007\u009b1A\r.jpg`);
  terminal.warn(`${text}\u0008\u007f\u0007[1m`);
  expect(stdout.text).toBe(`${text}\\u001b[2J\\u001b]0;title\\u0007\\u009b1A\\u000d.jpg\n`);
  expect(stderr.text).toBe(`${text}\\u0008\\u007f\\u0007[1m\n`);
});

test.each<[string, NodeJS.ProcessEnv, boolean, boolean]>([
  ['a terminal', {}, true, true],
  ['a terminal of a CI job', { CI: 'true' }, true, false],
  ['CI=false', { CI: 'false' }, true, true],
  ['a dumb terminal', { TERM: 'dumb' }, true, false],
  ['a file', {}, false, false],
])('a bar that moves is for a person: %s', (_, env, isTTY, interactive) => {
  expect(
    openTerminal({ stdout: stream(isTTY), stderr: stream(isTTY), env }, { json: false, debug: false }).interactive,
  ).toBe(interactive);
});

test('progress is a line every few seconds where nobody watches, with a rate of images and the time left', async () => {
  vi.useFakeTimers({ toFake: ['performance', 'setTimeout', 'clearTimeout'] });
  try {
    const stderr = stream(false);
    const terminal = openTerminal({ stdout: stream(false), stderr, env: {} }, { json: false, debug: false });
    const { onProgress, during } = phaseReporter(terminal, 5);
    for (const [phase, done] of [
      ['student', 100],
      ['student', 300],
      ['student', 500],
      ['student', 700],
      ['linear probes', 0],
      ['linear probes', 700],
    ] as const) {
      onProgress({ phase, done, total: 1000 });
      vi.advanceTimersByTime(4000);
    }
    expect(stderr.text).toBe('student 500/1000 | 50 images/s | 10 s left\n');
    onProgress({ phase: 'linear probes', done: 800, total: 1000 });
    expect(stderr.text).toContain('\nlinear probes 800/1000 | 2 s left\n');
    let settle: ((value: number) => void) | undefined;
    const work = during(
      new Promise<number>((resolve) => {
        settle = resolve;
      }),
    );
    await vi.advanceTimersByTimeAsync(5 * 60_000);
    expect(stderr.text).toMatch(/\nlinear probes 800\/1000 has stood still for 5 minutes: do .* answer\?\n$/u);
    settle!(7);
    expect(await work).toBe(7);
  } finally {
    vi.useRealTimers();
  }
});

test.each([
  ['a short command', ['names', '--list-builtin']],
  ['help', ['--help']],
])('output that a full disk does not take is a failure: %s', async (_, args) => {
  const full = openSync('/dev/full', 'w');
  try {
    const { status, stderr } = spawnSync(
      process.execPath,
      [join(await ensureBuilt(), 'dist', 'cli', 'main.js'), ...args],
      { stdio: ['ignore', full, 'pipe'], encoding: 'utf8' },
    );
    expect(stderr).toContain('error NOT_WRITABLE');
    expect(status).toBe(1);
  } finally {
    closeSync(full);
  }
});

test.each([
  [[], ''],
  [
    [
      { type: 'checkpoint', step: 8 },
      { type: 'step', step: 10, logged: false, loss: 1, imagesPerSecond: 1, dataWait: 0 },
    ],
    'failed after step 10; its checkpoint of step 8 goes on with: lgdistill resume runs/first\n',
  ],
])('a run that fails says where its checkpoint stands, if it has one: %j', async (events, expected) => {
  const stderr = stream(false);
  const terminal = openTerminal({ stdout: stream(false), stderr, env: {} }, { json: false, debug: false });
  const run = async function* (): AsyncGenerator<RunEvent> {
    yield { type: 'start', step: 0, lastStep: 16, images: 32, broken: 0, effectiveBatch: 8 } as RunEvent;
    yield* events as unknown as RunEvent[];
    throw new LgdError('DEVICE_LOST', 'the GPU is gone.');
  };
  await expect(reportRun(run(), terminal, 'runs/first')).rejects.toMatchObject({ code: 'DEVICE_LOST' });
  expect(stderr.text.replace(/^training .*\n/gmu, '')).toBe(expected);
});

test('a folder that is gone is no bug of the program', async () => {
  const program = join(await ensureBuilt(), 'dist', 'cli', 'start.cjs');
  const { status, stderr } = spawnSync(
    'sh',
    ['-c', 'mkdir gone && cd gone && rmdir ../gone && exec "$@"', 'sh', process.execPath, program, 'doctor'],
    { cwd: folder, encoding: 'utf8' },
  );
  expect(stderr).toContain(
    'error FILE_NOT_FOUND\n  the folder in which this was started is gone.\n  -> Change to another one (cd)',
  );
  expect(status).toBe(1);
});

test("what Node's permission model does not allow is no bug of the program", async () => {
  const flag = process.allowedNodeEnvironmentFlags.has('--permission') ? '--permission' : '--experimental-permission';
  const program = join(await ensureBuilt(), 'dist', 'cli', 'start.cjs');
  const allowed = ['dist', 'node_modules', 'package.json'].map((name) => `--allow-fs-read=${join(root, name)}`);
  const { status, stderr } = spawnSync(process.execPath, ['--no-warnings', flag, ...allowed, program, 'doctor'], {
    cwd: folder,
    encoding: 'utf8',
  });
  expect(stderr).toMatch(
    /^error BAD_FILE\n {2}Node's permission model does not allow FileSystemRead.*\.\n {2}-> Allow Node more/u,
  );
  expect(status).toBe(1);
});

describe('with --json, stdout has one document and nothing else', () => {
  const list = join(folder, 'names.txt');
  test.each([
    ['doctor', ['doctor']],
    ['names', ['names', list]],
    ['names that are written too', ['names', list, '--write', join(folder, 'mended.txt')]],
    ['completion', ['completion', 'bash']],
    ['an error', ['distill', '--epochs', '0']],
    ['an error of the command line', ['distill', '--no-such-thing']],
    ['a missing file', ['export', join(folder, 'nowhere'), '--to', join(folder, 'x.safetensors')]],
  ])('%s', async (_, args) => {
    writeFileSync(list, 'cat\ndog\ndog\n');
    const { stdout, documents } = await lgdistill([...args, '--json'], { env: { FORCE_COLOR: '1' } });
    expect(documents()).toHaveLength(1);
    expect(stdout).not.toContain('\u001b');
  });
});
