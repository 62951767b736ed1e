import { chmod, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { describe, expect, it, vi } from 'vitest';
import { temporaryFolder } from '../fixtures/folder.js';
import { run, runToEnd } from '../gpu/programs.js';

// What scripts/gpu-check does where a program hangs or loses the GPU, which the emulated one never is: with programs
// that pretend.
const folder = temporaryFolder();

async function program(name: string, text: string): Promise<string> {
  const path = join(folder, name);
  await writeFile(path, `#!/bin/sh\n${text}\n`);
  await chmod(path, 0o755);
  return path;
}

async function ends(pid: number): Promise<boolean> {
  for (let i = 0; i < 100; i++) {
    const state = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
    if (state === '' || state.includes(') Z ')) return true; // nobody may be there to reap it
    await pause(50);
  }
  return false;
}

describe('a program under a time limit', () => {
  it('ends with what it started, which holds its pipes', async () => {
    const path = await program('launcher', 'echo begun\nsleep 600 &\necho $!\nwait');
    const { lines, late, status } = await run(path, [], 3);
    expect({ late, status }).toEqual({ late: true, status: null });
    expect(lines[0]).toBe('begun');
    expect(await ends(Number(lines[1]))).toBe(true);
  });

  it('is not waited for longer where a child that left its group holds the pipes', async () => {
    const path = await program(
      'leaver',
      `setsid sleep 600 &\necho $! >${join(folder, 'left')}\necho left\nexec sleep 600`,
    );
    const { lines, late } = await run(path, [], 3);
    expect({ late, lines }).toEqual({ late: true, lines: ['left'] });
    process.kill(Number(await readFile(join(folder, 'left'), 'utf8'))); // it is still there
  });

  it('is not late where it ends before', async () => {
    const path = await program('brief', 'echo one\necho two >&2\nexit 7');
    expect(await run(path, [], 60)).toMatchObject({ status: 7, late: false });
    await expect(run(join(folder, 'none'), [], 60)).rejects.toThrow('ENOENT');
  });
});

describe('a program that loses the GPU', () => {
  // loses it at checks 1 and 3 of 5, and would at every check from which it is not started behind
  const text = `
from=0; checks=0; failed=0
for word; do case $word in
  only=*) [ "$*" = "small $word" ] && echo "FAIL check: launching kernel_\${word#*=} = _Z failed: blocking $CUDA_LAUNCH_BLOCKING, graphs $LGDISTILL_GRAPHS"; exit 3;;
  from=*) from=\${word#*=};; checks=*) checks=\${word#*=};; failed=*) failed=\${word#*=};;
esac; done
for check in 0 1 2 3 4; do
  [ $check -ge $from ] || continue
  checks=$((checks + 1))
  case $check in 1|3)
    echo "LOST check $check of $1: an illegal memory access was encountered; go on with from=$((check + 1)) checks=$checks failed=$((failed + 1))"
    exit 3;;
  esac
done
echo "$checks checks, $failed failed"
[ $failed = 0 ]`;

  it('is started again behind each check that did, which names its kernel, and keeps count', async () => {
    let shown = '';
    const args = ['small', '--rows', 'file'];
    const result = await runToEnd(await program('faulty', text), args, 60, (part) => (shown += part));
    const named = (kernel: string) =>
      `NAMED with each launch waited for: launching ${kernel} = _Z failed: blocking 1, graphs 0`;
    expect(result.lines).toEqual([
      expect.stringContaining('LOST check 1 of small'),
      named('kernel_1'),
      expect.stringContaining('LOST check 3 of small'),
      named('kernel_3'),
      '5 checks, 2 failed',
    ]);
    expect(result).toMatchObject({ starts: 3, status: 1, late: false });
    expect(shown.trim().split('\n')).toEqual(result.lines);
  });

  it('is not started for ever, nor past its time', async () => {
    const always = await program('gone', 'echo "LOST all: no device; go on with from=1"\nexit 3');
    expect(await runToEnd(always, [], 60)).toMatchObject({ starts: 20, status: 3 });
    // by a clock on which the first start takes all but half a second; the next one would never end
    let now = 0;
    vi.spyOn(performance, 'now').mockImplementation(() => now);
    const slow = await program(
      'slow',
      'case $1 in from=1) sleep 600;; esac\necho "LOST all: no device; go on with from=1"\nexit 3',
    );
    const slowly = await runToEnd(slow, [], 1000, () => (now = 999_500)).finally(() => vi.restoreAllMocks());
    expect(slowly).toMatchObject({ starts: 2, late: true });
    now = 0;
    vi.spyOn(performance, 'now').mockImplementation(() => now);
    const over = await runToEnd(always, [], 1000, () => (now = 1_000_000)).finally(() => vi.restoreAllMocks());
    expect(over).toMatchObject({ starts: 1, status: 3, late: false });
  });

  it('says of a check that fails with others alone that it does', async () => {
    const path = await program(
      'alone',
      'case $1 in only=0) echo 1 checks, 0 failed;; from=1) echo 2 checks, 1 failed; exit 1;; *) echo "LOST all: gone; go on with from=1"; exit 3;; esac',
    );
    const { lines } = await runToEnd(path, [], 60);
    expect(lines).toEqual([
      'LOST all: gone; go on with from=1',
      'NAMED with each launch waited for: alone it does not fail',
      '2 checks, 1 failed',
    ]);
  });

  it('is not asked which launch hangs, which would hang again', async () => {
    const path = await program(
      'hung',
      'case $1 in only=*) echo asked;; from=1) echo 2 checks, 1 failed;; *) echo "LOST all: it takes longer than 60 s; go on with from=1"; exit 3;; esac',
    );
    expect((await runToEnd(path, [], 60)).lines).toEqual([
      'LOST all: it takes longer than 60 s; go on with from=1',
      '2 checks, 1 failed',
    ]);
  });

  it('is one that fell otherwise where it does not say so', async () => {
    expect(
      await runToEnd(await program('aborted', 'echo "LOST all: no device; go on with from=1"\nexit 134'), [], 60),
    ).toMatchObject({ starts: 1, status: 134 });
  });
});
