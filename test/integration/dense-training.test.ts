/**
 * What trainings of segmentation networks and detectors do with numbers that are no numbers any more, where they stand
 * still, and with the best network.
 */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { beforeAll, describe, expect, it } from 'vitest';
import { parseConfig, type ConfigInput } from '../../lib/config/config.js';
import { trainDetection } from '../../lib/dense/detection.js';
import { evaluateSegmentation, trainSegmentation } from '../../lib/dense/segmentation.js';
import { readStart } from '../../lib/dense/start.js';
import { Segmenter } from '../../lib/dense/segmenter.js';
import { DenseTrainer } from '../../lib/dense/trainer.js';
import { trainDense, type DenseTrainingEvent, type TrainedTask } from '../../lib/dense/training.js';
import { openDevice } from '../../lib/device.js';
import { LgdError } from '../../lib/errors.js';
import { createStudent, initialWeights } from '../../lib/models/index.js';
import { segmentationGraph } from '../../lib/models/heads/segmentation.js';
import { backboneOf, readDense, type DenseInfo } from '../../lib/runs/network-file.js';
import { lgdistill } from '../cli/program.js';
import { isWanted } from '../devices.js';
import { differing } from '../fixtures/differing.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { oneStepTrainings } from '../fixtures/scenes.js';
import { madeUpStudent, untrainedStudent } from '../fixtures/student.js';
import { buildEmulatedAddon } from '../native/emulated.js';
import { leftOver, withFault } from './failing-gpu-fixture.js';

const folder = temporaryFolder();
const { student, scenes, masked, boxed, dense } = await oneStepTrainings(folder);

async function told<Event>(events: AsyncIterable<Event>, into: Event[] = []): Promise<Event[]> {
  for await (const event of events) into.push(event);
  return into;
}

describe('a network that diverges', () => {
  it('is neither scored nor kept while it is trained', async () => {
    for (const [task, train] of [
      [
        'segmentation',
        (output: string, change: object) =>
          trainSegmentation({
            student,
            output,
            config: {
              ...masked(),
              log: { everySteps: 50 },
              dense: { ...masked().dense, evaluationData: scenes, ...change },
            },
          }),
      ],
      [
        'detection',
        (output: string, change: object) =>
          trainDetection({
            student,
            output,
            config: { ...boxed(), log: { everySteps: 50 }, dense: { ...boxed().dense, ...change } },
          }),
      ],
    ] as const) {
      const output = join(folder, `diverged-${task}`);
      const events: object[] = [];
      await expect(
        told<object>(train(output, { learningRate: 1e9, maxSteps: 6, everyEpochs: 1 }), events),
        task,
      ).rejects.toMatchObject({ code: 'NON_FINITE' });
      // before its numbers grew too large
      for (const event of events as { type: string; step: number }[])
        if (event.type === 'evaluation') expect(event.step).toBe(1);
      for (const name of (await readdir(output)).filter((entry) => entry.endsWith('.safetensors'))) {
        const { weights } = await readDense(join(output, name), task);
        expect(
          Object.values(weights).every(({ data }) => data.every(Number.isFinite)),
          `${task}: ${name}`,
        ).toBe(true);
      }
    }
  });
});

type PlainTask = TrainedTask<{ pixels: Float32Array }, number, object, object>;

/** A training whose weights stay as they are. */
async function* plainTraining(
  output: string,
  {
    steps,
    log,
    signal,
    ...task
  }: Partial<PlainTask> & Pick<PlainTask, 'score'> & { steps: number; log?: ConfigInput['log']; signal?: AbortSignal },
): AsyncGenerator<DenseTrainingEvent<number>, void> {
  const content = await readStart(student);
  const { architecture, widthMultiplier, mean, std } = content.info;
  const info: Omit<DenseInfo, 'step'> = {
    task: 'segmentation',
    architecture,
    widthMultiplier,
    head: 'fcn',
    outputStride: 32,
    resolution: 64,
    mean,
    std,
    names: ['a', 'b'],
  };
  const config = parseConfig({
    device: 'cpu',
    dense: { ...dense, maxSteps: steps, everyEpochs: 1, learningRate: 1e-6 },
    log,
  });
  yield* trainDense<{ pixels: Float32Array }, number, object, object>(
    {
      info,
      graph: segmentationGraph(backboneOf(info), { ...info, classes: 2, enlarge: false }),
      student: content,
      images: 2,
      evaluationImages: 2,
      start: {},
      draw: async () => ({ pixels: new Float32Array(2 * 3 * 64 * 64) }),
      openLoss: () => ({ queue: () => undefined, read: async () => ({ loss: 1 }), [Symbol.dispose]: () => undefined }),
      rank: (score) => score,
      ...task,
    },
    output,
    config,
    signal,
  );
}

