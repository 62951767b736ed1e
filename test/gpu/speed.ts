/** How fast whole steps are, and their parts, against the targets; and a few steps for a trace. */
import { spawnSync } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { StepInfo } from '../../lib/addon/native.js';
import { parseConfig } from '../../lib/config/config.js';
import { BatchPlan } from '../../lib/data/loader.js';
import { openDevice, type Device, type DeviceName } from '../../lib/device.js';
import { measureInference, measureTraining, sample, type Timing } from '../../lib/evaluate/throughput.js';
import { createStudent, loadTeacher, type NativeTeacher } from '../../lib/models/index.js';
import { Distiller } from '../../lib/train/distiller.js';
import { madeUpBank, madeUpImages } from '../../lib/train/made-up.js';
import type { StepTicket } from '../../lib/train/steps.js';
import { describeGaps, profileSteps, readTrace, shorten } from './gaps.js';
import type { Report } from './report.js';
import { towers, writeTeacher } from './setup.js';

interface Sizes {
  students: readonly string[];
  widthMultiplier: number;
  /** Side of the input, and of the stored images that it is cropped from. */
  resolutions: readonly { resolution: number; stored: number }[];
  batch: number;
  images: number;
  categories: number;
  seconds: number;
}

const full: Sizes = {
  students: ['resnet18', 'mobilenet_v2', 'mobilenet_v3_large', 'efficientnet_b0'],
  widthMultiplier: 1,
  resolutions: [
    { resolution: 224, stored: 256 },
    { resolution: 64, stored: 72 },
  ],
  batch: 256,
  images: 512,
  categories: 1000,
  seconds: 1.5,
};
const small: Sizes = {
  students: ['mobilenet_v3_small'],
  widthMultiplier: 0.25,
  resolutions: [{ resolution: 32, stored: 36 }],
  batch: 2,
  images: 4,
  categories: 10,
  seconds: 0,
};

/** As $GPU_CHECK_STUDENTS names some, with blanks between them, where a call has not the time for all. */
function sizesOf(report: Report): Sizes {
  if (report.small) return small;
  const named = (process.env['GPU_CHECK_STUDENTS'] ?? '').split(/\s+/u).filter((name) => name !== '');
  const unknown = named.find((name) => !full.students.includes(name));
  if (unknown !== undefined)
    throw new Error(`no student ${unknown} is measured; there are: ${full.students.join(' ')}`);
  return named.length === 0 ? full : { ...full, students: named };
}

/** Images a second of whole steps and peak bytes that an H100 is to reach at the full sizes. */
const targets: Record<number, Record<string, number>> = {
  224: { resnet18: 9000, mobilenet_v2: 8000, mobilenet_v3_large: 9200, efficientnet_b0: 7500 },
  64: { resnet18: 60_000, mobilenet_v2: 60_000, mobilenet_v3_large: 60_000, efficientnet_b0: 60_000 },
};
const peakTargets: Record<string, number> = {
  resnet18: 4.0e9,
  mobilenet_v2: 8.0e9,
  mobilenet_v3_large: 5.8e9,
  efficientnet_b0: 8.2e9,
};

interface StepSetting {
  student: string;
  widthMultiplier: number;
  resolution: number;
  stored: number;
  batch: number;
  images: number;
  categories: number;
  teacherFolder: string;
}

/**
 * A distiller over made-up images in host memory, and a function that takes a step, one behind the device as a run
 * does.
 */
export async function openSteps(
  device: Device,
  { student: name, widthMultiplier, resolution, stored, batch, images, categories, teacherFolder }: StepSetting,
) {
  const teacher = (await loadTeacher(teacherFolder, { device, localFilesOnly: true })) as NativeTeacher;
  const { embeddingSize } = teacher;
  const student = createStudent(name, { device, embeddingSize, widthMultiplier, resolution });
  const dataset = madeUpImages(device, images, stored);
  const config = parseConfig({ method: 'lgd', data: { resolution }, train: { batchSize: batch } });
  const distiller = new Distiller({ device, teacher, student, tsb: madeUpBank(categories, embeddingSize), config });
  const plan = new BatchPlan(dataset, { batchSize: batch, seed: 1 });
  let [step, before]: [number, StepTicket | undefined] = [0, undefined];
  const take = async () => {
    const ticket = await distiller.queueStep([{ ...plan.next(), dataset }], { step: step++, learningRate: 1e-4 });
    if (before !== undefined) await distiller.readMetrics(before);
    before = ticket;
  };
  const dispose = async () => {
    distiller.dispose();
    device.addon.release(dataset.store);
    await teacher.dispose();
  };
  return { distiller, teacher, take, dispose };
}

