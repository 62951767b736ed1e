/** What would make this machine faster: only what can be seen in it, and what somebody can change. */
import { readdir, readFile, statfs } from 'node:fs/promises';
import { availableParallelism, totalmem } from 'node:os';
import { join } from 'node:path';
import type { BuildInfo, CudaStatus } from '../addon/native.js';
import { checkArgument, checkGiven } from '../arguments.js';
import { configOptions } from '../config/config.js';
import { machineMemory, ofControlGroups } from './memory.js';

/** Something that slows this machine down, and what to do about it. */
export interface SpeedAdvice {
  what: string;
  mend: string;
}

/** What Linux tells about a machine. Bytes; undefined where it does not say. */
export interface Machine {
  /** Cores that this process may run on. */
  cores: number;
  /** Cores' worth of time that the container's limit grants; undefined without a limit. */
  coreLimit: number | undefined;
  memory: number;
  /** The container's limit. */
  memoryLimit: number | undefined;
  /** Vector instructions of the processor, of those that the kernels know. */
  vectors: { avx2: boolean; avx512: boolean };
  /** 'always', 'madvise' or 'never'. */
  hugePages: string | undefined;
  /** NVIDIA cards on the PCI bus, with or without a driver. */
  nvidiaCards: number;
  /** Version of the loaded NVIDIA driver: '535.129.03'. */
  nvidiaDriver: string | undefined;
  /** Of the folder that runs are written to, where it tells something: memory or network. */
  disk: 'memory' | 'network' | undefined;
  /** Threads that decode images: libuv's. */
  decoderThreads: number;
}

/** What {@link adviseSpeed} needs to know of the addon. */
export interface AddonFacts {
  build: Pick<BuildInfo, 'cuda' | 'isa'> | undefined;
  cuda: Pick<CudaStatus, 'available' | 'driver'> & { required: number };
}

const nvidia = '0x10de';
const fileSystems: Readonly<Record<number, Machine['disk']>> = {
  0x01021994: 'memory',
  0x858458f6: 'memory',
  0x6969: 'network',
  0xff534d42: 'network',
  0xfe534d42: 'network',
};

/**
 * Reads what Linux tells about this machine; what it does not tell is left undefined.
 * @param path a place on the disk that runs will be written to
 * @param root '/', or a folder in its place
 */
export async function readMachine(path: string, root = '/'): Promise<Machine> {
  const text = (...parts: string[]) =>
    readFile(join(root, ...parts), 'utf8').then(
      (content) => content.trim(),
      () => '',
    );
  const [cpuInfo, pages, driver] = await Promise.all([
    text('proc/cpuinfo'),
    text('sys/kernel/mm/transparent_hugepage/enabled'),
    text('proc/driver/nvidia/version'),
  ]);
  const flags = new Set(/^flags\s*:(.*)$/mu.exec(cpuInfo)?.[1]!.trim().split(' '));
  const periods = ofControlGroups('cpu', [undefined, 'cpu.cfs_period_us'], root);
  const quotas = ofControlGroups('cpu', ['cpu.max', 'cpu.cfs_quota_us'], root).map(
    (quota, i) =>
      quota
        .split(' ')
        .concat(periods[i] ?? [])
        .map(Number) as [number, number],
  );
  const granted = quotas.filter(([quota]) => quota > 0).map(([quota, period]) => quota / period);
  const memory = machineMemory(root);
  const type = (await statfs(path).catch(() => undefined))?.type;
  return {
    cores: availableParallelism(),
    coreLimit: granted.length > 0 ? Math.min(...granted) : undefined,
    memory: totalmem(),
    memoryLimit: memory < totalmem() ? memory : undefined,
    vectors: {
      avx2: flags.has('avx2') && flags.has('fma'),
      avx512: flags.has('avx512f') && flags.has('avx512bw') && flags.has('avx512vl') && flags.has('avx512dq'),
    },
    hugePages: /\[(\w+)\]/u.exec(pages)?.[1],
    nvidiaCards: await countCards(join(root, 'sys/bus/pci/devices')),
    nvidiaDriver: /(?:Kernel Module|for \w+)\s+(\d+\.[\d.]+)/u.exec(driver)?.[1],
    disk: type === undefined ? undefined : fileSystems[type],
    decoderThreads: Number(process.env['UV_THREADPOOL_SIZE']) || 4,
  };
}

/** Display controllers (class 0x03) by NVIDIA. */
async function countCards(folder: string): Promise<number> {
  let cards = 0;
  for (const device of await readdir(folder).catch(() => [])) {
    const [vendor, kind] = await Promise.all(
      ['vendor', 'class'].map((name) => readFile(join(folder, device, name), 'utf8').catch(() => '')),
    );
    if (vendor!.trim() === nvidia && kind!.startsWith('0x03')) cards++;
  }
  return cards;
}

/** Oldest Linux driver of each CUDA generation (CUDA compatibility guide, "minor version compatibility"). */
export const oldestDriver: Readonly<Record<number, string>> = { 11: '450', 12: '525', 13: '580' };

