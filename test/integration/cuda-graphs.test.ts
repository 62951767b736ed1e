/**
 * Training steps as CUDA graphs, on the emulated GPU: the same bits as call by call, whatever happens between the steps
 * and within them.
 */
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import type { StepInfo } from '../../lib/addon/native.js';
import { TextualSemanticsBank } from '../../lib/banks/textual.js';
import type { ConfigInput } from '../../lib/config/config.js';
import { BatchPlan } from '../../lib/data/loader.js';
import { openDevice } from '../../lib/device.js';
import { readSafetensors, writeSafetensors } from '../../lib/files/safetensors.js';
import { initialWeights, modifiedResNet } from '../../lib/models/index.js';
import type { Batch } from '../../lib/train/batch.js';
import { Distiller } from '../../lib/train/distiller.js';
import { preflight } from '../../lib/train/preflight.js';
import { prepareRun, type PreparedRun } from '../../lib/train/setup.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { drawShapes, madeUpTeacher, sameBits, shapeNames, smallConfig } from '../fixtures/tiny.js';
import { buildEmulatedAddon, executePtx } from '../native/emulated.js';

const folder = temporaryFolder();
let files: {
  data: string;
  few: string;
  labelled: string;
  native: string;
  nativeBank: string;
  precomputed: string;
  precomputedBank: string;
};
let runs = 0;
const output = () => join(folder, `run-${runs++}`);

/** A tower small enough to be run thread by thread. */
async function smallTower(path: string, imageSize: number): Promise<string> {
  const tower = { layers: [1, 1, 1, 1], width: 2, heads: 4, output_dim: 16, image_size: imageSize };
  await mkdir(path, { recursive: true });
  await writeFile(join(path, 'config.json'), JSON.stringify({ vision_config: tower }));
  const weights = initialWeights(
    modifiedResNet({ layers: tower.layers, width: 2, heads: 4, outputDim: 16, imageSize }),
    1,
  );
  await writeSafetensors(join(path, 'visual.safetensors'), Object.entries(weights), {});
  return path;
}

beforeAll(async () => {
  process.env['LGDISTILL_ADDON'] = buildEmulatedAddon();
  await executePtx('steps as graphs');
  const data = await drawShapes(join(folder, 'train'), { count: 8, size: 40 });
  const few = await drawShapes(join(folder, 'few'), { count: 2, size: 48, seed: 3 });
  const labelled = await drawShapes(join(folder, 'test'), { count: 1, size: 32, seed: 2 });
  const { teacher, bank } = await madeUpTeacher(join(folder, 'made-up'));
  const native = await smallTower(join(folder, 'tower'), 32);
  const nativeBank = join(folder, 'tower-bank.safetensors');
  await TextualSemanticsBank.fromEmbeddings(
    shapeNames,
    Float32Array.from({ length: 64 }, (_, i) => Math.sin(1 + i * i)),
    { encoderId: `${native}` },
  ).save(nativeBank);
  files = { data, few, labelled, native, nativeBank, precomputed: teacher, precomputedBank: bank };
}, 900_000);
afterEach(() => {
  delete process.env['LGDISTILL_GRAPHS'];
  delete process.env['LGDISTILL_EMULATION_ORDER'];
});

type Switches = Partial<
  Record<'LGDISTILL_GRAPHS' | 'LGDISTILL_BRANCH' | 'LGDISTILL_PDL' | 'LGDISTILL_EMULATION_ORDER', string>
>;

function config(more: ConfigInput, teacher: 'native' | 'precomputed' = 'native'): ConfigInput {
  const [path, bank] =
    teacher === 'native' ? [files.native, files.nativeBank] : [files.precomputed, files.precomputedBank];
  return {
    ...smallConfig(files.data, output(), {
      device: 'cuda',
      teacher: path,
      bank,
      ...more,
      student: { name: 'mobilenet_v3_small', widthMultiplier: 0.1 },
      train: { batchSize: 4, warmupEpochs: 0, maxSteps: 6, ...more.train },
      data: { resolution: 32, ...more.data },
    }),
    names: undefined,
    textEncoder: undefined,
  };
}

interface Result {
  output: string;
  events: string[];
  steps: StepInfo;
  weights: Record<string, Float32Array>;
}

