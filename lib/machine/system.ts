/** What this machine and this installation have, and what is missing: what `lgdistill doctor` prints. */
import { existsSync } from 'node:fs';
import { statfs } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { availableParallelism, cpus } from 'node:os';
import { addonPath, emulatedAddonPath, loadAddon, passedOverAddons } from '../addon/addon.js';
import { askCuda, mendForCuda, probeInOrder, type ProbeResult } from '../addon/cuda-probe.js';
import type { BuildInfo, CudaStatus } from '../addon/native.js';
import { formatAttempt, isCheckout } from '../addon/search.js';
import { checkOptions } from '../arguments.js';
import { jpegCarrier, openJpegDecoder } from '../data/jpeg-decoder.js';
import { importSharp } from '../data/sharp.js';
import { LgdError } from '../errors.js';
import { importOnnxRuntime } from '../onnx/session.js';
import { version } from '../package.js';
import { checkSwitches, unknownSwitches } from '../switches.js';
import { importTokenizers } from '../text/tokenizers.js';
import { adviseSpeed, oldestDriver, readMachine, type SpeedAdvice } from './advice.js';
import { freeMemory, machineMemory } from './memory.js';

/** A package this one computes with, or why it cannot be used. */
export type DependencyState = { version: string } | { error: string };

/** Something that is missing, and what to do about it. */
export interface SystemProblem {
  what: string;
  mend: string;
  /** Whether nothing can be trained before it is mended. */
  fatal: boolean;
}

/** What {@link inspectSystem} finds. */
export interface SystemReport {
  /** Whether the package works on this machine, be it on the CPU alone. */
  usable: boolean;
  version: string;
  node: string;
  platform: string;
  cpu: { model: string; threads: number };
  /** Bytes. */
  memory: { total: number; free: number };
  /** Bytes free for this user where `path` lies. */
  disk: { path: string; free: number } | undefined;
  addon: (BuildInfo & { path: string }) | { error: string };
  /**
   * `required` is the CUDA version that the driver must support at least, as in {@link CudaStatus.driver}; 0 for an
   * addon without CUDA.
   */
  cuda: CudaStatus & { required: number };
  /**
   * How the CUDA device that 'auto' takes did in a process of its own, tried anew for this report; the last that was
   * tried where it takes none, undefined where there is none.
   */
  probe: ProbeResult | undefined;
  /** File of the addon behind device 'cuda-emulated', where it is built. */
  emulated: string | undefined;
  /** What device 'auto' takes. */
  device: 'cpu' | 'cuda' | `cuda:${number}` | undefined;
  dependencies: {
    sharp: DependencyState;
    jpegTurbo: DependencyState;
    transformers: DependencyState;
    onnxruntime: DependencyState;
  };
  problems: SystemProblem[];
  /** What would make this machine faster, the most first. */
  advice: SpeedAdvice[];
}

/**
 * Looks at everything the package needs; never throws for what it finds missing.
 * @param options `path`: a place on the disk that runs will be written to; default: the working folder
 * @throws LgdError BAD_OPTION (an option that it does not know)
 */
export async function inspectSystem(options: { path?: string | undefined } = {}): Promise<SystemReport> {
  checkOptions(options, 'inspectSystem()', { path: 'optional' });
  const { path = process.cwd() } = options;
  const problems: SystemProblem[] = [];
  const { addon, cuda } = await inspectAddon(problems);
  const { index, probe } = (await inspectCuda(addon, cuda, problems)) ?? {};
  const dependencies = await inspectDependencies(problems);
  const disk = await statfs(path).catch(() => undefined);
  // 0 blocks: a tmpfs without a limit, or a mount that does not tell
  const free = disk === undefined || disk.blocks === 0 ? undefined : disk.bavail * disk.bsize;
  if (free !== undefined && free < 1e9)
    problems.push({
      what: `only ${Math.round(free / 1e6)} MB are free in ${path}`,
      mend: 'Free some space, or write runs elsewhere with --output',
      fatal: false,
    });
  return {
    usable: problems.every((problem) => !problem.fatal),
    version,
    node: process.versions.node,
    platform: `${process.platform} ${process.arch}`,
    cpu: { model: cpus()[0]?.model ?? 'unknown', threads: availableParallelism() },
    memory: { total: machineMemory(), free: freeMemory() },
    disk: free === undefined ? undefined : { path, free },
    addon,
    cuda,
    probe,
    emulated: existsSync(emulatedAddonPath()) ? emulatedAddonPath() : undefined,
    device: 'error' in addon ? undefined : !probe?.passed ? 'cpu' : index === 0 ? 'cuda' : `cuda:${index!}`,
    dependencies,
    problems,
    advice: adviseSpeed(await readMachine(path), { build: 'error' in addon ? undefined : addon, cuda }),
  };
}