/** What would make training faster on a machine, the most first. @throws LgdError BAD_OPTION */
export function adviseSpeed(machine: Machine, addon: AddonFacts): SpeedAdvice[] {
  checkArgument('machine', machine);
  checkGiven(addon, 'adviseSpeed()', 'build, cuda');
  const { build, cuda } = addon;
  checkGiven(cuda, 'adviseSpeed()', 'build, cuda');
  return [
    ...(cuda.available ? [] : adviseGpu(machine, build, cuda)),
    ...(cuda.available ? [] : adviseProcessor(machine, build)),
    ...adviseSurroundings(machine, cuda.available),
  ];
}

function adviseGpu(
  { nvidiaCards, nvidiaDriver }: Machine,
  build: AddonFacts['build'],
  { driver, required }: AddonFacts['cuda'],
): SpeedAdvice[] {
  if (nvidiaCards === 0) return [];
  const card = nvidiaCards === 1 ? 'An NVIDIA card is' : `${nvidiaCards} NVIDIA cards are`;
  const oldest = oldestDriver[required / 1000];
  if (build?.cuda === false)
    return [
      {
        what: `${card} in this machine, but this build is for the CPU alone.`,
        mend: 'Install the CUDA toolkit 12.8 or later and run: npm run build:native',
      },
    ];
  if (nvidiaDriver === undefined)
    return [
      {
        what: `${card} in this machine, but no NVIDIA driver is loaded.`,
        mend: `Install the NVIDIA driver${oldest === undefined ? '' : ` ${oldest} or later`}; in a container, start it with the GPU (docker run --gpus all)`,
      },
    ];
  if (required > 0 && driver < required)
    return [
      {
        what: `${card} in this machine, but its driver ${nvidiaDriver} is older than ${oldest ?? 'this CUDA version needs'}.`,
        mend: `Install the NVIDIA driver ${oldest ?? 'for this CUDA version'} or later`,
      },
    ];
  return [];
}

function adviseProcessor({ cores, vectors }: Machine, build: AddonFacts['build']): SpeedAdvice[] {
  const advice: SpeedAdvice[] = [];
  const best = vectors.avx512 ? 'avx512' : vectors.avx2 ? 'avx2' : 'baseline';
  const rank = ['baseline', 'avx2', 'avx512'];
  if (build !== undefined && rank.indexOf(build.isa) < rank.indexOf(best)) {
    advice.push({
      what: `The kernels use ${build.isa} instructions, the processor has ${best}.`,
      mend:
        process.env['LGDISTILL_ISA'] === undefined ? 'Report it, with what this command prints' : 'Unset LGDISTILL_ISA',
    });
  } else if (best === 'baseline' && build?.isa === 'baseline' && process.arch === 'x64') {
    advice.push({
      what: 'The processor has no AVX2 instructions, which the fast kernels need.',
      mend: 'Use a processor with AVX2; in a virtual machine, pass the host processor through',
    });
  }
  if (cores < 4)
    advice.push({
      what: `Only ${cores} ${cores === 1 ? 'core is' : 'cores are'} there to train on.`,
      mend: 'Use a GPU, or more cores, for more than a trial',
    });
  return advice;
}

function adviseSurroundings(
  { cores, coreLimit, memory, memoryLimit, hugePages, disk, decoderThreads }: Machine,
  gpu: boolean,
): SpeedAdvice[] {
  const advice: SpeedAdvice[] = [];
  const whole = coreLimit === undefined ? cores : Math.min(cores, Math.max(1, Math.floor(coreLimit)));
  if (whole < cores)
    advice.push({
      what: `This container is granted the time of ${coreLimit} of ${cores} cores; more threads than that are only held up.`,
      mend: `Give --threads ${whole}, or raise the container's limit`,
    });
  if (decoderThreads < whole)
    advice.push({
      what: `Images are decoded by ${decoderThreads} threads, on ${whole} cores.`,
      mend: `Set UV_THREADPOOL_SIZE=${whole}`,
    });
  const cacheMemory = Number(configOptions().find(({ path }) => path === 'data.cacheMemory')!.default) * 2 ** 20;
  const usable = Math.min(memory, memoryLimit ?? Infinity);
  if (cacheMemory > usable / 2) {
    const share = Math.floor(usable / 4 / 2 ** 20);
    advice.push({
      what: `The cache of decoded images takes up to ${cacheMemory / 2 ** 20} MiB, more than half of the ${Math.round(usable / 2 ** 20)} MiB ${usable < memory ? 'that this container may use' : 'of memory'}.`,
      mend: `Give --cache-memory ${share}; the rest goes to a file`,
    });
  }
  if (!gpu && hugePages === 'never')
    advice.push({
      what: 'Transparent huge pages are off; activations stream through memory faster over them.',
      mend: 'echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled',
    });
  if (disk === 'memory')
    advice.push({
      what: 'Runs would be written to memory (tmpfs): decoded images that are past the memory limit would stay in it.',
      mend: 'Give --output or --spill-folder on a disk',
    });
  if (disk === 'network')
    advice.push({
      what: 'Runs would be written to a network file system; reading decoded images back from it is slow.',
      mend: 'Give --spill-folder on a local disk',
    });
  return advice;
}
