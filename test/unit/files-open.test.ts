import { execFileSync, spawn } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, expect, test, vi } from 'vitest';
import { loadConfigFile } from '../../lib/config.js';
import { openImages } from '../../lib/data/open-images.js';
import { openSafetensors } from '../../lib/files/safetensors.js';
import { CategoryList } from '../../lib/text/names.js';
import { temporaryFolder } from '../fixtures/folder.js';

const folder = temporaryFolder();
const at = (name: string) => join(folder, name);
const pipes = ['a.txt', 'b.json', 'c.tar', 'd.safetensors', 'e.parquet', 'f.txt'].map(at);
execFileSync('mkfifo', pipes);
afterEach(() => { vi.useRealTimers(); });

test('a pipe that nothing writes to is told of, and no thread is left waiting', async () => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  const [names, config, tar, weights, parquet] = pipes as [string, string, string, string, string];
  const opened = [CategoryList.load(names), loadConfigFile(config), openImages(tar), openSafetensors(weights), openImages(parquet)];
  let settled = false;
  const found = Promise.allSettled(opened).then((results) => { settled = true; return results; });
  while (!settled) {
    await new Promise((resolve) => setImmediate(resolve));
    vi.advanceTimersByTime(100);
  }
  const reasons = (await found).map((result) => (result.status === 'rejected' ? (result.reason as Error).message : 'opened'));
  for (const [i, reason] of reasons.entries()) expect(reason).toContain(`${pipes[i]} is ${i < 4 ? 'a pipe that nothing writes to' : 'no regular file'}`);
  expect(await Promise.all(Array.from({ length: 8 }, () => readFile(import.meta.filename)))).toHaveLength(8);
});

test('a pipe with a writer is read, also one that comes a little later', async () => {
  const pipe = pipes[5]!;
  spawn('sh', ['-c', `sleep 0.05; echo cat > '${pipe}'`]);
  expect((await CategoryList.load(pipe)).names).toEqual(['cat']);
});
