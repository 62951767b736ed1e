import { readFile, readdir, rm } from 'node:fs/promises';
import { basename, join } from 'node:path';
import sharp from 'sharp';
import { beforeAll, describe, expect, it } from 'vitest';
import type { ConfigInput } from '../../lib/config/config.js';
import { ImageCache } from '../../lib/data/cache.js';
import { packImages } from '../../lib/data/pack/pack.js';
import { imagesFromBuffers } from '../../lib/data/sources.js';
import { openDevice } from '../../lib/device.js';
import { exportStudent } from '../../lib/export/student.js';
import { listCheckpoints } from '../../lib/files/checkpoint-folders.js';
import { LineFile } from '../../lib/files/line-file.js';
import { CheckpointStore } from '../../lib/runs/checkpoint-store.js';
import { readCheckpoint, type CheckpointContent } from '../../lib/runs/checkpoint.js';
import { resumeConfig } from '../../lib/train/setup.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { fillDisk, smallDisk } from '../fixtures/small-disk.js';
import { drawShapes, madeUpTeacher, plainPicture, sameBits, smallConfig, train } from '../fixtures/tiny.js';

const folder = temporaryFolder();
const mebibyte = 2 ** 20;

/** A checkpoint of about a mebibyte. */
function content(step: number): CheckpointContent {
  const data = Float32Array.from({ length: mebibyte / 8 }, (_, i) => step + i);
  const record = { weight: { shape: [data.length], data } };
  return {
    info: {
      architecture: 'mobilenet_v2',
      widthMultiplier: 1,
      embeddingSize: 4,
      resolution: 32,
      mean: [0, 0, 0],
      std: [1, 1, 1],
      names: [],
      templates: [],
      bankHash: '',
      textEncoder: '',
      teacher: 'none',
      method: 'seed',
      step,
      epoch: 0,
    },
    weights: record,
    optimizer: 'sgd',
    momentum: record,
    bank: undefined,
    semantic: {},
    progress: null,
  };
}
const plain = { best: null, isBest: false, keep: 2 };

const checkpoints = smallDisk('checkpoints on a full disk', 3.5 * mebibyte);
describe.skipIf(checkpoints === undefined)('checkpoints on a full disk', () => {
  const names = async (store: CheckpointStore) =>
    (await listCheckpoints(store.runFolder)).map((path) => basename(path));

  it('make room by removing those that would go anyway; the best and the last stay', async () => {
    const store = await CheckpointStore.open(join(checkpoints!, 'run'));
    // 3.5 MiB hold three, and not more
    for (const step of [1, 2, 3]) await store.write(content(step), { ...plain, isBest: step === 2, keep: 3 });
    expect(await names(store)).toHaveLength(3);
    await store.write(content(4), plain);
    expect(await names(store)).toEqual(['step-00000002', 'step-00000003', 'step-00000004']);
    expect([(await store.read('last')).info.step, (await store.read('best')).info.step]).toEqual([4, 2]);
    await store.write(content(5), { ...plain, keep: 1 });
    expect(await names(store)).toEqual(['step-00000002', 'step-00000005']);
    await rm(join(checkpoints!, 'run'), { recursive: true });
  });

  it('fail with what is free and what is needed, leave the earlier ones whole and nothing half written, and go on once there is room', async () => {
    const store = await CheckpointStore.open(join(checkpoints!, 'run'));
    await store.write(content(1), { ...plain, isBest: true });
    const ballast = fillDisk(checkpoints!, mebibyte / 2);
    const error = await store.write(content(2), plain).then(
      () => undefined,
      (caught: unknown) => caught,
    );
    expect(error).toMatchObject({
      code: 'NOT_WRITABLE',
      mend: expect.stringMatching(/^Free 0\.[1-9] MiB more on that disk.* `lgdistill resume .*\/run`$/u) as unknown,
    });
    expect((error as Error).message).toMatch(
      /the disk is full \(0\.\d of its 3\.5 MiB are free, 1\.0 MiB are needed\)/u,
    );
    expect((await readdir(store.folder)).sort()).toEqual(['best', 'last', 'step-00000001']);
    for (const link of ['last', 'best']) expect((await readCheckpoint(join(store.folder, link))).info.step).toBe(1);
    await rm(ballast);
    await store.write(content(2), plain);
    expect((await store.read('last')).info.step).toBe(2);
  });
});

