/** What this machine and this installation have, and what is missing: what `lgdistill doctor` prints. */
import { existsSync } from 'node:fs';
import { statfs } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { availableParallelism, cpus, freemem, totalmem } from 'node:os';
import { adviseSpeed, oldestDriver, readMachine, type SpeedAdvice } from './advice.js';
import { importSharp } from './data/sharp.js';
import { addonPath, emulatedAddonPath, loadAddon, type BuildInfo, type CudaStatus } from './native.js';
import { importOnnxRuntime } from './onnx.js';
import { importTransformers } from './text/encoder.js';
import { version } from './version.js';

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
  /** `required` is the CUDA version that the driver must support at least, as in {@link CudaStatus.driver}; 0 for an addon without CUDA. */
  cuda: CudaStatus & { required: number };
  /** File of the addon behind device 'cuda-emulated', where it is built. */
  emulated: string | undefined;
  /** What device 'auto' takes. */
  device: 'cpu' | 'cuda' | undefined;
  dependencies: { sharp: DependencyState; transformers: DependencyState; onnxruntime: DependencyState };
  problems: SystemProblem[];
  /** What would make this machine faster, the most first. */
  advice: SpeedAdvice[];
}

/**
 * Looks at everything the package needs; never throws for what it finds missing.
 * @param path a place on the disk that runs will be written to; default: the working folder
 */
export async function inspectSystem({ path = process.cwd() }: { path?: string } = {}): Promise<SystemReport> {
  const problems: SystemProblem[] = [];
  const { addon, cuda } = inspectAddon(problems);
  const dependencies = await inspectDependencies(problems);
  const disk = await statfs(path).catch(() => undefined);
  const free = disk === undefined ? undefined : disk.bavail * disk.bsize;
  if (free !== undefined && free < 1e9) problems.push({ what: `only ${Math.round(free / 1e6)} MB are free in ${path}`, mend: 'Free some space, or write runs elsewhere with --output', fatal: false });
  return {
    usable: problems.every((problem) => !problem.fatal),
    version,
    node: process.versions.node,
    platform: `${process.platform} ${process.arch}`,
    cpu: { model: cpus()[0]?.model ?? 'unknown', threads: availableParallelism() },
    memory: { total: Math.min(totalmem(), process.constrainedMemory() || Infinity), free: freemem() },
    disk: free === undefined ? undefined : { path, free },
    addon,
    cuda,
    emulated: existsSync(emulatedAddonPath()) ? emulatedAddonPath() : undefined,
    device: 'error' in addon ? undefined : cuda.available ? 'cuda' : 'cpu',
    dependencies,
    problems,
    advice: adviseSpeed(await readMachine(path), { build: 'error' in addon ? undefined : addon, cuda }),
  };
}

function inspectAddon(problems: SystemProblem[]): Pick<SystemReport, 'addon' | 'cuda'> {
  try {
    const native = loadAddon();
    const addon = { ...native.buildInfo(), path: addonPath() };
    const cuda = { ...native.cudaStatus(), required: Math.floor(addon.cudaRuntime / 1000) * 1000 };
    if (!cuda.available) problems.push(explainCuda(addon, cuda));
    return { addon, cuda };
  } catch (error) {
    problems.push({ what: 'the native addon cannot be loaded', mend: 'npm run build:native', fatal: true });
    return { addon: { error: (error as Error).message }, cuda: { available: false, reason: 'the addon is missing', driver: 0, devices: [], required: 0 } };
  }
}

/** Why no GPU is used, and what to do for one. The CPU does the work meanwhile. */
function explainCuda(addon: BuildInfo, { reason, driver, required }: SystemReport['cuda']): SystemProblem {
  const what = `no CUDA device: ${reason}`;
  if (!addon.cuda) return { what, mend: 'For a GPU, install the CUDA toolkit 12.8 or later and run: npm run build:native', fatal: false };
  const oldest = oldestDriver[required / 1000];
  if (driver > 0 && driver < required) return { what, mend: `Install the NVIDIA driver ${oldest ?? 'for this CUDA version'} or later`, fatal: false };
  return { what, mend: `For a GPU, install the NVIDIA driver${oldest === undefined ? '' : ` ${oldest} or later`}, and check that nvidia-smi lists a device`, fatal: false };
}

async function inspectDependencies(problems: SystemProblem[]): Promise<SystemReport['dependencies']> {
  const check = async (name: string, find: () => Promise<string>, mend: string, use: string): Promise<DependencyState> => {
    try {
      return { version: await find() };
    } catch (error) {
      const cause = error instanceof Error ? error : new Error(String(error));
      problems.push({ what: `${name} cannot be loaded, so ${use}`, mend, fatal: false });
      return { error: cause.message.split('\n')[0]! };
    }
  };
  return {
    sharp: await check('sharp', async () => (await importSharp()).versions.sharp ?? 'unknown', 'npm install --include=optional sharp@0.35.5', 'images cannot be decoded'),
    transformers: await check('@xenova/transformers', async () => (await importTransformers()).env.version, 'npm install @xenova/transformers@2.17.2', 'names cannot be encoded; give a bank built elsewhere'),
    onnxruntime: await check('onnxruntime-node', async () => {
      await importOnnxRuntime();
      return (createRequire(import.meta.url)('onnxruntime-node/package.json') as { version: string }).version;
    }, 'npm install onnxruntime-node@1.14.0', 'teachers in ONNX and text towers cannot be used'),
  };
}
