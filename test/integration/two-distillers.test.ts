import { join } from 'node:path';
import { beforeAll, expect, test } from 'vitest';
import { TextualSemanticsBank } from '../../lib/banks/textual.js';
import { ImageCache } from '../../lib/data/cache.js';
import { BatchPlan } from '../../lib/data/loader.js';
import { openImageFolder } from '../../lib/data/sources.js';
import { createStudent, loadTeacher } from '../../lib/models/index.js';
import { Distiller, type DistillerState } from '../../lib/train/distiller.js';
import { devicesUnderTest } from '../devices.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { drawShapes, madeUpTeacher, sameBits } from './train-fixture.js';

const folder = temporaryFolder();
const devices = await devicesUnderTest('two distillers');
let made: Awaited<ReturnType<typeof madeUpTeacher>>;

beforeAll(async () => {
  await drawShapes(join(folder, 'data'), { count: 8, size: 32 });
  made = await madeUpTeacher(join(folder, 'made-up'));
});

test.each(devices)('that share teacher, bank, images and $name train as each would alone', async ({ device }) => {
  await using teacher = await loadTeacher(made.teacher, { device });
  const tsb = await TextualSemanticsBank.load(made.bank);
  using images = await ImageCache.build(await openImageFolder(join(folder, 'data')), { addon: device.addon, resolution: 32, margin: 1, memoryLimitBytes: 1e9, spillFolder: folder, maxBrokenShare: 0 });

  /** Steps one after the other, each read when the next one is queued; other distillers come in between. */
  async function distil(seed: number): Promise<DistillerState> {
    const student = createStudent('mobilenet_v3_small', { device, embeddingSize: teacher.embeddingSize, widthMultiplier: 0.1, seed });
    using distiller = new Distiller({ device, teacher, student, tsb, config: { seed, method: 'lgd', data: { resolution: 32 }, train: { batchSize: 4 } } });
    const plan = new BatchPlan(images, { batchSize: 4, seed });
    let before = await distiller.queueStep([{ ...plan.next(), dataset: images }], { step: 0, learningRate: 0.1 });
    for (let step = 1; step < 4; step++) {
      const ticket = await distiller.queueStep([{ ...plan.next(), dataset: images }], { step, learningRate: 0.1 });
      await distiller.readMetrics(before);
      before = ticket;
    }
    await distiller.readMetrics(before);
    return distiller.state();
  }

  const alone = [await distil(1), await distil(2)];
  const together = await Promise.all([distil(1), distil(2)]);
  for (const [i, { weights, semantic }] of together.entries()) {
    for (const [name, { data }] of Object.entries(weights)) expect(sameBits(data, alone[i]!.weights[name]!.data), name).toBe(true);
    expect(sameBits(semantic.visual!, alone[i]!.semantic.visual!)).toBe(true);
  }
  expect(sameBits(together[0]!.weights['head.2.weight']!.data, together[1]!.weights['head.2.weight']!.data)).toBe(false);
});
