import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { addonPath, loadAddon } from '../../lib/addon/addon.js';
import { TextualSemanticsBank } from '../../lib/banks/textual.js';
import { parseConfig } from '../../lib/config/config.js';
import { ImageCache } from '../../lib/data/cache.js';
import { imagesFromBuffers } from '../../lib/data/sources.js';
import { openDevice, type Device } from '../../lib/device.js';
import {
  createEncoder,
  createStudent,
  loadTeacher,
  PrecomputedTeacher,
  type AnyTeacher,
} from '../../lib/models/index.js';
import { ClipTextEncoder } from '../../lib/text/onnx-encoder.js';
import type { Batch } from '../../lib/train/batch.js';
import { Distiller } from '../../lib/train/distiller.js';
import { prepareRun } from '../../lib/train/setup.js';
import { TeacherViewCache } from '../../lib/train/view-cache.js';
import { isWanted } from '../devices.js';
import { bundleChild } from '../fixtures/child.js';
import { differing } from '../fixtures/differing.js';
import { temporaryFolder } from '../fixtures/folder.js';
import {
  drawShapes,
  madeUpTeacher,
  ownTeacher,
  plainPicture,
  smallCache,
  smallConfig,
  tinyClip,
} from '../fixtures/tiny.js';
import { buildEmulatedAddon } from '../native/emulated.js';
import { noteSkip } from '../shared.js';

const folder = temporaryFolder();
const child = await bundleChild('test/integration/lifecycle-child.ts');
const forgetful = await bundleChild('test/integration/forgotten-child.ts');
const exiting = await bundleChild('test/integration/exiting-child.ts');
const small = { embeddingSize: 16, widthMultiplier: 0.1 };
const ids = ['circle/0.png', 'square/0.png'];
const teacherFile = join(folder, 'teacher.safetensors');
let device: Device;
let picture: Buffer;

beforeAll(async () => {
  device = await openDevice('cpu', { threads: 2 });
  picture = await plainPicture('teal', 96);
  await PrecomputedTeacher.save(
    teacherFile,
    ids,
    Float32Array.from({ length: 32 }, (_, i) => Math.cos(i)),
    { resolution: 32 },
  );
});
afterAll(() => device.dispose());

const makeCache = () =>
  ImageCache.build(imagesFromBuffers(ids.map((id) => ({ id, bytes: picture }))), smallCache(device, folder, 96));
const makeEncoder = () => createEncoder('mobilenet_v3_small', { device, ...small, resolution: 32, batch: 2 });
async function makeDistiller(teacher?: AnyTeacher): Promise<Distiller> {
  const tsb = TextualSemanticsBank.fromEmbeddings(
    ['circle', 'square'],
    Float32Array.from({ length: 32 }, (_, i) => Math.sin(i + 1)),
    { encoderId: 'made up' },
  );
  const student = createStudent('mobilenet_v3_small', { device, ...small });
  return new Distiller({
    device,
    teacher: teacher ?? (await loadTeacher(teacherFile, { device })),
    student,
    tsb,
    config: { method: 'lgd', data: { resolution: 32 }, train: { batchSize: 2 } },
  });
}
async function makeViewCache(): Promise<TeacherViewCache> {
  const dataset = await makeCache();
  const file = join(folder, 'views.lgd');
  const config = parseConfig({ teacherCache: { views: 1, file }, data: { resolution: 32 } });
  const images = { length: 2, sourceIndex: dataset.sourceIndex, hash: 'two' };
  return TeacherViewCache.open({ device, teacher: ownTeacher(), config, precision: 'float32', dataset, images });
}
const batchOf = (dataset: ImageCache): Batch => ({
  dataset,
  images: Int32Array.of(0, 1),
  drawIds: Int32Array.of(0, 1),
  seed: 0,
  epoch: 0,
  step: 0,
});

