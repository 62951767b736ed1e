/** Runs that a full disk or kill -9 ends go on from what is whole. */
import { spawnSync } from 'node:child_process';
import { readdir, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { addonPath } from '../../lib/addon/addon.js';
import { resumeConfig } from '../../lib/train/setup.js';
import { bundleChild } from '../fixtures/child.js';
import { randomNumbers } from '../fixtures/random.js';
import { train } from '../fixtures/tiny.js';
import { expectSame, ResumedRuns } from './resume-fixture.js';

const made = new ResumedRuns();
const { folder, output, quick, unbrokenRun } = made;
const bundle = await bundleChild('test/integration/resume-child.ts');

describe('a run that is ended', () => {
  it('by a disk without room says so, leaves nothing half written, and goes on once there is room', async () => {
    const [whole, broken] = [await unbrokenRun(), output()];
    await train(quick(broken, { train: { maxSteps: 4 } }));
    const file = join(folder, 'full.json');
    await writeFile(file, JSON.stringify(quick(broken)));
    // A limit on the size of files stands for a full disk: it, too, fails in the middle of a write.
    const result = spawnSync('bash', ['-c', `ulimit -f 256; exec "$0" "$@"`, process.execPath, bundle, file, 'last'], {
      env: { ...process.env, LGDISTILL_ADDON: addonPath() },
      encoding: 'utf8',
    });
    expect(result.status).toBe(1);
    expect(result.stderr).toContain('NOT_WRITABLE');
    expect(result.stdout.trim().split('\n').at(-1)).toBe('step 8');
    expect((await readdir(broken)).sort()).toEqual([
      'checkpoints',
      'config.json',
      'images.tsv.gz',
      'log.txt',
      'metrics.jsonl',
      'start.json',
    ]);
    expect((await readdir(join(broken, 'checkpoints'))).sort()).toEqual(['best', 'last', 'step-00000004']);
    await train(await resumeConfig(broken), { resume: 'last' });
    await expectSame(broken, whole);
  });

  it('by a log that takes no more says so', async () => {
    const path = output();
    await train(quick(path, { train: { maxSteps: 2 } }));
    await rm(join(path, 'log.txt'));
    await symlink('/dev/full', join(path, 'log.txt'));
    await expect(train(await resumeConfig(path), { resume: 'last' })).rejects.toMatchObject({
      code: 'NOT_WRITABLE',
      message: expect.stringContaining('the disk is full') as unknown,
    });
  });

  /** Runs the child, which may kill itself some milliseconds after it printed so many lines. */
  function child(
    args: string[],
    kill: { lines: number; delay: number } | undefined,
  ): { killed: boolean; lines: string[] } {
    const { status, signal, stdout, stderr } = spawnSync(process.execPath, [bundle, ...args], {
      env: { ...process.env, LGDISTILL_ADDON: addonPath(), KILL_AT: kill && `${kill.lines},${kill.delay}` },
      encoding: 'utf8',
    });
    expect([status, signal, stderr]).toEqual(kill ? [null, 'SIGKILL', ''] : [0, null, '']);
    return { killed: kill !== undefined, lines: stdout.split('\n').slice(0, -1) };
  }

  it('by kill -9 at random moments, again and again, ends as the unbroken one', async () => {
    const config = (path: string) =>
      quick(path, { train: { epochs: 6 }, checkpoint: { everySteps: 1, keep: 2 }, evaluate: { data: made.labelled } });
    const [whole, broken] = [output(), output()];
    await train(config(whole));
    const file = join(folder, 'killed.json');
    await writeFile(file, JSON.stringify(config(broken)));
    const random = randomNumbers(Date.now());
    const kills: string[] = [];
    for (let resume: string[] = []; ; resume = ['last']) {
      // a step and its checkpoint are two lines: at most 20 of the 24 steps
      const kill =
        kills.length < 4 ? { lines: 1 + Math.floor(random() * 6), delay: Math.floor(random() * 120) } : undefined;
      const { killed, lines } = child([file, ...resume], kill);
      if (killed) kills.push(`${lines.at(-1)} + ${kill!.delay} ms`);
      else {
        expect(lines.at(-1)).toBe('done 24');
        break;
      }
    }
    console.log(`killed after: ${kills.join(', ')}`);
    expect(kills).toHaveLength(4);
    await expectSame(broken, whole);
    expect((await readdir(join(broken, 'checkpoints'))).filter((name) => name.startsWith('.'))).toEqual([]);
  });
});
