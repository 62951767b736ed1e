import { spawnSync } from 'node:child_process';
import { afterEach, expect, test, vi } from 'vitest';
import { addonPath } from '../../lib/addon/addon.js';
import { bankLoss } from '../../lib/semantic/index.js';
import { devicesUnderTest } from '../devices.js';

const devices = await devicesUnderTest('devices');

afterEach(() => {
  vi.unstubAllEnvs();
  vi.resetModules();
});

test.each(devices)('$name says what it is', ({ name, device, emulated }) => {
  const { kind, reason, precisions, name: title } = device.info;
  expect([device.kind, kind, reason]).toEqual([name, name, 'asked for']);
  expect(precisions).toEqual(name === 'cpu' ? ['float32', 'bfloat16'] : ['bfloat16', 'float32']);
  expect(title === 'emulated GPU').toBe(emulated);
});

test('objects of two addons do not mix', async () => {
  const [cpu, other] = [devices.find(({ name }) => name === 'cpu'), devices.find(({ emulated }) => emulated)];
  if (!cpu || !other) return; // $LGDISTILL_TEST_DEVICES left one out
  const { addon, handle } = other.device;
  const tensor = addon.makeTensor(handle, [2, 2]);
  const refusal = expect.objectContaining({
    name: 'LgdError',
    code: 'BAD_OPTION',
    message: expect.stringContaining('made by another addon') as string,
  });
  expect(() => cpu.device.addon.deviceInfo(handle)).toThrow(refusal);
  expect(() => cpu.device.addon.writeTensor(tensor, new Float32Array(4))).toThrow(refusal);
  expect(() => cpu.device.addon.copyTensor(tensor, cpu.device.addon.makeTensor(cpu.device.handle, [2, 2]))).toThrow(
    refusal,
  );
  expect(() => cpu.device.addon.release(tensor)).toThrow(refusal);
  addon.writeTensor(tensor, Float32Array.of(1, 2, 3, 4)); // and the refused calls took nothing from its owner
  expect([...(await addon.readTensor(tensor))]).toEqual([1, 2, 3, 4]);
});

test('each addon computes for itself in one process', async () => {
  const input = {
    student: Float32Array.of(1, 2),
    teacher: Float32Array.of(2, 1),
    textual: Float32Array.of(1, 0, 0, 1),
    dimension: 2,
    alpha: 0,
    studentTemperature: 0.2,
    teacherTemperature: 0.1,
  };
  const results = await Promise.all(devices.map(({ device }) => bankLoss(input, { device })));
  const { loss } = await bankLoss(input, { device: 'js' });
  for (const result of results) expect(result.loss).toBeCloseTo(loss, 5);
});

test('an emulated GPU that is not built is refused with the command that builds it', async () => {
  vi.stubEnv('LGDISTILL_EMULATED_ADDON', '/nowhere/lgdistill.node');
  vi.resetModules(); // the addon is loaded once a process
  const { openDevice } = await import('../../lib/device.js');
  await expect(openDevice('cuda-emulated')).rejects.toMatchObject({
    code: 'DEVICE_UNAVAILABLE',
    mend: expect.stringContaining('node scripts/build.mjs --only native --with emulated') as string,
  });
});

test('names that are no devices are refused', async () => {
  const { openDevice } = await import('../../lib/device.js');
  for (const name of ['gpu', 'cpu:1', 'cuda-emulated:0', 'cuda:x']) {
    await expect(openDevice(name as 'cpu')).rejects.toMatchObject({
      code: 'BAD_OPTION',
      option: 'device',
      allowed: expect.stringContaining('cuda-emulated') as string,
    });
  }
});

test('environment variables that say what they may not are refused, and empty ones are as good as none', async () => {
  const { openDevice } = await import('../../lib/device.js');
  for (const [name, found, allowed] of [
    ['ISA', 'AVX2', 'baseline, avx2, avx512'],
    ['GRAPHS', 'off', '0, 1'],
    ['SCORE_BYTES', '-5', 'a whole number from 1'],
    ['FUSION', 'none', 'nodes, steps, layers'],
  ] as const) {
    vi.stubEnv(`LGDISTILL_${name}`, found);
    await expect(openDevice('cpu')).rejects.toMatchObject({
      code: 'BAD_OPTION',
      option: `$LGDISTILL_${name}`,
      found,
      allowed,
    });
    vi.stubEnv(`LGDISTILL_${name}`, '');
    (await openDevice('cpu')).dispose();
  }
});

test('more threads than could be of use are refused', async () => {
  const { openDevice } = await import('../../lib/device.js');
  for (const threads of [0, 1.5, 4097, 1e9])
    await expect(openDevice('cpu', { threads })).rejects.toMatchObject({
      code: 'BAD_OPTION',
      option: 'threads',
      allowed: 'a whole number from 1 to 4096',
    });
});

// Each thread takes 8 MiB of addresses for its stack: 2,000 are more than the limit leaves.
test('a system that starts no further thread is an error, and those that run end', () => {
  const addon = JSON.stringify(addonPath());
  const open = (threads: number) =>
    `{ const device = addon.openDevice('cpu', 0, ${threads}); console.log(addon.deviceInfo(device).threads); addon.release(device); }`;
  const script = `const addon = require(${addon}); try ${open(2000)} catch (error) { console.log(error.code, error.message); } ${open(2)}`;
  const { status, stdout, stderr } = spawnSync(
    'sh',
    ['-c', 'ulimit -v 8000000; exec "$0" -e "$1"', process.execPath, script],
    { encoding: 'utf8' },
  );
  expect(stderr).toBe('');
  expect(stdout).toMatch(
    /^DEVICE_UNAVAILABLE the system starts no further thread \(.*Ask for fewer by `threads`.*\n2\n$/u,
  );
  expect(status).toBe(0);
});
