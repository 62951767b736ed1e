import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { TextualSemanticsBank } from '../../lib/banks/textual.js';
import { ImageCache } from '../../lib/data/cache.js';
import { openImageFolder } from '../../lib/data/image-folder.js';
import { imagesFromBuffers, type ImageSource } from '../../lib/data/sources.js';
import { StreamedImages } from '../../lib/data/streamed.js';
import { openDevice, type Device } from '../../lib/device.js';
import { embedImages, encoderEmbedder } from '../../lib/evaluate/embed.js';
import { ZeroShotEvaluation } from '../../lib/evaluate/zeroshot.js';
import { madeUpImages } from '../../lib/train/made-up.js';
import { createStudent, loadTeacher, type AnyTeacher } from '../../lib/models/index.js';
import { ClipTextEncoder } from '../../lib/text/onnx-encoder.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { noteSkip, sharedPath } from '../shared.js';
import {
  drawShapes,
  ofType,
  sameBits,
  shapeNames,
  smallConfig,
  tinyClip,
  train,
  visionOnnx,
} from '../fixtures/tiny.js';

const folder = temporaryFolder();
let device: Device;
let teacher: AnyTeacher;
let source: ImageSource;
let images: ImageCache;
beforeAll(async () => {
  device = await openDevice('cpu');
  teacher = await loadTeacher(tinyClip, { device });
  source = await openImageFolder(await drawShapes(join(folder, 'test'), { count: 3 }), { labels: 'folders' });
  images = await cacheOf(source);
});
afterAll(async () => {
  images.dispose();
  await teacher.dispose();
  device.dispose();
});

const cacheOf = (from: ImageSource) =>
  ImageCache.build(from, {
    device,
    resolution: 64,
    margin: 1,
    memoryLimitBytes: 1e9,
    spillFolder: folder,
    maxBrokenShare: 0,
  });

/** A bank of unit rows that mean nothing. */
function madeUpBank(names: readonly string[]): TextualSemanticsBank {
  return TextualSemanticsBank.fromEmbeddings(
    names,
    Float32Array.from({ length: names.length * 256 }, (_, i) => Math.sin(3 + i * i)),
    { encoderId: 'made up' },
  );
}

/**
 * Pixels as an encoder takes them, [3,64,64], computed apart: the pictures have just the input's size, so nothing is
 * resized.
 */
async function pixelsOf(file: string): Promise<Float32Array> {
  const raw = await sharp(await readFile(file))
    .removeAlpha()
    .raw()
    .toBuffer();
  const result = new Float32Array(3 * 64 * 64);
  for (let p = 0; p < 64 * 64; p++)
    for (let c = 0; c < 3; c++) result[c * 64 * 64 + p] = (raw[3 * p + c]! / 255 - teacher.mean[c]!) / teacher.std[c]!;
  return result;
}