describe('an object that was disposed of', () => {
  const pixels = new Float32Array(2 * 3 * 32 * 32);
  it.each<[string, () => Promise<Disposable & { dispose(): unknown }>, string, (object: never) => unknown]>([
    ['a device', () => openDevice('cpu', { threads: 1 }), 'the device cpu', (object: Device) => object.info],
    [
      'an encoder',
      makeEncoder,
      'the encoder mobilenet_v3_small',
      (object: Awaited<ReturnType<typeof makeEncoder>>) => object.forward(pixels),
    ],
    [
      'a compiled encoder',
      async () => (await makeEncoder()).compiled,
      'the encoder mobilenet_v3_small',
      (object: Awaited<ReturnType<typeof makeEncoder>>['compiled']) => object.output,
    ],
    ['a distiller', makeDistiller, 'the distiller', (object: Distiller) => object.state()],
    ['an image cache', makeCache, 'the image cache (2 images)', (object: ImageCache) => object.store],
    [
      'a cache of teacher views',
      makeViewCache,
      'the cache of teacher views',
      async (object: TeacherViewCache) => {
        using distiller = await makeDistiller();
        distiller.useViewCache(object);
      },
    ],
    [
      'a teacher of precomputed embeddings',
      () => PrecomputedTeacher.load(teacherFile),
      'the teacher teacher',
      (object: PrecomputedTeacher) => object.lookup(['circle/0.png']),
    ],
    [
      'a native teacher',
      () => loadTeacher(tinyClip, { device }),
      'the teacher tiny-clip',
      (object: Extract<AnyTeacher, { kind: 'native' }>) => object.embed(new Float32Array(3 * 64 * 64), 1),
    ],
  ])('%s frees once, and says its name', async (_, make, name, use) => {
    const object = await make();
    {
      using same = object; // `using` takes it
      await use(same as never);
    }
    object.dispose();
    await object.dispose();
    await expect(async () => use(object as never)).rejects.toMatchObject({
      code: 'DISPOSED',
      message: expect.stringContaining(name) as string,
      mend: expect.any(String) as string,
    });
  });

  it('with a promise to dispose goes by await using', async () => {
    let kept: ClipTextEncoder;
    {
      await using encoder = await ClipTextEncoder.load(tinyClip);
      kept = encoder;
      expect(await encoder.encode(['a cat'])).toHaveLength(encoder.embeddingSize);
    }
    await expect(kept.encode(['a cat'])).rejects.toMatchObject({ code: 'DISPOSED' });
    const data = await drawShapes(join(folder, 'shapes'), { count: 8, size: 32 });
    const { teacher, bank } = await madeUpTeacher(join(folder, 'made-up'));
    const config = smallConfig(data, join(folder, 'run'), {
      names: undefined,
      bank,
      teacher,
      data: { train: data, resolution: 32 },
    });
    let distiller: Distiller;
    {
      await using run = await prepareRun(config);
      distiller = run.distiller;
      let isFreed = false;
      void run.dispose().then(() => (isFreed = true));
      await run.dispose(); // beside one that is under way
      expect(isFreed).toBe(true);
    }
    await expect(distiller.state()).rejects.toMatchObject({ code: 'DISPOSED' });
  });
});

describe('disposal with work under way', () => {
  it('lets queued work end, and frees its memory then', async () => {
    const before = device.info.allocatedBytes;
    const cache = await makeCache();
    const distiller = await makeDistiller();
    const encoder = await makeEncoder();
    const ticket = await distiller.queueStep([batchOf(cache)], { step: 0, learningRate: 0.1 });
    const metrics = distiller.readMetrics(ticket);
    const output = encoder.forward(new Float32Array(2 * 3 * 32 * 32), { training: true });
    for (const object of [cache, distiller, encoder]) object.dispose();
    expect((await metrics).loss).toBeGreaterThan(0);
    expect(await output).toHaveLength(32);
    await device.synchronize();
    expect(device.info.allocatedBytes).toBeLessThan(before + 2 ** 20); // scratch memory may have grown
  });

  it('waits for a teacher outside the device', async () => {
    const known = await PrecomputedTeacher.load(teacherFile);
    let answer: () => void = () => undefined;
    const asked = new Promise<void>((resolve) => (answer = resolve));
    const slow = ownTeacher({ mean: known.mean, std: known.std, embed: () => asked.then(() => known.lookup(ids)) });
    using cache = await makeCache();
    const distiller = await makeDistiller(slow);
    const step = distiller.queueStep([batchOf(cache)], { step: 0, learningRate: 0.1 });
    distiller.dispose();
    answer();
    const ticket = await step;
    await expect(distiller.readMetrics(ticket)).rejects.toMatchObject({ code: 'DISPOSED' });
    await device.synchronize(); // rejects if anything in the queue failed
  });

  it('of the device moves nothing in what it refuses', async () => {
    const own = await openDevice('cpu', { threads: 1 });
    using encoder = await createEncoder('mobilenet_v3_small', { device: own, ...small, resolution: 32, batch: 2 });
    await encoder.backward(await encoder.forward(new Float32Array(2 * 3 * 32 * 32).fill(1), { training: true }));
    const before = await encoder.state();
    own.dispose();
    await expect(encoder.optimizerStep({ learningRate: 1 })).rejects.toMatchObject({
      code: 'DISPOSED',
      message: expect.stringContaining('the device cpu') as string,
    });
    expect(differing(await encoder.state(), before)).toEqual([]);
  });

  it('stops a run with an error that names the distiller', async () => {
    using cache = await makeCache();
    const distiller = await makeDistiller();
    distiller.config.output = join(folder, 'stopped');
    const events = distiller.run(cache);
    expect((await events.next()).value).toMatchObject({ type: 'start' });
    distiller.dispose();
    await expect(events.next()).rejects.toMatchObject({
      code: 'DISPOSED',
      message: expect.stringContaining('distiller') as string,
    });
  });
});

