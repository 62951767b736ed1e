/** Whether the disk has room for the teacher's views is told before a run begins. */
import { existsSync, mkdirSync, realpathSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { statfs } from 'node:fs/promises';
import { constants } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeAll, expect, test, vi } from 'vitest';
import type { ConfigInput } from '../../lib/config/config.js';
import { LgdError } from '../../lib/errors.js';
import { prepareRun, resumeConfig } from '../../lib/train/setup.js';
import { TeacherViewCache } from '../../lib/train/view-cache.js';
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

/** So many bytes are free on every disk, or on the one of a folder, and so many more to root. */
function leave(bytes: number, { at, reserved = 0 }: { at?: string; reserved?: number } = {}): void {
  vi.mocked(statfs).mockImplementation((async (path: string) => {
    const free = at === undefined || path === at ? bytes : 0;
    return { blocks: 1e6, bfree: (free + reserved) / 512, bavail: free / 512, bsize: 512 };
  }) as never);
}

afterEach(() => vi.restoreAllMocks());

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

/** Prepares a run that keeps 32 rows in a file of its own, begun by its header. */
async function prepare(name: string, others: Partial<ConfigInput> = {}, file = join(folder, `${name}.lgd`)) {
  await (await prepareRun({ ...config(name, 2), teacherCache: { views: 2, file }, ...others })).dispose();
}

test('a disk that does not tell how large it is may have room', async () => {
  vi.mocked(statfs).mockResolvedValue({ blocks: 0, bfree: 0, bavail: 0, bsize: 4096 } as never);
  await prepare('unlimited');
});

test('the disk is that of the file which a link leads to', async () => {
  const other = join(realpathSync(folder), 'other');
  mkdirSync(other);
  const [file, link] = [join(other, 'views.lgd'), join(folder, 'link.lgd')];
  await train({ ...config('first', 2), teacherCache: { views: 2, file } });
  symlinkSync(file, link);
  truncateSync(file, 4096);
  leave(1e6, { at: other });
  await prepare('linked', {}, link);
});

test('what is reserved for root is free to root alone', async () => {
  const user = vi.spyOn(process, 'geteuid').mockReturnValue(0);
  leave(0, { reserved: 1e6 });
  await prepare('root');
  user.mockReturnValue(1000);
  await expect(prepare('user')).rejects.toMatchObject({ option: 'teacherCache.views' });
});

test('what overwriting removes makes room', async () => {
  await train(config('again', 2));
  leave(0);
  const other = join(folder, 'again', 'log.txt');
  writeFileSync(other, '');
  truncateSync(other, 1e6);
  await prepare('again', { overwrite: true });
  truncateSync(other, 0);
});

test('a mount whose files cannot grow so is told from a full disk', async () => {
  leave(1e9);
  await using prepared = await prepareRun({ ...config('seek', 2), teacherCache: { views: 2 } });
  const { device, teacher, dataset, distiller } = prepared;
  const images = { length: dataset.length, sourceIndex: dataset.sourceIndex, hash: 'mine' };
  const used = { ...distiller.config, teacherCache: { views: 2, file: join(folder, 'seek.lgd') } };
  const opening = async (errno?: number) => {
    const cause = Object.assign(new Error('no'), { code: 'NOT_WRITABLE', errno });
    vi.spyOn(device.addon, 'openRows').mockRejectedValueOnce(new LgdError('NOT_WRITABLE', 'no', { cause }));
    const { precision } = distiller.encoder;
    return TeacherViewCache.open({ device, teacher, config: used, precision, dataset, images });
  };
  await expect(opening(-constants.errno.ENOSPC)).rejects.toMatchObject({
    message: expect.stringContaining('there is no room for 32') as string,
  });
  await expect(opening()).rejects.toMatchObject({
    code: 'NOT_WRITABLE',
    option: 'teacherCache.views',
    mend: 'Give teacherCache.file a place on a local disk (a mounted bucket needs a cache of writes)',
  });
});

test('what cannot be freed keeps nothing else of a run from being freed', async () => {
  leave(1e9);
  const prepared = await prepareRun(config('freed', 2));
  const failed = new Error('not to be freed');
  vi.spyOn(prepared.teacher, 'dispose').mockImplementationOnce(() => {
    throw failed;
  });
  await expect(prepared.dispose()).rejects.toBe(failed);
  expect(() => prepared.device.handle).toThrow('disposed of');
});
