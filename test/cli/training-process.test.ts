import { readFileSync } from 'node:fs';
import { spawn, spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { beforeAll, describe, expect, test, vi } from 'vitest';
import { readStudent } from '../../lib/runs/student-file.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { holdAt } from '../fixtures/hold.js';
import { drawShapes } from '../fixtures/tiny.js';
import { ensureBuilt } from './built.js';
import { task } from './training-fixture.js';

const folder = temporaryFolder();
const at = (...parts: string[]) => join(folder, ...parts);

beforeAll(async () => {
  await drawShapes(at('train'), { count: 6 });
});

describe('a run that is a process', () => {
  const training = [...task, '--epochs', '4', '--data', at('train')];
  const model = (name: string) => readFileSync(at(name, 'checkpoints', 'last', 'model.safetensors'));
  let main: string;
  const run = (args: readonly string[], env: NodeJS.ProcessEnv = {}) =>
    spawn(process.execPath, [main, ...args], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, NO_COLOR: '1', ...env },
    });
  const ended = (child: ReturnType<typeof run>) =>
    new Promise<{ code: number | null; text: string }>((resolve) => {
      let text = '';
      for (const stream of [child.stdout, child.stderr]) stream.on('data', (part: Buffer) => (text += part.toString()));
      child.on('close', (code) => resolve({ code, text }));
    });
  /** The third step of a run that prints JSON. */
  const atStep3 = () => holdAt('"step":3', folder);

  beforeAll(async () => {
    main = join(await ensureBuilt(), 'dist', 'cli', 'main.js');
    expect(await ended(run(['distill', ...training, '--output', at('unbroken')]))).toMatchObject({ code: 0 });
  });

  test('ends with a checkpoint and 130 by Ctrl-C, or the warning of a batch system; resume ends it with the weights of an unbroken one', async () => {
    const hold = atStep3();
    const child = run(['distill', ...training, '--output', at('broken'), '--json'], hold.env);
    // a batch system, and what comes right after is the same warning, as npx passes on what the terminal has sent
    hold.watch(child, () => (['SIGUSR2', 'SIGUSR1', 'SIGINT'] as const).forEach((signal) => child.kill(signal)));
    const interrupted = await ended(child);
    expect(interrupted.code).toBe(130);
    expect(interrupted.text).not.toContain('Debugger');
    expect(interrupted.text).toContain(`lgdistill resume ${at('broken')}`);
    const { info } = await readStudent(at('broken', 'checkpoints', 'last'));
    expect(info.step).toBeGreaterThanOrEqual(3);
    expect(info.step).toBeLessThan(12);

    expect(await ended(run(['resume', at('broken')]))).toMatchObject({ code: 0 });
    expect(model('broken').equals(model('unbroken'))).toBe(true);
  });

  test('goes on where nobody reads what it prints any more, and when a terminal that is not its own is closed', async () => {
    const hold = atStep3();
    const child = run(['distill', ...training, '--output', at('unread'), '--json'], hold.env);
    hold.watch(child, () => {
      child.stdout.destroy();
      child.stderr.destroy();
      child.kill('SIGHUP');
    });
    expect((await ended(child)).code).toBe(0);
    expect(model('unread').equals(model('unbroken'))).toBe(true);
  });

  const hasScript = spawnSync('script', ['--version']).status === 0;
  if (!hasScript) console.log('SKIPPED a terminal that is closed: there is no script(1), which makes one');
  test.skipIf(!hasScript)('ends with a checkpoint when its terminal is closed', async () => {
    const command = [
      process.execPath,
      main,
      'distill',
      ...training,
      '--epochs',
      '400',
      '--output',
      at('closed'),
      '--json',
    ]
      .map((part) => `'${part}'`)
      .join(' ');
    const hold = atStep3();
    const terminal = spawn('script', ['-qec', `exec ${command}`, '/dev/null'], {
      stdio: ['pipe', 'pipe', 'ignore'],
      env: { ...process.env, ...hold.env },
    });
    hold.watch(terminal, () => terminal.kill('SIGKILL')); // the kernel tells what runs in it
    await vi.waitFor(
      () => expect(readFileSync(at('closed', 'log.txt'), 'utf8')).toMatch(/interrupted at step \d+\n$/u),
      { timeout: 200_000, interval: 100 },
    );
    expect((await readStudent(at('closed', 'checkpoints', 'last'))).info.step).toBeGreaterThanOrEqual(3);
  });

  test('goes on with instructions by which the text tower gives other last bits', async () => {
    const named = [...task, '--method', 'lgd', '--data', at('train'), '--output', at('moved')];
    expect(await ended(run(['distill', ...named, '--max-steps', '2']))).toMatchObject({ code: 0 });
    const resumed = await ended(run(['resume', at('moved'), '--max-steps', '4'], { LGDISTILL_ISA: 'baseline' }));
    expect(resumed.text).not.toContain('error');
    expect(resumed.code).toBe(0);
  });
});
