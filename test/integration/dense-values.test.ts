/**
 * What segmenters, detectors and their scores refuse: networks whose numbers are no numbers, and options that have no
 * such value. Where their boxes may lie.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { TextualSemanticsBank } from '../../lib/banks/textual.js';
import { evaluateDetection, trainDetection } from '../../lib/dense/detection.js';
import { Detector } from '../../lib/dense/detector.js';
import { evaluateSegmentation, trainSegmentation } from '../../lib/dense/segmentation.js';
import { Segmenter } from '../../lib/dense/segmenter.js';
import { evaluateZeroShotSegmentation } from '../../lib/dense/zero-shot.js';
import { openDevice } from '../../lib/device.js';
import { readDense, writeDense } from '../../lib/runs/network-file.js';
import { readStudent, writeStudent } from '../../lib/runs/student-file.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { oneStepTrainings, sceneClasses } from '../fixtures/scenes.js';
import { plainPicture } from '../fixtures/tiny.js';

const folder = temporaryFolder();
const { student, scenes, masked, boxed } = await oneStepTrainings(folder);

async function train(events: AsyncIterable<{ type: string }>): Promise<void> {
  for await (const event of events) expect(event).toHaveProperty('type');
}

function spoil(weights: Record<string, { data: Float32Array }>): void {
  for (const { data } of Object.values(weights)) data.fill(NaN, 0, 1);
}

describe('a network that diverged', () => {
  it('is refused by what looks at images with it', async () => {
    const trained = join(folder, 'to-spoil');
    await train(trainSegmentation({ student, output: trained, config: masked() }));
    await train(trainDetection({ student, output: `${trained}-boxes`, config: boxed() }));
    const [segmentation, detection] = [
      await readDense(trained, 'segmentation'),
      await readDense(`${trained}-boxes`, 'detection'),
    ];
    for (const { file, info, weights } of [segmentation, detection]) {
      spoil(weights);
      await writeDense(file, info, weights);
    }
    await expect(evaluateSegmentation({ model: trained, config: masked() })).rejects.toMatchObject({
      code: 'NON_FINITE',
      message: expect.stringContaining('0.png') as unknown,
    });
    await expect(evaluateDetection({ model: `${trained}-boxes`, config: boxed() })).rejects.toMatchObject({
      code: 'NON_FINITE',
      message: expect.stringContaining('0.png') as unknown,
    });

    const { info, weights } = await readStudent(student);
    spoil(weights);
    const spoiled = join(folder, 'spoiled-student.safetensors');
    await writeStudent(spoiled, info, weights);
    const bank = join(folder, 'bank.safetensors');
    await TextualSemanticsBank.fromEmbeddings(
      sceneClasses,
      Float32Array.from({ length: 3 * info.embeddingSize }, (_, i) => Math.sin(i + 1)),
      { encoderId: 'made up' },
    ).save(bank);
    const config = { device: 'cpu', bank, dense: { data: scenes, resolution: 64 } };
    expect((await evaluateZeroShotSegmentation({ student, config })).images).toBe(2);
    await expect(evaluateZeroShotSegmentation({ student: spoiled, config })).rejects.toMatchObject({
      code: 'NON_FINITE',
      message: expect.stringContaining('0.png') as unknown,
    });
  });
});

describe('what callers without types give', () => {
  it('is refused where it is no value that the option takes', async () => {
    const output = join(folder, 'asked');
    await train(trainSegmentation({ student, output, config: masked() }));
    await train(trainDetection({ student, output: `${output}-boxes`, config: boxed() }));
    using device = await openDevice('cpu');
    using segmenter = await Segmenter.load(output, { device });
    using detector = await Detector.load(`${output}-boxes`, { device });
    const bytes = await readFile(join(scenes, 'images', '0.png'));
    const refused = (call: Promise<unknown>, option: string) =>
      expect(call, option).rejects.toMatchObject({ code: 'BAD_OPTION', option });
    for (const inference of ['nope', 'Whole', null, 1] as unknown as 'whole'[]) {
      await refused(segmenter.segment(bytes, { inference }), 'inference');
      await refused(evaluateSegmentation({ model: output, config: masked(), inference }), 'inference');
      await refused(evaluateZeroShotSegmentation({ student, config: masked(), inference }), 'inference');
    }
    const wrong = {
      maxDetections: [-1, 0, 1.5, NaN, '3', null],
      scoreThreshold: [NaN, 'x', -0.1, 1.5, null],
      iouThreshold: [2, -1, NaN, '0.5', null],
    };
    for (const [option, values] of Object.entries(wrong)) {
      for (const value of values) {
        await refused(detector.detect(bytes, { [option]: value }), option);
        await refused(evaluateDetection({ model: `${output}-boxes`, config: boxed(), [option]: value }), option);
      }
    }
    expect((await detector.detect(bytes, { scoreThreshold: 0, iouThreshold: 1, maxDetections: 3 })).length).toBe(3);
    const path = join(scenes, 'images', '0.png') as unknown as Uint8Array;
    await refused(segmenter.segment(path), 'bytes');
    await refused(detector.detect(path), 'bytes');

    const none = undefined as unknown as string;
    await refused(Segmenter.load(none, { device }), 'model');
    await refused(trainSegmentation({ student, output: none, config: masked() }).next(), 'output');
    await refused(trainDetection({ student, output: none, config: boxed() }).next(), 'output');
    const bank = TextualSemanticsBank.fromEmbeddings(
      ['a', 'b'],
      Float32Array.from({ length: 32 }, (_, i) => Math.sin(i + 1)),
      { encoderId: 'made up' },
    );
    const zeroShot = async (change: object) =>
      Segmenter.zeroShot({ graph: {}, weights: {}, info: { embeddingSize: 16 } } as never, bank, {
        device,
        outputStride: 16,
        resolution: 64,
        ...change,
      });
    await refused(zeroShot({ resolution: 100 }), 'resolution');
    await refused(zeroShot({ resolution: NaN }), 'resolution');
    await refused(zeroShot({ outputStride: 12 }), 'outputStride');
  });
});

describe('a detector', () => {
  it('finds boxes inside the image alone, however narrow it is', async () => {
    const output = join(folder, 'narrow');
    await train(trainDetection({ student, output, config: boxed() }));
    using device = await openDevice('cpu');
    using detector = await Detector.load(output, { device });
    for (const [width, height] of [
      [30, 120],
      [120, 30],
      [64, 64],
    ] as const) {
      const found = await detector.detect(await plainPicture('#a33', width, height), {
        scoreThreshold: 0,
        iouThreshold: 1,
      });
      expect(found.length).toBeGreaterThan(10);
      for (const {
        box: [x, y, w, h],
      } of found) {
        expect(
          [x >= 0, y >= 0, w > 0, h > 0, x + w < width + 1e-9, y + h < height + 1e-9],
          `${width} x ${height}: ${x}, ${y}, ${w}, ${h}`,
        ).toEqual(Array(6).fill(true));
      }
    }
  });
});
