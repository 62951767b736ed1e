/** Every call of the CUDA runtime that training makes fails, one after the other, on the emulated GPU. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { BatchPlan } from '../../lib/data/loader.js';
import { openDevice, type Device } from '../../lib/device.js';
import { LgdError } from '../../lib/errors.js';
import { createStudent, loadTeacher } from '../../lib/models/index.js';
import { bankLoss } from '../../lib/semantic/index.js';
import { Distiller } from '../../lib/train/distiller.js';
import { isWanted } from '../devices.js';
import { differing } from '../fixtures/differing.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { madeUpBank, madeUpImages } from '../../lib/train/made-up.js';
import { towers, writeTeacher } from '../gpu/setup.js';
import { buildEmulatedAddon, executePtx } from '../native/emulated.js';
import { leftOver, withFault } from './failing-gpu-fixture.js';
import { drawShapes, madeUpTeacher, ofType, smallConfig, train } from '../fixtures/tiny.js';

const folder = temporaryFolder();
const calls = join(folder, 'calls');
const dimension = towers.tiny.outputDim;
const bank = madeUpBank(20, dimension);
let teacherFolder = '';

/**
 * Opens all that training needs, takes two steps of which the second is a graph, and lets all go. @returns every number
 * that it came to
 */
async function trainBriefly(): Promise<unknown> {
  using device = await openDevice('cuda-emulated', { threads: 1 });
  const teacher = await loadTeacher(teacherFolder, { device });
  const dataset = madeUpImages(device, 8, 40);
  try {
    const student = createStudent('mobilenet_v3_small', { device, embeddingSize: dimension, widthMultiplier: 0.1 });
    using distiller = new Distiller({
      device,
      teacher,
      student,
      tsb: bank,
      config: {
        seed: 3,
        method: 'hybrid',
        data: { resolution: 32 },
        loss: { queueSize: 8 },
        train: { batchSize: 4, precision: 'bfloat16' },
      },
    });
    const plan = new BatchPlan(dataset, { batchSize: 4, seed: 3 });
    const metrics = [];
    for (const step of [0, 1])
      metrics.push(
        await distiller.readMetrics(
          await distiller.queueStep([{ ...plan.next(), dataset }], { step, learningRate: 0.1 }),
        ),
      );
    return { metrics, state: await distiller.state(), loss: await lossOf(device) };
  } finally {
    device.addon.release(dataset.store);
    await teacher.dispose();
  }
}

async function lossOf(device: Device): Promise<unknown> {
  const rows = bank.data.subarray(0, 4 * dimension);
  return bankLoss(
    {
      student: rows,
      teacher: rows,
      textual: bank.data,
      dimension,
      alpha: 0,
      studentTemperature: 0.2,
      teacherTemperature: 0.1,
    },
    { device },
  );
}

/** They free something, or wait for its users, and tell nobody that they could not. */
const isOfAnEnd = (name: string) => /Free|Destroy|DeviceSynchronize/u.test(name);

