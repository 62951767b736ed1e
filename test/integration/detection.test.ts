import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { evaluateDetection, trainDetection, type DetectionEvent } from '../../lib/dense/detection.js';
import { Detector } from '../../lib/dense/detector.js';
import { openDevice } from '../../lib/device.js';
import { readDense } from '../../lib/runs/network-file.js';
import { randomNumbers } from '../fixtures/random.js';
import { drawScene } from '../fixtures/scenes.js';
import { untrainedStudent } from '../fixtures/student.js';

let folder: string;
let student: string;
let annotations: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'lgdistill-detection-'));
  student = await untrainedStudent(join(folder, 'student.safetensors'));
  annotations = await drawBoxes(folder, 4);
});
afterAll(() => rm(folder, { recursive: true, force: true }));

/** Scenes with their boxes as a COCO file; category ids have gaps, as COCO's do. */
async function drawBoxes(root: string, count: number): Promise<string> {
  const random = randomNumbers(5);
  const [images, boxes]: [object[], object[]] = [[], []];
  await mkdir(join(root, 'images'), { recursive: true });
  for (let i = 0; i < count; i++) {
    const { svg, boxes: found } = drawScene(96, 96, random);
    await writeFile(join(root, 'images', `${i}.png`), await sharp(Buffer.from(svg)).png().toBuffer());
    images.push({ id: 10 + i, file_name: `${i}.png`, width: 96, height: 96 });
    for (const { label, box } of found)
      boxes.push({
        id: boxes.length,
        image_id: 10 + i,
        category_id: label === 1 ? 3 : 7,
        bbox: box,
        area: box[2] * box[3],
        iscrowd: 0,
      });
  }
  const file = join(root, 'boxes.json');
  await writeFile(
    file,
    JSON.stringify({
      images,
      annotations: boxes,
      categories: [
        { id: 7, name: 'circle' },
        { id: 3, name: 'rectangle' },
      ],
    }),
  );
  return file;
}

const dense = {
  resolution: 96,
  batchSize: 4,
  maxSteps: 120,
  learningRate: 0.02,
  scaleMin: 0.9,
  scaleMax: 1.1,
  everyEpochs: 0,
};

