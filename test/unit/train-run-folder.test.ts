import { chmod, mkdir, mkdtemp, readFile, readdir, rm, symlink, writeFile } from 'node:fs/promises';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { threadId } from 'node:worker_threads';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { RunConfig } from '../../lib/config/batch.js';
import { parseConfig } from '../../lib/config/config.js';
import type { LgdError } from '../../lib/errors.js';
import { RunFolder, checkRunFolder, readRunConfig } from '../../lib/runs/run-folder.js';
import { asUser } from '../fixtures/folder.js';

let root: string;
let path: string;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'lgd-run-'));
  path = join(root, 'run');
});
afterEach(() => rm(root, { recursive: true, force: true }));

const numbers = { batchSize: 256, learningRate: 0.03 };
const config = parseConfig({ seed: 5, train: numbers }) as RunConfig;
const lines = async () =>
  (await readFile(join(path, 'metrics.jsonl'), 'utf8'))
    .split('\n')
    .filter(Boolean)
    .map((line) => {
      const { time, ...rest } = JSON.parse(line) as { type: string; step: number; time: number };
      expect(Math.abs(Date.now() - time)).toBeLessThan(60_000);
      return rest;
    });

describe('checkRunFolder', () => {
  const neither = { overwrite: false, resume: false };
  it('makes the folder and leaves nothing in it', async () => {
    await checkRunFolder(path, neither);
    expect(await readdir(path)).toEqual([]);
  });

  it('tells how to remove the folder, which spares one that was there or that something is in', async () => {
    await (
      await checkRunFolder(path, neither)
    )();
    expect(await readdir(root)).toEqual([]);
    const remove = await checkRunFolder(path, neither);
    await (
      await checkRunFolder(path, neither)
    )();
    await writeFile(join(path, 'notes.md'), 'mine');
    await remove();
    expect(await readdir(path)).toEqual(['notes.md']);
  });

  it('tells how to remove the folders above it, as far as they were not there and are empty', async () => {
    const inner = join(root, 'runs', 'first', 'run');
    await (
      await checkRunFolder(inner, neither)
    )();
    expect(await readdir(root)).toEqual([]);
    await mkdir(join(root, 'runs'));
    const remove = await checkRunFolder(inner, neither);
    await writeFile(join(root, 'runs', 'first', 'notes.md'), 'mine');
    await remove();
    expect(await readdir(join(root, 'runs', 'first'))).toEqual(['notes.md']);
    await rm(join(root, 'runs', 'first'), { recursive: true });
    await (
      await checkRunFolder(inner, neither)
    )();
    expect(await readdir(root)).toEqual(['runs']);
  });

  it('removes what it made on the way to a folder that cannot be made', async () => {
    await expect(checkRunFolder(join(root, 'runs', 'x'.repeat(300)), neither)).rejects.toMatchObject({
      code: 'NOT_WRITABLE',
    });
    expect(await readdir(root)).toEqual([]);
  });

  it('knows the folder of decoded images in it through a link, too', async () => {
    await mkdir(join(path, 'decoded'), { recursive: true });
    await symlink(root, join(root, 'linked'));
    const linked = join(root, 'linked', 'run');
    await checkRunFolder(linked, { ...neither, spillFolder: join(path, 'decoded') });
    await checkRunFolder(path, { ...neither, spillFolder: join(linked, 'decoded', 'pixels') });
    await expect(checkRunFolder(linked, { ...neither, spillFolder: join(path, 'other') })).rejects.toMatchObject({
      code: 'BAD_CONFIG',
    });
  });

  it('looks at a folder for several callers at once', async () => {
    await Promise.all(Array.from({ length: 8 }, () => checkRunFolder(path, neither)));
    expect(await readdir(path)).toEqual([]);
  });

  it('refuses a folder that is not empty unless told what to do', async () => {
    await mkdir(join(path, 'lost+found'), { recursive: true });
    await checkRunFolder(path, neither);
    await mkdir(join(path, 'checkpoints'), { recursive: true });
    await expect(checkRunFolder(path, neither)).rejects.toMatchObject({
      code: 'BAD_CONFIG',
      option: 'output',
      mend: expect.stringContaining('Resume') as unknown,
    });
    await checkRunFolder(path, { overwrite: true, resume: false });
    await checkRunFolder(path, { overwrite: false, resume: true });
  });

  it('takes the folder of a run that was killed before it had a configuration for an empty one', async () => {
    await mkdir(path);
    for (const name of ['run.lock', 'start.json', '.config.json.0123456789ab.tmp'])
      await writeFile(join(path, name), '{}');
    await checkRunFolder(path, neither);
    await writeFile(join(path, 'config.json'), '{}');
    await expect(checkRunFolder(path, neither)).rejects.toMatchObject({ code: 'BAD_CONFIG', option: 'output' });
  });

  it.each([
    ['a file in its place', 'run'],
    ['a file above it', 'run/inner'],
  ])('refuses %s', async (_, inner) => {
    await writeFile(path, '');
    await expect(checkRunFolder(join(root, inner), neither)).rejects.toMatchObject({ code: 'NOT_WRITABLE' });
  });

  it('says of what is there and cannot be looked at why', async () => {
    await symlink('run', path);
    await expect(checkRunFolder(path, neither)).rejects.toMatchObject({
      code: 'NOT_WRITABLE',
      message: expect.stringContaining('its symbolic links lead round in a circle') as string,
    });
    await rm(path);
    await symlink('nowhere', path);
    await expect(checkRunFolder(path, neither)).rejects.toMatchObject({
      code: 'NOT_WRITABLE',
      message: expect.stringContaining('it is a link to') as string,
    });
  });

  it("is not overwritten where it is a model's", async () => {
    await mkdir(path);
    const overwrite = () => checkRunFolder(path, { overwrite: true, resume: false });
    const refused = { code: 'BAD_CONFIG', option: 'output', found: path };
    await writeFile(join(path, 'model.safetensors'), 'weights');
    await expect(overwrite()).rejects.toMatchObject(refused);
    await writeFile(join(path, 'config.json'), '{"model_type":"clip"}');
    await expect(overwrite()).rejects.toMatchObject(refused);
    await writeFile(join(path, 'config.json'), '{"student":{"na'); // a run's, of a disk that was full
    await overwrite();
    await writeFile(join(path, 'config.json'), '{"student":{"name":"resnet18"}}');
    await overwrite();
  });

  it('refuses a file system that takes no files', async () => {
    await expect(checkRunFolder('/proc/self/run', neither)).rejects.toMatchObject({ code: 'NOT_WRITABLE' });
  });

  it('refuses a folder that it may write to but not read', async () => {
    await mkdir(path);
    await chmod(root, 0o755);
    await chmod(path, 0o333);
    await asUser(() =>
      expect(checkRunFolder(path, neither)).rejects.toMatchObject({
        code: 'BAD_FILE',
        option: 'output',
        mend: 'Check its permissions',
      }),
    );
  });
});