describe.skipIf(!isWanted('cuda-emulated', 'failing calls of CUDA'))('a call of the CUDA runtime that fails', () => {
  beforeAll(async () => {
    buildEmulatedAddon();
    await executePtx('failing calls of CUDA');
    teacherFolder = await writeTeacher(join(folder, 'teacher'), towers.tiny, 32);
  }, 1_200_000);

  it('is an error with its name, and leaves no memory and no wrong number behind', async () => {
    await withFault(calls, undefined, trainBriefly); // asks what is asked once
    const { result: expected, calls: made } = await withFault(calls, undefined, trainBriefly);
    expect(leftOver(made)).toEqual({});
    const names = [...new Set(made.map(([name]) => name))];
    expect(names.length).toBeGreaterThan(25);
    for (const name of names) {
      const count = made.filter(([one]) => one === name).length;
      for (const [number, error, code] of [
        [Math.ceil(count / 2), 'cudaErrorMemoryAllocation', 'OUT_OF_MEMORY'],
        [count, 'cudaErrorIllegalAddress', 'DEVICE_LOST'],
      ] as const) {
        if (isOfAnEnd(name) && code === 'OUT_OF_MEMORY') continue;
        const { result, error: thrown, calls: seen } = await withFault(calls, [name, number, error], trainBriefly);
        const what = `${name} ${number}: ${error}`;
        expect(
          seen.some(([, failed]) => failed === error),
          what,
        ).toBe(true);
        expect(leftOver(seen), what).toEqual({});
        // it told nobody: it was of an end, or of its wait, or of a graph, which a step can do without
        if (thrown === undefined) expect(differing(result, expected), what).toEqual([]);
        else if (name === 'cudaGetDeviceCount')
          expect(thrown, what).toMatchObject({
            code: 'DEVICE_UNAVAILABLE',
            message: expect.stringContaining(error) as string,
          });
        else
          expect(thrown, what).toMatchObject({
            code,
            message: expect.stringMatching(new RegExp(`${error}|cannot allocate [\\d.]+ MiB`, 'u')) as string,
          });
        if (isOfAnEnd(name)) expect(thrown, what).toBeUndefined();
      }
    }
    expect(differing((await withFault(calls, undefined, trainBriefly)).result, expected), 'afterwards').toEqual([]);
  });

  it('and ends the use of the GPU is what each later use says, and freeing hides nothing', async () => {
    const { error, calls: seen } = await withFault(
      calls,
      ['cudaLaunchKernel', 2, 'cudaErrorECCUncorrectable'],
      async () => {
        using device = await openDevice('cuda-emulated', { threads: 1 });
        const first = await lossOf(device).then(
          () => undefined,
          (reason: unknown) => reason,
        );
        expect(first).toMatchObject({
          code: 'DEVICE_LOST',
          message: expect.stringContaining(
            'uncorrectable ECC error encountered (cudaErrorECCUncorrectable); this process cannot use the GPU any more',
          ) as string,
          mend: expect.stringContaining('lgdistill resume') as string,
        });
        await expect(device.synchronize()).rejects.toMatchObject({ code: 'DEVICE_LOST' });
        await expect(openDevice('cuda-emulated')).rejects.toMatchObject({ code: 'DEVICE_LOST' });
        expect(device.info.name).toBe('emulated GPU');
        await trainBriefly();
      },
    );
    expect(error).toMatchObject({ code: 'DEVICE_LOST' });
    expect(error).toBeInstanceOf(LgdError);
    expect(leftOver(seen)).toEqual({});
  });

  it('for a graph is written down once, and the run goes on with the same bits', async () => {
    const images = await drawShapes(join(folder, 'images'), { count: 8 });
    const { teacher, bank: names } = await madeUpTeacher(join(folder, 'made'));
    const config = (output: string) =>
      smallConfig(images, join(folder, output), {
        device: 'cuda-emulated',
        threads: 1,
        method: 'hybrid',
        names: undefined,
        templates: undefined,
        bank: names,
        teacher,
        data: { resolution: 32 },
        log: { everySteps: 1 },
        student: { name: 'mobilenet_v3_small', widthMultiplier: 0.1 },
      });
    const whole = await train(config('as-graphs'));
    const { result, calls: seen } = await withFault(calls, ['cudaGraphLaunch', 3, 'cudaErrorNotSupported'], () =>
      train(config('without-graphs')),
    );
    expect(leftOver(seen)).toEqual({});
    expect(ofType(result!.events, 'done')).toHaveLength(1);
    expect(differing(result!.weights, whole.weights)).toEqual([]);
    const log = await readFile(join(folder, 'without-graphs', 'log.txt'), 'utf8');
    expect(log.match(/the GPU took no CUDA graph of a step .*/gu)).toEqual([
      expect.stringMatching(
        /\(cudaGraphLaunch failed: operation not supported \(cudaErrorNotSupported\)\): until it takes one, which is tried now and then, steps run call by call, /u,
      ),
    ]);
    expect(log).toMatch(
      / 2 of \d+ steps ran as one CUDA graph each, .*; the GPU took none of others \(cudaGraphLaunch failed: /u,
    );
  });

  it('in a run is written down with the checkpoint to go on from, which is whole', async () => {
    const images = await drawShapes(join(folder, 'images'), { count: 8 });
    const { teacher, bank: names } = await madeUpTeacher(join(folder, 'made'));
    const config = (output: string) =>
      smallConfig(images, join(folder, output), {
        device: 'cuda-emulated',
        threads: 1,
        method: 'hybrid',
        names: undefined,
        templates: undefined,
        bank: names,
        teacher,
        data: { resolution: 32 },
        student: { name: 'mobilenet_v3_small', widthMultiplier: 0.1 },
      });
    const whole = await train(config('whole'));
    const { error } = await withFault(calls, ['cudaGraphLaunch', 5, 'cudaErrorLaunchFailure'], () =>
      train(config('failed')),
    );
    expect(error).toMatchObject({ code: 'DEVICE_LOST' });
    const log = await readFile(join(folder, 'failed', 'log.txt'), 'utf8');
    expect(log).toMatch(
      / failed: .*unspecified launch failure \(cudaErrorLaunchFailure\).* -> .*lgdistill resume.*\n.* that was after step [45]; the last checkpoint is of step 4: .*step-00000004\n$/u,
    );
    const resumed = await train(config('failed'), { resume: 'last' });
    expect(ofType(resumed.events, 'done')).toHaveLength(1);
    expect(differing(resumed.weights, whole.weights)).toEqual([]);
  });
});
