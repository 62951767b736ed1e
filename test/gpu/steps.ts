/**
 * Whole distillation steps on CUDA: as the CPU takes them, the same bits whatever way they start, and the same after a
 * stop.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { StepInfo } from '../../lib/addon/native.js';
import { parseConfig, type ConfigInput } from '../../lib/config/config.js';
import { BatchPlan } from '../../lib/data/loader.js';
import { openDevice, type Device, type DeviceName } from '../../lib/device.js';
import { createStudent, loadTeacher } from '../../lib/models/index.js';
import { Distiller, type DistillerState } from '../../lib/train/distiller.js';
import { madeUpBank, madeUpImages } from '../../lib/train/made-up.js';
import { verifyDevice } from '../../lib/train/verify/verify.js';
import { digits, sameBits, withEnvironment, type Report } from './report.js';
import { towers, writeTeacher } from './setup.js';

interface Setting {
  student: string;
  widthMultiplier: number;
  teacher: string;
  resolution: number;
  batch: number;
  images: number;
  optimizer?: 'sgd' | 'adamw';
}

const titleOf = ({ student, optimizer = 'sgd' }: Setting): string =>
  optimizer === 'sgd' ? student : `${student} by ${optimizer}`;

/** A distiller on a device, everything made anew. */
async function make(
  device: Device,
  { student: name, widthMultiplier, teacher: folder, resolution, batch, images, optimizer = 'sgd' }: Setting,
  more: ConfigInput = {},
) {
  const teacher = await loadTeacher(folder, { device, localFilesOnly: true });
  const { embeddingSize } = teacher;
  const student = createStudent(name, { device, embeddingSize, widthMultiplier, resolution, seed: 4 });
  const config = parseConfig({
    seed: 3,
    method: 'lgd',
    ...more,
    data: { resolution },
    train: { batchSize: batch, warmupEpochs: 0, optimizer, ...more.train },
  });
  const tsb = madeUpBank(12, embeddingSize);
  const dataset = madeUpImages(device, images, resolution + 8);
  const distiller = new Distiller({ device, teacher, student, tsb, config });
  const dispose = async () => {
    distiller.dispose();
    device.addon.release(dataset.store);
    await teacher.dispose();
  };
  return { distiller, dataset, dispose };
}

/** State after some steps at a constant rate. */
async function stepsOn(
  device: Device,
  setting: Setting,
  count: number,
): Promise<{ state: DistillerState; info: StepInfo }> {
  const { distiller, dataset, dispose } = await make(device, setting);
  const plan = new BatchPlan(dataset, { batchSize: setting.batch, seed: 3 });
  for (let step = 0; step < count; step++)
    await distiller.readMetrics(
      await distiller.queueStep([{ ...plan.next(), dataset }], {
        step,
        learningRate: setting.optimizer === 'adamw' ? 0.001 : 0.05,
      }),
    );
  const result = { state: await distiller.state(), info: await distiller.stepInfo() };
  await dispose();
  return result;
}

function equal(a: DistillerState, b: DistillerState): boolean {
  const records = (['weights', 'momentum', 'secondMoment'] as const).every((part) =>
    Object.entries(a[part] ?? {}).every(([name, { data }]) => sameBits(data, b[part]![name]!.data)),
  );
  return records && sameBits(a.semantic.visual!, b.semantic.visual!) && sameBits(a.semantic.seen!, b.semantic.seen!);
}

/** What `lgdistill verify` compares. */
async function checkAgainstCpu(report: Report, cuda: Device, setting: Setting): Promise<void> {
  const { student: name, widthMultiplier, teacher, resolution, batch, optimizer = 'sgd' } = setting;
  const config: ConfigInput = {
    seed: 3,
    method: 'lgd',
    teacher,
    student: { name, widthMultiplier },
    data: { resolution },
    train: { batchSize: batch, optimizer },
  };
  for await (const { part, precision, error, limit, passed } of verifyDevice(config, {
    device: cuda,
    categories: 12,
    steps: report.small ? 2 : 4,
  })) {
    report.check(
      'training',
      `${titleOf(setting)} verified: ${part} ${precision}`,
      `${digits(error)}, ${digits(limit)} allowed`,
      passed,
    );
  }
}

/**
 * Of steps of one shape: one, and one more where a node that depends on what is drawn (a batch of which no image is
 * blurred) comes or goes.
 */
const mostGraphs = 2;

/**
 * The same steps twice, and once more without graphs: the same bits. Each on a device of its own, since that is when
 * the variable is read.
 */
