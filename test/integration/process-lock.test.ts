import { fork, spawn, type ChildProcess } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, rmSync, writeFileSync } from 'node:fs';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { threadId, Worker } from 'node:worker_threads';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { takeLock } from '../../lib/files/process-lock.js';
import { bundleChild } from '../fixtures/child.js';
import { temporaryFolder } from '../fixtures/folder.js';
import type { LockMessage } from './process-lock-child.js';

const folder = temporaryFolder();
const bundle = await bundleChild('test/integration/process-lock-child.ts');
const thread = await bundleChild('test/integration/thread-lock-child.ts');
const file = join(folder, 'some.lock');
const dead = JSON.stringify({ host: hostname(), pid: process.pid, thread: 0, started: '1' });
const children: ChildProcess[] = [];
beforeAll(() => {
  for (let i = 0; i < 3; i++) children.push(fork(bundle));
});
afterAll(() => {
  for (const child of children) child.kill();
});

/** Sends all children a message, and waits for what they answer. */
async function ask<Answer>(message: LockMessage): Promise<Answer[]> {
  return Promise.all(
    children.map(
      async (child) =>
        new Promise<Answer>((resolve) => {
          child.once('message', (answer) => resolve(answer as Answer));
          child.send(message);
        }),
    ),
  );
}

describe('processes that take a lock at the same moment', () => {
  it.each([
    ['where there is none', undefined, 60],
    ['that a process left', dead, 60],
    ['that a power cut left empty', '', 2],
    ['that a power cut left in part', dead.slice(0, 20), 1],
  ])('%s: one of them holds it', async (_, before, rounds) => {
    const holders: number[] = [];
    for (let round = 0; round < rounds; round++) {
      rmSync(file, { force: true });
      if (before !== undefined) writeFileSync(file, before);
      holders.push((await ask<boolean>({ type: 'take', file, at: Date.now() + 8 })).filter(Boolean).length);
    }
    expect(holders).toEqual(holders.map(() => 1));
    expect(await readdir(folder)).toEqual(['some.lock']);
  });

  it('again and again, some dying with it: no two hold it at once', async () => {
    rmSync(file, { force: true });
    expect(await ask<number>({ type: 'churn', file, times: 100 })).toEqual([0, 0, 0]);
  });
});

describe('a lock', () => {
  it('is given back by its holder alone', async () => {
    rmSync(file, { force: true });
    const lock = await takeLock(file);
    if (!('release' in lock)) throw new Error('it was free');
    expect(await takeLock(file)).toMatchObject({ holder: { pid: process.pid } });
    const other = JSON.stringify({ host: 'elsewhere', pid: 1, thread: 0, started: '1' });
    await writeFile(file, other); // somebody removed the lock, and another process took it
    await lock.release();
    expect(await readFile(file, 'utf8')).toBe(other);
    rmSync(file);
    const again = await takeLock(file);
    if ('release' in again) await again.release();
    expect(existsSync(file)).toBe(false);
  });

  it('is taken over by one process at a time, and after one that died over it', async () => {
    rmSync(file, { force: true });
    const lock = await takeLock(file);
    const alive = await readFile(file, 'utf8');
    if ('release' in lock) await lock.release();
    writeFileSync(file, dead);
    const turn = join(folder, `.some.lock-${createHash('sha256').update(dead).digest('hex').slice(0, 12)}`);
    writeFileSync(turn, alive);
    expect(await takeLock(file)).toEqual({ holder: 'another' });
    expect(await readFile(file, 'utf8')).toBe(dead);
    writeFileSync(turn, dead);
    expect(await takeLock(file)).toHaveProperty('release');
    expect(await readdir(folder)).toEqual(['some.lock']);
  });

  it('is not taken from a process whose number means another one here, as in another container', async () => {
    rmSync(file, { force: true });
    const lock = await takeLock(file);
    const text = await readFile(file, 'utf8');
    writeFileSync(file, JSON.stringify({ ...(JSON.parse(text) as object), started: '1' }));
    expect(await takeLock(file)).toMatchObject({ holder: { isOwn: false } });
    expect(await ask<boolean>({ type: 'take', file, at: Date.now() })).toEqual([false, false, false]);
    if ('release' in lock) await lock.release();
    const next = await takeLock(file); // nobody listens any more
    expect(next).toHaveProperty('release');
    if ('release' in next) await next.release();
  });

  it('is taken over from a process that was killed and that its parent does not wait for', async () => {
    rmSync(file, { force: true });
    const parent = spawn('sh', ['-c', '"$0" "$@" & exec sleep 600', process.execPath, bundle, file]);
    try {
      await vi.waitFor(() => expect(existsSync(file)).toBe(true), 10_000);
      const { pid } = JSON.parse(await readFile(file, 'utf8')) as { pid: number };
      expect(await takeLock(file)).toMatchObject({ holder: { pid, isOwn: false } });
      process.kill(pid, 'SIGKILL');
      await vi.waitFor(async () => expect(await readFile(`/proc/${pid}/stat`, 'utf8')).toMatch(/\) Z /u), 10_000);
      await vi.waitFor(async () => expect(await readdir(`/proc/${pid}/task`)).toHaveLength(1), 10_000);
      const lock = await takeLock(file);
      expect(lock).toHaveProperty('release');
      if ('release' in lock) await lock.release();
    } finally {
      parent.kill('SIGKILL');
    }
  });

  it("is a thread's while that runs, and taken over once it was terminated", async () => {
    rmSync(file, { force: true });
    const worker = new Worker(thread, { workerData: file });
    expect(await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject))).toBe(true);
    expect(await takeLock(file)).toEqual({
      holder: expect.objectContaining({ pid: process.pid, thread: worker.threadId }) as unknown,
    });
    expect(await ask<boolean>({ type: 'take', file, at: Date.now() })).toEqual([false, false, false]);
    await worker.terminate();
    const lock = await takeLock(file);
    expect(lock).toHaveProperty('release');
    expect(JSON.parse(await readFile(file, 'utf8'))).toMatchObject({ pid: process.pid, thread: threadId });
    if ('release' in lock) await lock.release();
    expect(await readdir(folder)).toEqual([]);
  });
});