describe('ZeroShotEvaluation', () => {
  it('searches the bank for thousands of images at once, and finds what single batches do', async () => {
    const [count, batch] = [4200, 100];
    const bank = madeUpBank(shapeNames);
    const many = madeUpImages(device, count, 32);
    const labels = Int32Array.from({ length: count }, (_, i) => i % shapeNames.length);
    const student = createStudent('mobilenet_v3_small', { device, embeddingSize: 256, widthMultiplier: 0.1, seed: 1 });
    using encoder = student.compile({ batch, resolution: 32, training: false });
    const found: number[] = [];
    const seen: Int32Array[] = [];
    const onNearest = (nearest: Int32Array, _: number, some: Int32Array) => {
      found.push(...nearest);
      seen.push(some);
    };
    const evaluation = new ZeroShotEvaluation({
      device,
      images: { ...many, labels, classNames: [...shapeNames] },
      bank,
      mean: teacher.mean,
      std: teacher.std,
    });
    const score = await evaluation.evaluateEncoder(encoder, { onNearest });
    expect(seen.map(({ length }) => length)).toEqual([4100, 100]);
    expect(seen.flatMap((some) => [...some])).toEqual(Array.from({ length: count }, (_, i) => i));
    const expected: number[] = [];
    using embedder = encoderEmbedder(encoder);
    await embedImages(
      embedder,
      { device, images: many, mean: teacher.mean, std: teacher.std, what: 'the test' },
      async (rows) => {
        expected.push(
          ...(await device.addon.topSimilar(device.handle, rows, bank.data, 256, Math.min(5, shapeNames.length)))
            .indices,
        );
      },
    );
    expect(found).toEqual(expected);
    expect(score.images).toBe(count);
    device.addon.release(many.store);
  });

  it.each([4, 7])('counts what the cosines, computed apart, say, whatever the batch: %i classes', async (count) => {
    const names = [...shapeNames, 'star', 'ring', 'heart'].slice(0, count).reverse();
    const topK = Math.min(5, count);
    const bank = madeUpBank(names);
    const buffers = await Promise.all(
      source.ids.map(async (id, i) => ({ id, bytes: await readFile(join(source.root, id)), label: i % count })),
    );
    using cache = await cacheOf(imagesFromBuffers(buffers, [...names].sort()));
    const student = createStudent('mobilenet_v2', { device, embeddingSize: 256, widthMultiplier: 0.35, seed: 1 });
    let [correct1, correct5] = [0, 0];
    using single = student.compile({ batch: 1, resolution: 64, training: false });
    const input = single.makeImages();
    for (const { id, label } of buffers) {
      device.addon.writeImages(input, await pixelsOf(join(source.root, id)));
      single.forwardTensor(input);
      const embedding = await device.addon.readTensor(single.output);
      const scores = names.map((_, k) =>
        bank.data.subarray(k * 256, (k + 1) * 256).reduce((sum, value, d) => sum + value * embedding[d]!, 0),
      );
      const target = scores[names.indexOf([...names].sort()[label]!)]!;
      const better = scores.filter((score) => score > target).length;
      correct1 += Number(better < 1);
      correct5 += Number(better < topK);
    }
    const evaluation = new ZeroShotEvaluation({ device, images: cache, bank, mean: teacher.mean, std: teacher.std });
    const progress: number[] = [];
    for (const batch of [1, 5, 12, 16]) {
      for (const training of [true, false]) {
        using encoder = student.compile({ batch, resolution: 64, training });
        const score = await evaluation.evaluateEncoder(encoder, {
          onProgress: (done, total) => batch === 5 && total === 12 && progress.push(done),
        });
        expect(score).toMatchObject({ correct1, correct5, images: 12, classes: count, topK });
        expect(score.top1).toBe(correct1 / 12);
      }
    }
    expect(progress).toEqual([5, 10, 12, 5, 10, 12]);
    device.addon.release(input);
  });

  it('leaves an encoder in training as it is', async () => {
    const student = createStudent('mobilenet_v2', { device, embeddingSize: 256, widthMultiplier: 0.35 });
    using encoder = student.compile({ batch: 4, resolution: 64, training: true });
    await new ZeroShotEvaluation({
      device,
      images,
      bank: madeUpBank(shapeNames),
      mean: teacher.mean,
      std: teacher.std,
    }).evaluateEncoder(encoder);
    for (const [name, { data }] of Object.entries(await encoder.state())) {
      expect(sameBits(data, student.weights[name]!.data), name).toBe(true);
    }
  });

  it('finds every image when names and images agree', async () => {
    const names = [...shapeNames];
    const rows = new Float32Array(4 * 256);
    using tower = (teacher as Extract<AnyTeacher, { kind: 'native' }>).compile({ batch: 1 });
    const input = tower.makeImages();
    const ids = source.ids.filter((id) => id.endsWith('/0.png'));
    for (const id of ids) {
      device.addon.writeImages(input, await pixelsOf(join(source.root, id)));
      tower.forwardTensor(input);
      rows.set(await device.addon.readTensor(tower.output), names.indexOf(id.split('/')[0]!) * 256);
    }
    const bank = TextualSemanticsBank.fromEmbeddings(names, rows, { encoderId: 'the images themselves' });
    const buffers = await Promise.all(
      ids.map(async (id) => ({
        id,
        bytes: await readFile(join(source.root, id)),
        label: names.indexOf(id.split('/')[0]!),
      })),
    );
    using cache = await cacheOf(imagesFromBuffers(buffers, names));
    const evaluation = new ZeroShotEvaluation({ device, images: cache, bank, mean: teacher.mean, std: teacher.std });
    expect(await evaluation.evaluateTeacher(teacher, { batch: 3 })).toMatchObject({ images: 4, top1: 1, top5: 1 });
    device.addon.release(input);
  });

  it('gives a teacher in ONNX the score of the native one', async () => {
    const file = visionOnnx('evaluating a teacher in ONNX');
    if (file === undefined) return;
    const onnx = await loadTeacher(file, { device });
    const bank = madeUpBank(shapeNames);
    const evaluation = new ZeroShotEvaluation({ device, images, bank, mean: teacher.mean, std: teacher.std });
    expect(await evaluation.evaluateTeacher(onnx, { batch: 5 })).toEqual(
      await evaluation.evaluateTeacher(teacher, { batch: 7 }),
    );
    await onnx.dispose();
  });

  it('refuses classes and names that do not match, and images without labels', () => {
    const mapping = { circle: 'a', square: 'b', triangle: 'c', cross: 'd' };
    const make =
      (names: string[], options = {}) =>
      () =>
        new ZeroShotEvaluation({
          device,
          images,
          bank: madeUpBank(names),
          mean: teacher.mean,
          std: teacher.std,
          ...options,
        });
    expect(make(['a', 'b', 'c', 'd'], { mapping })().classes).toBe(4);
    expect(make(['a', 'b', 'c', 'd', 'e', 'f'], { mapping })).toThrowError(
      /names without a class folder \(2\): "e", "f"/u,
    );
    expect(make(shapeNames.slice(1))).toThrowError(/class folders without a name/u);
    const { length, classNames, store } = images;
    expect(make(shapeNames, { images: { length, classNames, store, labels: undefined } })).toThrowError(/labels/u);
  });

  it('stops when told to', async () => {
    const evaluation = new ZeroShotEvaluation({
      device,
      images,
      bank: madeUpBank(shapeNames),
      mean: teacher.mean,
      std: teacher.std,
    });
    await expect(evaluation.evaluateTeacher(teacher, { batch: 2, signal: AbortSignal.abort() })).rejects.toMatchObject({
      code: 'ABORTED',
    });
  });
});