/** Runs a configuration to its end, or to a step. */
async function run(
  input: ConfigInput,
  switches: Switches,
  { stopAt, resume }: { stopAt?: number; resume?: string } = {},
): Promise<Result> {
  Object.assign(process.env, switches); // read by the device when it is opened
  const controller = new AbortController();
  const prepared = await prepareRun(input, { resume });
  try {
    const events: string[] = [];
    for await (const { type, step } of prepared.run({ signal: controller.signal })) {
      events.push(`${type} ${step}`);
      if (type === 'step' && step === stopAt) controller.abort();
    }
    const weights = Object.fromEntries(
      Object.entries(prepared.student.weights).map(([name, { data }]) => [name, data]),
    );
    return { output: input.output!, events, steps: await prepared.distiller.stepInfo(), weights };
  } finally {
    await prepared.dispose();
    for (const name of Object.keys(switches)) delete process.env[name];
  }
}

/** Model, momentum, banks and every number of every step. */
async function expectSame(a: Result, b: Result): Promise<void> {
  for (const [name, values] of Object.entries(a.weights)) expect(sameBits(values, b.weights[name]!), name).toBe(true);
  const state = async ({ output: path }: Result) =>
    (await readSafetensors(join(path, 'checkpoints', 'last', 'state.safetensors'))).tensors;
  const [left, right] = [await state(a), await state(b)];
  expect([...left.keys()]).toEqual([...right.keys()]);
  for (const [name, { data }] of left)
    expect(
      Buffer.from(data.buffer, data.byteOffset, data.byteLength).equals(
        Buffer.from(right.get(name)!.data.buffer, right.get(name)!.data.byteOffset, right.get(name)!.data.byteLength),
      ),
      name,
    ).toBe(true);
  const metrics = async ({ output: path }: Result) =>
    (await readFile(join(path, 'metrics.jsonl'), 'utf8'))
      .trim()
      .split('\n')
      .map((line) => ({
        ...(JSON.parse(line) as object),
        imagesPerSecond: 0,
        dataWait: 0,
        teacherWait: 0,
        seconds: 0,
        time: 0,
      }));
  expect(await metrics(a)).toEqual(await metrics(b));
}

const eager: Switches = { LGDISTILL_GRAPHS: '0' };