let told = false;
/** Whether the targets are for this card and these sizes. Of another card that is said once. */
function isJudged({ small }: Report, { info }: Device): boolean {
  if (small || info.name.includes('H100')) return !small;
  if (!told) console.log(`  steps     targets are an H100's: none is judged on ${info.name}`);
  told = true;
  return false;
}

/** Ends rows that are measured in another way than the library's own (scripts/gpu-check). */
const suffix = process.env['GPU_CHECK_SUFFIX'] ?? '';
/** Steps within which the ways to run a step's graph have been compared. */
const mostTuning = 200;

function record(
  report: Report,
  measured: string,
  student: string,
  resolution: number,
  timing: Timing,
  more: { peakBytes?: number; target?: number; peakTarget?: number; graphs?: string } & Partial<StepInfo> = {},
): void {
  const what = `${measured}${suffix}`;
  report.row({ part: 'steps', framework: 'lgdistill', what, student, resolution, ...timing, unit: 'ms', ...more });
  const gap = more.target === undefined ? '' : `, ${(timing.imagesPerSecond / more.target).toFixed(2)} x target`;
  const peak = more.peakBytes === undefined ? '' : `, at most ${(more.peakBytes / 1e9).toFixed(2)} GB`;
  console.log(
    `  steps     ${`${student} ${resolution} px: ${what}`.padEnd(58)} ${timing.p50.toFixed(3)} ms (${timing.p20.toFixed(3)} to ${timing.p80.toFixed(3)}), ${timing.imagesPerSecond.toFixed(0)} images/s${gap}${peak}${more.graphs ?? ''}`,
  );
}

/** Each student's whole step on a device of its own, so that peak memory is the step's; then its parts alone. */
async function measureStudent(
  report: Report,
  name: DeviceName,
  setting: StepSetting,
  seconds: number,
  withTeacher: boolean,
): Promise<void> {
  const { student, resolution, batch } = setting;
  using device = await openDevice(name);
  const { distiller, teacher, take, dispose } = await openSteps(device, setting);
  const most = report.small ? 3 : mostTuning;
  for (let i = 0; i < 3 || (i < most && (await distiller.stepInfo()).tuning); i++) await take();
  const timing = await sample(device, batch, take, { seconds });
  const { launched, eager, interrupted, nodes, changed, instantiated, way, ways } = await distiller.stepInfo();
  record(report, 'whole step', student, resolution, timing, {
    peakBytes: distiller.memory.peak,
    ...(isJudged(report, device) && {
      target: targets[resolution]?.[student],
      ...(resolution === 224 && { peakTarget: peakTargets[student] }),
    }),
    nodes,
    changed,
    instantiated,
    way,
    ways,
    graphs: `, ${launched} of ${launched + eager + interrupted} steps as graphs, ${instantiated} built, ${changed} of ${nodes} operations changed in the last`,
  });
  if (ways.length > 0)
    console.log(
      `            its graph alone, in ${ways.length} ways: ${ways[0]!.milliseconds.toFixed(3)} ms as usual, ${Math.min(...ways.map(({ milliseconds }) => milliseconds)).toFixed(3)} ms at best`,
    );
  record(report, 'student alone', student, resolution, await measureTraining(distiller.encoder, { seconds }));
  if (withTeacher) {
    using compiled = teacher.compile({ batch });
    record(report, 'teacher alone', 'teacher', resolution, await measureInference(compiled, { seconds }));
  }
  await dispose();
}

