import { chmod, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { temporaryFolder } from '../fixtures/folder.js';
import { run } from '../gpu/programs.js';

// What scripts/gpu-check does where a program hangs or loses the GPU, which the emulated one never is: with programs that pretend.
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
    const path = await program('launcher', 'echo begun\nsleep 60 &\necho $!\nwait');
    const { lines, late, seconds, status } = await run(path, [], 1);
    expect(seconds).toBeLessThan(20);
    expect({ late, status }).toEqual({ late: true, status: null });
    expect(lines[0]).toBe('begun');
    expect(await ends(Number(lines[1]))).toBe(true);
  }, 90_000);

  it('is not waited for longer where a child that left its group holds the pipes', async () => {
    const path = await program('leaver', 'setsid sleep 15 &\necho left\nexec sleep 60');
    const { lines, late, seconds } = await run(path, [], 1);
    expect(seconds).toBeLessThan(10);
    expect({ late, lines }).toEqual({ late: true, lines: ['left'] });
  }, 90_000);

  it('is not late where it ends before', async () => {
    const path = await program('brief', 'echo one\necho two >&2\nexit 7');
    expect(await run(path, [], 60)).toMatchObject({ status: 7, late: false });
    await expect(run(join(folder, 'none'), [], 60)).rejects.toThrow('ENOENT');
  });
});