async function inspectAddon(problems: SystemProblem[]): Promise<Pick<SystemReport, 'addon' | 'cuda'>> {
  for (const { name, mend } of unknownSwitches())
    problems.push({ what: `nothing reads the environment variable ${name}`, mend, fatal: false });
  try {
    checkSwitches();
    const native = loadAddon();
    const addon = { ...native.buildInfo(), path: addonPath() };
    const cuda = { ...(await askCuda(native, addonPath())), required: Math.floor(addon.cudaRuntime / 1000) * 1000 };
    if (!cuda.available) problems.push(explainCuda(addon, cuda));
    for (const attempt of passedOverAddons())
      problems.push({
        what: `an addon was passed over: ${formatAttempt(attempt)}`,
        mend: 'Build it again (npm run build:native) or remove it',
        fatal: false,
      });
    return { addon, cuda };
  } catch (error) {
    const { code, message, mend = 'npm run build:native' } = error as LgdError;
    problems.push({ what: code === 'BAD_OPTION' ? message : 'the native addon cannot be loaded', mend, fatal: true });
    return {
      addon: { error: message },
      cuda: { available: false, reason: 'the addon is missing', driver: 0, devices: [], required: 0 },
    };
  }
}

/** Tries the devices that 'auto' would. */
async function inspectCuda(
  addon: SystemReport['addon'],
  cuda: CudaStatus,
  problems: SystemProblem[],
): Promise<{ index: number; probe: ProbeResult } | undefined> {
  if ('error' in addon || !cuda.available) return undefined;
  const tried = await probeInOrder({ addon: addon.path, build: addon, status: cuda, again: true });
  for (const { index, result } of tried) {
    const { passed, reason } = result;
    if (!passed)
      problems.push({
        what: `cuda:${index} is not used: ${reason}`,
        mend:
          mendForCuda(reason) ??
          'Look for driver errors in dmesg (Xid); LGDISTILL_PROBE=off takes the device for granted',
        fatal: false,
      });
  }
  const last = tried.at(-1);
  if (last === undefined) return undefined;
  const { index, result: probe } = last;
  if (probe.wgmma?.passed === false) {
    problems.push({
      what: `cuda:${index} forms products by mma.sync, slower than by wgmma, of which a trial failed: ${probe.wgmma.reason}`,
      mend: 'Please report it with this output; LGDISTILL_WGMMA=0 leaves the trial out',
      fatal: false,
    });
  }
  if (probe.programmaticLaunches?.passed === false) {
    problems.push({
      what: `cuda:${index} starts kernels one after the other, slower than early, of which a trial failed: ${probe.programmaticLaunches.reason}`,
      mend: 'Please report it with this output; LGDISTILL_PDL=0 leaves the trial out',
      fatal: false,
    });
  }
  return { index, probe };
}

/** Why no GPU is used, and what to do for one. The CPU does the work meanwhile. */
function explainCuda(addon: BuildInfo, { reason, driver, required }: SystemReport['cuda']): SystemProblem {
  const what = `no CUDA device: ${addon.cuda && driver === 0 ? 'no NVIDIA driver was found' : reason}`;
  const build = isCheckout()
    ? 'run: npm run build:native'
    : 'build lgdistill in a checkout of its sources (npm ci); LGDISTILL_ADDON names the addon';
  if (!addon.cuda)
    return { what, mend: `For a GPU, install the CUDA toolkit 12.8 or later and ${build}`, fatal: false };
  const oldest = oldestDriver[required / 1000];
  if (driver > 0 && driver < required)
    return { what, mend: `Install the NVIDIA driver ${oldest ?? 'for this CUDA version'} or later`, fatal: false };
  const mend = mendForCuda(reason);
  if (driver > 0 && mend !== undefined) return { what, mend, fatal: false };
  return {
    what,
    mend: `For a GPU, install the NVIDIA driver${oldest === undefined ? '' : ` ${oldest} or later`}, and check that nvidia-smi lists a device`,
    fatal: false,
  };
}

async function inspectDependencies(problems: SystemProblem[]): Promise<SystemReport['dependencies']> {
  const check = async (
    name: string,
    find: () => Promise<string>,
    mend: string,
    use: string,
  ): Promise<DependencyState> => {
    try {
      return { version: await find() };
    } catch (error) {
      const cause = error instanceof Error ? error : new Error(String(error));
      problems.push({
        what: `${name} cannot be loaded, so ${use}`,
        mend: error instanceof LgdError ? error.mend : mend,
        fatal: false,
      });
      return { error: cause.message.split('\n')[0]! };
    }
  };
  return {
    sharp: await check(
      'sharp',
      async () => (await importSharp()).versions.sharp ?? 'unknown',
      'npm install --include=optional sharp@0.35.5',
      'images cannot be decoded',
    ),
    jpegTurbo: await check(
      'libjpeg-turbo',
      async () => {
        const { path, reasons } = openJpegDecoder();
        if (path === undefined) throw new Error(reasons.join('; '));
        return path;
      },
      `npm install --include=optional ${jpegCarrier}, or the system's libturbojpeg`,
      'JPEG files are decoded by sharp, in twice the time',
    ),
    transformers: await check(
      '@xenova/transformers',
      async () => {
        await importTokenizers();
        return installedVersion('@xenova/transformers');
      },
      'npm install --ignore-scripts',
      'names cannot be encoded; give a bank built elsewhere',
    ),
    onnxruntime: await check(
      'onnxruntime-node',
      async () => {
        await importOnnxRuntime();
        return installedVersion('onnxruntime-node');
      },
      'npm install onnxruntime-node@1.14.0',
      'teachers in ONNX and text towers cannot be used',
    ),
  };
}

function installedVersion(name: string): string {
  return (createRequire(import.meta.url)(`${name}/package.json`) as { version: string }).version;
}