describe('embedImages', () => {
  it('has the batches taken in order, however long one takes', async () => {
    const student = createStudent('mobilenet_v2', { device, embeddingSize: 256, widthMultiplier: 0.35 });
    using encoder = student.compile({ batch: 5, resolution: 64, training: false });
    using embedder = encoderEmbedder(encoder);
    const told: string[] = [];
    await embedImages(
      embedder,
      { device, images, mean: teacher.mean, std: teacher.std, what: 'the test' },
      async (_rows, some, from) => {
        if (from === 0) await setTimeout(300); // far longer than the next batch is on the device
        told.push(`${from}-${from + some.length}`);
      },
      { onProgress: (done) => told.push(`${done} done`) },
    );
    expect(told).toEqual(['0-5', '5 done', '5-10', '10 done', '10-12', '12 done']);
  });

  it('leaves out what stands in for images that cannot be decoded, and gives the others their own rows', async () => {
    const buffers = await Promise.all(
      source.ids.map(async (id, i) => ({
        id,
        bytes: await readFile(join(source.root, id)),
        label: source.labels![i]!,
      })),
    );
    // of batches of five: two of the first, all of the second, the last of the third, which its padding repeats
    const broken = [1, 2, 5, 6, 7, 8, 9, 11];
    const memory = imagesFromBuffers(
      buffers.map((image, i) => (broken.includes(i) ? { ...image, bytes: Buffer.from('no picture') } : image)),
      source.classNames,
    );
    using streamed = await StreamedImages.open(memory, { device, resolution: 64, margin: 1, maxBrokenShare: 1 });
    const student = createStudent('mobilenet_v2', { device, embeddingSize: 256, widthMultiplier: 0.35 });
    using encoder = student.compile({ batch: 5, resolution: 64, training: false });
    using embedder = encoderEmbedder(encoder);
    const rowsOf = async (from: typeof images | StreamedImages) => {
      const rows = new Map<number, Float32Array>();
      let [count, done] = [0, 0];
      await embedImages(
        embedder,
        { device, images: from, mean: teacher.mean, std: teacher.std, what: 'the test' },
        (embeddings, some, before) => {
          expect(before).toBe(count);
          expect(embeddings).toHaveLength(256 * some.length);
          count += some.length;
          some.forEach((image, i) => rows.set(image, embeddings.slice(256 * i, 256 * (i + 1))));
        },
        { onProgress: (now) => (done = now) },
      );
      expect(done).toBe(12);
      return rows;
    };
    const [all, whole] = [await rowsOf(images), await rowsOf(streamed)];
    expect([...whole.keys()]).toEqual([0, 3, 4, 10]);
    for (const [image, row] of whole) expect(sameBits(row, all.get(image)!)).toBe(true);

    using cache = await ImageCache.build(memory, {
      device,
      resolution: 64,
      margin: 1,
      memoryLimitBytes: 1e9,
      spillFolder: folder,
      maxBrokenShare: 1,
    });
    const evaluationOn = (some: ImageCache | StreamedImages) =>
      new ZeroShotEvaluation({
        device,
        images: some,
        bank: madeUpBank(shapeNames),
        mean: teacher.mean,
        std: teacher.std,
      });
    const score = await evaluationOn(cache).evaluateTeacher(teacher, { batch: 5 });
    expect(score).toMatchObject({ images: 4 });
    expect(await evaluationOn(streamed).evaluateTeacher(teacher, { batch: 5 })).toEqual(score);
  });
});

