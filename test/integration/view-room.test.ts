/** Whether the disk has room for the teacher's views is told before a run begins. */
import { existsSync } from 'node:fs';
import { statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, expect, test, vi } from 'vitest';
import type { ConfigInput } from '../../lib/config/config.js';
import { prepareRun, resumeConfig } from '../../lib/train/setup.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { drawShapes, smallConfig, train } from '../fixtures/tiny.js';
import { failure } from './train-fixture.js';

vi.mock('node:fs/promises', { spy: true });

const folder = temporaryFolder();
let data: string;
const config = (run: string, views: number): ConfigInput =>
  smallConfig(data, join(folder, run), {
    data: { resolution: 32 },
    teacherCache: { views, file: join(folder, 'views.lgd') },
    student: { name: 'mobilenet_v3_small', widthMultiplier: 0.25 },
    train: { maxSteps: 1 },
  });

/** So many bytes are free on every disk; undefined: its file system does not tell. */
function leave(bytes: number | undefined): void {
  const blocks = bytes === undefined ? 0 : 1e9;
  vi.mocked(statfs).mockResolvedValue({ blocks, bavail: (bytes ?? 0) / 512, bsize: 512 } as never);
}

beforeAll(async () => {
  data = await drawShapes(join(folder, 'data'), { count: 4, size: 48 });
});

test('rows that do not fit are refused, those that are there already are not counted', async () => {
  leave(4096);
  const refused = { code: 'NOT_WRITABLE', option: 'teacherCache.views' };
  expect(await failure(config('small', 2))).toMatchObject({
    ...refused,
    message: expect.stringContaining('there is no room for 32 teacher embeddings: 0 MiB are free') as string,
  });
  expect(existsSync(join(folder, 'small'))).toBe(false);
  leave(1e6);
  await train(config('whole', 2));
  leave(0);
  const options = { resume: 'last' } as const;
  await (await prepareRun(await resumeConfig(join(folder, 'whole')), options)).dispose();
  expect(await failure(config('more', 1000))).toMatchObject(refused);
});

test('a file system that tells no room is taken', async () => {
  leave(undefined);
  await train(config('untold', 1000));
});