describe('a run on the emulated GPU', () => {
  let reference: Promise<Result> | undefined;
  it.each([['forward'], ['reverse'], ['random']])(
    'gives the same bits with graphs and without, streams in %s order',
    async (order) => {
      const a = await (reference ??= run(config({}), eager));
      const b = await run(config({}), { LGDISTILL_EMULATION_ORDER: order });
      expect(a.steps).toMatchObject({ eager: 6, launched: 0, interrupted: 0 });
      // The first step runs call by call. The second allocates its own input buffers, and is a graph all the same.
      expect(b.steps).toMatchObject({ eager: 1, launched: 5, interrupted: 0, instantiated: 1 });
      expect(b.steps.nodes).toBeGreaterThan(200);
      await expectSame(a, b);
    },
    600_000,
  );

  it('gives the same bits by AdamW, whose numbers are others in each step of the one graph', async () => {
    const more: ConfigInput = { train: { optimizer: 'adamw', learningRate: 0.1 } };
    const [a, b, bySgd] = [await run(config(more), eager), await run(config(more), {}), await run(config({}), {})];
    expect(b.steps).toMatchObject({
      eager: 1,
      launched: 5,
      interrupted: 0,
      instantiated: 1,
      nodes: bySgd.steps.nodes,
      changed: bySgd.steps.changed,
    });
    await expectSame(a, b);
  }, 600_000);

  it('gives the same bits where gradients are clipped, for which the graph has two kernels more', async () => {
    const more: ConfigInput = { train: { optimizer: 'adamw', learningRate: 0.1, clipNorm: 0.01 } };
    const never: ConfigInput = { train: { ...more.train, clipNorm: 1e9 } };
    const none: ConfigInput = { train: { ...more.train, clipNorm: 0 } };
    const [a, b, above] = [await run(config(more), eager), await run(config(more), {}), await run(config(never), {})];
    const without = await run(config(none), {});
    expect(b.steps).toMatchObject({
      eager: 1,
      launched: 5,
      interrupted: 0,
      instantiated: 1,
      nodes: without.steps.nodes + 2,
      changed: without.steps.changed + 1, // where the norm goes
    });
    await expectSame(a, b);
    for (const [name, values] of Object.entries(without.weights))
      expect(sameBits(values, above.weights[name]!), name).toBe(true);
    expect(Object.entries(b.weights).every(([name, values]) => sameBits(values, without.weights[name]!))).toBe(false);
  }, 600_000);

  it('gives the same bits with the teacher before the student, where more kernels come right behind another', async () => {
    const [beside, before] = [
      await run(config({}), { LGDISTILL_PDL: '1' }),
      await run(config({}), { LGDISTILL_PDL: '1', LGDISTILL_BRANCH: '0' }),
    ];
    expect(before.steps).toMatchObject({ nodes: beside.steps.nodes, tuning: true, ways: [] });
    expect(before.steps.programmatic).toBeGreaterThan(beside.steps.programmatic);
    await expectSame(await (reference ??= run(config({}), eager)), before);
  }, 600_000);

  it('does so with accumulation, a queue, another resolution of the teacher, and evaluations between steps', async () => {
    const more: ConfigInput = {
      method: 'hybrid',
      loss: { queueSize: 24 },
      data: { train: files.few, resolution: 48 },
      evaluate: { data: files.labelled, everyEpochs: 1 },
      train: { batchSize: 2, accumulate: 2, epochs: 4, maxSteps: undefined },
      augment: { blurProbability: 0.2 },
    };
    const a = await run(config(more), eager);
    const b = await run(config(more), {});
    expect(b.events).toEqual(a.events);
    expect(b.events.filter((event) => event.startsWith('evaluation'))).toHaveLength(4);
    expect(b.steps.launched).toBeGreaterThan(2);
    expect(b.steps).toMatchObject({ eager: 1, launched: 7, interrupted: 0 });
    expect(b.steps.instantiated).toBeGreaterThan(1); // two images: some steps blur neither
    await expectSame(a, b);
  }, 600_000);

  it('does so when it is stopped and resumed, with a teacher of embeddings', async () => {
    const more: ConfigInput = {
      train: { accumulate: 2, batchSize: 4, epochs: 4, maxSteps: 12 },
      checkpoint: { everyEpochs: 0 },
    };
    const a = await run(config(more, 'precomputed'), eager);
    const stopped = config(more, 'precomputed');
    const first = await run(stopped, {}, { stopAt: 3 });
    expect(first.events.at(-1)).toMatch(/^interrupted [34]$/u);
    const b = await run(stopped, {}, { resume: 'last' });
    expect(b.events.at(-1)).toBe('done 12');
    expect(b.steps.launched).toBeGreaterThan(2);
    await expectSame(a, b);
  }, 600_000);

  it('writes into its log how the graph was tuned', async () => {
    const stepInfo = vi.spyOn(Distiller.prototype, 'stepInfo');
    const usual = { programmatic: false, inOrder: false, oneCarveout: false };
    const ways = [
      { ...usual, milliseconds: 25 },
      { ...usual, inOrder: true, milliseconds: 24.5 },
      { ...usual, oneCarveout: true, milliseconds: 26 },
      { ...usual, inOrder: true, oneCarveout: true, milliseconds: 25 },
    ];
    for (const info of [
      { launched: 0, tuning: false, ways: [] },
      { launched: 1, tuning: true, ways: [] },
      { launched: 2, tuning: false, way: ways[1], ways },
    ])
      stepInfo.mockResolvedValueOnce(info as unknown as StepInfo);
    const { output: path } = await run(config({ train: { maxSteps: 5 } }, 'precomputed'), {});
    // three until the graph had settled, one for the checkpoint, one for the log's end, the last by run()
    expect(stepInfo).toHaveBeenCalledTimes(6);
    stepInfo.mockRestore();
    const log = await readFile(join(path, 'log.txt'), 'utf8');
    expect(log).toContain(' 4 of 5 steps ran as one CUDA graph each');
    expect(log.match(/a step's CUDA graph ran .*/gu)).toEqual([
      "a step's CUDA graph ran in 4 ways: 25.000 ms as usual, 24.500 ms at best; it goes on with the teacher before the student, kernels' own carve-outs",
    ]);
  }, 600_000);
});