describe('evaluation during training', () => {
  it('takes names and mapping of its own, and calls the best top-1 the best', async () => {
    const data = await drawShapes(join(folder, 'train'), { count: 4 });
    const mapping = join(folder, 'mapping.json');
    await writeFile(mapping, JSON.stringify({ cross: 'plus sign' }));
    const config = smallConfig(data, join(folder, 'run'), {
      names: ['plus sign', ...shapeNames, 'star'],
      train: { epochs: 4, warmupEpochs: 0 },
      checkpoint: { everyEpochs: 0 },
      evaluate: { data: source.root, names: ['Circle', 'square', 'triangle', 'plus_sign'], mapping, everyEpochs: 2 },
    });
    const { events } = await train(config);
    const evaluations = ofType(events, 'evaluation');
    expect(evaluations.map(({ step }) => step)).toEqual([4, 8]);
    expect(evaluations[0]!.student).toMatchObject({ classes: 4, images: 12 });
    const best = evaluations.reduce((a, b) => (b.student!.top1 > a.student!.top1 ? b : a));
    expect(ofType(events, 'done')[0]!.best).toEqual({ metric: 'top1', value: best.student!.top1, step: best.step });
    const saved = ofType(events, 'checkpoint');
    expect(saved.filter((event) => event.best).at(-1)!.step).toBe(best.step);
    expect(saved.at(-1)!.step).toBe(8);
  });
});

describe('the tiny CLIP', () => {
  it('scores on CIFAR-10 what it scored when it was made', async () => {
    const root = sharedPath('data', 'cifar10', 'test');
    if (root === undefined) return noteSkip('zero-shot top-1 on CIFAR-10', 'the shared folder is absent');
    const cifar = await openImageFolder(root, { labels: 'folders' });
    using cache = await cacheOf(cifar);
    const encoder = await ClipTextEncoder.load(tinyClip);
    const templates = [
      'a photo of a {}',
      'a {}',
      'a blurry photo of a {}',
      'a small photo of the {}',
      'a picture of a {}',
      'a low resolution photo of a {}',
      'a cropped photo of a {}',
      '{}',
    ];
    const bank = await TextualSemanticsBank.build(cifar.classNames!, { encoder, templates });
    await encoder.dispose();
    const evaluation = new ZeroShotEvaluation({ device, images: cache, bank, mean: teacher.mean, std: teacher.std });
    const score = (await evaluation.evaluateTeacher(teacher, { batch: 64 }))!;
    console.log(
      `CIFAR-10, tiny CLIP: top-1 ${(100 * score.top1).toFixed(1)} %, top-5 ${(100 * score.top5).toFixed(1)} %`,
    );
    expect(score.images).toBe(2000);
    expect(score.top1).toBeGreaterThan(0.79);
    expect(score.top1).toBeLessThan(0.82);
  });
});