// V8 collects when its own heap grows, and a handle is a few bytes of it: without being told of 800 MiB behind them it
// would let all of them stand.
it('tells the garbage collector what forgotten objects hold outside its heap', async () => {
  const { stdout } = await promisify(execFile)(process.execPath, [forgetful], {
    env: { ...process.env, LGDISTILL_ADDON: addonPath() },
  });
  const { most, collections } = JSON.parse(stdout) as Record<'most' | 'collections', number>;
  expect(most).toBeLessThan(300);
  expect(collections).toBeGreaterThanOrEqual(4);
});

/**
 * glibc gives threads heaps of their own, which fill up over many short-lived threads however little is in use; with
 * one heap, what stays is what leaks.
 */
const oneHeap = { MALLOC_ARENA_MAX: '1' };
/**
 * Left to itself, V8 lets its young generation grow somewhere on the way, by some 15 MiB in Node 20 and 50 in Node 24,
 * once and for all.
 */
const youngStaysSmall = '--max-semi-space-size=1';
const cycles = 300;

// Forgotten objects wait for the garbage collector, so some of them are there at any time.
it.each([
  ['dispose', 6],
  ['forget', 24],
] as const)(
  `${cycles} devices, encoders, distillers, caches and banks leave memory flat: %s`,
  async (mode, bound) => {
    const { stdout } = await promisify(execFile)(
      process.execPath,
      ['--expose-gc', youngStaysSmall, child, mode, String(cycles), teacherFile],
      { env: { ...process.env, ...oneHeap, LGDISTILL_ADDON: addonPath() } },
    );
    const { early, late, most } = JSON.parse(stdout) as Record<
      'early' | 'late',
      Record<'resident' | 'heap' | 'external', number>
    > & { most: number };
    expect(late.resident - early.resident).toBeLessThan(bound); // MiB, over two thirds of the cycles
    expect(late.heap - early.heap).toBeLessThan(2);
    expect(Math.abs(late.external - early.external)).toBeLessThan(0.5);
    expect(most - early.resident).toBeLessThan(4 * bound); // at any moment: also what is not collected yet
  },
  300_000,
);

// What native code keeps for as long as it is loaded must outlive the device's thread, which nobody waits for.
describe('a process that exits while a device works', () => {
  it.each(['cpu', 'cuda-emulated', 'cuda'] as const)(
    'ends as it should on %s',
    async (kind) => {
      if (!isWanted(kind, 'exits with queued work')) return;
      const status = loadAddon().cudaStatus();
      if (kind === 'cuda' && !status.available) return noteSkip('exits with queued work on cuda', status.reason);
      const env = {
        ...process.env,
        LGDISTILL_PROBE: 'off',
        LGDISTILL_ADDON: kind === 'cuda-emulated' ? buildEmulatedAddon() : addonPath(),
      };
      const exitAfter = (milliseconds: number, queued: 'promised' | 'silent') =>
        promisify(execFile)(
          process.execPath,
          [exiting, kind === 'cpu' ? 'cpu' : 'cuda', queued, String(milliseconds)],
          { env },
        );
      for (let milliseconds = 0; milliseconds < 80; milliseconds += 20)
        await Promise.all([exitAfter(milliseconds, 'promised'), exitAfter(milliseconds + 10, 'promised')]);
      for (let time = 0; time < 4; time++) await exitAfter(0, 'silent');
    },
    600_000,
  );
});
