import { existsSync } from 'node:fs';
import { cp, open, readFile, readlink, rm, stat, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import type { ConfigInput } from '../../lib/config/config.js';
import { BatchPlan } from '../../lib/data/loader.js';
import { readSafetensors, writeSafetensors } from '../../lib/files/safetensors.js';
import { createStudent } from '../../lib/models/index.js';
import { Distiller } from '../../lib/train/distiller.js';
import { prepareRun, resumeConfig } from '../../lib/train/setup.js';
import { openDevice } from '../../lib/device.js';
import { TeacherViewCache } from '../../lib/train/view-cache.js';
import { temporaryFolder } from '../fixtures/folder.js';
import {
  drawShapes,
  madeUpTeacher,
  ofType,
  sameBits,
  shapeNames,
  smallConfig,
  tinyClip,
  train,
  type Outcome,
} from '../fixtures/tiny.js';

const folder = temporaryFolder();
let data: string;
let whole: Outcome;
let count = 0;
const path = () => join(folder, `run-${count++}`);
const cacheOf = (run: string) => join(run, 'teacher-views.lgd');

/** 16 images in batches of 8, four epochs of two views. */
const config = (run: string, more: ConfigInput = {}): ConfigInput =>
  smallConfig(data, run, {
    ...more,
    data: { resolution: 32, ...more.data },
    teacherCache: { views: 2, ...more.teacherCache },
    student: { name: 'mobilenet_v3_small', widthMultiplier: 0.25, ...more.student },
    train: { epochs: 4, ...more.train },
  });
const logOf = async (run: string) => (await readFile(join(run, 'log.txt'), 'utf8')).match(/teacher views: .*/gu)!;
const expectSame = (a: Outcome, b: Outcome) => {
  for (const [name, values] of Object.entries(a.weights)) expect(sameBits(values, b.weights[name]!), name).toBe(true);
};

let first: string;
beforeAll(async () => {
  data = await drawShapes(join(folder, 'data'), { count: 4, size: 48 });
  first = path();
  whole = await train(config(first));
});

describe('teacher embeddings of views that come back', () => {
  it('fill a file of the size that the documentation says, with as many epochs as there are views', async () => {
    const { length } = await readFile(cacheOf(first));
    expect(length).toBe(4096 + 2 * 16 * (4 + 2 * 256));
    expect(await logOf(first)).toEqual([expect.stringContaining('0 of 32 are there')]);
    expect(JSON.parse((await readFile(cacheOf(first), 'utf8')).slice(0, 4096))).toMatchObject({
      format: 'lgdistill-teacher-views',
      seed: 3,
      images: { count: 16 },
    });
  });

  it('give the same bits whether they are there or not, after a stop, and after the file was lost or damaged', async () => {
    const warm = path();
    await cp(cacheOf(first), join(folder, 'shared'));
    expectSame(await train(config(warm, { teacherCache: { file: join(folder, 'shared') } })), whole);
    expect(await logOf(warm)).toEqual([expect.stringContaining('32 of 32 are there')]);

    const broken = path();
    await train(config(broken, { train: { maxSteps: 3 } }));
    const writer = await open(cacheOf(broken), 'r+');
    await writer.write(Uint8Array.of(0xff, 0x11), 0, 2, 4096 + 50);
    await writer.close();
    await train(await resumeConfig(broken, { 'train.maxSteps': 5 }), { resume: 'last' });
    expect((await logOf(broken))[1]).toMatch(/\d+ of 32 are there; 1 were damaged and are filled again/u);
    await rm(cacheOf(broken));
    expectSame(await train(await resumeConfig(broken, { 'train.maxSteps': 8 }), { resume: 'last' }), whole);
  });

  it('serve another student, and several at once, without the teacher', async () => {
    const file = cacheOf(first);
    const before = await readFile(file);
    const students = path();
    const outcome = await train(
      config(students, { teacherCache: { file }, student: { name: 'mobilenet_v3_small,mobilenet_v2' } }),
    );
    expectSame({ events: [], weights: outcome.weights }, whole);
    expect(await logOf(join(students, 'mobilenet_v2'))).toEqual([expect.stringContaining('32 of 32 are there')]);
    expect((await readFile(file)).equals(before)).toBe(true);
  });

  it('serve images that are decoded as they are needed, and leave out one that vanishes meanwhile', async () => {
    const streamed = path();
    expectSame(
      await train(config(streamed, { data: { cache: 'stream' }, teacherCache: { file: cacheOf(first) } })),
      whole,
    );
    expect(await logOf(streamed)).toEqual([expect.stringContaining('32 of 32 are there')]);

    const [vanishing, run] = [join(folder, 'vanishing'), path()];
    await cp(data, vanishing, { recursive: true });
    await using prepared = await prepareRun(
      config(run, {
        data: { train: vanishing, cache: 'stream', maxBrokenShare: 0.2 },
        teacherCache: { views: 1 },
        train: { epochs: 2 },
      }),
    );
    await rm(join(vanishing, 'circle', '1.png'));
    const types = [];
    for await (const { type } of prepared.run()) types.push(type);
    expect(types.at(-1)).toBe('done');
    expect(await readFile(join(run, 'broken-images.txt'), 'utf8')).toMatch(/^circle\/1\.png\t/u);
    const file = await readFile(cacheOf(run));
    const checksums = Array.from({ length: 16 }, (_, row) => file.readUInt32LE(4096 + row * (4 + 2 * 256)));
    expect(checksums.filter((checksum) => checksum === 0)).toHaveLength(1);
  });

  it('come back: epochs with the same view number show the same views, in another order', async () => {
    const sumsOf = async (views: number) => {
      const { events } = await train(config(path(), { teacherCache: { views }, train: { epochs: 3 } }));
      return [1, 2, 3].map((epoch) =>
        ofType(events, 'step')
          .filter((step) => Math.ceil(step.epoch) === epoch)
          .reduce((sum, { entropyTextual }) => sum + entropyTextual, 0),
      );
    };
    const [one, two] = [await sumsOf(1), await sumsOf(2)];
    expect(one[1]).toBeCloseTo(one[0]!, 5);
    expect(one[2]).toBeCloseTo(one[0]!, 5);
    expect(two[2]).toBeCloseTo(two[0]!, 5);
    expect(Math.abs(two[1]! - two[0]!)).toBeGreaterThan(1e-3);
  });

  it('grow with the number of views, and serve fewer', async () => {
    const [file, more, fewer] = [join(folder, 'grows'), path(), path()];
    await cp(cacheOf(first), file);
    await train(config(more, { teacherCache: { file, views: 3 } }));
    expect(await logOf(more)).toEqual([expect.stringContaining('32 of 48 are there')]);
    await train(config(fewer, { teacherCache: { file, views: 1 }, train: { epochs: 1 } }));
    expect(await logOf(fewer)).toEqual([expect.stringContaining('16 of 16 are there')]);
    expect((await stat(file)).size).toBe(4096 + 3 * 16 * (4 + 2 * 256));
  });
});

it('are asked of the teacher again after a fault that kept them from being written', async () => {
  await using prepared = await prepareRun(config(path(), { teacherCache: { views: 1 } }));
  const { device, teacher, dataset, distiller } = prepared;
  const {
    config: used,
    encoder: { precision },
  } = distiller;
  const { length, sourceIndex } = dataset;
  const options = { teacher, config: used, precision, dataset, images: { length, sourceIndex, hash: 'mine' } };
  using other = await openDevice('cpu', { threads: 1 });
  const theirs = await TeacherViewCache.open({ ...options, device: other });
  expect(() => distiller.useViewCache(theirs)).toThrow(
    expect.objectContaining({ code: 'BAD_OPTION', option: 'cache' }) as Error,
  );
  theirs.dispose();
  const cache = await TeacherViewCache.open({ ...options, device });
  distiller.useViewCache(cache);
  const batch = { ...new BatchPlan(dataset, { batchSize: 8, seed: 3 }).next(), dataset };
  const step = async (number: number) =>
    distiller.readMetrics(await distiller.queueStep([batch], { step: number, learningRate: 0.01 }));
  const views = distiller.encoder.makeImages();
  // refused on the device's thread: the work behind it is lost
  device.addon.augment(dataset.store, { train: false, resize: 16 }, batch, views);
  await expect(step(0)).rejects.toMatchObject({
    code: 'BAD_OPTION',
    message: expect.stringContaining('resize') as unknown,
  });
  expect((await step(0)).loss).toBeGreaterThan(0);
  expect(cache.filled).toBe(8);
  device.addon.release(views);
  distiller.useViewCache(undefined);
  cache.dispose();
});

describe('a cache of something else is refused', () => {
  it.each<[string, () => Promise<ConfigInput> | ConfigInput, string]>([
    ['another seed', () => ({ seed: 4 }), 'seed'],
    ['another recipe', () => ({ augment: { hue: 0 } }), 'augment'],
    ['another margin of the decoded images', () => ({ data: { margin: 1.5 } }), 'augment'],
    [
      'other weights under the same name',
      async () => {
        const teacher = join(folder, 'other', 'tiny-clip');
        await cp(tinyClip, teacher, { recursive: true, filter: (file) => !file.endsWith('.onnx') });
        const file = join(teacher, 'visual.safetensors');
        const { tensors, metadata } = await readSafetensors(file);
        const [name, tensor] = [...tensors].find(
          ([, { data: values }]) => values instanceof Float32Array && values.length > 100,
        )!;
        (tensor.data as Float32Array)[3]! += 1e-3;
        await writeSafetensors(
          file,
          [...tensors].map(([key, value]) => [key, key === name ? tensor : value]),
          metadata,
        );
        return { teacher, textEncoder: tinyClip };
      },
      'teacher',
    ],
    [
      'fewer images',
      async () => {
        const fewer = join(folder, 'fewer');
        await cp(data, fewer, { recursive: true });
        await rm(join(fewer, shapeNames[1]!, '2.png'));
        return { data: { train: fewer } };
      },
      'data.train',
    ],
  ])('%s', async (_, change, option) => {
    const more = await change();
    const run = path();
    await expect(prepareRun(config(run, { ...more, teacherCache: { file: cacheOf(first) } }))).rejects.toMatchObject({
      code: 'BAD_CONFIG',
      option: 'teacherCache.file',
      message: expect.stringContaining(`(${option})`) as unknown,
    });
    expect(existsSync(run)).toBe(false);
  });

  it('before the folder of the run is made, or an earlier run in it overwritten', async () => {
    const run = path();
    await train(config(run, { train: { maxSteps: 1 } }));
    const before = await readFile(join(run, 'metrics.jsonl'), 'utf8');
    const file = join(folder, 'of-another-seed');
    await train(config(path(), { seed: 4, teacherCache: { file }, train: { maxSteps: 1 } }));
    await using prepared = await prepareRun(config(run, { overwrite: true }));
    const { distiller, dataset, student, device, teacher, tsb } = prepared;
    using other = new Distiller({
      device,
      teacher,
      tsb,
      student: createStudent(student.name, { device, embeddingSize: student.embeddingSize, widthMultiplier: 0.25 }),
      config: { ...distiller.config, teacherCache: { views: 2, file } },
    });
    await expect(other.run(dataset).next()).rejects.toMatchObject({ option: 'teacherCache.file' });
    expect(await readFile(join(run, 'metrics.jsonl'), 'utf8')).toBe(before);
  });

  it('but not where overwriting removes it', async () => {
    const run = path();
    await train(config(run, { train: { maxSteps: 1 } }));
    const link = path();
    await symlink(run, link);
    for (const [seed, file] of [cacheOf(run), cacheOf(link)].entries()) {
      const { events } = await train(
        config(run, { seed: 10 + seed, overwrite: true, teacherCache: { file }, train: { maxSteps: 1 } }),
      );
      expect(events.at(-1)).toMatchObject({ type: 'done' });
    }
  });

  it('a file of another kind, another number of views for a run that continues, and a teacher of embeddings', async () => {
    await expect(
      train(config(path(), { teacherCache: { file: join(data, 'circle', '0.png') } })),
    ).rejects.toMatchObject({ code: 'BAD_FILE', option: 'teacherCache.file' });
    const loop = join(folder, 'loop');
    await symlink(loop, loop); // what is behind it cannot be looked at, which is not that nothing is there
    await expect(train(config(path(), { teacherCache: { file: loop } }))).rejects.toMatchObject({ code: 'BAD_FILE' });
    expect(await readlink(loop)).toBe(loop);
    const stopped = path();
    await train(config(stopped, { train: { maxSteps: 1 } }));
    await expect(
      train(await resumeConfig(stopped, { 'teacherCache.views': 3 }), { resume: 'last' }),
    ).rejects.toMatchObject({ code: 'BAD_CHECKPOINT', option: 'teacherCache.views' });
    const { teacher, bank } = await madeUpTeacher(join(folder, 'made-up'));
    const known = await drawShapes(join(folder, 'known'), { count: 8, size: 32 });
    await expect(
      prepareRun({ ...config(path(), { teacher, bank, data: { train: known } }), names: undefined }),
    ).rejects.toMatchObject({ code: 'BAD_CONFIG', option: 'teacherCache.views' });
  });
});
