import { existsSync, mkdirSync, readdirSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { expect, test, vi } from 'vitest';
import { makeFolder, tryFolder } from '../../lib/files/make-folder.js';
import { temporaryFolder } from '../fixtures/folder.js';

vi.mock('node:fs/promises', { spy: true });

test('probes of processes that were killed are cleared away, and no others', async () => {
  const folder = join(temporaryFolder(), 'spilled');
  const lock = { pid: process.pid, thread: 0, started: '1', mark: '0123456789ab' };
  const left = {
    '.probe-000000000001': { ...lock, host: hostname() }, // of an earlier process with this one's number
    '.probe-000000000002': { ...lock, host: `not ${hostname()}` },
    '.probe-000000000003-0123456789ab-0123456789ab': { ...lock, host: hostname() }, // killed while it cleared
    '.probe-of-somebody': { ...lock, host: hostname() },
  };
  mkdirSync(folder);
  for (const [name, text] of Object.entries(left)) {
    writeFileSync(join(folder, name), JSON.stringify(text));
    utimesSync(join(folder, name), 1e9, 1e9);
  }
  const removers = [await tryFolder(folder, { hold: true }), await tryFolder(folder, { hold: true })];
  const isLeft = (name: string) => name in left;
  expect(readdirSync(folder).filter(isLeft)).toEqual(['.probe-000000000002', '.probe-of-somebody']);
  expect(readdirSync(folder).filter((name) => !isLeft(name))).toHaveLength(2);
  for (const remove of removers) await remove();
  expect(readdirSync(folder)).toEqual(['.probe-000000000002', '.probe-of-somebody']);
});

test('a probe that is new may be under way, and is neither waited for nor taken away', async () => {
  const folder = temporaryFolder();
  writeFileSync(join(folder, '.probe-000000000001'), 'x');
  await (
    await tryFolder(folder, { hold: true })
  )();
  expect(readdirSync(folder)).toEqual(['.probe-000000000001']);
});

test('of many who try a folder at once, each holds it', async () => {
  const folder = join(temporaryFolder(), 'shared');
  const removers = await Promise.all(Array.from({ length: 40 }, () => tryFolder(folder, { hold: true })));
  expect(readdirSync(folder)).toHaveLength(40);
  for (const remove of removers.slice(1)) await remove();
  expect(readdirSync(folder)).toHaveLength(1);
  await removers[0]!();
  expect(existsSync(folder)).toBe(false);
});

test('what stands in the way of a probe is told, whatever it is', async () => {
  const folder = join(temporaryFolder(), 'new');
  const full = Object.assign(new Error('EMFILE: too many open files, open'), { code: 'EMFILE' });
  vi.mocked(readFile).mockRejectedValueOnce(full);
  await expect(tryFolder(folder, { hold: true, option: 'some.folder' })).rejects.toMatchObject({
    code: 'NOT_WRITABLE',
    option: 'some.folder',
    message: expect.stringContaining(`cannot write ${folder}: this process has too many open files.`) as string,
    mend: 'Allow it more of them: ulimit -n 1024',
  });
  expect(existsSync(folder)).toBe(false);
});

test('a link in the place of a folder that leads nowhere is said to, with where', async () => {
  const folder = temporaryFolder();
  const link = join(folder, 'dangling');
  symlinkSync(join(folder, 'gone'), link);
  await expect(makeFolder(link)).rejects.toMatchObject({
    code: 'NOT_WRITABLE',
    message: expect.stringContaining(`it is a link to ${join(folder, 'gone')}, which is not there`) as string,
  });
});