const lines = smallDisk('metrics on a full disk', mebibyte);
it.skipIf(lines === undefined)('a line that a full disk takes in part is taken back', async () => {
  const file = await LineFile.open(lines!, 'metrics.jsonl', 0);
  await file.append('{"step":1}');
  const ballast = fillDisk(lines!);
  const long = JSON.stringify({ step: 2, text: 'x'.repeat(20_000) }); // more than what is left of the file's page
  await expect(file.append(long)).rejects.toMatchObject({
    code: 'NOT_WRITABLE',
    message: expect.stringContaining('0.0 of its 1.0 MiB are free') as unknown,
  });
  expect(await readFile(file.path, 'utf8')).toBe('{"step":1}\n');
  await rm(ballast);
  await file.append(long);
  await file.close();
  expect(await readFile(file.path, 'utf8')).toBe(`{"step":1}\n${long}\n`);
});

const packs = smallDisk('a pack on a full disk', 4 * mebibyte);
it.skipIf(packs === undefined)(
  'a pack keeps what it had when the disk was full, and ends with the same file once there is room',
  async () => {
    const count = 24;
    const picture = (i: number) =>
      sharp(Buffer.from(Uint8Array.from({ length: 30_000 }, (_, at) => (at * (i + 7) * 2654435761) >>> 24)), {
        raw: { width: 100, height: 100, channels: 3 },
      });
    const images = imagesFromBuffers(
      await Promise.all(
        Array.from({ length: count }, async (_, i) => ({
          id: `${i}`,
          bytes: await picture(i).png({ compressionLevel: 0 }).toBuffer(),
        })),
      ),
    );
    const whole = await packImages(images, { output: join(folder, 'whole.pack') });
    const output = join(packs!, 'x.pack');
    const ballast = fillDisk(packs!, mebibyte / 2); // 17 of the images
    for (let i = 0; i < 2; i++)
      await expect(packImages(images, { output, syncSeconds: 0 })).rejects.toMatchObject({
        code: 'NOT_WRITABLE',
        message: expect.stringContaining('the disk is full') as unknown,
      });
    await rm(ballast);
    const { resumed } = await packImages(images, { output });
    expect(resumed).toBeGreaterThanOrEqual(14);
    expect(resumed).toBeLessThanOrEqual(17);
    expect((await readFile(output)).equals(await readFile(whole.file))).toBe(true);
  },
);

const spilt = smallDisk('decoded images on a full disk', mebibyte);
it.skipIf(spilt === undefined)('decoded images that find no room there leave nothing', async () => {
  const bytes = await plainPicture('#123', 8);
  using device = await openDevice('cpu');
  const build = ImageCache.build(imagesFromBuffers([{ id: 'a', bytes }]), {
    device,
    resolution: 8,
    margin: 1,
    memoryLimitBytes: 0,
    spillFolder: spilt!,
    maxBrokenShare: 0,
  });
  await expect(build).rejects.toMatchObject({
    code: 'NOT_WRITABLE',
    message: expect.stringContaining(`${spilt} past 0 MiB: the disk is full`) as unknown,
  });
  expect(await readdir(spilt!)).toEqual([]);
});

const disk = smallDisk('a run on a full disk', 96 * mebibyte);
describe.skipIf(disk === undefined)('a run whose disk fills up', () => {
  let config: (path: string) => ConfigInput;
  beforeAll(async () => {
    const { teacher, bank } = await madeUpTeacher(join(folder, 'made-up'));
    const data = await drawShapes(join(folder, 'small'), { count: 8, size: 32 });
    config = (path) => ({ ...smallConfig(data, path, { teacher, bank, train: { epochs: 4 } }), names: undefined });
  });

  it('ends with an error, and goes on from its last checkpoint to the same bits', async () => {
    const whole = await train(config(join(folder, 'whole')));
    const broken = join(disk!, 'run');
    const failed = train(config(broken), {
      onEvent: (event) => event.type === 'step' && event.step === 6 && void fillDisk(disk!),
    });
    await expect(failed).rejects.toMatchObject({
      code: 'NOT_WRITABLE',
      message: expect.stringContaining('the disk is full') as unknown,
    });
    expect((await readdir(join(broken, 'checkpoints'))).sort()).toEqual(['best', 'last', 'step-00000004']);
    expect((await readFile(join(broken, 'metrics.jsonl'), 'utf8')).endsWith('\n')).toBe(true);
    await rm(join(disk!, 'ballast'));
    const { events, weights } = await train(await resumeConfig(broken), { resume: 'last' });
    expect(events[0]).toMatchObject({ type: 'start', step: 4 });
    for (const [name, values] of Object.entries(whole.weights))
      expect(sameBits(values, weights[name]!), name).toBe(true);

    fillDisk(disk!);
    const to = join(disk!, 'exported.safetensors');
    await expect(exportStudent({ from: broken, to })).rejects.toMatchObject({
      code: 'NOT_WRITABLE',
      message: expect.stringContaining(`cannot write ${to}: the disk is full`) as unknown,
    });
    expect((await readdir(disk!)).sort()).toEqual(['ballast', 'run']);
  });
});