describe('a training that stands still', () => {
  const log = { stallMinutes: 0.04 / 60 };
  const stopped = async ({ signal }: { signal: AbortSignal }) =>
    new Promise<never>((_, reject) => {
      signal.addEventListener('abort', () => reject(new LgdError('ABORTED', 'the evaluation was stopped.')));
    });

  it('says what it waits for, and can be left there', async () => {
    const slow = async () => {
      await sleep(100);
      return { pixels: new Float32Array(2 * 3 * 64 * 64) };
    };
    const slowLoss = () => ({
      queue: () => undefined,
      read: async () => {
        await sleep(100);
        return { loss: 1 };
      },
      [Symbol.dispose]: () => undefined,
    });
    const events = await told(
      plainTraining(join(folder, 'slow'), {
        steps: 1,
        log,
        draw: slow,
        openLoss: slowLoss,
        score: async () => {
          await sleep(100);
          return 1;
        },
      }),
    );
    expect(
      events
        .map((event) => (event.type === 'waiting' ? event.for : event.type))
        .filter((word, i, all) => word !== all[i - 1]),
    ).toEqual(['start', 'images', 'device', 'step', 'evaluation', 'done']);
    const messages = events.flatMap((event) => (event.type === 'waiting' ? [event.message] : [])).join('\n');
    for (const message of [
      /step 1 has waited \d+ seconds for its images/u,
      /step 1 has waited \d+ seconds for the device/u,
      /evaluation after step 1 has stood still/u,
    ])
      expect(messages).toMatch(message);

    for await (const event of plainTraining(join(folder, 'left'), {
      steps: 1,
      log,
      score: async (_, __, options) => stopped(options),
    }))
      if (event.type === 'waiting' && event.for === 'evaluation') break;
    expect((await readDense(join(folder, 'left', 'last.safetensors'), 'segmentation')).info.step).toBe(1);
  });

  it('can be stopped there', async () => {
    for (const [what, task] of [
      ['images', { draw: async () => new Promise<never>(() => undefined), score: undefined }],
      ['evaluation', { score: async (_: unknown, __: unknown, options: { signal: AbortSignal }) => stopped(options) }],
    ] as const) {
      const stop = new AbortController();
      const run = async () => {
        for await (const event of plainTraining(join(folder, `stopped-${what}`), {
          steps: 1,
          log,
          signal: stop.signal,
          ...task,
        }))
          if (event.type === 'waiting' && event.for === what) stop.abort();
      };
      await expect(run()).rejects.toMatchObject({ code: 'ABORTED' });
    }
  });

  it('is told of on the terminal, as is an evaluation, and what is opened before', async () => {
    const output = join(folder, 'told');
    const shared = ['--device', 'cpu', '--data', scenes, '--stall-minutes', '0.00001'];
    const trained = await lgdistill([
      'segment',
      'train',
      '--student',
      student,
      '--to',
      output,
      '--dense.resolution',
      '64',
      '--dense.batch-size',
      '2',
      '--dense.max-steps',
      '1',
      ...shared,
    ]);
    expect(trained.stderr).toMatch(/^opening the files has stood still for \d+ seconds: /mu);
    expect(trained.stderr).toMatch(/^step 1 has waited \d+ seconds for its images: /mu);
    const evaluated = await lgdistill(['segment', 'evaluate', '--model', output, ...shared]);
    expect(evaluated.stderr).toMatch(/^opening the files has stood still for \d+ seconds: /mu);
    expect([trained.code, evaluated.code]).toEqual([0, 0]);
  });
});

describe.skipIf(!isWanted('cuda-emulated', 'a training whose step fails'))('a step that fails on the GPU', () => {
  beforeAll(() => void buildEmulatedAddon(), 1_200_000);

  it('is in no network that is kept, and what is stopped between steps is', async () => {
    const small = await untrainedStudent(join(folder, 'small.safetensors'), {
      architecture: 'mobilenet_v3_small',
      widthMultiplier: 0.1,
    });
    const config = { ...masked(), device: 'cuda-emulated', dense: { ...masked().dense, maxSteps: 6, everyEpochs: 1 } };
    const steps = (output: string) =>
      Promise.all(
        ['last', 'model'].map(
          async (name) => (await readDense(join(output, `${name}.safetensors`), 'segmentation')).info.step,
        ),
      );
    const failed = join(folder, 'failed');
    // of the second step
    const { error, calls } = await withFault(join(folder, 'calls'), ['cudaGraphLaunch', 1, 'cudaErrorUnknown'], () =>
      told(trainSegmentation({ student: small, output: failed, config })),
    );
    expect(error).toMatchObject({ code: 'DEVICE_ERROR' });
    expect(leftOver(calls)).toEqual({});
    expect(await steps(failed)).toEqual([1, 1]);
    const stopped = join(folder, 'stopped');
    const controller = new AbortController();
    const stopping = async () => {
      for await (const event of trainSegmentation({
        student: small,
        output: stopped,
        config: { ...config, log: { everySteps: 1 }, dense: { ...config.dense, everyEpochs: 0 } },
        signal: controller.signal,
      }))
        if (event.type === 'step' && event.step === 2) controller.abort();
    };
    await expect(stopping()).rejects.toMatchObject({ code: 'ABORTED' });
    expect(await steps(stopped)).toEqual([2, 2]);
  });
});

