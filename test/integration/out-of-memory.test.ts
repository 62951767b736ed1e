/** Device memory that is refused in the middle of a step, one allocation after another. */
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import type { ConfigInput } from '../../lib/config/config.js';
import { BatchPlan } from '../../lib/data/loader.js';
import { openDevice, type Device } from '../../lib/device.js';
import { createStudent, loadTeacher } from '../../lib/models/index.js';
import { Distiller, type DistillerState } from '../../lib/train/distiller.js';
import { madeUpBank, madeUpImages } from '../../lib/train/made-up.js';
import { isWanted } from '../devices.js';
import { differing } from '../fixtures/differing.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { towers, writeTeacher } from '../gpu/setup.js';
import { buildEmulatedAddon, executePtx } from '../native/emulated.js';
import { withFault } from './failing-gpu-fixture.js';
import { andAll } from '../shared.js';

const folder = temporaryFolder();
const calls = join(folder, 'calls');
const [batchSize, steps, names, dimension] = [4, 3, 20, towers.tiny.outputDim];

/** Two students, whose queues fill within two steps. */
async function open(device: Device, precision: 'float32' | 'bfloat16') {
  const config: ConfigInput = {
    seed: 3,
    method: 'hybrid',
    data: { resolution: 32 },
    loss: { queueSize: 2 * batchSize },
    train: { batchSize, precision },
  };
  const teacher = await loadTeacher(await writeTeacher(join(folder, 'teacher'), towers.tiny, 32), { device });
  const student = ['mobilenet_v3_small', 'mobilenet_v2'].map((name) =>
    createStudent(name, { device, embeddingSize: dimension, widthMultiplier: 0.1 }),
  );
  const distiller = new Distiller({ device, teacher, student, config, tsb: madeUpBank(names, dimension) });
  const dataset = madeUpImages(device, steps * batchSize, 40);
  const plan = new BatchPlan(dataset, { batchSize, seed: 3 });
  const batches = Array.from({ length: steps }, () => ({ ...plan.next(), dataset }));
  return {
    distiller,
    dataset,
    batches,
    take: async (step: number) =>
      distiller.readMetrics(await distiller.queueStep([batches[step]!], { step, learningRate: 0.1 })),
    /** Without the count of steps, which were queued. */
    states: async () =>
      Promise.all(
        [0, 1].map(async (student) => ({ ...(await distiller.state(student)), steps: 0 }) satisfies DistillerState),
      ),
    async [Symbol.asyncDispose]() {
      distiller.dispose();
      device.addon.release(dataset.store);
      await teacher.dispose();
    },
  };
}

/** Calls that ask for memory; the others need some of the driver's own. */
const asking = 'cudaMalloc|cudaHostAlloc|cudaEventCreateWithFlags';
/** Of each step, calls that fail in it one after the other. The first runs piece by piece, the others are graphs. */
const inside: [functions: string, number: number][][] = [
  [
    [asking, 1],
    [asking, 2],
    [asking, 3],
    [asking, 3],
    ['cudaFuncGetAttributes', 30],
  ],
  [],
  [],
];
/** Calls for a graph, without which a step runs piece by piece. */
const ofGraphs = andAll<[functions: string, number: number]>(
  'refused memory of cudaGraphCreate, cudaGraphAddKernelNode and cudaGraphLaunch',
  [['cudaGraphInstantiate', 1]],
  [
    ['cudaGraphCreate', 1],
    ['cudaGraphAddKernelNode', 30],
    ['cudaGraphLaunch', 1],
  ],
);

describe.skipIf(!isWanted('cuda-emulated', 'refused memory'))('memory that the emulated GPU refuses in a step', () => {
  beforeAll(async () => {
    buildEmulatedAddon();
    await executePtx('refused memory');
  }, 1_200_000);

  it.each(andAll<'float32' | 'bfloat16'>('refused memory of a step in float32', ['bfloat16'], ['float32']))(
    'costs that step alone, and the next one goes on: %s',
    async (precision) => {
      using device = await openDevice('cuda-emulated');
      await using one = await open(device, precision);
      using elsewhere = await openDevice('cuda-emulated');
      await using other = await open(elsewhere, precision);
      for (const [step, faults] of inside.entries()) {
        const before = await one.states();
        /** Takes the step; where it is refused, that must leave no trace. */
        const isRefused = async (functions: string, number: number): Promise<boolean> => {
          const { error } = await withFault(
            calls,
            [functions, number, 'cudaErrorMemoryAllocation'],
            () => one.take(step),
            true,
          );
          if (error === undefined) return false;
          expect(error).toMatchObject({ code: 'OUT_OF_MEMORY' });
          expect(differing(await one.states(), before), `${functions} ${number} of step ${step}`).toEqual([]);
          return true;
        };
        for (const [functions, number] of faults) expect(await isRefused(functions, number), functions).toBe(true);
        for (let number = 1; await isRefused(asking, number); number++); // until the step is whole
        await other.take(step);
        expect(differing(await one.states(), await other.states()), `after step ${step}`).toEqual([]);
      }
    },
  );

  /** What steps give that are whole: of each its numbers, and what all leave. */
  const takeWholeSteps = async () => {
    using device = await openDevice('cuda-emulated');
    await using one = await open(device, 'bfloat16');
    const metrics = [];
    for (let step = 0; step < steps; step++) metrics.push(await one.take(step));
    expect(await one.distiller.stepInfo()).not.toHaveProperty('refused');
    return { metrics, states: await one.states() };
  };
  let wholeSteps: ReturnType<typeof takeWholeSteps> | undefined;

  it.each(ofGraphs)('for a graph costs nothing but time: %s %i', async (functions, number) => {
    using device = await openDevice('cuda-emulated');
    await using one = await open(device, 'bfloat16');
    const whole = await (wholeSteps ??= takeWholeSteps());
    for (const [step, metrics] of whole.metrics.entries()) {
      const { result, calls: made } = await withFault(
        calls,
        step === 1 ? [functions, number, 'cudaErrorMemoryAllocation'] : undefined,
        () => one.take(step),
        true,
      );
      expect(result).toEqual(metrics);
      expect(made.some(([, error]) => error !== undefined)).toBe(step === 1);
    }
    expect(differing(await one.states(), whole.states)).toEqual([]);
    expect(await one.distiller.stepInfo()).toMatchObject({
      eager: steps,
      launched: 0,
      refused: expect.stringContaining('cudaErrorMemoryAllocation') as string,
    });
  });

  it('is not the only fault that costs a whole step: the queue stands where it stood after one behind the banks', async () => {
    using device = await openDevice('cuda-emulated');
    const { addon, handle } = device;
    await using one = await open(device, 'float32');
    const images = addon.makeImages(handle, 1, 32, 32, false);
    for (const step of [0, 1]) {
      const before = await one.states();
      // no size that such images have
      const fail = () =>
        addon.augment(
          one.dataset.store,
          { train: false, resize: 16 },
          { images: [0], drawIds: [0], seed: 0, epoch: 0 },
          images,
        );
      const ticket = await one.distiller.queueStep([one.batches[step]!], {
        step,
        learningRate: 0.1,
        after: async (stage) => Promise.resolve(stage === 'optimiser' ? fail() : undefined),
      });
      await expect(one.distiller.readMetrics(ticket)).rejects.toMatchObject({ code: 'BAD_OPTION' });
      expect(differing(await one.states(), before), `step ${step}`).toEqual([]);
      await one.take(step);
    }
    addon.release(images);
  });
});