describe('RunFolder', () => {
  it('records configuration, metrics and log, and drops what comes after a checkpoint', async () => {
    const first = await RunFolder.open(path, config, { resume: false });
    expect(await readRunConfig(path)).toEqual(JSON.parse(JSON.stringify(config)));
    for (const step of [1, 2, 3, 4]) await first.metrics({ type: 'step', step });
    await first.metrics({ type: 'evaluation', step: 4 });
    await first.metrics({ type: 'step', step: 5 });
    await first.log('hello');
    await first.sync();
    await first.close();
    await writeFile(join(path, 'metrics.jsonl'), '{"type":"step","st', { flag: 'a' }); // torn by a kill

    const second = await RunFolder.open(path, config, { resume: true });
    await second.rewind(4, 4);
    expect(await lines()).toEqual([
      ...[1, 2, 3, 4].map((step) => ({ type: 'step', step })),
      { type: 'evaluation', step: 4 },
    ]);
    await second.rewind(4, 2); // the checkpoint was written before that evaluation
    await second.metrics({ type: 'evaluation', step: 4, again: true });
    expect(await lines()).toEqual([
      ...[1, 2, 3, 4].map((step) => ({ type: 'step', step })),
      { type: 'evaluation', step: 4, again: true },
    ]);
    await second.close();
    expect(await readFile(join(path, 'log.txt'), 'utf8')).toMatch(/^\d{4}-\d\d-\d\dT.* hello\n$/u);
  });

  it('overwrites only what a run writes', async () => {
    await mkdir(join(path, 'checkpoints', 'step-00000001'), { recursive: true });
    await writeFile(join(path, 'notes.md'), 'mine');
    await writeFile(join(path, 'metrics.jsonl'), 'old');
    const folder = await RunFolder.open(path, parseConfig({ overwrite: true, train: numbers }) as RunConfig, {
      resume: false,
    });
    expect((await readdir(path)).sort()).toEqual(['config.json', 'log.txt', 'metrics.jsonl', 'notes.md', 'run.lock']);
    expect(await lines()).toEqual([]);
    await folder.close();
  });

  it('clears away what a kill left of files that were not whole, and no other', async () => {
    await mkdir(path);
    const left = [
      'config.json',
      'start.json',
      'images.tsv.gz',
      'broken-images.txt',
      'teacher-views.lgd',
      'report.html',
    ].map((name) => `.${name}.0123456789ab.tmp`);
    const others = ['.notes.md.0123456789ab.tmp', '.config.json.swp', '.config.json.tmp'];
    for (const name of [...left, ...others]) await writeFile(join(path, name), 'x');
    await (await RunFolder.open(path, config, { resume: true })).close();
    expect((await readdir(path)).sort()).toEqual([...others, 'log.txt', 'metrics.jsonl'].sort());
  });

  it('lists broken images', async () => {
    const folder = await RunFolder.open(path, config, { resume: false });
    await folder.listBroken([
      { id: 'a/b.jpg', reason: 'cut\r\nshort' },
      { id: 'a\nb.jpg', reason: 'gone' },
    ]);
    expect(await readFile(join(path, 'broken-images.txt'), 'utf8')).toBe('a/b.jpg\tcut short\n"a\\nb.jpg"\tgone\n');
    await folder.listBroken([]);
    expect(await readdir(path)).not.toContain('broken-images.txt');
    await mkdir(join(path, 'broken-images.txt'));
    await expect(folder.listBroken([])).rejects.toMatchObject({
      code: 'NOT_WRITABLE',
      message: expect.stringContaining('broken-images.txt') as string,
    });
    await folder.close();
  });

  it('lets one process in at a time, and takes over from one that is gone', async () => {
    const folder = await RunFolder.open(path, config, { resume: false });
    await expect(RunFolder.open(path, config, { resume: true })).rejects.toMatchObject({
      code: 'BAD_CONFIG',
      option: 'output',
    });
    await folder.close();
    // a process of this number, but an earlier one
    await writeFile(join(path, 'run.lock'), JSON.stringify({ host: hostname(), pid: process.pid, started: '1' }));
    await (await RunFolder.open(path, config, { resume: true })).close();
    await writeFile(join(path, 'run.lock'), '{"host":');
    await (await RunFolder.open(path, config, { resume: true })).close();
    await writeFile(join(path, 'run.lock'), JSON.stringify({ host: 'elsewhere', pid: 1, started: '1' }));
    await expect(RunFolder.open(path, config, { resume: true })).rejects.toMatchObject({ code: 'BAD_CONFIG' });
  });

  it('clears away what a process left that was killed while it began, and nothing else', async () => {
    await mkdir(path);
    for (const name of [
      '.probe-0123456789ab',
      '.run.lock-0123456789ab',
      '.run.lock-0123456789ab-ba9876543210',
      '.notes',
      '.probe-mine',
    ])
      await writeFile(join(path, name), 'x');
    await symlink('x', join(path, '.probe-ba9876543210'));
    const folder = await RunFolder.open(path, config, { resume: true });
    expect((await readdir(path)).filter((name) => name.startsWith('.')).sort()).toEqual(['.notes', '.probe-mine']);
    await folder.close();
  });

  it('says which call or thread of this process is in the folder', async () => {
    const refusal = () =>
      RunFolder.open(path, config, { resume: true }).then(
        () => undefined,
        (error: LgdError) => error,
      );
    const folder = await RunFolder.open(path, config, { resume: false });
    const own = await refusal();
    expect(own?.message).toContain(
      `this process itself (process ${process.pid}, in another call) is writing to this run folder`,
    );
    expect(own?.mend).toBe('Wait for it, or choose another folder');
    const file = join(path, 'run.lock');
    const lock = JSON.parse(await readFile(file, 'utf8')) as { thread: number };
    expect(lock.thread).toBe(threadId);
    await folder.close();
    await writeFile(file, JSON.stringify({ ...lock, thread: threadId + 1000 }));
    const thread = await refusal();
    expect(thread?.message).toContain(
      `this process itself (process ${process.pid}, in its thread ${threadId + 1000}) is writing`,
    );
    expect(thread?.mend).toBe('Wait for it, or choose another folder');
    await writeFile(file, JSON.stringify({ host: 'elsewhere', pid: 1, started: '1' }));
    expect((await refusal())?.mend).toBe(
      `Wait for it, or choose another folder (remove ${file} if that process is gone)`,
    );
  });

  it('says what is no run folder', async () => {
    await expect(readRunConfig(path)).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
    await mkdir(path);
    await writeFile(join(path, 'config.json'), '{');
    await expect(readRunConfig(path)).rejects.toMatchObject({ code: 'BAD_FILE' });
  });
});