describe('the best network', () => {
  /** Evaluations that give these scores. */
  async function scored(output: string, scores: number[]): Promise<DenseTrainingEvent<number>[]> {
    let evaluation = 0;
    return told(plainTraining(output, { steps: scores.length, score: async () => scores[evaluation++]! }));
  }

  it('is the first of equals, and what the end tells of', async () => {
    const output = join(folder, 'best');
    const events = await scored(output, [0.25, 0.5, 0.5, 0.125]);
    expect(events.flatMap((event) => (event.type === 'evaluation' && event.best ? [event.step] : []))).toEqual([1, 2]);
    expect(events.at(-1)).toMatchObject({ type: 'done', step: 4, score: 0.5, bestStep: 2 });
    for (const [file, step] of [
      ['model.safetensors', 2],
      ['last.safetensors', 4],
    ] as const)
      expect((await readDense(join(output, file), 'segmentation')).info.step).toBe(step);
    expect((await scored(join(folder, 'best-zero'), [0, 0])).at(-1)).toMatchObject({ score: 0, bestStep: 1 });
  });

  it('is what the command prints, with its step', async () => {
    const output = join(folder, 'printed');
    const options = [
      '--device',
      'cpu',
      '--dense.resolution',
      '64',
      '--dense.batch-size',
      '2',
      '--dense.max-steps',
      '3',
      '--dense.every-epochs',
      '1',
      '--dense.evaluation-data',
      scenes,
    ];
    const { code, stdout, stderr } = await lgdistill([
      'segment',
      'train',
      '--student',
      student,
      '--data',
      scenes,
      '--to',
      output,
      ...options,
    ]);
    expect(code, stderr).toBe(0);
    const { info } = await readDense(output, 'segmentation');
    const { meanIou } = await evaluateSegmentation({ model: output, config: masked() });
    const percent = `${(100 * meanIou!).toFixed(1)} %`;
    expect(stdout).toContain(`\nbest mIoU ${percent} at step ${info.step}:\n`);
    expect(stdout.trimEnd().split('\n').at(-1)).toContain(`mIoU ${percent}, `);
  });
});

it('a step whose loss cannot be queued moves nothing', async () => {
  using device = await openDevice('cpu', { threads: 1 });
  const { graph } = createStudent('mobilenet_v3_small', { device, embeddingSize: 8, widthMultiplier: 0.1 });
  const options = { batch: 2, resolution: 32, precision: 'float32', momentum: 0.9 } as const;
  using trainer = new DenseTrainer(device, graph, initialWeights(graph, 1), options);
  const before = await trainer.network.state();
  const numbers = { step: 0, seed: 0, learningRate: 0.1, weightDecay: 0 };
  const fail = () => {
    throw new Error('mine');
  };
  expect(() => trainer.queueStep(new Float32Array(2 * 3 * 32 * 32).fill(1), fail, numbers)).toThrow('mine');
  expect(differing(await trainer.network.state(), before)).toEqual([]);
});

it('networks that cannot take their weights leave no memory', async () => {
  using device = await openDevice('cpu', { threads: 1 });
  const { info, weights } = madeUpStudent('mobilenet_v2', { widthMultiplier: 0.25 });
  const before = device.info.allocatedBytes;
  const whole = { ...info, backbone: info.architecture, outputStride: 16, head: 'fcn' as const };
  expect(() => Segmenter.fromWeights(whole as never, {}, { device })).toThrow(
    expect.objectContaining({ code: 'BAD_MODEL' }) as Error,
  );
  const { graph } = createStudent('mobilenet_v2', { device, embeddingSize: 24, widthMultiplier: 0.25 });
  const options = { batch: 2, resolution: 64, precision: undefined, momentum: 0.9 };
  expect(() => new DenseTrainer(device, graph, { ...weights, 'head.2.bias': undefined as never }, options)).toThrow(
    expect.objectContaining({ code: 'BAD_MODEL' }) as Error,
  );
  await device.synchronize();
  expect(device.info.allocatedBytes).toBe(before);
});
