import { afterEach, expect, test, vi } from 'vitest';
import { addonPath, loadAddon } from '../../lib/addon/addon.js';
import type { SystemReport } from '../../lib/machine/system.js';
import { version } from '../../lib/package.js';
import { writeFakeAddon } from '../fixtures/fake-addon.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { lgdistill } from './program.js';

const folder = temporaryFolder();

afterEach(() => {
  vi.unstubAllEnvs();
  vi.resetModules();
});

test('says what is there, as one JSON document', async () => {
  const { code, documents, stderr } = await lgdistill(['doctor', '--json']);
  expect(code).toBe(0);
  const [report, ...more] = documents() as unknown as SystemReport[];
  expect(more).toEqual([]);
  const build = loadAddon().buildInfo();
  expect(report).toMatchObject({
    usable: true,
    version,
    node: process.versions.node,
    addon: { ...build, path: addonPath() },
    dependencies: {
      sharp: { version: expect.stringMatching(/^\d+\.\d+/u) as string },
      transformers: { version: '2.17.2' },
      onnxruntime: { version: '1.14.0' },
    },
  });
  const cuda = loadAddon().cudaStatus();
  expect(report!.device).toBe(cuda.available && report!.probe!.passed ? 'cuda' : 'cpu');
  expect(report!.cuda).toMatchObject({
    available: cuda.available,
    required: Math.floor(build.cudaRuntime / 1000) * 1000,
  });
  expect(report!.problems.some(({ what }) => what.includes('CUDA'))).toBe(!cuda.available);
  expect(report!.memory.free).toBeGreaterThan(0);
  expect(report!.disk!.free).toBeGreaterThan(0);
  expect(stderr).toContain(addonPath()); // people read the same on stderr
});

test('of a disk that does not tell its room nothing is said', async () => {
  vi.resetModules();
  vi.doMock('node:fs/promises', async (original) => ({
    ...(await original<typeof import('node:fs/promises')>()),
    statfs: () => Promise.resolve({ blocks: 0, bavail: 0, bsize: 4096, type: 0 }),
  }));
  try {
    const { inspectSystem } = await import('../../lib/machine/system.js');
    const { disk, problems } = await inspectSystem();
    expect(disk).toBeUndefined();
    expect(problems.filter(({ what }) => what.includes('are free'))).toEqual([]);
  } finally {
    vi.doUnmock('node:fs/promises');
  }
});

test('environment variables with a slip in name or value are said', async () => {
  vi.stubEnv('LGDISTILL_GRAPH', '0');
  expect((await lgdistill(['doctor', '--json'])).stderr).toContain(
    'nothing reads the environment variable LGDISTILL_GRAPH\n  -> Did you mean LGDISTILL_GRAPHS?',
  );
  vi.stubEnv('LGDISTILL_ISA', 'sse');
  const { code, stderr } = await lgdistill(['doctor', '--json']);
  expect(code).toBe(1);
  expect(stderr).toContain(
    '$LGDISTILL_ISA: the environment variable says what it may not. Found: "sse". Allowed: baseline, avx2, avx512. Correct or unset it.',
  );
});

test('a GPU that fails its trial is shown with the reason, and auto takes the CPU', async () => {
  vi.stubEnv('LGDISTILL_ADDON', writeFakeAddon(folder, 'aborts'));
  vi.stubEnv('XDG_CACHE_HOME', folder);
  vi.resetModules(); // the addon is loaded once a process
  const { lgdistill: fresh } = await import('./program.js');
  const { code, documents, stderr } = await fresh(['doctor', '--json']);
  const [report] = documents() as unknown as SystemReport[];
  expect([code, report!.device, report!.probe]).toEqual([
    0,
    'cpu',
    expect.objectContaining({ passed: false, reason: 'it crashed with SIGABRT', remembered: false }),
  ]);
  expect(stderr).toContain('cuda:0 is not used: it crashed with SIGABRT\n  -> ');
});

test('of two GPUs the one that works is taken, and what the other lacks is said', async () => {
  const values = [Math.log(1 + Math.E) - 1 / (1 + Math.E), -Math.tanh(0.5), 0];
  vi.stubEnv('LGDISTILL_ADDON', writeFakeAddon(folder, 'aborts', { values, name: 'two', cards: ['works'] }));
  vi.stubEnv('XDG_CACHE_HOME', folder);
  vi.resetModules();
  const { lgdistill: fresh } = await import('./program.js');
  const { documents, stderr } = await fresh(['doctor', '--json']);
  expect((documents() as unknown as SystemReport[])[0]).toMatchObject({ device: 'cuda:1', probe: { passed: true } });
  expect(stderr).toContain('cuda:0 is not used: it crashed with SIGABRT');
});

