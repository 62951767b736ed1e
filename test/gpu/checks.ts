// What scripts/gpu-check runs through the library: results on CUDA against the CPU, golden vectors and themselves, then
// speed. Prints a table; exits 1 on a failure. $GPU_CHECK_DEVICE names the device (cuda), $GPU_CHECK_PARTS the parts,
// $GPU_CHECK_SMALL asks for sizes that an emulated GPU computes.
import { writeFile } from 'node:fs/promises';
import { addonPath } from '../../lib/addon/addon.js';
import { probeCuda } from '../../lib/addon/cuda-probe.js';
import { openDevice, type Device, type DeviceName } from '../../lib/device.js';
import { version } from '../../lib/package.js';
import { checkAugmentation } from './augmentation.js';
import {
  checkGolden,
  checkRandomGraphs,
  checkResiduals,
  checkStudents,
  checkTeachers,
  checkTower,
} from './networks.js';
import { checkConvolutions, checkKernels, measureKernels, sanitize } from './programs.js';
import { Report } from './report.js';
import { checkAgainstPlain, checkGoldenSteps } from './semantic.js';
import { measureSteps, profile, takeSteps } from './speed.js';
import { checkSteps } from './steps.js';

const report = new Report();
const name = (process.env['GPU_CHECK_DEVICE'] ?? 'cuda') as DeviceName;

type Body = (cpu: Device, cuda: Device) => Promise<void>;

/** A part that computes in this process; the others start processes, which shall have the GPU for themselves. */
const here =
  (...bodies: Body[]) =>
  async (part: string): Promise<void> => {
    using cpu = await openDevice('cpu');
    using cuda = await openDevice(name);
    console.log(
      `lgdistill ${version}, ${cuda.info.name}, compute capability ${cuda.info.computeCapability}, build ${cuda.addon.buildInfo().buildId}`,
    );
    for (const body of bodies) await report.attemptWhole(part, () => body(cpu, cuda));
  };

/**
 * What of the GPU the library uses: one that has wgmma and does not use it has failed its trial; programmatic launches
 * may be slower. For scripts/gpu-check in the file $GPU_CHECK_FEATURES: how products are formed, and how kernels start.
 */
async function tryFeatures(part: string): Promise<void> {
  using cuda = await openDevice(name);
  const { products, launches } = cuda.info;
  const has = cuda.addon.cudaStatus().devices.find(({ index }) => index === cuda.info.index);
  const tried = has !== undefined && (has.wgmma || has.programmaticLaunches);
  const found = tried
    ? await probeCuda({
        addon: addonPath(),
        build: cuda.addon.buildInfo(),
        status: cuda.addon.cudaStatus(),
        index: cuda.info.index,
      })
    : undefined;
  report.check(
    part,
    'dense products',
    `${products}${found?.wgmma?.passed === false ? `; wgmma: ${found.wgmma.reason}` : ''}`,
    has?.wgmma !== true || products === 'wgmma' || process.env['LGDISTILL_WGMMA'] === '0',
  );
  const { passed, reason, time } = found?.programmaticLaunches ?? { passed: true, reason: '' };
  report.check(
    part,
    'launches',
    `${launches}${passed ? '' : `; programmatic: ${reason}`}${time === undefined ? '' : `; programmatic in ${time.toFixed(2)} of the time of serialized`}`,
    passed,
  );
  const file = process.env['GPU_CHECK_FEATURES'] ?? '';
  if (file !== '') await writeFile(file, `${products} ${launches}\n`);
}

async function main(): Promise<void> {
  const parts: Record<string, (part: string) => Promise<void>> = {
    ops: () => checkKernels(report),
    sanitize: () => sanitize(report),
    semantic: here(
      (_, cuda) => checkGoldenSteps(report, cuda),
      (_, cuda) => checkAgainstPlain(report, cuda),
    ),
    augment: here((cpu, cuda) => checkAugmentation(report, cpu, cuda)),
    networks: here(
      (_, cuda) => checkGolden(report, cuda),
      (cpu, cuda) => checkStudents(report, cpu, cuda),
      (_, cuda) => checkTeachers(report, cuda),
      (cpu, cuda) => checkTower(report, cpu, cuda),
      (cpu, cuda) => checkResiduals(report, cpu, cuda),
      (cpu, cuda) => checkRandomGraphs(report, cpu, cuda),
    ),
    training: here((_, cuda) => checkSteps(report, cuda)),
    trial: tryFeatures,
    kernels: () => measureKernels(report, process.env['GPU_CHECK_ONLY'] ?? ''),
    convolutions: () => checkConvolutions(report),
    steps: () => measureSteps(report, name),
    profile: () => profile(report),
  };
  const wanted = (process.env['GPU_CHECK_PARTS'] ?? Object.keys(parts).join(' '))
    .split(/\s+/)
    .filter((part) => part !== '');
  // of `timeout`, which reaches none of the programs' own groups, and sends it twice: once() would die of the second
  process.on('SIGTERM', () => {
    report.stop(wanted.join(' '));
    process.exit(143);
  });
  for (const part of wanted) {
    const body = parts[part];
    if (body === undefined) throw new Error(`no part ${part}; there are ${Object.keys(parts).join(', ')}`);
    await report.attemptWhole(part, () => body(part));
  }
  console.log(`gpu-check: ${report.checks} checks, ${report.failures} failed`);
  process.exitCode = report.failures > 0 ? 1 : 0;
}

const steps = process.env['GPU_CHECK_TAKE_STEPS'];
if (steps === undefined) await main();
else
  await takeSteps(name, JSON.parse(steps) as Parameters<typeof takeSteps>[1], report.small ? 3 : 12).catch(
    (error: unknown) => {
      console.error((error as Error).message); // the last line, which is all that its parent shows
      process.exit(1);
    },
  );