/** Calls `body` for every setting, with a teacher's folder that lasts as long. */
async function forSettings(
  report: Report,
  body: (setting: StepSetting, seconds: number, first: boolean) => Promise<void>,
): Promise<void> {
  const { students, resolutions, seconds, ...sizes } = sizesOf(report);
  const folder = await mkdtemp(join(tmpdir(), 'lgdistill-gpu-check-'));
  try {
    for (const { resolution, stored } of resolutions) {
      const teacherFolder = await writeTeacher(
        join(folder, String(resolution)),
        report.small ? towers.tiny : towers.resnet50,
        resolution,
      );
      for (const [i, student] of students.entries())
        await body({ ...sizes, student, resolution, stored, teacherFolder }, seconds, i === 0);
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

export async function measureSteps(report: Report, name: DeviceName): Promise<void> {
  await forSettings(report, (setting, seconds, first) =>
    report.attempt('steps', `${setting.student} ${setting.resolution} px`, () =>
      measureStudent(report, name, setting, seconds, first),
    ),
  );
}

/** The child's part of {@link profile}: a few steps, and nothing else on the device. */
export async function takeSteps(name: DeviceName, setting: StepSetting, count: number): Promise<void> {
  using device = await openDevice(name);
  const { take, dispose } = await openSteps(device, setting);
  for (let step = 0; step < count; step++) await take();
  await device.synchronize();
  await dispose();
}

const gapLimit = 5; // microseconds
const tracedSeconds = 45;

/** Gaps between operations inside steps, recorded with CUPTI in a process of its own (it slows kernels down). */
export async function profile(report: Report): Promise<void> {
  const library = process.env['GPU_CHECK_TRACE'];
  if (library === undefined || library === '') {
    console.log('SKIPPED profile: kernel_trace was not built, or libcupti is not here');
    report.row({ part: 'profile', name: 'gaps inside steps', value: 'no CUPTI: not measured' });
    return;
  }
  const folder = await mkdtemp(join(tmpdir(), 'lgdistill-trace-'));
  await forSettings(report, async (setting) => {
    const { student, resolution } = setting;
    if (resolution < 128 && student !== 'mobilenet_v2') return; // where steps are short, one network tells enough
    const name = `${student} ${resolution} px: gaps inside a step, serialized launches`;
    await report.attempt('profile', name, async () => {
      const trace = join(folder, `${student}-${resolution}`);
      // another child would write to the same trace
      const env = {
        ...process.env,
        GPU_CHECK_TAKE_STEPS: JSON.stringify(setting),
        CUDA_INJECTION64_PATH: library,
        LGDISTILL_TRACE: trace,
        LGDISTILL_PROBE: 'off',
        LGDISTILL_AUTOTUNE: '0', // one graph
        LGDISTILL_PDL: '0',
      }; // a kernel that starts early and waits would count as running: no gap would show
      const child = spawnSync(process.execPath, [process.argv[1]!], {
        encoding: 'utf8',
        timeout: 1000 * tracedSeconds,
        killSignal: 'SIGKILL',
        env,
      });
      if (child.signal === 'SIGKILL') throw new Error(`the traced process was stopped: longer than ${tracedSeconds} s`);
      if (child.status !== 0)
        throw new Error(
          `the traced process ended with ${child.status ?? child.signal}: ${child.stderr.trim().split('\n').at(-1)}`,
        );
      const recorded = await readFile(trace, 'utf8').catch((error: NodeJS.ErrnoException) => {
        if (error.code === 'ENOENT') return undefined;
        throw error;
      });
      if (recorded === undefined) {
        console.log(
          `SKIPPED ${name}: CUPTI recorded nothing${child.stderr === '' ? '' : `: ${child.stderr.trim().split('\n').at(-1)}`}`,
        );
        report.row({ part: 'profile', name, value: 'CUPTI recorded nothing: not measured' });
        return;
      }
      const found = profileSteps(readTrace(recorded), gapLimit);
      const kernels = found.kernels.slice(0, 40);
      report.row({ part: 'profile', name, launches: 'serialized', student, resolution, ...found, kernels });
      const { text, passed } = describeGaps(found, gapLimit);
      report.check('profile', name, text, passed);
      for (const kernel of kernels.slice(0, 8))
        console.log(
          `              ${kernel.microseconds.toFixed(0).padStart(6)} us in ${kernel.count.toFixed(0).padStart(3)} launches of ${shorten(kernel.name)}`,
        );
    });
  });
  await rm(folder, { recursive: true, force: true });
}