describe('a detector', () => {
  it('learns a few images by heart, to an AP50 above 0.95', async () => {
    const output = join(folder, 'run');
    const config = {
      device: 'cpu',
      seed: 1,
      dense: { ...dense, data: join(folder, 'images'), annotations, evaluationAnnotations: annotations },
    };
    const begun = performance.now();
    const events: DetectionEvent[] = [];
    for await (const event of trainDetection({ student, output, config })) events.push(event);
    console.log(
      `detection: ${((performance.now() - begun) / 1000).toFixed(1)} s, ${events.flatMap((event) => (event.type === 'step' ? [event.loss.toFixed(2)] : [])).join(' ')}`,
    );
    const last = events.at(-1)!;
    if (last.type !== 'done') throw new Error('it did not end');
    expect(last.score!.ap50).toBeGreaterThan(0.95);
    expect(last.score!.classes.map(({ name }) => name)).toEqual(['rectangle', 'circle']);
    const score = await evaluateDetection({ model: output, config });
    expect(score).toEqual(last.score);
    expect((await readFile(join(output, 'metrics.jsonl'), 'utf8')).trim().split('\n').length).toBe(events.length - 2);

    using device = await openDevice('cpu');
    using detector = await Detector.load(output, { device });
    // boxes come in the image's own pixels
    const bytes = await sharp(join(folder, 'images', '0.png'))
      .resize(192, 192)
      .png()
      .toBuffer();
    const [best] = await detector.detect(bytes);
    const { annotations: truth } = JSON.parse(await readFile(annotations, 'utf8')) as {
      annotations: { image_id: number; category_id: number; bbox: number[] }[];
    };
    const target = truth.find(
      ({ image_id, category_id }) => image_id === 10 && category_id === (best!.label === 0 ? 3 : 7),
    )!;
    best!.box.forEach((value, i) => expect(Math.abs(value - 2 * target.bbox[i]!)).toBeLessThan(16));
  });

  it.each([
    ['no annotations', { annotations: undefined }, 'BAD_CONFIG', 'dense.annotations'],
    ['no images', { data: undefined }, 'BAD_CONFIG', 'dense.data'],
    ['a side that is no multiple of 32', { resolution: 100 }, 'BAD_OPTION', 'dense.resolution'],
    ['more images a batch than there are', { batchSize: 5 }, 'BAD_DATASET', 'dense.batchSize'],
    ['a file that is not there', { annotations: 'nowhere.json' }, 'FILE_NOT_FOUND', 'dense.annotations'],
    [
      'a file to evaluate on that is not there',
      { evaluationAnnotations: 'nowhere.json' },
      'FILE_NOT_FOUND',
      'dense.evaluationAnnotations',
    ],
  ])('with %s is refused', async (_, change, code, option) => {
    const config = { device: 'cpu', dense: { ...dense, data: join(folder, 'images'), annotations, ...change } };
    await expect(trainDetection({ student, output: join(folder, 'refused'), config }).next()).rejects.toMatchObject({
      code,
      option,
    });
  });

  it('without a box of an object to train on, or to be scored on while it trains, is refused', async () => {
    const crowds = join(folder, 'crowds.json');
    await writeFile(crowds, (await readFile(annotations, 'utf8')).replaceAll('"iscrowd":0', '"iscrowd":true'));
    for (const option of ['annotations', 'evaluationAnnotations'] as const) {
      const config = {
        device: 'cpu',
        dense: { ...dense, data: join(folder, 'images'), annotations, [option]: crowds },
      };
      await expect(trainDetection({ student, output: join(folder, 'refused'), config }).next()).rejects.toMatchObject({
        code: 'BAD_DATASET',
        option: `dense.${option}`,
        message: expect.stringContaining('8 crowds') as unknown,
      });
    }
  });

  it('tells of boxes that it cuts or leaves out', async () => {
    const beyond = join(folder, 'beyond.json');
    const file = JSON.parse(await readFile(annotations, 'utf8')) as { annotations: { bbox: number[] }[] };
    const boxes = [
      [90, 90, 30, 6],
      [0, 0, 0, 5],
      [96, 10, 5, 5],
    ];
    for (const bbox of boxes) file.annotations.push({ ...file.annotations[0]!, bbox });
    await writeFile(beyond, JSON.stringify(file));
    const config = { device: 'cpu', dense: { ...dense, data: join(folder, 'images'), annotations: beyond } };
    const events = trainDetection({ student, output: join(folder, 'beyond'), config });
    try {
      expect((await events.next()).value).toMatchObject({
        type: 'start',
        remarks: [
          '2 boxes are left out: without an area, or outside of the image',
          "1 box ends at the image's edge instead of beyond it",
        ],
      });
    } finally {
      await events.return();
    }
  });

  it('whose annotations name files that are not there is refused before it begins, to be trained or to be scored', async () => {
    const gone = join(folder, 'gone.json');
    await writeFile(
      gone,
      (await readFile(annotations, 'utf8')).replace('"1.png"', '"gone.png"').replace('"2.png"', '"lost/2.png"'),
    );
    const output = join(folder, 'unlisted');
    const message = expect.stringContaining(
      `2 of the 4 files that ${gone} names are not in ${join(folder, 'images')}: gone.png, lost/2.png.`,
    ) as unknown;
    const config = { device: 'cpu', dense: { ...dense, data: join(folder, 'images'), annotations } };
    await expect(
      trainDetection({ student, output, config: { ...config, dense: { ...config.dense, annotations: gone } } }).next(),
    ).rejects.toMatchObject({ code: 'FILE_NOT_FOUND', option: 'dense.data', message });
    await expect(
      trainDetection({
        student,
        output,
        config: { ...config, dense: { ...config.dense, evaluationAnnotations: gone } },
      }).next(),
    ).rejects.toMatchObject({ code: 'FILE_NOT_FOUND', option: 'dense.evaluationData', message });
    const elsewhere = { ...config.dense, data: join(folder, 'nowhere') };
    await expect(
      trainDetection({ student, output, config: { ...config, dense: elsewhere } }).next(),
    ).rejects.toMatchObject({
      code: 'FILE_NOT_FOUND',
      option: 'dense.data',
      message: expect.stringContaining('there is no folder') as unknown,
    });
    expect((await readdir(folder)).includes('unlisted')).toBe(false);
  });

  it('is kept as it was trained when an image turns out to be broken, while it is trained or while it is scored', async () => {
    const whole = JSON.parse(await readFile(annotations, 'utf8')) as { images: { id: number; file_name: string }[] };
    const image = await readFile(join(folder, 'images', '0.png'));
    const cut = join(folder, 'images', 'cut.png');
    const broken = join(folder, 'broken.json');
    await writeFile(
      broken,
      JSON.stringify({
        ...whole,
        images: whole.images.map((entry) => (entry.id === 10 ? { ...entry, file_name: 'cut.png' } : entry)),
      }),
    );
    const fast = { ...dense, resolution: 64, batchSize: 2, data: join(folder, 'images') };
    for (const [name, change, step] of [
      ['scored', { annotations, evaluationAnnotations: broken, maxSteps: 2 }, 2],
      ['trained', { annotations: broken, maxSteps: 8 }, 1],
    ] as const) {
      await writeFile(cut, image);
      const output = join(folder, `broken-${name}`);
      const run = trainDetection({
        student,
        output,
        config: { device: 'cpu', seed: 1, log: { everySteps: 1 }, dense: { ...fast, ...change } },
      });
      const told = async () => {
        for await (const event of run)
          if (event.type === 'step' && event.step === 1) await writeFile(cut, image.subarray(0, 200));
      };
      await expect(told()).rejects.toMatchObject({
        code: 'BAD_IMAGE',
        message: expect.stringContaining('cut.png') as unknown,
      });
      for (const file of ['last.safetensors', 'model.safetensors'])
        expect((await readDense(join(output, file), 'detection')).info.step, `${name}: ${file}`).toBeGreaterThanOrEqual(
          step,
        );
    }
  });

  it('refuses images of another size than was annotated, and keeps its weights when stopped', async () => {
    const wrong = join(folder, 'wrong.json');
    await writeFile(wrong, (await readFile(annotations, 'utf8')).replaceAll('"width":96', '"width":95'));
    const config = { device: 'cpu', dense: { ...dense, data: join(folder, 'images'), annotations: wrong } };
    const run = trainDetection({ student, output: join(folder, 'wrong'), config });
    await run.next();
    await expect(run.next()).rejects.toMatchObject({ code: 'BAD_DATASET', option: 'dense.annotations' });

    const stop = new AbortController();
    const output = join(folder, 'stopped');
    const stopped = trainDetection({
      student,
      output,
      config: { device: 'cpu', log: { everySteps: 1 }, dense: { ...dense, data: join(folder, 'images'), annotations } },
      signal: stop.signal,
    });
    await stopped.next();
    expect((await stopped.next()).value).toMatchObject({ type: 'step', step: 1 });
    stop.abort();
    await expect(stopped.next()).rejects.toMatchObject({ code: 'ABORTED' });
    using device = await openDevice('cpu');
    using detector = await Detector.load(output, { device });
    expect(detector.names).toEqual(['rectangle', 'circle']);
  });
});