describe('a step on the emulated GPU', () => {
  const prepare = async (): Promise<{ prepared: PreparedRun; batches: () => Batch[] }> => {
    const prepared = await prepareRun(config({}));
    const plan = new BatchPlan(prepared.dataset, { batchSize: 4, seed: 3 });
    return { prepared, batches: () => [{ ...plan.next(), dataset: prepared.dataset }] };
  };

  it('that makes numbers which are not finite says so, and the device goes on from a state as if nothing had been', async () => {
    const { prepared, batches } = await prepare();
    const { distiller } = prepared;
    for (let step = 0; step < 3; step++) await distiller.queueStep(batches(), { step, learningRate: 0.1 });
    const state = await distiller.state();
    const [next, bad] = [batches(), batches()];
    const clean = await distiller.readMetrics(await distiller.queueStep(next, { step: 3, learningRate: 1e38 }));
    const ticket = await distiller.queueStep(bad, { step: 4, learningRate: 0.1 });
    await expect(distiller.readMetrics(ticket)).rejects.toMatchObject({
      code: 'NON_FINITE',
      message: expect.stringContaining('student') as unknown,
    });
    distiller.restore(state);
    expect(await distiller.readMetrics(await distiller.queueStep(next, { step: 3, learningRate: 0.1 }))).toEqual(clean);
    expect((await distiller.stepInfo()).launched).toBeGreaterThan(3);
    await prepared.dispose();
  }, 600_000);

  it('that fails on the way tells its caller with code and stage, and the next one runs', async () => {
    const { prepared, batches } = await prepare();
    const { distiller, device } = prepared;
    const { addon, handle } = device;
    const state = await distiller.state();
    const first = batches();
    let clean: unknown;
    for (const time of [0, 1, 2]) {
      distiller.restore(state);
      for (let step = 0; step < 3; step++)
        clean = await distiller.readMetrics(await distiller.queueStep(first, { step, learningRate: 0.1 }));
      const step = addon.makeStep(handle);
      const images = addon.makeImages(handle, 1, 32, 32, false);
      // The first time the step runs call by call, then it is written down: the fault is found by the device's thread,
      // in the middle of it.
      for (let again = 0; again <= time; again++) {
        addon.beginStep(step);
        addon.beginBranch(handle);
        addon.augment(prepared.dataset.store, {}, { images: [0], drawIds: [0], seed: 0, epoch: 0 }, images);
        if (again === time)
          addon.augment(
            prepared.dataset.store,
            { train: false, resize: 16 },
            { images: [0], drawIds: [0], seed: 0, epoch: 0 },
            images,
          );
        addon.endStep(step);
      }
      await expect(device.synchronize()).rejects.toMatchObject({
        code: 'BAD_OPTION',
        message: expect.stringMatching(/^augment: .*resize/u) as unknown,
      });
      await device.synchronize();
      addon.release(step);
      addon.release(images);
    }
    distiller.restore(state);
    let metrics: unknown;
    for (let step = 0; step < 3; step++)
      metrics = await distiller.readMetrics(await distiller.queueStep(first, { step, learningRate: 0.1 }));
    expect(metrics).toEqual(clean);
    await prepared.dispose();
  }, 600_000);

  it('is a graph after a preflight, whose steps are waited for part by part', async () => {
    const { prepared } = await prepare();
    const { distiller, dataset } = prepared;
    await preflight(distiller, dataset, { seconds: 600 }); // for its eight steps on any machine
    const { interrupted, launched } = await distiller.stepInfo();
    expect(interrupted).toBe(3);
    expect(launched).toBeGreaterThan(0);
    await prepared.dispose();
  }, 600_000);

  it('may wait, read and allocate in the middle, and is held back no more while it does so every time', async () => {
    using device = await openDevice('cuda');
    const { addon, handle } = device;
    const step = addon.makeStep(handle);
    const [a, b] = [addon.makeTensor(handle, [2, 3]), addon.makeTensor(handle, [2, 3])];
    for (let time = 0; time < 7; time++) {
      const values = Float32Array.from({ length: 6 }, (_, i) => i + time);
      addon.beginStep(step);
      addon.writeTensor(a, values);
      addon.beginBranch(handle);
      addon.copyTensor(a, b);
      const read = addon.readTensor(b); // waits, on the branch
      addon.writeTensor(
        a,
        values.map((value) => -value),
      ); // on the branch too
      addon.endBranch(handle);
      addon.joinBranch(handle);
      addon.copyTensor(a, b);
      addon.endStep(step);
      expect(await read).toEqual(values);
      expect(await addon.readTensor(b)).toEqual(values.map((value) => -value));
    }
    expect(await addon.stepInfo(step)).toMatchObject({ eager: 4, interrupted: 3, launched: 0 });
    for (let time = 0; time < 3; time++) {
      addon.beginStep(step);
      addon.copyTensor(a, b);
      addon.endStep(step);
    }
    // held back again behind one that did not wait
    expect(await addon.stepInfo(step)).toMatchObject({ eager: 5, interrupted: 3, launched: 2 });
    for (const object of [step, a, b]) addon.release(object);
  });
});
