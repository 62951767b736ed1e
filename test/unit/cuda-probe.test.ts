import { mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import type { ProbeResult } from '../../lib/addon/cuda-probe.js';
import { bankLoss } from '../../lib/semantic/index.js';
import { ensureBuilt } from '../cli/built.js';
import { type FakeBehaviour, type FakeDriver, writeFakeAddon } from '../fixtures/fake-addon.js';
import { temporaryFolder } from '../fixtures/folder.js';

const folder = temporaryFolder();
let count = 0;
let cache = '';

beforeEach(() => {
  cache = join(folder, `cache-${count++}`);
  vi.stubEnv('XDG_CACHE_HOME', cache);
  vi.stubEnv('LGDISTILL_PROBE', '');
  vi.stubEnv('LGDISTILL_WGMMA', '');
  vi.stubEnv('LGDISTILL_PDL', '');
  vi.stubEnv('LGDISTILL_GRAPHS', '');
});
afterEach(() => {
  vi.unstubAllEnvs();
  vi.resetModules();
});

/** Loss and gradient of the trial, from the reference in TypeScript rather than from the probe's closed form. */
async function referenceValues(): Promise<number[]> {
  const input = {
    student: Float32Array.of(0, 1),
    teacher: Float32Array.of(1, 0),
    textual: Float32Array.of(1, 0, 0, 1),
    dimension: 2,
    alpha: 0,
    studentTemperature: 1,
    teacherTemperature: 1,
  };
  const { loss, gradient } = await bankLoss(input, { device: 'js' });
  return [loss, ...gradient];
}

async function fake(behaviour: FakeBehaviour, wgmma?: FakeBehaviour, launches?: FakeBehaviour): Promise<string> {
  return writeFakeAddon(folder, behaviour, {
    values: await referenceValues(),
    name: `${behaviour}-${wgmma ?? 'without'}-${launches ?? 'without'}-${count}`,
    wgmma,
    launches,
  });
}

const loads = (file: string) => statSync(`${file}.loads`, { throwIfNoEntry: false })?.size ?? 0;

/** Probes as a new process would: what this one knows is forgotten first. */
async function probe(
  file: string,
  options: { timeoutMilliseconds?: number; again?: boolean } = {},
): Promise<ProbeResult> {
  vi.resetModules();
  const { probeCuda } = await import('../../lib/addon/cuda-probe.js');
  const addon = createRequire(import.meta.url)(file) as { buildInfo: () => never; cudaStatus: () => never };
  return probeCuda({ addon: file, build: addon.buildInfo(), status: addon.cudaStatus(), index: 0, ...options });
}

describe('a trial in a child process', () => {
  test('passes where the numbers are right', async () => {
    expect(await probe(await fake('works'))).toMatchObject({ passed: true, reason: '', remembered: false });
  });

  test.each<[FakeBehaviour, RegExp]>([
    ['aborts', /^it crashed with SIGABRT$/u],
    ['exits', /^the trial process ended with 7 and no answer$/u],
    ['throws', /an illegal memory access was encountered/u],
    ['wrong', /^it computes wrong numbers: 1\.54\d*, .* in the place of 1\.04432/u],
  ])('%s: said, and this process goes on', async (behaviour, reason) => {
    const result = await probe(await fake(behaviour));
    expect(result.passed).toBe(false);
    expect(result.reason).toMatch(reason);
  });

  test('is ended when it hangs', async () => {
    expect(await probe(await fake('hangs'), { timeoutMilliseconds: 1500 })).toMatchObject({
      passed: false,
      reason: 'it gave no answer within 1.5 s',
    });
  });
});

describe('a trial of products by warpgroups', () => {
  test('is of its own, and only where a device has them', async () => {
    expect((await probe(await fake('works'))).wgmma).toBeUndefined();
    const file = await fake('works', 'works');
    expect(await probe(file)).toMatchObject({ passed: true, wgmma: { passed: true, reason: '' } });
    expect(loads(file)).toBe(3); // this process and two children
    expect((await probe(await fake('aborts', 'works'))).wgmma).toBeUndefined();
  });

  test.each<[FakeBehaviour, RegExp]>([
    ['aborts', /^it crashed with SIGABRT$/u],
    ['throws', /an illegal memory access was encountered/u],
    ['wrong', /^its products differ from those of mma\.sync by no number of their size$/u],
  ])('%s: the device is used without them', async (wgmma, reason) => {
    const file = await fake('works', wgmma);
    expect(await probe(file)).toMatchObject({
      passed: true,
      wgmma: { passed: false, reason: expect.stringMatching(reason) as string },
    });
  });

  test('is ended when it hangs', async () => {
    // the trial before it answers within that, on a busy machine too
    expect(await probe(await fake('works', 'hangs'), { timeoutMilliseconds: 8000 })).toMatchObject({
      passed: true,
      wgmma: { passed: false, reason: 'it gave no answer within 8 s' },
    });
  });

  test('is left out where the environment decides', async () => {
    const file = await fake('works', 'aborts');
    for (const decided of ['0', '1']) {
      vi.stubEnv('LGDISTILL_WGMMA', decided);
      expect(await probe(file)).toMatchObject({ passed: true, wgmma: undefined });
    }
    vi.stubEnv('LGDISTILL_WGMMA', 'yes');
    await expect(probe(file)).rejects.toMatchObject({
      code: 'BAD_OPTION',
      option: '$LGDISTILL_WGMMA',
      found: 'yes',
      allowed: '0, 1',
    });
    vi.stubEnv('LGDISTILL_WGMMA', '');
    // what was found without it does not stand for it
    expect(await probe(file)).toMatchObject({ passed: true, wgmma: { passed: false }, remembered: false });
  });

  test('is remembered, a failure for an hour', async () => {
    const file = await fake('works', 'throws');
    await probe(file);
    expect(await probe(file)).toMatchObject({ passed: true, wgmma: { passed: false }, remembered: true });
    const kept = join(cache, 'lgdistill', 'cuda-probe');
    const path = join(kept, readdirSync(kept)[0]!);
    writeFileSync(
      path,
      JSON.stringify({
        ...(JSON.parse(readFileSync(path, 'utf8')) as ProbeResult),
        when: new Date(Date.now() - 3_700_000).toISOString(),
      }),
    );
    expect(await probe(file)).toMatchObject({ passed: true, wgmma: { passed: false }, remembered: false });
  });
});

describe('a trial of programmatic launches', () => {
  test('is of its own, beside that of products, and only where a device has them', async () => {
    expect((await probe(await fake('works', 'works'))).programmaticLaunches).toBeUndefined();
    const file = await fake('works', 'works', 'works');
    expect(await probe(file)).toMatchObject({
      passed: true,
      wgmma: { passed: true },
      programmaticLaunches: { passed: true, reason: '', time: 0.6 },
    });
    expect(loads(file)).toBe(4); // this process and three children
    expect(await probe(file)).toMatchObject({ programmaticLaunches: { passed: true, time: 0.6 }, remembered: true });
    expect((await probe(await fake('aborts', undefined, 'works'))).programmaticLaunches).toBeUndefined();
  });

  test.each<[FakeBehaviour, RegExp]>([
    ['aborts', /^it crashed with SIGABRT$/u],
    ['throws', /an illegal memory access was encountered/u],
    ['wrong', /^it gives no time but no number$/u],
  ])('%s: the device is used without them, and tries again in an hour', async (launches, reason) => {
    const file = await fake('works', 'works', launches);
    expect(await probe(file)).toMatchObject({
      passed: true,
      wgmma: { passed: true },
      programmaticLaunches: { passed: false, reason: expect.stringMatching(reason) as string },
    });
    const kept = join(cache, 'lgdistill', 'cuda-probe');
    const path = join(kept, readdirSync(kept)[0]!);
    writeFileSync(
      path,
      JSON.stringify({
        ...(JSON.parse(readFileSync(path, 'utf8')) as ProbeResult),
        when: new Date(Date.now() - 3_700_000).toISOString(),
      }),
    );
    expect((await probe(file)).remembered).toBe(false);
  });

  test('is left out where the environment decides, or steps are no graphs', async () => {
    const file = await fake('works', undefined, 'aborts');
    for (const [variable, value] of [
      ['LGDISTILL_PDL', '0'],
      ['LGDISTILL_PDL', '1'],
      ['LGDISTILL_GRAPHS', '0'],
    ] as const) {
      vi.stubEnv(variable, value);
      expect(await probe(file)).toMatchObject({ passed: true, programmaticLaunches: undefined });
      vi.stubEnv(variable, '');
    }
    vi.stubEnv('LGDISTILL_PDL', 'yes');
    await expect(probe(file)).rejects.toMatchObject({
      code: 'BAD_OPTION',
      option: '$LGDISTILL_PDL',
      found: 'yes',
      allowed: '0, 1',
    });
  });
});

describe('what was found is remembered', () => {
  test('for the next process, and anew when asked', async () => {
    const file = await fake('works');
    await probe(file);
    const before = loads(file);
    expect(await probe(file)).toMatchObject({ passed: true, remembered: true });
    expect(loads(file)).toBe(before); // no child loaded it
    expect(await probe(file, { again: true })).toMatchObject({ remembered: false });
    vi.stubEnv('LGDISTILL_PROBE', 'again');
    expect(await probe(file)).toMatchObject({ remembered: false });
    expect(loads(file)).toBe(before + 2);
  });

  test('until the addon changes', async () => {
    const file = await fake('works');
    await probe(file);
    writeFileSync(file, `${readFileSync(file, 'utf8')}\n// built again`);
    expect(await probe(file)).toMatchObject({ remembered: false });
  });

  test('a failure for an hour', async () => {
    const file = await fake('throws');
    await probe(file);
    expect(await probe(file)).toMatchObject({ passed: false, remembered: true });
    const kept = join(cache, 'lgdistill', 'cuda-probe');
    const [name] = readdirSync(kept);
    writeFileSync(
      join(kept, name!),
      JSON.stringify({ passed: false, reason: 'it crashed', when: new Date(Date.now() - 3_700_000).toISOString() }),
    );
    expect(await probe(file)).toMatchObject({ passed: false, remembered: false });
  });

  test.each<[FakeBehaviour, RegExp]>([
    ['full', /cannot allocate 64 MiB on the GPU/u],
    ['busy', /cudaErrorDevicesUnavailable/u],
    ['stopped', /^the trial process was ended by SIGTERM$/u],
  ])('but not one that says nothing of addon, driver or card: %s', async (behaviour, reason) => {
    for (const trials of [[behaviour], ['works', behaviour], ['works', 'works', behaviour]] as const) {
      const file = await fake(...(trials as [FakeBehaviour]));
      vi.resetModules();
      const { probeCuda } = await import('../../lib/addon/cuda-probe.js');
      const { createRequire } = await import('node:module');
      const addon = createRequire(import.meta.url)(file) as { buildInfo: () => never; cudaStatus: () => never };
      const again = () => probeCuda({ addon: file, build: addon.buildInfo(), status: addon.cudaStatus(), index: 0 });
      const found = await again();
      const failed = [found, found.wgmma, found.programmaticLaunches].filter((trial) => trial?.passed === false);
      expect(failed).toMatchObject([{ reason: expect.stringMatching(reason) as string, transient: true }]);
      expect(await again()).toMatchObject({ remembered: false }); // by this process
      expect(await probe(file)).toMatchObject({ remembered: false }); // by another one
    }
  });

  test('and a spoilt or unwritable cache only means another trial', async () => {
    const file = await fake('works');
    await probe(file);
    const kept = join(cache, 'lgdistill', 'cuda-probe');
    writeFileSync(join(kept, readdirSync(kept)[0]!), '{"passed": tr');
    expect(await probe(file)).toMatchObject({ passed: true, remembered: false });
    mkdirSync(join(folder, 'blocked'));
    writeFileSync(join(folder, 'blocked', 'lgdistill'), 'a file where the folder should be');
    vi.stubEnv('XDG_CACHE_HOME', join(folder, 'blocked'));
    for (let turn = 0; turn < 2; turn++) expect(await probe(file)).toMatchObject({ passed: true, remembered: false });
    for (const name of ['XDG_CACHE_HOME', 'HOME']) vi.stubEnv(name, '');
    for (let turn = 0; turn < 2; turn++) expect(await probe(file)).toMatchObject({ passed: true, remembered: false });
  });
});

describe('a driver that names no devices', () => {
  async function driven(driver: FakeDriver) {
    const file = writeFakeAddon(folder, 'works', { name: `driver-${JSON.stringify(driver).length}-${count}`, driver });
    vi.stubEnv('LGDISTILL_ADDON', file);
    vi.resetModules();
    const [{ askCuda }, { loadAddon }] = await Promise.all([
      import('../../lib/addon/cuda-probe.js'),
      import('../../lib/addon/addon.js'),
    ]);
    return { askCuda, addon: loadAddon(), file };
  }

  test.each<[Exclude<FakeDriver, 'works'>, string]>([
    ['aborts', 'asked in a process of its own, the NVIDIA driver names no devices: it crashed with SIGABRT'],
    ['hangs', 'asked in a process of its own, the NVIDIA driver names no devices: it gave no answer within 0.4 s'],
    [
      { reason: 'system not yet initialized (cudaErrorSystemNotReady)' },
      'system not yet initialized (cudaErrorSystemNotReady)',
    ],
  ])('%s: said, and this process goes on', async (driver, reason) => {
    const { askCuda, addon, file } = await driven(driver);
    expect(await askCuda(addon, file, driver === 'hangs' ? 400 : undefined)).toEqual({
      available: false,
      reason,
      driver: 13000,
      devices: [],
    });
  });

  test('is asked again by a process of its own each time; one that answered is not', async () => {
    for (const [driver, children] of [
      [{ reason: 'not yet' }, 2],
      ['works', 1],
    ] as const) {
      const { askCuda, addon, file } = await driven(driver);
      const before = loads(file);
      expect(await askCuda(addon, file)).toEqual(await askCuda(addon, file));
      expect(loads(file) - before).toBe(children);
    }
  });

  test('where no process may be started, nobody blames the driver', async () => {
    const { askCuda, addon, file } = await driven('works');
    const { mendForCuda } = await import('../../lib/addon/cuda-probe.js');
    const node = process.execPath;
    process.execPath = join(folder, 'no such node');
    const { available, reason } = await askCuda(addon, file).finally(() => (process.execPath = node));
    expect(available).toBe(false);
    expect(reason).toContain('did not start');
    expect(mendForCuda(reason)).toContain('start others');
    expect(mendForCuda('it crashed, and the NVIDIA driver names no devices')).toContain('nvidia-smi');
  });

  test('an executable that runs its own program in the place of a trial is not started again by itself', async () => {
    const { askCuda, addon, file } = await driven('works');
    const [program, starts] = [`${file}.mjs`, `${file}.starts`];
    const source = `#!${process.execPath}
      import { appendFileSync, statSync } from 'node:fs';
      import { openDevice } from ${JSON.stringify(join(await ensureBuilt(), 'dist', 'index.js'))};
      appendFileSync(${JSON.stringify(starts)}, '.');
      if (statSync(${JSON.stringify(starts)}).size > 2) process.exit(9); // a chain of them ends
      process.execPath = ${JSON.stringify(program)};
      await openDevice('auto');`;
    writeFileSync(program, source, { mode: 0o755 });
    const node = process.execPath;
    process.execPath = program;
    const { available, reason } = await askCuda(addon, file).finally(() => (process.execPath = node));
    expect(available).toBe(false);
    expect(reason).toContain('ended with 1 and no answer');
    expect(readFileSync(starts, 'utf8')).toBe('.');
  });

  test('a single executable application starts no trial', async () => {
    const { askCuda, addon, file } = await driven('works');
    const { mendForCuda } = await import('../../lib/addon/cuda-probe.js');
    const sea = createRequire(import.meta.url)('node:sea') as { isSea(): boolean };
    const asked = vi.spyOn(sea, 'isSea').mockReturnValue(true);
    const { reason } = await askCuda(addon, file).finally(() => asked.mockRestore());
    expect(reason).toContain('did not start: this program is one executable');
    expect(mendForCuda(reason)).toContain('LGDISTILL_PROBE=off');
  });

  test('auto takes the CPU and says why; an explicit cuda is refused', async () => {
    await driven('aborts');
    const { openDevice } = await import('../../lib/device.js');
    expect((await openDevice('auto')).info).toMatchObject({
      kind: 'cpu',
      reason: expect.stringContaining('it crashed with SIGABRT') as string,
    });
    await expect(openDevice('cuda')).rejects.toMatchObject({
      code: 'DEVICE_UNAVAILABLE',
      message: expect.stringContaining('it crashed with SIGABRT') as string,
    });
  });
});

describe('openDevice', () => {
  async function open(file: string, name: 'auto' | 'cuda') {
    vi.stubEnv('LGDISTILL_ADDON', file);
    vi.resetModules();
    const { openDevice } = await import('../../lib/device.js');
    return openDevice(name);
  }

  test('takes a device that passed', async () => {
    expect((await open(await fake('works'), 'auto')).info).toMatchObject({
      kind: 'cuda',
      reason: 'a CUDA device is there',
    });
  });

  test('forms products by warpgroups where their trial agreed, and otherwise by warps', async () => {
    expect((await open(await fake('works', 'works'), 'cuda')).info.products).toBe('wgmma');
    expect((await open(await fake('works', 'wrong'), 'cuda')).info.products).toBe('mma.sync');
    expect((await open(await fake('works'), 'cuda')).info.products).toBe('mma.sync');
  });

  test('starts kernels early where that was right', async () => {
    for (const [launches, used] of [
      ['works', 'programmatic'],
      ['throws', 'serialized'],
      [undefined, 'serialized'],
    ] as const) {
      expect((await open(await fake('works', undefined, launches), 'cuda')).info.launches).toBe(used);
    }
  });

  test('auto takes the CPU and says why after a crash; an explicit cuda is refused', async () => {
    const file = await fake('aborts');
    const { kind, reason } = (await open(file, 'auto')).info;
    expect(kind).toBe('cpu');
    expect(reason).toMatch(
      /^no CUDA device: cuda failed a trial in a process of its own \(.*LGDISTILL_PROBE=again.*\): it crashed with SIGABRT$/u,
    );
    await expect(open(file, 'cuda')).rejects.toMatchObject({
      code: 'DEVICE_UNAVAILABLE',
      option: 'device',
      found: 'cuda',
      message: expect.stringContaining('it crashed with SIGABRT') as string,
    });
  });

  test('auto takes the first of several that works, and says what keeps it from those before', async () => {
    const several = async (...cards: FakeBehaviour[]) =>
      writeFakeAddon(folder, 'aborts', {
        values: await referenceValues(),
        name: `several-${cards.join('-')}-${count}`,
        cards,
      });
    const file = await several('full', 'works', 'aborts');
    const { kind, index, reason } = (await open(file, 'auto')).info;
    expect({ kind, index }).toEqual({ kind: 'cuda', index: 2 });
    expect(reason).toMatch(
      /^cuda:2 works, unlike those before it: cuda:0: cuda failed a trial .*: it crashed with SIGABRT; cuda:1: cuda failed a trial .*: .* MiB are free$/u,
    );
    await expect(open(file, 'cuda')).rejects.toMatchObject({ code: 'DEVICE_UNAVAILABLE' });
    expect((await open(await several('wrong'), 'auto')).info).toMatchObject({
      kind: 'cpu',
      reason: expect.stringMatching(/^no CUDA device: cuda:0: .*; cuda:1: .*it computes wrong numbers/u) as string,
    });
  });

  test('a finding stands for the GPU that CUDA_VISIBLE_DEVICES makes the first', async () => {
    const file = await fake('works');
    for (const [visible, remembered] of [
      ['0', false],
      ['1', false],
      ['0', true],
    ] as const) {
      vi.stubEnv('CUDA_VISIBLE_DEVICES', visible);
      expect(await probe(file)).toMatchObject({ passed: true, remembered });
    }
  });

  test('says of a GPU that is busy that it is tried anew', async () => {
    expect((await open(await fake('busy'), 'auto')).info.reason).toMatch(
      /it is tried anew the next time\): cudaSetDevice/u,
    );
  });

  test('LGDISTILL_PROBE=off takes it for granted, another value is refused', async () => {
    const file = await fake('aborts');
    vi.stubEnv('LGDISTILL_PROBE', 'off');
    expect((await open(file, 'auto')).kind).toBe('cuda');
    vi.stubEnv('LGDISTILL_PROBE', 'maybe');
    await expect(open(file, 'auto')).rejects.toMatchObject({ code: 'BAD_OPTION', allowed: 'off, again' });
  });

  test('the CPU is opened without a trial', async () => {
    const file = await fake('works');
    vi.stubEnv('LGDISTILL_ADDON', file);
    vi.resetModules();
    const { openDevice } = await import('../../lib/device.js');
    await openDevice('cpu');
    expect(loads(file)).toBe(1); // this process alone
  });
});
