import { execFileSync, spawn } from 'node:child_process';
import { pbkdf2 } from 'node:crypto';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, expect, test, vi } from 'vitest';
import { loadConfigFile } from '../../lib/config/config.js';
import { openImages } from '../../lib/data/open-images.js';
import { Journal, readJournal } from '../../lib/data/pack/journal.js';
import { LineFile } from '../../lib/files/line-file.js';
import { openToRead } from '../../lib/files/open.js';
import { openSafetensors } from '../../lib/files/safetensors.js';
import { hashModel } from '../../lib/models/teachers/fingerprint.js';
import { readStudent } from '../../lib/runs/student-file.js';
import { readCoco } from '../../lib/data/coco.js';
import { CategoryList } from '../../lib/text/names.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { allRuns } from '../fixtures/runs.js';

const folder = temporaryFolder();
const at = (name: string) => join(folder, name);
const pipes = [
  'a.txt',
  'b.json',
  'c.tar',
  'd.safetensors',
  'e.parquet',
  'f.txt',
  'g.pack.journal',
  'h.onnx',
  'i.safetensors',
].map(at);
execFileSync('mkfifo', pipes);
afterEach(() => {
  vi.useRealTimers();
});

test('a pipe that nothing writes to is told of, and no thread is left waiting', async () => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  const [names, config, tar, weights, parquet, , journal, onnx, student] = pipes as [
    string,
    string,
    string,
    string,
    string,
    string,
    string,
    string,
    string,
  ];
  const opened = new Map<string, Promise<unknown>>([
    [names, CategoryList.load(names)],
    [config, loadConfigFile(config)],
    [tar, openImages(tar)],
    [weights, openSafetensors(weights)],
    [parquet, openImages(parquet)],
    [journal, readJournal(journal, 'task', () => 0)],
    [onnx, hashModel(onnx)],
    [student, readStudent(student)],
  ]);
  let settled = false;
  const found = Promise.allSettled(opened.values()).then((results) => {
    settled = true;
    return results;
  });
  while (!settled) {
    await new Promise((resolve) => setImmediate(resolve));
    vi.advanceTimersByTime(100);
  }
  const reasons = (await found).map((result) =>
    result.status === 'rejected' ? (result.reason as Error).message : 'opened',
  );
  expect(reasons[0]).toMatch(/ writes to\. Give a file, or start what writes to it first\.$/u); // and no other advice
  for (const [i, path] of [...opened.keys()].entries())
    expect(reasons[i]).toContain(
      `${path} is ${path === parquet ? 'no regular file' : 'a pipe that nothing writes to'}`,
    );
  await (await Journal.open(journal, 'task', 0, () => 0)).close(); // takes the pipe's place
  expect(await Promise.all(Array.from({ length: 8 }, () => readFile(import.meta.filename)))).toHaveLength(8);
});

test('nor where all threads are busy when the wait begins', async () => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  const derive = promisify(pbkdf2);
  for (const pipe of ['1', '2', '3', '4'].map(at)) {
    execFileSync('mkfifo', [pipe]);
    const busy = new Set<Promise<unknown>>();
    let error: unknown;
    openToRead(pipe).catch((told: unknown) => {
      error = told;
    });
    while (error === undefined) {
      while (busy.size < 12) {
        const work = derive('', '', 10_000, 64, 'sha512').finally(() => busy.delete(work));
        busy.add(work);
      }
      await new Promise((resolve) => setImmediate(resolve));
      vi.advanceTimersByTime(100);
    }
    expect((error as Error).message).toContain('is a pipe that nothing writes to');
    await Promise.all(busy);
  }
  expect(await readFile(import.meta.filename)).toBeTruthy(); // by one of the four
});

test('a run folder with a pipe for one of its files is told of, after one wait', async () => {
  const run = async (name: string) => {
    const path = at(name.replace('.', '-'));
    await mkdir(path);
    if (name !== 'config.json') await writeFile(join(path, 'config.json'), '{}');
    execFileSync('mkfifo', [join(path, name)]);
    return path;
  };
  const [config, metrics, log] = [await run('config.json'), await run('metrics.jsonl'), await run('log.txt')];
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  for (const [path, file] of [
    [config, 'config.json'],
    [metrics, 'metrics.jsonl'],
    [log, 'log.txt'],
  ] as const) {
    const timers = vi.spyOn(globalThis, 'setTimeout');
    let settled = false;
    const read = allRuns([path])
      .then(
        () => undefined,
        (error: unknown) => error,
      )
      .finally(() => {
        settled = true;
      });
    while (!settled) {
      await new Promise((resolve) => setImmediate(resolve));
      vi.advanceTimersByTime(100);
    }
    expect(await read).toMatchObject({
      code: 'BAD_FILE',
      message: expect.stringContaining(`${join(path, file)} is a pipe that nothing writes to.`) as string,
    });
    expect(
      timers.mock.calls.filter(([, milliseconds]) => milliseconds === 5000),
      file,
    ).toHaveLength(1);
    timers.mockRestore();
  }
  await expect(LineFile.open(metrics, 'metrics.jsonl', 0)).rejects.toMatchObject({ code: 'NOT_WRITABLE' });
  expect(await Promise.all(Array.from({ length: 8 }, () => readFile(import.meta.filename)))).toHaveLength(8);
});

test('a pipe with a writer is read, also one that comes a little later', async () => {
  const pipe = pipes[5]!;
  spawn('sh', ['-c', `sleep 0.05; echo cat > '${pipe}'`]);
  expect((await CategoryList.load(pipe)).names).toEqual(['cat']);
});

test('a device, which may have no end, is not read', async () => {
  for (const read of [CategoryList.load, loadConfigFile, readCoco])
    for (const device of ['/dev/null', '/dev/zero'])
      await expect(read(device)).rejects.toMatchObject({
        message: expect.stringContaining(`${device} is no regular file`) as string,
        mend: 'Write what it gives into a file, and give that',
      });
});
