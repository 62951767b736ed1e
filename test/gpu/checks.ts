// What scripts/gpu-check runs through the library: results on CUDA against the CPU, golden vectors and themselves, then speed. Prints a table;
// exits 1 on a failure. $GPU_CHECK_DEVICE names the device (cuda), $GPU_CHECK_PARTS the parts, $GPU_CHECK_SMALL asks for sizes that an emulated GPU computes.
import { openDevice, type DeviceName } from '../../lib/device.js';
import { version } from '../../lib/version.js';
import { checkAugmentation } from './augmentation.js';
import { checkGolden, checkStudents, checkTeacher } from './networks.js';
import { checkKernels, sanitize } from './programs.js';
import { Report } from './report.js';
import { checkAgainstPlain, checkGoldenSteps } from './semantic.js';
import { measureSteps, profile, takeSteps } from './speed.js';
import { checkSteps } from './steps.js';

const report = new Report();
const name = (process.env['GPU_CHECK_DEVICE'] ?? 'cuda') as DeviceName;

async function main(): Promise<void> {
  using cpu = await openDevice('cpu');
  using cuda = await openDevice(name);
  console.log(`lgdistill ${version}, ${cuda.info.name}, compute capability ${cuda.info.computeCapability}, build ${cuda.addon.buildInfo().buildId}`);
  const parts: Record<string, (() => Promise<void>)[]> = {
    ops: [() => checkKernels(report)],
    sanitize: [() => sanitize(report)],
    semantic: [() => checkGoldenSteps(report, cuda), () => checkAgainstPlain(report, cuda)],
    augment: [() => checkAugmentation(report, cpu, cuda)],
    networks: [() => checkGolden(report, cuda), () => checkStudents(report, cpu, cuda), () => checkTeacher(report, cpu, cuda)],
    training: [() => checkSteps(report, cpu, cuda)],
    steps: [() => measureSteps(report, name)],
    profile: [() => profile(report)],
  };
  const wanted = (process.env['GPU_CHECK_PARTS'] ?? Object.keys(parts).join(' ')).split(/\s+/).filter((part) => part !== '');
  for (const part of wanted) {
    const from = performance.now();
    if (parts[part] === undefined) throw new Error(`no part ${part}; there are ${Object.keys(parts).join(', ')}`);
    for (const body of parts[part]) await report.attempt(part, 'the whole part', body);
    console.log(`${part}: ${((performance.now() - from) / 1000).toFixed(1)} s`);
  }
  console.log(`gpu-check: ${report.checks} checks, ${report.failures} failed`);
  process.exitCode = report.failures > 0 ? 1 : 0;
}

const steps = process.env['GPU_CHECK_TAKE_STEPS'];
if (steps === undefined) await main();
else await takeSteps(name, JSON.parse(steps) as Parameters<typeof takeSteps>[1], report.small ? 3 : 12);
