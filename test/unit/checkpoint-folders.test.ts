/** The last and the best checkpoint where symbolic links cannot be made, or a copy has files in their place. */
import { lstat, mkdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { beforeEach, expect, test, vi } from 'vitest';
import { findCheckpoint, pointTo } from '../../lib/files/checkpoint-folders.js';
import { CheckpointStore } from '../../lib/runs/checkpoint-store.js';
import type { Student } from '../../lib/models/student.js';
import { findStudentFile } from '../../lib/runs/student-file.js';
import { loadStartWeights } from '../../lib/train/start-weights.js';
import { temporaryFolder } from '../fixtures/folder.js';

vi.mock('node:fs/promises', { spy: true });

const folder = temporaryFolder();
let [run, count] = ['', 0];
beforeEach(async () => {
  vi.mocked(symlink).mockReset();
  run = join(folder, `${count++}`);
  for (const step of ['step-00000001', 'step-00000002']) {
    await mkdir(join(run, 'checkpoints', step), { recursive: true });
    await writeFile(join(run, 'checkpoints', step, 'manifest.json'), '{}');
  }
});

const refused = (code: string) => Object.assign(new Error(`${code}: operation not supported, symlink`), { code });
const found = async (which: 'last' | 'best') => basename((await findCheckpoint(run, which)) ?? 'none');

test.each(['EOPNOTSUPP', 'EPERM', 'EIO', 'ERR_ACCESS_DENIED'])('are files where a link gives %s', async (code) => {
  vi.mocked(symlink).mockRejectedValue(refused(code));
  await pointTo(run, 'best', 'step-00000001');
  await pointTo(run, 'last', 'step-00000001');
  expect([await found('last'), await found('best')]).toEqual(['step-00000001', 'step-00000001']);
  await pointTo(run, 'last', 'step-00000002');
  expect([await found('last'), await found('best')]).toEqual(['step-00000002', 'step-00000001']);
  expect((await lstat(join(run, 'checkpoints', 'last'))).isFile()).toBe(true);
});

test('a full disk is told of, and the link stays', async () => {
  await pointTo(run, 'last', 'step-00000001');
  vi.mocked(symlink).mockRejectedValue(refused('ENOSPC'));
  await expect(pointTo(run, 'last', 'step-00000002')).rejects.toMatchObject({ code: 'ENOSPC' });
  expect(await found('last')).toBe('step-00000001');
  expect((await lstat(join(run, 'checkpoints', 'last'))).isSymbolicLink()).toBe(true);
});

test('links take the place of files, and files that of links', async () => {
  await writeFile(join(run, 'checkpoints', 'last'), 'step-00000001'); // as git leaves a link where there are none
  expect(await found('last')).toBe('step-00000001');
  await pointTo(run, 'last', 'step-00000002');
  expect((await lstat(join(run, 'checkpoints', 'last'))).isSymbolicLink()).toBe(true);
  vi.mocked(symlink).mockRejectedValue(refused('EPERM'));
  await pointTo(run, 'last', 'step-00000001');
  expect(await readFile(join(run, 'checkpoints', 'last'), 'utf8')).toBe('step-00000001\n');
});

test('a file takes the place of a link to a checkpoint that is gone, not of the checkpoint', async () => {
  const gone = join(run, 'checkpoints', 'step-00000001');
  await pointTo(run, 'last', 'step-00000001');
  await rm(gone, { recursive: true });
  vi.mocked(symlink).mockRejectedValue(refused('EPERM'));
  await pointTo(run, 'last', 'step-00000002');
  expect(await readFile(join(run, 'checkpoints', 'last'), 'utf8')).toBe('step-00000002\n');
  await expect(lstat(gone)).rejects.toMatchObject({ code: 'ENOENT' });
});

test('a path to one of them leads to the checkpoint, be it a file or a link', async () => {
  const best = join(run, 'checkpoints', 'best');
  const file = join(run, 'checkpoints', 'step-00000001', 'model.safetensors');
  await writeFile(file, '');
  await pointTo(run, 'best', 'step-00000001');
  expect(await findStudentFile(best)).toBe(join(best, 'model.safetensors'));
  vi.mocked(symlink).mockRejectedValue(refused('EPERM'));
  await pointTo(run, 'best', 'step-00000001');
  expect(await findStudentFile(best)).toBe(file);
  expect(await findStudentFile(`${best}/`)).toBe(file);
  expect(await findStudentFile(join(best, 'model.safetensors'))).toBe(file);
  await expect(loadStartWeights({} as Student, join(best, 'model.safetensors'))).rejects.toMatchObject({
    code: 'BAD_FILE',
    message: expect.stringContaining(file) as string,
  });
  await expect((await CheckpointStore.open(run)).read(best)).rejects.toMatchObject({
    code: 'BAD_CHECKPOINT',
    message: expect.stringContaining(join('step-00000001', 'manifest.json')) as string,
  });
});

test('another file of that name says nothing', async () => {
  await writeFile(join(run, 'checkpoints', 'best'), '../elsewhere');
  await writeFile(join(run, 'checkpoints', 'last'), 'step-00000001 '.repeat(100));
  expect([await found('last'), await found('best')]).toEqual(['step-00000002', 'none']);
});
