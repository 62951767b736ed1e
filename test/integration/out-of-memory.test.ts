/** Device memory that is refused in the middle of a step, one allocation after another. */
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { ConfigInput } from '../../lib/config.js';
import { BatchPlan } from '../../lib/data/loader.js';
import { openDevice, type Device } from '../../lib/device.js';
import { LgdError } from '../../lib/errors.js';
import { createStudent, loadTeacher } from '../../lib/models/index.js';
import { Distiller, type DistillerState } from '../../lib/train/distiller.js';
import { isWanted } from '../devices.js';
import { differing } from '../fixtures/differing.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { madeUpBank, madeUpImages } from '../../lib/train/made-up.js';
import { towers, writeTeacher } from '../gpu/setup.js';
import { buildEmulatedAddon } from '../native/emulated.js';

const folder = temporaryFolder();
const [batchSize, steps, names, dimension] = [4, 3, 20, towers.tiny.outputDim];

/** Two students, whose queues fill within two steps. */
async function open(device: Device, precision: 'float32' | 'bfloat16') {
  const config: ConfigInput = { seed: 3, method: 'hybrid', data: { resolution: 32 }, loss: { queueSize: 2 * batchSize }, train: { batchSize, precision } };
  const teacher = await loadTeacher(await writeTeacher(join(folder, 'teacher'), towers.tiny, 32), { device });
  const student = ['mobilenet_v3_small', 'mobilenet_v2'].map((name) => createStudent(name, { device, embeddingSize: dimension, widthMultiplier: 0.1 }));
  const distiller = new Distiller({ device, teacher, student, config, tsb: madeUpBank(names, dimension) });
  const dataset = madeUpImages(device, steps * batchSize, 40);
  const plan = new BatchPlan(dataset, { batchSize, seed: 3 });
  const batches = Array.from({ length: steps }, () => ({ ...plan.next(), dataset }));
  return {
    distiller, dataset, batches,
    take: async (step: number) => distiller.readMetrics(await distiller.queueStep([batches[step]!], { step, learningRate: 0.1 })),
    /** Without the count of steps, which were queued. */
    states: async () => Promise.all([0, 1].map(async (student) => ({ ...(await distiller.state(student)), steps: 0 }) satisfies DistillerState)),
    async [Symbol.asyncDispose]() {
      distiller.dispose();
      device.addon.release(dataset.store);
      await teacher.dispose();
    },
  };
}

/** How much memory there must be for the allocation that was refused, and no more. */
async function refusal(taken: Promise<unknown>): Promise<number | undefined> {
  try {
    await taken;
    return undefined;
  } catch (error) {
    expect(error).toMatchObject({ code: 'OUT_OF_MEMORY' });
    const [, asked, used] = /cannot allocate (\d+) bytes beside (\d+)/u.exec((error as LgdError).message)!;
    return Number(asked) + Number(used);
  }
}

describe.skipIf(!isWanted('cuda-emulated', 'refused memory'))('memory that the emulated GPU refuses in a step', () => {
  it.each(['float32', 'bfloat16'] as const)('costs that step alone, and the next one goes on: %s', async (precision) => {
    buildEmulatedAddon();
    using device = await openDevice('cuda-emulated');
    await using one = await open(device, precision);
    using elsewhere = await openDevice('cuda-emulated');
    await using other = await open(elsewhere, precision);
    const refused: number[] = [];
    for (let step = 0; step < steps; step++) {
      const before = await one.states();
      let most: number | undefined = 0;
      for (refused.push(-1); most !== undefined; refused[step]!++) {
        process.env['LGDISTILL_EMULATION_MEMORY'] = String(most);
        most = await refusal(one.take(step));
        delete process.env['LGDISTILL_EMULATION_MEMORY'];
        if (most !== undefined) expect(differing(await one.states(), before), `refusal ${refused[step]! + 1} of step ${step}`).toEqual([]);
      }
      await other.take(step);
      expect(differing(await one.states(), await other.states()), `after step ${step}`).toEqual([]);
    }
    expect(refused[0]).toBeGreaterThan(5);
  });

  it('is not the only fault that costs a whole step: the queue stands where it stood after one behind the banks', async () => {
    buildEmulatedAddon();
    using device = await openDevice('cuda-emulated');
    const { addon, handle } = device;
    await using one = await open(device, 'float32');
    const images = addon.makeImages(handle, 1, 32, 32, false);
    for (const step of [0, 1]) {
      const before = await one.states();
      const fail = () => addon.augment(one.dataset.store, { train: false, resize: 16 }, { images: [0], drawIds: [0], seed: 0, epoch: 0 }, images); // no size that such images have
      const ticket = await one.distiller.queueStep([one.batches[step]!], { step, learningRate: 0.1, after: async (stage) => Promise.resolve(stage === 'optimiser' ? fail() : undefined) });
      await expect(one.distiller.readMetrics(ticket)).rejects.toMatchObject({ code: 'BAD_OPTION' });
      expect(differing(await one.states(), before), `step ${step}`).toEqual([]);
      await one.take(step);
    }
    addon.release(images);
  });
});
