import { mkdirSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import { describe, expect, it, vi } from 'vitest';
import { adviseSpeed, readMachine, type AddonFacts, type Machine } from '../../lib/machine/advice.js';
import { temporaryFolder } from '../fixtures/folder.js';

const good: Machine = {
  cores: 8,
  coreLimit: undefined,
  memory: 64 * 2 ** 30,
  memoryLimit: undefined,
  vectors: { avx2: true, avx512: true },
  hugePages: 'madvise',
  nvidiaCards: 0,
  nvidiaDriver: undefined,
  disk: undefined,
  decoderThreads: 8,
};
const onCpu: AddonFacts = {
  build: { cuda: true, isa: 'avx512' },
  cuda: { available: false, driver: 0, required: 13000 },
};

describe('advice', () => {
  it('is not given where there is nothing to mend', () => {
    expect(adviseSpeed(good, onCpu)).toEqual([]);
    expect(
      adviseSpeed(
        {
          ...good,
          nvidiaCards: 1,
          nvidiaDriver: '580.65.06',
          vectors: { avx2: false, avx512: false },
          hugePages: 'never',
        },
        { ...onCpu, cuda: { available: true, driver: 13000, required: 13000 } },
      ),
    ).toEqual([]);
  });

  it.each<[string, Partial<Machine>, Partial<AddonFacts>, string, string]>([
    [
      'a card without a CUDA build',
      { nvidiaCards: 1 },
      { build: { cuda: false, isa: 'avx512' } },
      'for the CPU alone',
      'npm run build:native',
    ],
    [
      'a card without a driver',
      { nvidiaCards: 2 },
      {},
      '2 NVIDIA cards are in this machine, but no NVIDIA driver',
      '580 or later',
    ],
    [
      'a driver that is too old',
      { nvidiaCards: 1, nvidiaDriver: '535.129.03' },
      { cuda: { available: false, driver: 12020, required: 13000 } },
      'driver 535.129.03 is older than 580',
      '580 or later',
    ],
    [
      'instructions that are there and not used',
      {},
      { build: { cuda: true, isa: 'avx2' } },
      'use avx2 instructions, the processor has avx512',
      'Report it',
    ],
    [
      'a processor without AVX2',
      { vectors: { avx2: false, avx512: false } },
      { build: { cuda: true, isa: 'baseline' } },
      'no AVX2',
      'AVX2',
    ],
    ['few cores', { cores: 2, decoderThreads: 4 }, {}, 'Only 2 cores', 'GPU'],
    ['a limit on processor time', { coreLimit: 2.5 }, {}, '2.5 of 8 cores', '--threads 2'],
    ['few decoding threads', { decoderThreads: 4 }, {}, '4 threads, on 8 cores', 'UV_THREADPOOL_SIZE=8'],
    ['a limit on memory', { memoryLimit: 2 ** 30 }, {}, '1024 MiB that this container may use', '--cache-memory 256'],
    ['huge pages turned off', { hugePages: 'never' }, {}, 'huge pages are off', 'madvise'],
    ['a disk in memory', { disk: 'memory' }, {}, 'tmpfs', '--spill-folder'],
    ['a disk behind a network', { disk: 'network' }, {}, 'network file system', '--spill-folder'],
  ])('for %s', (_, machine, addon, what, mend) => {
    const advice = adviseSpeed({ ...good, ...machine }, { ...onCpu, ...addon });
    expect(advice).toEqual([
      { what: expect.stringContaining(what) as string, mend: expect.stringContaining(mend) as string },
    ]);
  });
});

describe('a machine', () => {
  const root = temporaryFolder();
  const files: Record<string, string> = {
    'proc/cpuinfo': 'processor\t: 0\nflags\t\t: fpu avx2 fma avx512f avx512bw avx512vl avx512dq\n',
    'proc/driver/nvidia/version':
      'NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19 18:56:32 UTC 2023\nGCC version: gcc 12\n',
    'sys/fs/cgroup/cpu.max': '250000 100000\n',
    'sys/fs/cgroup/memory.max': '1073741824\n',
    'batch/proc/self/cgroup': '0::/job/task\n',
    'batch/sys/fs/cgroup/job/memory.max': '536870912\n',
    'batch/sys/fs/cgroup/job/task/memory.max': 'max\n',
    'batch/sys/fs/cgroup/job/cpu.max': '300000 100000\n',
    'batch/sys/fs/cgroup/job/task/cpu.max': 'max 100000\n',
    'old/proc/self/cgroup': '5:memory:/job/task\n1:cpu,cpuacct:/job\n0::/\n',
    'old/sys/fs/cgroup/memory/job/memory.limit_in_bytes': '268435456\n',
    'old/sys/fs/cgroup/memory/memory.limit_in_bytes': '9223372036854771712\n',
    'old/sys/fs/cgroup/cpu/job/cpu.cfs_quota_us': '150000\n',
    'old/sys/fs/cgroup/cpu/job/cpu.cfs_period_us': '100000\n',
    'old/sys/fs/cgroup/cpu/cpu.cfs_quota_us': '-1\n',
    'old/sys/fs/cgroup/cpu/cpu.cfs_period_us': '100000\n',
    'sys/kernel/mm/transparent_hugepage/enabled': 'always madvise [never]\n',
    'sys/bus/pci/devices/0000:01:00.0/vendor': '0x10de\n',
    'sys/bus/pci/devices/0000:01:00.0/class': '0x030200\n',
    // the sound of a graphics card
    'sys/bus/pci/devices/0000:01:00.1/vendor': '0x10de\n',
    'sys/bus/pci/devices/0000:01:00.1/class': '0x040300\n',
    'sys/bus/pci/devices/0000:02:00.0/vendor': '0x1002\n',
    'sys/bus/pci/devices/0000:02:00.0/class': '0x030000\n',
  };

  it('is read from what Linux tells', async () => {
    for (const [name, content] of Object.entries(files)) {
      mkdirSync(dirname(join(root, name)), { recursive: true });
      writeFileSync(join(root, name), content);
    }
    vi.stubEnv('UV_THREADPOOL_SIZE', '16');
    expect(await readMachine(root, root)).toMatchObject({
      cores: availableParallelism(),
      coreLimit: 2.5,
      memoryLimit: 2 ** 30,
      vectors: { avx2: true, avx512: true },
      hugePages: 'never',
      nvidiaCards: 1,
      nvidiaDriver: '535.129.03',
      decoderThreads: 16,
    });
    // the limits of groups further up
    expect(await readMachine(root, join(root, 'batch'))).toMatchObject({ coreLimit: 3, memoryLimit: 2 ** 29 });
    expect(await readMachine(root, join(root, 'old'))).toMatchObject({ coreLimit: 1.5, memoryLimit: 2 ** 28 });
    vi.unstubAllEnvs();
  });

  it('that tells nothing is no error', async () => {
    expect(await readMachine('/nowhere', join(root, 'empty'))).toMatchObject({
      coreLimit: undefined,
      memoryLimit: undefined,
      hugePages: undefined,
      nvidiaCards: 0,
      nvidiaDriver: undefined,
      disk: undefined,
    });
    expect((await readMachine('/dev/shm')).disk).toBe('memory');
  });
});
