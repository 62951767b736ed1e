import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { expect, it, vi } from 'vitest';
import { takeLock } from '../../lib/files/process-lock.js';
import { temporaryFolder } from '../fixtures/folder.js';

const link = vi.hoisted(() => vi.fn());
vi.mock('node:fs/promises', async (importOriginal) => ({ ...(await importOriginal<object>()), link }));

const folder = temporaryFolder();

it('a lock on a file system without links is taken, refused, taken over and given back', async () => {
  link.mockRejectedValue(Object.assign(new Error('operation not permitted'), { code: 'EPERM' }));
  const file = join(folder, 'some.lock');
  for (const before of [
    undefined,
    JSON.stringify({ host: hostname(), pid: process.pid, thread: 0, started: '1' }),
    '',
  ]) {
    if (before !== undefined) writeFileSync(file, before);
    const lock = await takeLock(file);
    expect(JSON.parse(readFileSync(file, 'utf8'))).toMatchObject({ host: hostname(), pid: process.pid });
    expect(await takeLock(file)).toMatchObject({ holder: { pid: process.pid } });
    if ('release' in lock) await lock.release();
    expect(readdirSync(folder)).toEqual([]);
  }
  expect(link).toHaveBeenCalled();
});

it('a link whose answer is lost on the network is held all the same', async () => {
  const file = join(folder, 'other.lock');
  link.mockImplementationOnce((from: string, to: string) => {
    writeFileSync(to, readFileSync(from));
    return Promise.reject(Object.assign(new Error('file exists'), { code: 'EEXIST' }));
  });
  const lock = await takeLock(file);
  expect(lock).toHaveProperty('release');
  if ('release' in lock) await lock.release();
  expect(existsSync(file)).toBe(false);
});

it('says which lock it cannot give back', async () => {
  link.mockRejectedValue(Object.assign(new Error('operation not permitted'), { code: 'EPERM' }));
  const file = join(folder, 'third.lock');
  const lock = await takeLock(file);
  rmSync(file);
  mkdirSync(file); // not to be read
  await expect('release' in lock && lock.release()).rejects.toMatchObject({
    code: 'NOT_WRITABLE',
    message: expect.stringContaining(file) as string,
  });
});

it.each(['{"name":"a package"}', 'notes\n'])('another file of its name stays: %s', async (text) => {
  const file = join(folder, 'package.lock');
  writeFileSync(file, text);
  await expect(takeLock(file)).rejects.toMatchObject({
    code: 'NOT_WRITABLE',
    message: expect.stringContaining('there is another file of that name') as string,
  });
  expect(readFileSync(file, 'utf8')).toBe(text);
});

it.each(['\0\0\0', '{"ho'])('what a power cut left of one is taken over: %j', async (text) => {
  const file = join(folder, 'torn.lock');
  writeFileSync(file, text);
  const lock = await takeLock(file);
  expect(lock).toHaveProperty('release');
  if ('release' in lock) await lock.release();
});