async function checkBits(report: Report, name: DeviceName, setting: Setting): Promise<void> {
  const count = report.small ? 5 : 8; // the first runs call by call, and some that follow allocate room for input
  const run = async (variables: Record<string, string>, steps = count) =>
    withEnvironment(variables, async () => {
      using device = await openDevice(name);
      return await stepsOn(device, setting, steps);
    });
  const [first, second, eager] = [await run({}), await run({}), await run({ LGDISTILL_GRAPHS: '0' })];
  report.check(
    'training',
    `${titleOf(setting)} the same steps twice`,
    equal(first.state, second.state) ? 'the same bits' : 'other bits',
    equal(first.state, second.state),
  );
  const { launched, instantiated, nodes, changed, refused } = first.info;
  // A graph that the driver will not change is built anew for every step: the same bits, and slow.
  const graphs = launched > 0 && eager.info.launched === 0 && instantiated <= mostGraphs;
  const found = `${launched} of ${count} steps as graphs, ${instantiated} built, ${changed} of ${nodes} operations changed in the last${refused === undefined ? '' : `; ${refused}`}`;
  report.check(
    'training',
    `${titleOf(setting)} with graphs and without`,
    `${equal(first.state, eager.state) ? 'the same bits' : 'other bits'}, ${found}`,
    graphs && equal(first.state, eager.state),
  );
  if (report.small) return; // test/native/cuda_streams has it
  const tuning = 130;
  const [tuned, usual] = [await run({}, tuning), await run({ LGDISTILL_AUTOTUNE: '0' }, tuning)];
  report.check(
    'training',
    `${titleOf(setting)} in ${tuning} steps, tuned and as usual`,
    `${equal(tuned.state, usual.state) ? 'the same bits' : 'other bits'}, ${tuned.info.ways.length} ways compared`,
    equal(tuned.state, usual.state),
  );
}

/** A run that is stopped and continued from its checkpoint, and the unbroken one. */
async function checkResume(report: Report, device: Device, setting: Setting, folder: string): Promise<void> {
  const train = async (output: string, stopAt?: number, resume?: 'last') => {
    const made = await make(device, setting, {
      output,
      train: { epochs: 4, ...(report.small && { maxSteps: 3 }) },
      checkpoint: { everyEpochs: 0 },
      overwrite: resume === undefined,
    });
    const controller = new AbortController();
    let last = '';
    for await (const event of made.distiller.run(made.dataset, { signal: controller.signal, resume })) {
      last = `${event.type} ${event.step}`;
      if (event.type === 'step' && event.step === stopAt) controller.abort();
    }
    const state = await made.distiller.state();
    await made.dispose();
    return { state, last };
  };
  const whole = await train(join(folder, 'whole'));
  const stopped = await train(join(folder, 'broken'), 1);
  const resumed = await train(join(folder, 'broken'), undefined, 'last');
  const good =
    stopped.last.startsWith('interrupted') && resumed.last === whole.last && equal(resumed.state, whole.state);
  report.check(
    'training',
    `${titleOf(setting)} stopped and resumed as unbroken`,
    `${stopped.last}, ${resumed.last}: ${equal(resumed.state, whole.state) ? 'the same bits' : 'other bits'}`,
    good,
  );
}

export async function checkSteps(report: Report, cuda: Device): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'lgdistill-gpu-check-'));
  try {
    const teacher = report.small
      ? await writeTeacher(join(folder, 'teacher'), towers.tiny, 32)
      : await writeTeacher(join(folder, 'teacher'), { layers: [1, 1, 1, 1], width: 32, heads: 16, outputDim: 256 }, 64);
    const sizes = report.small ? { resolution: 32, batch: 4, images: 8 } : { resolution: 64, batch: 32, images: 96 };
    const first = report.small ? (['mobilenet_v3_small', 0.1] as const) : (['resnet18', 1] as const);
    const students = [
      first,
      [...first, 'adamw'],
      ...(report.small
        ? []
        : ([
            ['mobilenet_v2', 1],
            ['mobilenet_v3_large', 1],
            ['efficientnet_b0', 1],
          ] as const)),
    ] as const;
    for (const [student, widthMultiplier, optimizer = 'sgd'] of students) {
      const setting: Setting = { student, widthMultiplier, teacher, ...sizes, optimizer };
      const title = titleOf(setting);
      await report.attempt('training', `${title} as on the CPU`, () => checkAgainstCpu(report, cuda, setting));
      await report.attempt('training', `${title} bits`, () => checkBits(report, cuda.kind, setting));
      await report.attempt('training', `${title} resumed`, () =>
        checkResume(report, cuda, setting, join(folder, title)),
      );
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