test.each([
  ['system not yet initialized (cudaErrorSystemNotReady)', 'nvidia-fabricmanager'],
  [
    'system has unsupported display driver / cuda driver combination (cudaErrorSystemDriverMismatch)',
    'Restart the machine',
  ],
  ['no CUDA-capable device is detected (cudaErrorNoDevice)', 'CUDA_VISIBLE_DEVICES'],
  ['something new', 'install the NVIDIA driver 580 or later'],
])('what to do about a driver that says: %s', async (reason, mend) => {
  vi.stubEnv(
    'LGDISTILL_ADDON',
    writeFakeAddon(folder, 'works', { name: `says-${mend.slice(0, 7)}`, driver: { reason } }),
  );
  vi.resetModules();
  const { lgdistill: fresh } = await import('./program.js');
  const [report] = (await fresh(['doctor', '--json'])).documents() as unknown as SystemReport[];
  expect(report!.problems).toContainEqual({
    what: `no CUDA device: ${reason}`,
    mend: expect.stringContaining(mend) as string,
    fatal: false,
  });
});

test('a GPU whose products by warpgroups fail is used without them, and that is said', async () => {
  vi.stubEnv(
    'LGDISTILL_ADDON',
    writeFakeAddon(folder, 'works', {
      values: [Math.log(1 + Math.E) - 1 / (1 + Math.E), -Math.tanh(0.5), 0],
      name: 'without-wgmma',
      wgmma: 'wrong',
    }),
  );
  vi.stubEnv('XDG_CACHE_HOME', folder);
  vi.stubEnv('LGDISTILL_WGMMA', '');
  vi.resetModules();
  const { lgdistill: fresh } = await import('./program.js');
  const { code, documents, stderr } = await fresh(['doctor', '--json']);
  const [report] = documents() as unknown as SystemReport[];
  expect([code, report!.device, report!.probe]).toEqual([
    0,
    'cuda',
    expect.objectContaining({ passed: true, wgmma: expect.objectContaining({ passed: false }) as unknown }),
  ]);
  expect(stderr).toContain('mma.sync; wgmma failed: its products differ');
  expect(stderr).toContain('slower than by wgmma');
});

test.each([
  ['works', 'programmatic, which took 60 % of the time of serialized ones', undefined],
  [
    'throws',
    'serialized; programmatic ones failed: an illegal memory access',
    'starts kernels one after the other, slower than early',
  ],
] as const)('how a GPU starts kernels is said: %s', async (launches, line, problem) => {
  vi.stubEnv(
    'LGDISTILL_ADDON',
    writeFakeAddon(folder, 'works', {
      values: [Math.log(1 + Math.E) - 1 / (1 + Math.E), -Math.tanh(0.5), 0],
      name: `launches-${launches}`,
      launches,
    }),
  );
  vi.stubEnv('XDG_CACHE_HOME', folder);
  vi.stubEnv('LGDISTILL_PDL', '');
  vi.resetModules();
  const { lgdistill: fresh } = await import('./program.js');
  const { code, documents, stderr } = await fresh(['doctor', '--json']);
  expect([code, (documents() as unknown as SystemReport[])[0]!.device]).toEqual([0, 'cuda']);
  expect(stderr).toContain(line);
  if (problem === undefined) expect(stderr).not.toContain('slower than early');
  else expect(stderr).toContain(problem);
});

test('a machine without the addon is not usable, and the command to type is said', async () => {
  vi.stubEnv('LGDISTILL_ADDON', '/nowhere/lgdistill.node');
  vi.resetModules(); // the addon is loaded once a process
  const { lgdistill: fresh } = await import('./program.js');
  const { code, stdout } = await fresh(['doctor']);
  expect(code).toBe(1);
  expect(stdout).toContain(
    'missing: the native addon could not be loaded. Tried: $LGDISTILL_ADDON (/nowhere/lgdistill.node): not there.',
  );
  expect(stdout).toContain(
    'the native addon cannot be loaded\n  -> Unset LGDISTILL_ADDON, or name an addon of this version',
  );
  expect(stdout.trimEnd()).toMatch(/not usable$/u);
});
