import { readFile } from 'node:fs/promises';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { TextualSemanticsBank } from '../../lib/banks/textual.js';
import { openMaskFolder } from '../../lib/data/mask-folders.js';
import { openDevice } from '../../lib/device.js';
import { evaluateSegmentation, scoreSegmenter, trainSegmentation, type SegmentationEvent } from '../../lib/dense/segmentation.js';
import { Segmenter } from '../../lib/dense/segmenter.js';
import { evaluateZeroShotSegmentation } from '../../lib/dense/zero-shot.js';
import type { LgdError } from '../../lib/errors.js';
import { drawScenes, sceneClasses, untrainedStudent } from './segmentation-fixture.js';

let folder: string;
let scenes: string;
let student: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'lgdistill-segmentation-'));
  scenes = await drawScenes(join(folder, 'scenes'), { count: 4 });
  student = await untrainedStudent(join(folder, 'student.safetensors'));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

const dense = { resolution: 96, batchSize: 4, maxSteps: 90, learningRate: 0.05, scaleMin: 0.8, scaleMax: 1.1, everyEpochs: 0 };

async function run(options: Parameters<typeof trainSegmentation>[0]): Promise<SegmentationEvent[]> {
  const events: SegmentationEvent[] = [];
  for await (const event of trainSegmentation(options)) events.push(event);
  return events;
}

describe('a segmentation head learns a few images by heart', () => {
  it.each([['lraspp', 16], ['lraspp', 8], ['fcn', 8]] as const)('%s at output stride %i, to an mIoU above 0.95', async (head, outputStride) => {
    const output = join(folder, `${head}-${outputStride}`);
    const config = { device: 'cpu', seed: 1, dense: { ...dense, data: scenes, evaluationData: scenes, head, outputStride } };
    const begun = performance.now();
    const events = await run({ student, output, config });
    console.log(`${head} at output stride ${outputStride}: ${((performance.now() - begun) / 1000).toFixed(1)} s, ${JSON.stringify(events.filter(({ type }) => type === 'step').map((event) => (event as { loss: number }).loss.toFixed(3)))}`);
    const last = events.at(-1)!;
    expect(last.type === 'done' && last.score!.meanIou).toBeGreaterThan(0.95);
    const score = await evaluateSegmentation({ model: output, config });
    expect(score.meanIou).toBeCloseTo(last.type === 'done' ? last.score!.meanIou : NaN, 5);
    expect(score.classes.map(({ name }) => name)).toEqual(sceneClasses);
    expect(score.pixels).toBe(2 * 96 * 63 + 2 * 64 * 79); // the last row of each mask does not count
    const sliding = await evaluateSegmentation({ model: output, config: { ...config, dense: { ...config.dense, inference: 'sliding' } } });
    expect(sliding.meanIou).toBeGreaterThan(0.7); // other scales than it was trained at
  }, 180_000);
});
