/** Two GPUs in one process, by the emulated addon in the place of the usual one. */
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { BatchPlan } from '../../lib/data/loader.js';
import { openDevice, type DeviceName } from '../../lib/device.js';
import { createStudent, loadTeacher } from '../../lib/models/index.js';
import { Distiller } from '../../lib/train/distiller.js';
import { madeUpBank, madeUpImages } from '../../lib/train/made-up.js';
import type { StepTicket } from '../../lib/train/steps.js';
import { isWanted } from '../devices.js';
import { differing } from '../fixtures/differing.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { towers, writeTeacher } from '../gpu/setup.js';
import { buildEmulatedAddon } from '../native/emulated.js';

const folder = temporaryFolder();
const dimension = towers.tiny.outputDim;

async function open(name: DeviceName) {
  const device = await openDevice(name, { threads: 1 });
  const teacher = await loadTeacher(await writeTeacher(join(folder, 'teacher'), towers.tiny, 32), { device });
  const student = createStudent('mobilenet_v3_small', { device, embeddingSize: dimension, widthMultiplier: 0.1 });
  const distiller = new Distiller({
    device,
    teacher,
    student,
    tsb: madeUpBank(20, dimension),
    config: {
      seed: 3,
      method: 'hybrid',
      data: { resolution: 32 },
      loss: { queueSize: 8 },
      train: { batchSize: 4, precision: 'bfloat16' },
    },
  });
  const dataset = madeUpImages(device, 16, 40);
  const plan = new BatchPlan(dataset, { batchSize: 4, seed: 3 });
  return {
    take: (step: number) => distiller.queueStep([{ ...plan.next(), dataset }], { step, learningRate: 0.1 }),
    read: async (ticket: StepTicket) => distiller.readMetrics(ticket),
    state: () => distiller.state(),
    async dispose() {
      distiller.dispose();
      device.addon.release(dataset.store);
      await teacher.dispose();
      device.dispose();
    },
  };
}

describe.skipIf(!isWanted('cuda-emulated', 'two GPUs'))('two GPUs in one process', () => {
  beforeAll(() => {
    process.env['LGDISTILL_ADDON'] = buildEmulatedAddon();
    process.env['LGDISTILL_PROBE'] = 'off';
    process.env['LGDISTILL_EMULATION_DEVICES'] = '2';
  }, 1_200_000);
  it('train in turns with the same bits, and one goes on when the other goes', async () => {
    const [first, second] = [await open('cuda:0'), await open('cuda:1')];
    for (let step = 0; step < 4; step++) {
      const tickets = [await first.take(step), await second.take(step)] as const; // both are under way
      expect(await first.read(tickets[0])).toEqual(await second.read(tickets[1]));
    }
    expect(differing(await first.state(), await second.state())).toEqual([]);
    await first.dispose();
    await second.read(await second.take(4));
    await second.dispose();
    await expect(openDevice('cuda:2')).rejects.toMatchObject({
      code: 'DEVICE_UNAVAILABLE',
      message: expect.stringContaining('devices 0 to 1') as string,
    });
  });
});
